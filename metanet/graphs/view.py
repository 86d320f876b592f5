"""Parameters viewed as the blocks of a parameter graph, and back.

Both directions only slice, reshape and transpose, so that under jit they cost next to
nothing and move every bit unchanged.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metanet.errors import MetanetError
from metanet.graphs.build import Fuse, build_topology
from metanet.graphs.topology import EdgeSet, Topology
from metanet.symmetry import discover, join_blocks, select_parts


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["edges"],
    meta_fields=["topology"],
)
@dataclass(frozen=True)
class ParameterGraph:
    """Values of the parameter graphs of one or more networks of one topology.

    Attributes:
        edges: Per edge set of the topology ``[..., both, sources, targets,
            multiplicity, F]``: F values per parameter (the parameter, then for example
            its gradient). Tied weights appear once per use.
        topology: The static part.
    """

    edges: tuple[jax.Array, ...]
    topology: Topology

    @property
    def features(self) -> int:
        """Number of values per parameter."""
        return self.edges[0].shape[-1]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Leading axes: () for one network."""
        return self.edges[0].shape[:-5]


def to_graph(topology: Topology, params: Any, *more: Any) -> ParameterGraph:
    """Views parameters as a parameter graph.

    Args:
        topology: Topology of the network.
        params: The parameter pytree; leaves ``[..., *shape]`` may all carry the same
            leading axes (one per batch dimension).
        *more: Further pytrees of the same structure (gradients, momenta): one more
            feature each.

    Raises:
        MetanetError: if a leaf does not fit the topology.
    """
    values = [_leaves(topology, p) for p in (params, *more)]
    edges = tuple(
        jnp.stack(
            [block_of(e, topology.leaves[e.leaf][1], v[e.leaf]) for v in values], -1
        )
        for e in topology.edges
    )
    return ParameterGraph(edges, topology)


def parameter_graph(
    apply_fn: Callable[..., Any], params: Any, *inputs: Any, fuse: Fuse = "reader"
) -> ParameterGraph:
    """Returns the parameter graph of a network.

    Discovers the symmetries of the network, builds the topology of its graph and views
    the parameters in it.

    Args:
        apply_fn: ``apply_fn(params, *inputs)``, any JAX function.
        params: Pytree of arrays.
        *inputs: Example inputs.
        fuse: Identity edges whose ends become one node set, see `build_topology`.
    """
    symmetry = discover(apply_fn, params, *inputs)
    return to_graph(build_topology(symmetry, fuse), params)


def to_params(graph: ParameterGraph, example: Any, feature: int = 0) -> Any:
    """Returns the parameters of a graph; the exact inverse of `to_graph`.

    Args:
        graph: The graph, with any leading axes.
        example: Parameters of the same structure, or their tree definition.
        feature: Number of the value per parameter that is returned.

    Returns:
        A pytree with leaves ``[..., *shape]``.
    """
    topology, batch = graph.topology, graph.batch_shape
    parts: dict[int, list[tuple[EdgeSet, jax.Array]]] = {}
    for edge, block in zip(topology.edges, graph.edges, strict=True):
        if edge.primary:
            piece = _unblock(edge, block[..., feature], batch)
            parts.setdefault(edge.leaf, []).append((edge, piece))
    leaves = [
        join_blocks([(edge.parts, piece) for edge, piece in parts[i]])
        if i in parts
        else jnp.zeros((*batch, *shape), graph.edges[0].dtype)  # it has no values
        for i, (_, shape) in enumerate(topology.leaves)
    ]
    if isinstance(example, jax.tree_util.PyTreeDef):
        structure = example
    else:
        structure = jax.tree_util.tree_structure(example)
    return jax.tree_util.tree_unflatten(structure, leaves)


def stack(graphs: Sequence[ParameterGraph]) -> ParameterGraph:
    """Stacks graphs of one topology along a new leading axis.

    Raises:
        MetanetError: for no graphs, or different topologies (naming the difference).
    """
    if not graphs:
        raise MetanetError("stack: no graphs")
    for i, graph in enumerate(graphs):
        if graph.topology != graphs[0].topology:
            difference = _difference(graphs[0].topology, graph.topology)
            raise MetanetError(
                f"stack: graph {i} has another topology than graph 0: {difference}; "
                "only networks of one architecture can be stacked"
            )
    return jax.tree_util.tree_map(lambda *xs: jnp.stack(xs), *graphs)


def _leaves(topology: Topology, params: Any) -> list[jax.Array]:
    leaves = jax.tree_util.tree_leaves(params)
    if len(leaves) != len(topology.leaves):
        raise MetanetError(
            f"parameters: {len(leaves)} arrays, but the topology has "
            f"{len(topology.leaves)}; they belong to different architectures"
        )
    batch = None
    for leaf, (path, shape) in zip(leaves, topology.leaves, strict=True):
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise MetanetError(
                f"parameter {path}: complex numbers; a graph has real values, which "
                "networks.with_real_params makes of them"
            )
        lead = leaf.shape[: leaf.ndim - len(shape)]
        if batch is None:
            batch = lead
        if leaf.shape != (*lead, *shape) or lead != batch:
            raise MetanetError(
                f"parameter {path}: shape {leaf.shape}, expected {(*batch, *shape)}"
            )
    return leaves


def block_of(edge: EdgeSet, shape: tuple[int, ...], leaf: Any) -> Any:
    """Views a leaf ``[..., *shape]`` as the block ``[..., both, S, T, M]`` of an edge set."""
    batch = leaf.shape[: leaf.ndim - len(shape)]
    leaf = select_parts(leaf, edge.parts)
    order = (*range(len(batch)), *(len(batch) + i for i in edge.order))
    return (
        leaf.reshape((*batch, *edge.split))
        .transpose(order)
        .reshape((*batch, *edge.shape))
    )


def leaf_positions(topology: Topology) -> Callable[[EdgeSet], np.ndarray]:
    """Returns a function from an edge set to positions in the flat weights.

    The flat weights are the raveled leaves behind one another; positions are
    ``[both, S, T, M]``.
    """
    shapes = [shape for _, shape in topology.leaves]
    starts = [0, *itertools.accumulate(math.prod(s) for s in shapes)]

    def positions(edge: EdgeSet) -> np.ndarray:
        shape, start = shapes[edge.leaf], starts[edge.leaf]
        leaf = np.arange(start, start + math.prod(shape), dtype=np.int32)
        return block_of(edge, shape, leaf.reshape(shape))

    return positions


def _unblock(edge: EdgeSet, block: jax.Array, batch: tuple[int, ...]) -> jax.Array:
    """Returns the slice of the leaf that the edge set holds; the inverse of `block_of`."""
    inverse = sorted(range(len(edge.order)), key=edge.order.__getitem__)
    order = (*range(len(batch)), *(len(batch) + i for i in inverse))
    sizes = (part.size for part in edge.parts)
    ordered = block.reshape(*batch, *(edge.split[i] for i in edge.order))
    return ordered.transpose(order).reshape(*batch, *sizes)


def _difference(a: Topology, b: Topology) -> str:
    """Describes the first difference of two topologies."""
    for kind in ("nodes", "edges", "identity_edges", "leaves"):
        left, right = getattr(a, kind), getattr(b, kind)
        for x, y in zip(left, right, strict=False):
            if x == y:
                continue
            if kind == "leaves":
                return f"parameter {x[0]} {x[1]} against {y[0]} {y[1]}"
            name = getattr(x, "name", x.kind)
            field = next(
                f.name for f in fields(x) if getattr(x, f.name) != getattr(y, f.name)
            )
            was, now = getattr(x, field), getattr(y, field)
            return f"{kind[:-1]} set {name}: {field} {was} against {now}"
        if len(left) != len(right):
            return f"{len(left)} {kind} against {len(right)}"
    raise AssertionError("equal topologies")
