"""Inputs of an ONNX model: sizes of open axes, and example values."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metanet.errors import MetanetError
from metanet.importers.onnx.limits import MAX_INPUT_ELEMENTS

# Sizes to try for open axes: small ones first, then those that images and sounds have.
# The first axis is taken for the batch.
_BATCH_SIZES = (2, 1)
_SIZES = (
    *(8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 16384, 65536),
    *(224, 299, 320, 384, 416, 480, 640, 800, 48, 80, 96, 100, 160, 400, 576, 1600),
    *(16000, 48000),
)
# Trials of sizes end after so many seconds and trials.
_MAX_SECONDS, _MAX_TRIALS = 15.0, 300
_MAX_STORED_SIZES = 16


class Axis(NamedTuple):
    """An axis of an input whose size the file leaves open.

    Attributes:
        name: The file's name, shared by all axes of the same size; else "input:axis".
        is_batch: True for the first axis of an input.
    """

    name: str
    is_batch: bool


class Input(NamedTuple):
    """An input of a model.

    Attributes:
        name: Its name.
        dtype: Its type.
        shape: Sizes of its axes, or open axes.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | Axis, ...]


class Misfit(MetanetError):
    """Sizes of open axes that the model cannot be evaluated with.

    Attributes:
        progress: Number of nodes that were evaluated.
    """

    def __init__(self, message: str, progress: int):
        super().__init__(message)
        self.progress = progress


def read_inputs(path: Path, model: Any, stored: Mapping[str, Any]) -> list[Input]:
    """Returns the inputs of a model, without its stored tensors.

    Raises:
        MetanetError: naming an input that is no array of numbers of known rank.
    """
    from onnx import helper

    inputs = []
    for info in model.graph.input:
        if info.name in stored:
            continue
        tensor = info.type.tensor_type
        if not info.type.HasField("tensor_type") or not tensor.HasField("shape"):
            raise MetanetError(f"{path}: input {info.name}: not an array of known rank")
        try:
            dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        except Exception:
            # onnx raises exceptions without a common class.
            raise MetanetError(f"{path}: input {info.name}: unknown type") from None
        if dtype.kind not in "fiubV":
            raise MetanetError(f"{path}: input {info.name}: holds no numbers")
        shape = []
        for axis, dim in enumerate(tensor.shape.dim):
            # Some exporters write "?", 0 or -1 for an axis without a name.
            name = dim.dim_param if dim.dim_param.strip("?") else f"{info.name}:{axis}"
            is_open = dim.dim_value <= 0
            shape.append(Axis(name, axis == 0) if is_open else dim.dim_value)
        inputs.append(Input(info.name, dtype, tuple(shape)))
    return inputs


def sizes_in(stored: Mapping[str, np.ndarray]) -> list[int]:
    """Returns numbers in stored shapes, of which some are sizes that an exporter fixed."""
    shapes = [a.ravel() for a in stored.values() if a.dtype.kind == "i" and a.size < 9]
    counts = Counter(int(n) for shape in shapes for n in shape if 4 <= n <= 4096)
    return [n for n, _ in counts.most_common(_MAX_STORED_SIZES)]


def choose_sizes(
    path: Path,
    inputs: Sequence[Input],
    dims: Mapping[str, int],
    stored_sizes: Sequence[int],
    evaluate: Callable[[Mapping[str, int]], None],
) -> dict[str, int]:
    """Chooses sizes of the open axes with which a model can be evaluated.

    Args:
        path: The file, for messages.
        inputs: Inputs of the model.
        dims: Sizes that are known, by the axis' name or as "input:axis".
        stored_sizes: Sizes to try beside the usual ones.
        evaluate: Evaluates the model abstractly with sizes of all open axes.

    Returns:
        Sizes of all open axes by name.

    Raises:
        MetanetError: for an axis in ``dims`` that the file does not leave open, and for a
            model that no sizes fit.
    """
    open_axes = [a for i in inputs for a in i.shape if isinstance(a, Axis)]
    axes = list(dict.fromkeys(a.name for a in open_axes))
    known = _known_sizes(path, inputs, axes, dims)
    first = {a.name for a in open_axes if a.is_batch}
    candidates = (*_SIZES, *(n for n in stored_sizes if n not in _SIZES))
    best: tuple[Misfit, dict[str, int]] | None = None
    tried: set[tuple[int, ...]] = set()
    start = time.monotonic()

    def fits(sizes: dict[str, int]) -> bool:
        """Tries sizes, and remembers those that come furthest."""
        nonlocal best
        key = tuple(sizes[name] for name in axes)
        is_over = time.monotonic() - start > _MAX_SECONDS or len(tried) >= _MAX_TRIALS
        if key in tried or (tried and is_over):
            return False
        tried.add(key)
        try:
            evaluate(sizes)
        except Misfit as misfit:
            if best is None or misfit.progress > best[0].progress:
                best = (misfit, sizes)
            return False
        return True

    while True:
        batch = [name for name in axes if name in first and name not in known]
        other = [name for name in axes if name not in first and name not in known]
        for size, batch_size in itertools.product(candidates, _BATCH_SIZES):
            sizes = (
                known | dict.fromkeys(batch, batch_size) | dict.fromkeys(other, size)
            )
            if fits(sizes):
                return sizes
        # One axis on its own, which is kept if the network then comes further.
        assert best is not None
        progress, sizes = best[0].progress, best[1]
        for size, name in itertools.product((1, 2, 3, *candidates), [*other, *batch]):
            if fits(sizes | {name: size}):
                return sizes | {name: size}
            if best[0].progress > progress:
                known = known | {name: size}
                break
        else:
            break
    if not axes:
        raise best[0]
    listed = ", ".join(f"{name}={size}" for name, size in best[1].items())
    raise MetanetError(
        f"{best[0]} (with the open axes {listed}; set sizes that fit with --dim "
        f"{axes[0]}=SIZE, in Python dims={{...}})"
    )


def _known_sizes(
    path: Path,
    inputs: Sequence[Input],
    axes: Sequence[str],
    dims: Mapping[str, int],
) -> dict[str, int]:
    """Returns given sizes by the names of axes."""
    by_position = {
        f"{i.name}:{n}": axis.name
        for i in inputs
        for n, axis in enumerate(i.shape)
        if isinstance(axis, Axis)
    }
    known = {}
    for name, size in dims.items():
        if name not in axes and name not in by_position:
            hint = "this file leaves none open"
            if axes:
                hint = f"those of this file are {', '.join(axes)}"
            raise MetanetError(f"{path}: no open axis is called {name!r}; {hint}")
        known[by_position.get(name, name)] = size
    return known


def shapes_of(
    path: Path, inputs: Sequence[Input], sizes: Mapping[str, int]
) -> list[tuple[int, ...]]:
    """Returns the shapes of inputs with sizes of open axes.

    Raises:
        Misfit: if the inputs would be too large.
    """
    shapes = []
    for i in inputs:
        shape = tuple(sizes[a.name] if isinstance(a, Axis) else a for a in i.shape)
        shapes.append(shape)
        if sum(map(math.prod, shapes)) > MAX_INPUT_ELEMENTS:
            raise Misfit(
                f"{path}: input {i.name}: shape {shape}; inputs of more than "
                f"{MAX_INPUT_ELEMENTS:,} values",
                0,
            )
    return shapes


def example_inputs(
    inputs: Sequence[Input],
    shapes: Sequence[tuple[int, ...]],
    rows: Mapping[str, int],
) -> tuple[jax.Array, ...]:
    """Draws example inputs: normal numbers, integers, masks of ones.

    Args:
        inputs: The inputs.
        shapes: Their shapes.
        rows: Number of rows of the table that an integer input indexes, by its name;
            the others are 0 and 1.
    """
    rng = np.random.default_rng(0)
    values = []
    for i, shape in zip(inputs, shapes, strict=True):
        dtype = i.dtype
        if "mask" in i.name.lower() or dtype.kind == "b":
            value = np.ones(shape, dtype)
        elif dtype.kind in "iu":
            value = rng.integers(0, rows.get(i.name, 2), shape).astype(dtype)
        else:
            value = rng.standard_normal(shape, np.float32).astype(dtype)
        values.append(jnp.asarray(value.astype(jax.dtypes.canonicalize_dtype(dtype))))
    return tuple(values)
