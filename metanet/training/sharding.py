"""Data parallelism: networks over devices, everything else replicated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metanet.errors import MetanetError


@dataclass(frozen=True)
class ProcessConfig:
    """One of several processes that train together.

    Attributes:
        coordinator: ``host:port`` of process 0.
        count: Number of processes.
        index: This process.
    """

    coordinator: str
    count: int
    index: int


def start_processes(config: ProcessConfig) -> None:
    """Joins the other processes; call before anything touches a device.

    Raises:
        MetanetError: when they cannot be reached.
    """
    try:
        jax.distributed.initialize(config.coordinator, config.count, config.index)
    except (RuntimeError, ValueError) as error:
        raise MetanetError(
            f"coordinator {config.coordinator}: process {config.index} of "
            f"{config.count} cannot join: {error}"
        ) from error


class DataParallel:
    """Places arrays on a one-dimensional mesh of devices.

    Args:
        devices: Number of devices; None for all devices of all processes.
    """

    def __init__(self, devices: int | None = None) -> None:
        kind, count = jax.sharding.AxisType.Auto, devices or jax.device_count()
        self.mesh: Mesh = jax.make_mesh(
            (count,), ("data",), (kind,), devices=jax.devices()[:count]
        )
        self.replicated = NamedSharding(self.mesh, PartitionSpec())

    @property
    def size(self) -> int:
        """Number of devices."""
        return self.mesh.size

    def replicate(self, tree: Any) -> Any:
        """Copies a pytree of host or device arrays to every device."""
        return jax.tree.map(lambda x: self._place(x, self.replicated), tree)

    def split(self, array: np.ndarray, axis: int) -> jax.Array:
        """Splits a host array, equal on all processes, over the devices."""
        spec = PartitionSpec(*[None] * axis, "data")
        return self._place(array, NamedSharding(self.mesh, spec))

    @staticmethod
    def _place(array: Any, sharding: NamedSharding) -> jax.Array:
        if jax.process_count() == 1:
            return jax.device_put(array, sharding)
        host = np.asarray(array)
        return jax.make_array_from_callback(host.shape, sharding, lambda i: host[i])
