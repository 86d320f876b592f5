"""Equations, calls and readers of a jaxpr."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, TypeGuard, cast

import numpy as np
from jax.core import ShapedArray
from jax.extend import core as jex_core
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from metanet.programs.primitives import traits_of

Readers = dict[Var, list[JaxprEqn | None]]

# Files whose frames are skipped in tracebacks of equations.
_INTERNAL = (
    "/jax/",
    "/metanet/programs/",
    "/metanet/symmetry/",
    "/metanet/importers/",
    "/metanet/networks/base",
)
_LIBRARIES = ("/flax/", "/equinox/")


def shape_of(variable: Var | Literal) -> tuple[int, ...]:
    """Returns the shape of an operand or result of an equation."""
    return tuple(cast(ShapedArray, variable.aval).shape)


def dtype_of(variable: Var | Literal) -> np.dtype:
    """Returns the type of the entries of an operand or result of an equation."""
    return cast(ShapedArray, variable.aval).dtype


def call_jaxpr(eqn: JaxprEqn) -> tuple[Jaxpr, Sequence[Any]] | None:
    """Returns the called jaxpr and its constants, or None if the equation is no call."""
    if not traits_of(eqn.primitive.name).calls:
        return None
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr", "call"):
        inner = eqn.params.get(key)
        if inner is not None:
            return getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
    return None


def scan_counts(eqn: JaxprEqn) -> tuple[int, int]:
    """Returns the number of constants and of state operands of a `scan`."""
    params = eqn.params
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    constants, state, _ = params["ft_in"].unpack()  # from jax 0.11 on
    return len(constants), len(state)


def live_equations(jaxpr: Jaxpr) -> list[tuple[int, JaxprEqn]]:
    """Returns the equations that an output depends on, with their numbers, in order.

    Equations that may write to a mutable array are among them. On arrays without entries
    (the padding of an axis by nothing) nothing depends.
    """
    needed = {v for v in jaxpr.outvars if _has_entries(v)}
    live = []
    for index, eqn in reversed([*enumerate(jaxpr.eqns)]):
        if needed.isdisjoint(eqn.outvars) and not _reads_mutable(eqn):
            continue
        live.append((index, eqn))
        needed |= {v for v in eqn.invars if _has_entries(v)}
    return live[::-1]


def _has_entries(variable: Var | Literal) -> TypeGuard[Var]:
    """Returns True for a variable that is not an array without entries."""
    is_variable = not isinstance(variable, jex_core.Literal)
    return is_variable and 0 not in getattr(variable.aval, "shape", ())


def _reads_mutable(eqn: JaxprEqn) -> bool:
    """Returns True if an operand is a mutable array (`jax.new_ref`)."""
    return any(hasattr(v.aval, "inner_aval") for v in eqn.invars)


def readers_of(jaxpr: Jaxpr) -> Readers:
    """Returns the live equations that read each variable; None stands for an output."""
    readers: Readers = {}
    for _, eqn in live_equations(jaxpr):
        for variable in eqn.invars:
            if not isinstance(variable, jex_core.Literal):
                readers.setdefault(variable, []).append(eqn)
    for variable in jaxpr.outvars:
        if not isinstance(variable, jex_core.Literal):
            readers.setdefault(variable, []).append(None)
    return readers


def outline(jaxpr: Jaxpr) -> str:
    """Returns a short digest of the names of the equations, independent of shapes."""

    def names(jaxpr: Jaxpr) -> str:
        parts = []
        for eqn in jaxpr.eqns:
            inner = call_jaxpr(eqn)
            parts.append(eqn.primitive.name + (f"({names(inner[0])})" if inner else ""))
        return " ".join(parts)

    return hashlib.blake2b(names(jaxpr).encode(), digest_size=8).hexdigest()


def source_line(eqn: JaxprEqn) -> str:
    """Returns the user's line that an equation stems from, "file.py:12 (function)".

    If a module of a library was called directly, this is the line in the library; for a
    program that was read from a file, it is the name under which the program was traced
    (the node of an ONNX graph); "" if nothing is known.
    """
    info = getattr(eqn, "source_info", None)
    name = str(getattr(info, "name_stack", ""))
    if name.startswith("onnx "):
        return name.split("/")[0]
    library = ""
    for frame in getattr(getattr(info, "traceback", None), "frames", ()):
        if any(part in frame.file_name for part in _INTERNAL):
            if library:  # a module that was called directly
                break
            continue
        short = "/".join(frame.file_name.split("/")[-2:])
        line = f"{short}:{frame.line_num} ({frame.function_name})"
        if not any(part in frame.file_name for part in _LIBRARIES):
            return line
        library = library or line
    return library
