"""Sliding windows of a program: convolutions and poolings with stride and padding.

Stride and padding change the function of a network, but neither its parameters nor its
symmetries nor its parameter graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core as jex_core
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var

from metanet.programs.jaxprs import call_jaxpr, shape_of
from metanet.programs.primitives import traits_of


class SlidingWindows(NamedTuple):
    """Sliding windows of a program, in words.

    Attributes:
        kinds: Every kind of convolution or pooling with size, stride and padding ("0+1":
            before and after), one number where all axes agree; sorted. Windows that
            cover all positions and convolutions whose windows do not overlap (patches of
            a ViT) are left out: they are matrix products.
        extent: The largest grid that windows slide over, as "28 x 28"; "" without
            windows.
    """

    kinds: tuple[str, ...]
    extent: str


class _Value(NamedTuple):
    """Known facts about an array of the program.

    Attributes:
        scalar: The value of its only entry; None if unknown, or for several entries.
        varies: True if it depends on parameters or inputs.
        padding: Padding that was added, ``(low, high)`` per axis; () for none.
        filler: Value of the padding.
    """

    scalar: float | None = None
    varies: bool = True
    padding: tuple[tuple[int, int], ...] = ()
    filler: float | None = None


class _Window(NamedTuple):
    """Sliding window along one axis; ``extent`` is the axis's length without padding."""

    extent: int
    size: int
    stride: int
    low: int
    high: int
    dilation: int = 1
    upsampling: int = 1

    @property
    def is_trivial(self) -> bool:
        """True if the window is a single entry that visits each in turn."""
        return self[1:] == (1, 1, 0, 0, 1, 1)

    @property
    def is_disjoint(self) -> bool:
        """True if windows lie side by side."""
        return self.size == self.stride and self[3:] == (0, 0, 1, 1)

    @property
    def is_global(self) -> bool:
        """True if there is a single window, over the whole axis."""
        return self.size == self.extent and self[3:5] == (0, 0)


_Operation = tuple[str, tuple[_Window, ...]]
_CONVOLUTION = "a convolution"


def sliding_windows(
    apply_fn: Callable[..., Any], params: Any, *inputs: Any
) -> SlidingWindows:
    """Reads the sliding windows off a program.

    Padding counts alike in the operation itself and in a ``pad`` before it.

    Args:
        apply_fn: ``apply_fn(params, *inputs)``, any JAX function.
        params: Pytree of arrays or shapes.
        *inputs: Example inputs.
    """
    closed = jax.make_jaxpr(apply_fn)(params, *inputs)
    operations: list[_Operation] = []
    _collect(closed.jaxpr, [_scalar(c) for c in closed.consts], None, operations)
    kinds: set[str] = set()
    extents: list[tuple[int, ...]] = []
    for name, windows in operations:
        proper = [w for w in windows if not w.is_trivial]
        is_product = name == _CONVOLUTION and all(w.is_disjoint for w in proper)
        if is_product or all(w.is_global for w in proper):
            continue
        kinds.add(_describe(name, proper))
        extents.append(tuple(w.extent for w in windows))
    largest = max(extents, key=math.prod, default=())
    return SlidingWindows(tuple(sorted(kinds)), " x ".join(map(str, largest)))


def _describe(name: str, windows: Sequence[_Window]) -> str:
    def per_axis(values: Sequence[object]) -> str:
        texts = [str(v) for v in values]
        return texts[0] if len(set(texts)) == 1 else " x ".join(texts)

    padding = [w.low if w.low == w.high else f"{w.low}+{w.high}" for w in windows]
    text = f"{name} over {' x '.join(str(w.size) for w in windows)}"
    text += f", stride {per_axis([w.stride for w in windows])}"
    text += f", padding {per_axis(padding)}"
    if any(w.dilation != 1 for w in windows):
        text += f", dilated {per_axis([w.dilation for w in windows])}"
    if any(w.upsampling != 1 for w in windows):
        text += f", transposed {per_axis([w.upsampling for w in windows])}"
    return text


def _collect(
    jaxpr: Jaxpr,
    constants: Sequence[_Value],
    arguments: Sequence[_Value] | None,
    operations: list[_Operation],
) -> list[_Value]:
    """Appends the windows of a jaxpr to ``operations`` and returns its results.

    Args:
        jaxpr: The jaxpr.
        constants: Values of its constants.
        arguments: Values of its inputs; None if all vary.
        operations: Operations met so far.
    """
    known: dict[Var, _Value] = dict(zip(jaxpr.constvars, constants, strict=True))
    if arguments is not None:
        known.update(zip(jaxpr.invars, arguments, strict=True))

    def read(variable: Any) -> _Value:
        if isinstance(variable, jex_core.Literal):
            return _scalar(variable.val)
        return known.get(variable, _Value())

    for eqn in jaxpr.eqns:
        values = [read(v) for v in eqn.invars]
        inner = call_jaxpr(eqn)
        if inner:
            consts = [_scalar(c) for c in inner[1]]
            results = _collect(inner[0], consts, values, operations)
        else:
            for body in _bodies(eqn.params):
                consts = [_scalar(c) for c in body.consts]
                _collect(body.jaxpr, consts, None, operations)
            results = [_result(eqn, values, operations)] * len(eqn.outvars)
        known.update(zip(eqn.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _bodies(params: dict[str, Any]) -> Iterator[ClosedJaxpr]:
    """Yields the jaxprs of loops and branches."""
    for value in params.values():
        for entry in value if isinstance(value, tuple) else (value,):
            if isinstance(entry, jex_core.ClosedJaxpr):
                yield entry


def _scalar(value: Any) -> _Value:
    single = jnp.size(value) == 1 and jnp.issubdtype(jnp.result_type(value), jnp.number)
    return _Value(float(jnp.ravel(value)[0]) if single else None, varies=False)


def _result(
    eqn: JaxprEqn, values: Sequence[_Value], operations: list[_Operation]
) -> _Value:
    """Returns the facts about an equation's results; appends its windows."""
    name, params = eqn.primitive.name, eqn.params
    traits = traits_of(name)
    if not values:
        return _Value(varies=False)
    first = values[0]
    if not any(v.varies for v in values):
        return _Value(first.scalar if traits.rearranges else None, varies=False)
    if traits.copies:
        return first
    if name == "transpose" and first.padding:
        moved = tuple(first.padding[axis] for axis in params["permutation"])
        return first._replace(padding=moved)
    if name == "pad":
        config = params["padding_config"]
        if not first.padding and not any(interior for _, _, interior in config):
            padding = tuple((low, high) for low, high, _ in config)
            return _Value(padding=padding, filler=values[1].scalar)
    if name == "conv_general_dilated":
        operations.append((_CONVOLUTION, _convolution(eqn, first)))
    elif traits.pooling is not None:
        windows = _pooling(eqn, first, traits.pooling.neutral)
        operations.append((traits.pooling.operation, windows))
    return _Value()


def _padding_before(value: _Value, filler: float, axis: int) -> tuple[int, int]:
    """Returns padding of the operand that acts like padding of the operation."""
    if value.padding and value.filler == filler:
        return value.padding[axis]
    return 0, 0


def _convolution(eqn: JaxprEqn, image: _Value) -> tuple[_Window, ...]:
    params, numbers = eqn.params, eqn.params["dimension_numbers"]
    image_shape, kernel_shape = (shape_of(v) for v in eqn.invars)
    windows = []
    spatial = zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], strict=True)
    for i, (image_axis, kernel_axis) in enumerate(spatial):
        low, high = _padding_before(image, 0.0, image_axis)
        own_low, own_high = params["padding"][i]
        windows.append(
            _Window(
                extent=image_shape[image_axis] - low - high,
                size=kernel_shape[kernel_axis],
                stride=params["window_strides"][i],
                low=low + own_low,
                high=high + own_high,
                dilation=params["rhs_dilation"][i],
                upsampling=params["lhs_dilation"][i],
            )
        )
    return tuple(windows)


def _pooling(eqn: JaxprEqn, image: _Value, neutral: float) -> tuple[_Window, ...]:
    params, windows = eqn.params, []
    for axis, extent in enumerate(shape_of(eqn.invars[0])):
        low, high = _padding_before(image, neutral, axis)
        own_low, own_high = params["padding"][axis]
        windows.append(
            _Window(
                extent=extent - low - high,
                size=params["window_dimensions"][axis],
                stride=params["window_strides"][axis],
                low=low + own_low,
                high=high + own_high,
                dilation=params["window_dilation"][axis],
                upsampling=params["base_dilation"][axis],
            )
        )
    # Axes without a proper window are those of batch and channels.
    return tuple(w for w in windows if not w.is_trivial)
