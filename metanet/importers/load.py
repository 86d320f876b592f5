"""Networks from files of any readable format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp

from metanet.errors import MetanetError
from metanet.importers.binding import bind
from metanet.importers.files import read_file
from metanet.networks import Network, ParamSpec


def load_network(
    path: str | Path, network: Network | None = None, **options: Any
) -> Network:
    """Reads a network from a file.

    An ``.onnx`` file holds program and weights. A ``.npz``, ``.safetensors``, ``.pth`` or
    ``.pt`` file holds weights alone, which are bound to the parameters of ``network``.

    Args:
        path: The file.
        network: The program of a file of weights: its ``apply_fn``, and the parameters
            that the weights replace.
        **options: Options of the format; of ONNX those of `load_onnx` (``constants``,
            ``dims``).

    Returns:
        ``(apply_fn, params, inputs)``: the function ``apply_fn(params, *inputs)``, its
        parameters, and example inputs.

    Raises:
        MetanetError: naming the file and what is wrong with it.
    """
    content = read_file(path, **options)
    if isinstance(content, Network):
        return content
    if network is None:
        raise MetanetError(
            f"{path}: holds weights without a program; give the network they belong to"
        )
    spec = ParamSpec.of(network.params)
    bound = bind(content, spec, str(path))
    return network._replace(params=spec.unflatten(jnp.asarray(bound.vector)))
