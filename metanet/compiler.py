"""Compiler options of `jax.jit`."""

from __future__ import annotations

import jax


def on_cpu() -> bool:
    """Returns True if the default backend is the CPU."""
    return jax.default_backend() == "cpu"


def fast_compile_options() -> dict[str, int] | None:
    """Returns options of a low optimisation level: fast compilation, slower execution."""
    return {"xla_backend_optimization_level": 0} if on_cpu() else None


def small_loop_options() -> dict[str, int] | None:
    """Returns options for long loops of small operations."""
    # LLVM's default of 256 bits leaves half of an AVX-512 unit idle.
    return {"xla_cpu_prefer_vector_width": 512} if on_cpu() else None
