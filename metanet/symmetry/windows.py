"""How a program slides windows over places, which weights and graph do not show.

Stride and padding change what a network computes and leave its parameters, symmetries and
parameter graph as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core as jex_core

from metanet.symmetry.programs import call_jaxpr

_POOLS = {
    "reduce_window_sum": ("a sum", 0.0),
    "reduce_window_max": ("a maximum", -math.inf),
    "reduce_window_min": ("a minimum", math.inf),
}
_SAME_VALUES = ("convert_element_type", "copy", "copy_p", "reduce_precision")
_SAME_SCALAR = (*_SAME_VALUES, "reshape", "squeeze", "broadcast_in_dim")


class Windows(NamedTuple):
    """What a program slides over places.

    Attributes:
        kinds: Every kind of convolution or pooling in words, with size, stride and
            padding ("0+1": before and after), one number where all axes agree; sorted.
            Left out are those over all places, and convolutions that do not overlap
            (patches of a ViT): they are products.
        places: The largest extent that windows slide over, as "28 x 28"; "" without
            windows.
    """

    kinds: tuple[str, ...]
    places: str


class _Value(NamedTuple):
    """A value of the program.

    Attributes:
        scalar: Its single value; None: not known, or of several.
        varies: Whether it depends on parameters or inputs.
        pads: Padding that it has had, ``(low, high)`` per axis; () for none.
        filler: What it was padded with.
    """

    scalar: float | None = None
    varies: bool = True
    pads: tuple[tuple[int, int], ...] = ()
    filler: float | None = None


class _Axis(NamedTuple):
    """A window along one axis of places; ``extent`` is without padding."""

    extent: int
    size: int
    stride: int
    low: int
    high: int
    spread: int = 1
    stretch: int = 1

    @property
    def slides(self) -> bool:
        """Whether it is more than one place after the other."""
        return self[1:] != (1, 1, 0, 0, 1, 1)

    @property
    def apart(self) -> bool:
        """Whether windows lie side by side."""
        return self.size == self.stride and self[3:] == (0, 0, 1, 1)

    @property
    def whole(self) -> bool:
        """Whether there is one window, over all places."""
        return self.size == self.extent and self[3:5] == (0, 0)


_Slide = tuple[str, tuple[_Axis, ...]]


def windows_of(apply_fn: Callable[..., Any], params: Any, *inputs: Any) -> Windows:
    """Reads off a program what it slides over places.

    Padding counts alike whether the operation does it or a ``pad`` before it.

    Args:
        apply_fn: ``apply_fn(params, *inputs)``, any JAX function.
        params: Pytree of arrays or shapes.
        *inputs: Example inputs.
    """
    closed = jax.make_jaxpr(apply_fn)(params, *inputs)
    found: list[_Slide] = []
    _walk(closed.jaxpr, [_scalar(c) for c in closed.consts], None, found)
    kinds: set[str] = set()
    extents: list[tuple[int, ...]] = []
    for name, axes in found:
        sliding = [a for a in axes if a.slides]
        product = name == "a convolution" and all(a.apart for a in sliding)
        if product or all(a.whole for a in sliding):
            continue
        kinds.add(_words(name, sliding))
        extents.append(tuple(a.extent for a in axes))
    largest = max(extents, key=math.prod, default=())
    return Windows(tuple(sorted(kinds)), " x ".join(map(str, largest)))


def _words(name: str, axes: Sequence[_Axis]) -> str:
    def each(part: Callable[[_Axis], Any]) -> str:
        parts = [str(part(a)) for a in axes]
        return parts[0] if len(set(parts)) == 1 else " x ".join(parts)

    def pads(a: _Axis) -> str:
        return str(a.low) if a.low == a.high else f"{a.low}+{a.high}"

    text = f"{name} over {' x '.join(str(a.size) for a in axes)}"
    text += f", stride {each(lambda a: a.stride)}, padding {each(pads)}"
    if any(a.spread != 1 for a in axes):
        text += f", dilated {each(lambda a: a.spread)}"
    if any(a.stretch != 1 for a in axes):
        text += f", transposed {each(lambda a: a.stretch)}"
    return text


def _walk(
    jaxpr: Any,
    constants: Sequence[_Value],
    arguments: Sequence[_Value] | None,
    found: list[_Slide],
) -> list[_Value]:
    """Collects the windows of a jaxpr; its results. None: arguments vary."""
    known: dict[Any, _Value] = dict(zip(jaxpr.constvars, constants, strict=True))
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
            results = _walk(inner[0], consts, values, found)
        else:
            for body in _bodies(eqn.params):
                _walk(body.jaxpr, [_scalar(c) for c in body.consts], None, found)
            results = [_result(eqn, values, found)] * len(eqn.outvars)
        known.update(zip(eqn.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _bodies(params: dict[str, Any]) -> Iterator[jex_core.ClosedJaxpr]:
    """Programs of loops and branches."""
    for value in params.values():
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, jex_core.ClosedJaxpr):
                yield one


def _scalar(value: Any) -> _Value:
    single = jnp.size(value) == 1 and jnp.issubdtype(jnp.result_type(value), jnp.number)
    return _Value(float(jnp.ravel(value)[0]) if single else None, varies=False)


def _result(eqn: Any, values: Sequence[_Value], found: list[_Slide]) -> _Value:
    """What is known of the results of an equation; windows are added to ``found``."""
    name, params, first = eqn.primitive.name, eqn.params, values[0] if values else None
    varies = any(v.varies for v in values)
    if first is None or not varies:
        same = first is not None and name in _SAME_SCALAR
        return _Value(first.scalar if first and same else None, varies=varies)
    if name in _SAME_VALUES:
        return first
    if name == "transpose" and first.pads:
        moved = tuple(first.pads[axis] for axis in params["permutation"])
        return first._replace(pads=moved)
    if name == "pad":
        config = params["padding_config"]
        if not first.pads and not any(inner for _, _, inner in config):
            pads = tuple((low, high) for low, high, _ in config)
            return _Value(pads=pads, filler=values[1].scalar)
    if name == "conv_general_dilated":
        found.append(("a convolution", _convolution(eqn, first)))
    elif name in _POOLS:
        words, start = _POOLS[name]
        found.append((words, _pooling(eqn, first, start)))
    return _Value()


def _before(value: _Value, filler: float, axis: int) -> tuple[int, int]:
    """Padding that an operand already has had, where it counts as the operation's."""
    return value.pads[axis] if value.pads and value.filler == filler else (0, 0)


def _convolution(eqn: Any, image: _Value) -> tuple[_Axis, ...]:
    params, numbers = eqn.params, eqn.params["dimension_numbers"]
    axes = []
    for place, (at, of) in enumerate(
        zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], strict=True)
    ):
        low, high = _before(image, 0.0, at)
        left, right = params["padding"][place]
        axes.append(
            _Axis(
                eqn.invars[0].aval.shape[at] - low - high,
                eqn.invars[1].aval.shape[of],
                params["window_strides"][place],
                low + left,
                high + right,
                params["rhs_dilation"][place],
                params["lhs_dilation"][place],
            )
        )
    return tuple(axes)


def _pooling(eqn: Any, image: _Value, start: float) -> tuple[_Axis, ...]:
    params, axes = eqn.params, []
    for at, extent in enumerate(eqn.invars[0].aval.shape):
        low, high = _before(image, start, at)
        left, right = params["padding"][at]
        axes.append(
            _Axis(
                extent - low - high,
                params["window_dimensions"][at],
                params["window_strides"][at],
                low + left,
                high + right,
                params["window_dilation"][at],
                params["base_dilation"][at],
            )
        )
    # Batch and channels are no places.
    return tuple(a for a in axes if a.slides)
