"""Time of discovery and of building parameter graphs; one JSON line per network.

    python experiments/bench_discovery.py

Discovery reads shapes alone (`jax.eval_shape`), so that large networks need no memory.
``discover`` includes tracing and is the median of three, ``topology`` the time
of `build_topology`. ``graph_ratio`` compares, for networks that fit, the compiled view
of the parameters as a graph with a compiled copy of the parameters in the same run,
alternating.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from absl import app
from flax import linen as nn

from metanet.graphs import Topology, build_topology, to_graph
from metanet.symmetry import discover

T = TypeVar("T")


class Bottleneck(nn.Module):
    width: int
    stride: int

    @nn.compact
    def __call__(self, x):
        def norm():
            return nn.BatchNorm(use_running_average=True)

        h = nn.relu(norm()(nn.Conv(self.width, (1, 1), use_bias=False)(x)))
        h = nn.Conv(self.width, (3, 3), strides=self.stride, use_bias=False)(h)
        h = norm()(nn.Conv(4 * self.width, (1, 1), use_bias=False)(nn.relu(norm()(h))))
        if x.shape != h.shape:
            short = nn.Conv(4 * self.width, (1, 1), strides=self.stride, use_bias=False)
            x = norm()(short(x))
        return nn.relu(x + h)


class ResNet50(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(64, (7, 7), strides=2, use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for stage, count in enumerate((3, 4, 6, 3)):
            for i in range(count):
                x = Bottleneck(64 << stage, 2 if i == 0 and stage else 1)(x)
        return nn.Dense(1000)(x.mean((1, 2)))


class Decoder(nn.Module):
    """A decoder with learned positions, gated by GELU, embedding tied to the output."""

    layers: int
    heads: int
    width: int
    vocabulary: int = 50_257

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(self.vocabulary, self.width)
        positions = self.param(
            "positions", nn.initializers.normal(), (1024, self.width)
        )
        x = embed(tokens) + positions[None, : tokens.shape[1]]
        mask = nn.make_causal_mask(tokens)
        for _ in range(self.layers):
            h = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(self.heads)(h, h, mask=mask)
            h = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x)))
            x = x + nn.Dense(self.width)(h)
        return embed.attend(nn.LayerNorm()(x))


TOKENS = jax.ShapeDtypeStruct((1, 64), jnp.int32)
NETWORKS: dict[str, tuple[nn.Module, Any]] = {
    "resnet50": (ResNet50(), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)),
    "transformer, 12 layers": (Decoder(12, 8, 512), TOKENS),
    "gpt2 small": (Decoder(12, 12, 768), TOKENS),
    "decoder, 1 billion": (Decoder(20, 16, 2048), TOKENS),
}
# Arrays are made only for networks with fewer parameters.
_MAX_MATERIALIZED = 200_000_000


def timed(function: Callable[..., T], *args: Any) -> tuple[float, T]:
    """Returns the seconds of a call, and its result."""
    start = time.perf_counter()
    result = jax.block_until_ready(function(*args))
    return time.perf_counter() - start, result


def graph_ratio(topology: Topology, shapes: Any) -> float:
    """Returns the time of building a graph over that of copying the parameters.

    Args:
        topology: The network's topology.
        shapes: Shapes of its parameters.
    """
    params = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), shapes)

    @jax.jit
    def build(params: Any) -> Any:
        return to_graph(topology, params).edges

    @jax.jit
    def copy(params: Any) -> Any:
        return jax.tree.map(lambda x: x + 1, params)

    pairs = [(timed(build, params)[0], timed(copy, params)[0]) for _ in range(9)]
    build_times, copy_times = zip(*pairs[2:], strict=True)
    return statistics.median(build_times) / statistics.median(copy_times)


def measure(name: str, module: nn.Module, example: Any) -> dict[str, Any]:
    """Returns sizes and times of a network.

    Args:
        name: Name of the network.
        module: Its module.
        example: Shape of an input.
    """
    shapes = jax.eval_shape(partial(module.init, jax.random.key(0)), example)
    size = sum(x.size for x in jax.tree.leaves(shapes))
    discover_shapes = partial(discover, module.apply, shapes, example, check=False)
    runs = [timed(discover_shapes) for _ in range(3)]
    symmetry = runs[-1][1]
    seconds, topology = timed(build_topology, symmetry)
    result = {
        "network": name,
        "parameters": size,
        "discover": round(statistics.median(s for s, _ in runs), 3),
        "topology": round(seconds, 3),
        "groups": len(symmetry.groups),
        "edge_sets": len(topology.edges),
    }
    if size < _MAX_MATERIALIZED:
        result["graph_ratio"] = round(graph_ratio(topology, shapes), 2)
    return result


def main(_: list[str]) -> None:
    for name, (module, example) in NETWORKS.items():
        print(json.dumps(measure(name, module, example)), flush=True)


if __name__ == "__main__":
    app.run(main)
