"""Options of `jax.jit`, by what a program is for."""

from __future__ import annotations

import jax


def on_cpu() -> bool:
    """Whether programs run on CPU."""
    return jax.default_backend() == "cpu"


def fast_compile_options() -> dict[str, int] | None:
    """For programs that run a few times: compiled several times faster, run slower."""
    return {"xla_backend_optimization_level": 0} if on_cpu() else None


def small_loop_options() -> dict[str, int] | None:
    """For long loops of small operations."""
    # LLVM's default of 256 bits leaves half of an AVX-512 unit idle.
    return {"xla_cpu_prefer_vector_width": 512} if on_cpu() else None
