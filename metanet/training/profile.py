"""Measurements for benchmarks: operation counts, this machine's peak, memory."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax


def product_flops(function: Callable[..., Any], *args: Any) -> int:
    """Floating-point operations of all matrix products of one call, from its jaxpr.

    Loops (`scan`) count with their trip count, sharded parts once per device;
    elementwise work is not counted.
    """
    return _flops(jax.make_jaxpr(function)(*args).jaxpr)


def _flops(jaxpr: Any) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contract, _), _ = eqn.params["dimension_numbers"]
            shape = eqn.invars[0].aval.shape
            inner = math.prod(shape[i] for i in contract)
            total += 2 * inner * math.prod(eqn.outvars[0].aval.shape)
        times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
        if eqn.primitive.name == "shard_map":
            times = eqn.params["mesh"].size
        for value in eqn.params.values():
            inner_jaxpr = getattr(value, "jaxpr", value)
            if hasattr(inner_jaxpr, "eqns"):
                total += times * _flops(inner_jaxpr)
    return total


def median_seconds(function: Callable[[], Any], repeats: int, warmup: int = 2) -> float:
    """Median wall time of a call, waiting for its result."""
    for _ in range(warmup):
        jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def matmul_peak(size: int = 2048, repeats: int = 7) -> float:
    """Operations per second of a square float32 matrix product on this machine."""
    a = jax.random.normal(jax.random.key(0), (size, size))
    multiply = jax.jit(lambda x, y: x @ y)
    return 2 * size**3 / median_seconds(lambda: multiply(a, a), repeats)


def peak_memory(compiled: Any) -> int:
    """Bytes a compiled program holds at once: arguments, results and temporaries."""
    analysis = compiled.memory_analysis()
    return int(
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
    )


def parameter_count(params: Any) -> int:
    """Returns the number of values in a pytree of arrays, or of their shapes."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(params))
