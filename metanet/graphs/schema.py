"""What the graphs of a set of architectures are made of: all that a model is built for.

A model's parameters depend on a `Vocabulary`, never on one topology, so that one model
reads every architecture of it, one at a time (stacked) or mixed (packed).

A parameter kind has a *grid*: columns for the parallel values of one edge, as large as
the largest kernel of that kind. Smaller kernels lie in its middle, so that kernels of
all sizes share weights position by position (Neural Graphs pads likewise).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from operator import le

import numpy as np

from metanet.errors import MetanetError
from metanet.graphs.batch import End, edge_blocks, node_parameters
from metanet.graphs.form import GraphForm, apply_form
from metanet.graphs.topology import EdgeSet, NodeSet, Topology

# Depths beyond it share the last row of an embedding.
MAX_DEPTH = 64

_FEATURES = GraphForm()

NodeType = tuple[str, int, tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True)
class KernelGrid:
    """Columns of the values of one parameter kind.

    Attributes:
        kind: The kind; for parameters of nodes with its number among those of a node.
        shape: Positions along each axis.
        start: First column.
    """

    kind: str
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """Number of columns."""
        return math.prod(self.shape)

    def places(self, edge: EdgeSet) -> tuple[int, ...]:
        """Columns of an edge set's parallel values, counted from the grid' own."""
        return _places(self.shape, kernel_shape(edge))


@dataclass(frozen=True)
class GraphSchema:
    """Kinds and sizes over a set of topologies.

    Attributes:
        node_types: Distinct (kind, depth, activation, carries) of node sets.
        identities: (kind, number of indices that are told apart), for kinds of node
            sets that have such.
        edge_types: Keys of edge sets and joins; see `edge_type`.
        node_keys: Keys of parameters of nodes; see `node_key`.
        edge_grids, node_grids: Columns of the values.
        log_degree: Mean of log(1 + edges that arrive) over all nodes.
        form: Form of the graphs.
        features: Values per parameter (the parameter, then for example its gradient).
    """

    node_types: tuple[NodeType, ...]
    identities: tuple[tuple[str, int], ...]
    edge_types: tuple[str, ...]
    node_keys: tuple[str, ...]
    edge_grids: tuple[KernelGrid, ...]
    node_grids: tuple[KernelGrid, ...]
    log_degree: float
    form: GraphForm = GraphForm()
    features: int = 1

    @classmethod
    def of(
        cls,
        topologies: Iterable[Topology],
        form: GraphForm = _FEATURES,
        features: int = 1,
    ) -> GraphSchema:
        """The schema of the graphs of given topologies, in a form."""
        degrees: list[np.ndarray] = []
        types: set[NodeType] = set()
        identities: dict[str, int] = {}
        edge_keys: set[str] = set()
        node_keys: set[str] = set()
        on_edges: dict[str, list[tuple[int, ...]]] = {}
        on_nodes: dict[str, list[tuple[int, ...]]] = {}
        for topology in (apply_form(t, form) for t in topologies):
            degrees.append(degree(topology, form, "target"))
            for node in topology.nodes:
                types.add(node_type(node))
                if any(node.pinned):
                    count = math.prod(pinned_sizes(node))
                    identities[node.kind] = max(count, identities.get(node.kind, 0))
            for group in edge_blocks(topology):
                if group.edge >= 0:
                    edge = topology.edges[group.edge]
                    edge_keys.add(edge_type(topology, edge))
                    on_edges.setdefault(edge.kind, []).append(kernel_shape(edge))
                else:
                    edge_keys.add(join_type(topology, group.join))
            for held in node_parameters(topology):
                for slot, (index, _) in zip(
                    node_parameter_kinds(topology, held), held, strict=True
                ):
                    edge = topology.edges[index]
                    node_keys.add(node_key(topology, edge, slot))
                    on_nodes.setdefault(slot, []).append(kernel_shape(edge))
        return cls(
            tuple(sorted(types)),
            tuple(sorted(identities.items())),
            tuple(sorted(edge_keys)),
            tuple(sorted(node_keys)),
            _grids(on_edges),
            _grids(on_nodes),
            float(np.log1p(np.concatenate(degrees)).mean()),
            form,
            features,
        )

    @property
    def edge_columns(self) -> int:
        """Columns of an edge's values."""
        return sum(c.size for c in self.edge_grids)

    @property
    def node_columns(self) -> int:
        """Columns of a node's values."""
        return sum(c.size for c in self.node_grids)

    @property
    def num_identities(self) -> int:
        """Number of indices that are told apart."""
        return sum(n for _, n in self.identities)

    def identity(self, node: NodeSet) -> np.ndarray:
        """Per node of a set the number of its identity ``[N]``, -1 for none."""
        if not any(node.pinned):
            return np.full(node.size, -1, np.int32)
        start = 0
        for kind, count in self.identities:
            if kind == node.kind:
                break
            start += count
        sizes = pinned_sizes(node)
        numbers = start + np.arange(math.prod(sizes), dtype=np.int32).reshape(sizes)
        return np.broadcast_to(numbers, node.units).reshape(-1)

    @lru_cache(maxsize=4096)  # noqa: B019
    def require(self, topology: Topology) -> None:
        """Checks that a model of this schema can read graphs of a topology.

        Raises:
            MetanetError: naming what it does not know.
        """
        other = GraphSchema.of([topology], self.form, self.features)
        sizes = dict(self.identities)
        grids = ("edge_grids", "node_grids")
        mine, theirs = (
            {(n, c.kind): c.shape for n in grids for c in getattr(v, n)}
            for v in (self, other)
        )
        unknown = [
            *sorted(set(other.node_types) - set(self.node_types)),
            *sorted(set(other.edge_types) - set(self.edge_types)),
            *sorted(set(other.node_keys) - set(self.node_keys)),
            *(f"{n} {kind} units" for kind, n in other.identities
              if n > sizes.get(kind, 0)),
            *(f"{kind} of shape {shape}" for (n, kind), shape in theirs.items()
              if not _fits(shape, mine.get((n, kind), ()))),
        ]  # fmt: skip
        if unknown:
            raise MetanetError(
                f"model: built for other graphs, it does not know {unknown[0]}; build "
                "it with all topologies that it has to read"
            )


def node_type(node: NodeSet) -> NodeType:
    """What is known of all nodes of a set."""
    return (node.kind, min(node.depth, MAX_DEPTH), node.nonlinearity, node.carries)


def pinned_sizes(node: NodeSet) -> tuple[int, ...]:
    """Sizes of a set's units, 1 for those that can be permuted."""
    return tuple(n if p else 1 for n, p in zip(node.units, node.pinned, strict=True))


def edge_type(topology: Topology, edge: EdgeSet) -> str:
    """Edge sets with equal keys are standardised and embedded alike.

    Weights that touch inputs or outputs are distributed unlike those inside.
    """
    source = "node" if edge.source is None else topology.nodes[edge.source].kind
    kinds = (source, topology.nodes[edge.target].kind)
    ends = "".join(k[0] if k in ("input", "output") else "h" for k in kinds)
    return f"{edge.kind}_{ends}"


def join_type(topology: Topology, index: int) -> str:
    """The key of a join."""
    return f"join_{topology.identity_edges[index].kind}"


def node_key(topology: Topology, edge: EdgeSet, slot: str) -> str:
    """The key of a parameter of nodes, as `edge_type`."""
    end = topology.nodes[edge.target].kind
    return f"{slot}_{end[0] if end in ('input', 'output') else 'h'}"


def node_parameter_kinds(topology: Topology, held: Iterable) -> list[str]:
    """Kinds of a node set's own parameters, numbered where one occurs repeatedly."""
    seen: dict[str, int] = {}
    out = []
    for index, _ in held:
        kind = topology.edges[index].kind
        seen[kind] = seen.get(kind, 0) + 1
        out.append(kind if seen[kind] == 1 else f"{kind}:{seen[kind]}")
    return out


def kernel_shape(edge: EdgeSet) -> tuple[int, ...]:
    """Sizes of the axes of an edge set's parallel positions."""
    return tuple(len(set(axis)) for axis in zip(*edge.positions, strict=True))


def _fits(kernel: tuple[int, ...], grid: tuple[int, ...]) -> bool:
    wide = (1,) * (len(grid) - len(kernel)) + kernel
    return len(wide) == len(grid) and all(map(le, wide, grid))


def _grids(shapes: dict[str, list[tuple[int, ...]]]) -> tuple[KernelGrid, ...]:
    out, start = [], 0
    for kind, found in sorted(shapes.items()):
        rank = max(len(s) for s in found)
        wide = [(1,) * (rank - len(s)) + s for s in found]
        shape = tuple(max(axis) for axis in zip(*wide, strict=True))
        out.append(KernelGrid(kind, shape, start))
        start += math.prod(shape)
    return tuple(out)


@lru_cache
def _places(grid: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[int, ...]:
    """Columns of a kernel that lies in the middle of a grid, major first."""
    kernel = (1,) * (len(grid) - len(kernel)) + kernel
    numbers = np.arange(math.prod(grid)).reshape(grid)
    middle = tuple(
        slice((c - k) // 2, (c - k) // 2 + k) for c, k in zip(grid, kernel, strict=True)
    )
    return tuple(int(i) for i in numbers[middle].ravel())


@lru_cache
def degree(topology: Topology, form: GraphForm, end: End) -> np.ndarray:
    """Number of edges at each node ``[N]`` of all sets, at least 1.

    Args:
        topology: A reformed topology.
        form: Its form.
        end: Which end of the edges.
    """
    counts = [np.zeros(node.size) for node in topology.nodes]
    for group in edge_blocks(topology):
        parallel = topology.edges[group.edge].shape[3] if form.parallel else 1
        per_node = group.shape[2 if end == "source" else 1]
        # Edges that several nodes share count once at each of them.
        at = group.source if end == "source" else group.target
        counts[at] += per_node * (parallel if group.edge >= 0 else 1)
    return np.maximum(np.concatenate(counts), 1.0).astype(np.float32)
