"""What can be read off a jaxpr without interpreting it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from jax.extend import core as jex_core

_CALLS = frozenset(
    "jit pjit closed_call core_call remat remat2 checkpoint custom_jvp_call "
    "custom_vjp_call custom_vjp_call_jaxpr custom_lin".split()
)
_OURS = (
    "/jax/",
    "/metanet/symmetry/",
    "/metanet/importers/",
    "/metanet/networks/base",
)
_LIBRARIES = ("/flax/", "/equinox/")


def call_jaxpr(eqn: Any) -> tuple[Any, Sequence[Any]] | None:
    """The called jaxpr and its constants, for primitives that only call."""
    if eqn.primitive.name not in _CALLS:
        return None
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(key)
        if inner is not None:
            return getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
    return None


def scan_counts(eqn: Any) -> tuple[int, int]:
    """How many of the operands of a `scan` are constants, and how many its state."""
    params = eqn.params
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    constants, state, _ = params["ft_in"].unpack()  # from jax 0.11 on
    return len(constants), len(state)


def live_equations(jaxpr: Any) -> list[tuple[int, Any]]:
    """The equations that an output depends on, with their places, in order."""
    needed = {v for v in jaxpr.outvars if not isinstance(v, jex_core.Literal)}
    live = []
    for index, eqn in reversed([*enumerate(jaxpr.eqns)]):
        if needed.isdisjoint(eqn.outvars):
            continue
        live.append((index, eqn))
        needed |= {v for v in eqn.invars if not isinstance(v, jex_core.Literal)}
    return live[::-1]


def readers_of(jaxpr: Any) -> dict[Any, list[Any]]:
    """Per variable the live equations that read it; None stands for an output."""
    found: dict[Any, list[Any]] = {}
    for _, eqn in live_equations(jaxpr):
        for variable in eqn.invars:
            if not isinstance(variable, jex_core.Literal):
                found.setdefault(variable, []).append(eqn)
    for variable in jaxpr.outvars:
        if not isinstance(variable, jex_core.Literal):
            found.setdefault(variable, []).append(None)
    return found


def outline(jaxpr: Any) -> str:
    """A short digest of a program's equations, independent of its shapes."""

    def names(jaxpr: Any) -> str:
        parts = []
        for eqn in jaxpr.eqns:
            inner = call_jaxpr(eqn)
            parts.append(eqn.primitive.name + (f"({names(inner[0])})" if inner else ""))
        return " ".join(parts)

    return hashlib.blake2b(names(jaxpr).encode(), digest_size=8).hexdigest()


def source_line(eqn: Any) -> str:
    """The user's line that made an equation, "file.py:12 (function)".

    Where a library's module was called directly, the line in the library; for a program
    that comes from a file, the name under which it was traced (the node of an ONNX
    graph); "" where nothing is known.
    """
    info = getattr(eqn, "source_info", None)
    name = str(getattr(info, "name_stack", ""))
    if name.startswith("onnx "):
        return name.split("/")[0]
    library = ""
    for frame in getattr(getattr(info, "traceback", None), "frames", ()):
        if any(part in frame.file_name for part in _OURS):
            if library:  # a module that was called directly
                break
            continue
        short = "/".join(frame.file_name.split("/")[-2:])
        line = f"{short}:{frame.line_num} ({frame.function_name})"
        if not any(part in frame.file_name for part in _LIBRARIES):
            return line
        library = library or line
    return library
