"""Models by name: "gmn", "flat_mlp", "statnn"."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
from flax import nnx

from metanet.errors import MetanetError, suggest
from metanet.graphs.batch import GraphBatch
from metanet.graphs.topology import Topology
from metanet.graphs.view import ParameterGraph
from metanet.models.baselines import BaselineConfig, FlatMLP, StatNN
from metanet.models.gmn import GMN, GMNConfig
from metanet.models.probes import Probe
from metanet.registry import Registry


class Model(Protocol):
    """What tasks and training rely on.

    Attributes:
        dim: Width of the pooled features.
        cost: Floats that one network occupies in the widest intermediate array.
    """

    dim: int

    @property
    def cost(self) -> int: ...

    def set_statistics(self, graphs: ParameterGraph) -> None: ...

    def __call__(
        self,
        graphs: ParameterGraph,
        *,
        key: jax.Array | None = None,
        deterministic: bool = True,
    ) -> GraphBatch: ...


Builder = Callable[..., Any]
MODELS: Registry[tuple[type, Builder]] = Registry("model")
MODELS.register("gmn")((GMNConfig, GMN))
MODELS.register("flat_mlp")(
    (BaselineConfig, lambda c, t, *, probe, rngs: FlatMLP(c, t, rngs=rngs))
)
MODELS.register("statnn")(
    (BaselineConfig, lambda c, t, *, probe, rngs: StatNN(c, t, rngs=rngs))
)


def model_config(name: str, options: Mapping[str, Any]) -> Any:
    """The typed options of a model.

    Raises:
        MetanetError: for an unknown model or option (with the nearest known name).
    """
    kind, _ = MODELS[name]
    known = {f.name for f in dataclasses.fields(kind)}
    for option in options:
        if option not in known:
            raise MetanetError(
                f"config.model.{option}: model {name!r} has no such option."
                f"{suggest(option, known)}"
            )
    try:
        return kind(**options)
    except MetanetError as error:
        raise MetanetError(f"config.model.{error}") from error


def build_model(
    name: str,
    options: Mapping[str, Any],
    *,
    topology: Topology,
    probe: Probe | None = None,
    rngs: nnx.Rngs,
) -> Model:
    """Builds a model for graphs of one topology.

    Args:
        name: A name in `MODELS`.
        options: Fields of the model's config class.
        topology: Topology of the graphs.
        probe: How to run the input network, for models with probe features.
        rngs: Initialisation.
    """
    config = model_config(name, options)
    return MODELS[name][1](config, topology, probe=probe, rngs=rngs)
