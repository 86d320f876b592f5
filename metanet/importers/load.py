"""One entrance for networks from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp

from metanet.errors import MetanetError
from metanet.importers.arrays import FORMATS, read_arrays
from metanet.importers.bind import bind
from metanet.networks import Network, ParamSpec


def load(
    path: str | Path,
    network: Network | None = None,
    constants: Sequence[str] = (),
    dims: Mapping[str, int] | None = None,
) -> Network:
    """Reads a network from a file.

    An ``.onnx`` file holds program and weights. A ``.npz``, ``.safetensors``, ``.pth`` or
    ``.pt`` file holds weights alone, which are bound to the parameters of ``network``.

    Args:
        path: The file.
        network: The program of a file of weights: its ``apply_fn`` and the parameters
            whose places the weights take.
        constants: ONNX: shell patterns of names of stored tensors that are constants of
            the program, not parameters (``"*inv_freq"``).
        dims: ONNX: sizes of axes that the file names but leaves open.

    Returns:
        ``(apply_fn, params, inputs)``: the function ``apply_fn(params, *inputs)``, its
        parameters, and example inputs.

    Raises:
        MetanetError: naming the file and what is wrong with it.
    """
    path = Path(path)
    if path.suffix.lower() == ".onnx":
        from metanet.importers.onnx_program import load_onnx

        return load_onnx(path, constants, dims)
    if network is None:
        if path.suffix.lower() in FORMATS:
            raise MetanetError(
                f"{path}: holds weights without a program; give the network they belong to"
            )
        raise MetanetError(
            f"{path}: unknown format {path.suffix!r}; readable are .onnx, "
            f"{', '.join(FORMATS)}"
        )
    spec = ParamSpec.of(network.params)
    bound = bind(read_arrays(path), spec, str(path))
    params = spec.unflatten(jnp.asarray(bound.vector))
    return network._replace(params=params)
