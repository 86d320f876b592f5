"""Schema of a set of topologies, on which alone the shapes of a model depend.

A model is built for a `GraphSchema`, never for one topology, so that it reads graphs of
every architecture of the schema, one at a time (dense) or mixed (packed).

A parameter kind has a *grid*: columns for the parallel values of one edge, as large as
the largest kernel of that kind. Smaller kernels are centred in it, so that kernels of
all sizes share weights position by position, as in Neural Graphs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter, le
from typing import Literal, NamedTuple

import numpy as np

from metanet.errors import MetanetError
from metanet.graphs.blocks import EdgeBlock, End, edge_blocks, node_parameters
from metanet.graphs.form import GraphForm, apply_form
from metanet.graphs.topology import EdgeSet, NodeSet, Topology

# Greater depths share the last row of an embedding.
MAX_DEPTH = 64

Role = Literal["input", "output", "hidden"]


class NodeType(NamedTuple):
    """Properties that all nodes of a set share, and by which they are embedded.

    Attributes:
        kind: Kind of the set ("hidden", "input", "output", "state", ...).
        depth: Depth, at most `MAX_DEPTH`.
        chain: Nonlinearities through which the nodes are read.
        scale_kinds: Kinds of the scaling groups that act on the nodes.
    """

    kind: str
    depth: int
    chain: tuple[str, ...]
    scale_kinds: tuple[str, ...]


class EdgeType(NamedTuple):
    """Key of edge sets that are standardised and embedded alike.

    Weights that touch inputs or outputs are distributed unlike those inside.

    Attributes:
        kind: Kind of the parameter, or of the identity edges.
        source, target: Roles of the ends; None for identity edges.
    """

    kind: str
    source: Role | None = None
    target: Role | None = None

    @property
    def is_identity(self) -> bool:
        """True for edges without a parameter."""
        return self.source is None

    @property
    def label(self) -> str:
        """Short unique name, which also sets the order of the types."""
        if self.source is None or self.target is None:
            return f"join_{self.kind}"
        return f"{self.kind}_{_letter(self.source)}{_letter(self.target)}"


class NodeParameterType(NamedTuple):
    """Key of parameters of nodes that are standardised and embedded alike.

    Attributes:
        kind: Kind of the parameter ("bias", "scale", ...).
        number: 1, or its number among those of one kind at one node set.
        target: Role of the nodes.
    """

    kind: str
    number: int
    target: Role

    @property
    def grid(self) -> str:
        """Kind of its `KernelGrid`."""
        return self.kind if self.number == 1 else f"{self.kind}:{self.number}"

    @property
    def label(self) -> str:
        """Short unique name, which also sets the order of the types."""
        return f"{self.grid}_{_letter(self.target)}"


def _letter(role: Role) -> str:
    return role[0]


@dataclass(frozen=True)
class KernelGrid:
    """Columns of the values of one parameter kind.

    Attributes:
        kind: Kind of the parameter; for those of nodes see `NodeParameterType.grid`.
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

    def positions(self, edge: EdgeSet) -> tuple[int, ...]:
        """Returns the columns of an edge set's parallel values within the grid.

        A kernel is centred in the grid; its positions are in row-major order.
        """
        kernel = kernel_shape(edge)
        kernel = (1,) * (len(self.shape) - len(kernel)) + kernel
        numbers = np.arange(self.size).reshape(self.shape)
        middle = tuple(
            slice((c - k) // 2, (c - k) // 2 + k)
            for c, k in zip(self.shape, kernel, strict=True)
        )
        return tuple(int(i) for i in numbers[middle].ravel())


@dataclass(frozen=True)
class GraphSchema:
    """Kinds and sizes over a set of topologies.

    Attributes:
        node_types: Distinct types of node sets.
        identities: (kind, number of identities), for kinds of node sets with nodes that
            cannot be permuted.
        edge_types: Distinct types of edge sets and of identity edges.
        node_keys: Distinct types of parameters of nodes.
        edge_grids, node_grids: Columns of the values.
        log_degree: Mean of log(1 + edges that arrive) over all nodes.
        form: Form of the graphs.
        features: Values per parameter (the parameter, then for example its gradient).
    """

    node_types: tuple[NodeType, ...]
    identities: tuple[tuple[str, int], ...]
    edge_types: tuple[EdgeType, ...]
    node_keys: tuple[NodeParameterType, ...]
    edge_grids: tuple[KernelGrid, ...]
    node_grids: tuple[KernelGrid, ...]
    log_degree: float
    form: GraphForm = GraphForm()
    features: int = 1

    @classmethod
    def of(
        cls,
        topologies: Iterable[Topology],
        form: GraphForm | None = None,
        features: int = 1,
    ) -> GraphSchema:
        """Returns the schema of the graphs of topologies, in a form.

        Args:
            topologies: The topologies, biases as features of nodes.
            form: Form of the graphs; None for biases as features.
            features: Values per parameter.
        """
        form = GraphForm() if form is None else form
        degrees: list[np.ndarray] = []
        types: set[NodeType] = set()
        identities: dict[str, int] = {}
        edge_types: set[EdgeType] = set()
        node_keys: set[NodeParameterType] = set()
        on_edges: dict[str, list[tuple[int, ...]]] = {}
        on_nodes: dict[str, list[tuple[int, ...]]] = {}
        for topology in (apply_form(t, form) for t in topologies):
            blocks = edge_blocks(topology)
            degrees.append(degrees_of(topology, blocks, form, "target"))
            for node in topology.nodes:
                types.add(node_type(node))
                if any(node.pinned):
                    count = math.prod(pinned_sizes(node))
                    identities[node.kind] = max(count, identities.get(node.kind, 0))
            for block in blocks:
                edge_types.add(edge_type(topology, block))
                if block.edge >= 0:
                    edge = topology.edges[block.edge]
                    on_edges.setdefault(edge.kind, []).append(kernel_shape(edge))
            for parameters in node_parameters(topology):
                indices = [index for index, _ in parameters]
                keys = node_parameter_types(topology, indices)
                for key, index in zip(keys, indices, strict=True):
                    shape = kernel_shape(topology.edges[index])
                    node_keys.add(key)
                    on_nodes.setdefault(key.grid, []).append(shape)
        return cls(
            tuple(sorted(types)),
            tuple(sorted(identities.items())),
            tuple(sorted(edge_types, key=attrgetter("label"))),
            tuple(sorted(node_keys, key=attrgetter("label"))),
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
        """Number of identities over all kinds."""
        return sum(n for _, n in self.identities)

    def identity(self, node: NodeSet) -> np.ndarray:
        """Returns per node of a set the number of its identity ``[N]``, -1 for none."""
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

    def require(self, topology: Topology) -> None:
        """Checks that a model of this schema can read graphs of a topology.

        Raises:
            MetanetError: naming what it does not know.
        """
        other = GraphSchema.of([topology], self.form, self.features)
        unknown = [
            f"nodes of type {tuple(t)}" for t in _extra(other, self, "node_types")
        ]
        for edge in _extra(other, self, "edge_types"):
            ends = "" if edge.is_identity else f" from {edge.source} to {edge.target}"
            unknown.append(f"{edge.kind} edges{ends} nodes")
        for key in _extra(other, self, "node_keys"):
            unknown.append(f"a {key.grid} of {key.target} nodes")
        sizes = dict(self.identities)
        for kind, count in other.identities:
            if count > sizes.get(kind, 0):
                unknown.append(f"{count} {kind} units")
        for grids, known in (
            (other.edge_grids, self.edge_grids),
            (other.node_grids, self.node_grids),
        ):
            shapes = {grid.kind: grid.shape for grid in known}
            for grid in grids:
                if not _fits(grid.shape, shapes.get(grid.kind, ())):
                    unknown.append(f"a {grid.kind} of shape {grid.shape}")
        if unknown:
            raise MetanetError(
                f"model: built for other graphs, it does not know {unknown[0]}; build "
                "it with all topologies that it has to read"
            )


def _extra(other: GraphSchema, schema: GraphSchema, field: str) -> list:
    known = set(getattr(schema, field))
    return [item for item in getattr(other, field) if item not in known]


def node_type(node: NodeSet) -> NodeType:
    """Returns the type of the nodes of a set."""
    depth = min(node.depth, MAX_DEPTH)
    return NodeType(node.kind, depth, node.nonlinearity, node.scale_kinds)


def pinned_sizes(node: NodeSet) -> tuple[int, ...]:
    """Returns the sizes of a set's units, 1 for those that can be permuted."""
    return tuple(n if p else 1 for n, p in zip(node.units, node.pinned, strict=True))


def _role(node: NodeSet) -> Role:
    if node.kind == "input" or node.kind == "output":
        return node.kind
    return "hidden"


def edge_type(topology: Topology, block: EdgeBlock) -> EdgeType:
    """Returns the type of the edges of a block."""
    if block.edge < 0:
        return EdgeType(topology.identity_edges[block.identity_edge].kind)
    source, target = topology.nodes[block.source], topology.nodes[block.target]
    return EdgeType(topology.edges[block.edge].kind, _role(source), _role(target))


def node_parameter_types(
    topology: Topology, edge_sets: Iterable[int]
) -> list[NodeParameterType]:
    """Returns the types of the parameters of one node set, numbered within a kind."""
    counts: dict[str, int] = {}
    types = []
    for index in edge_sets:
        edge = topology.edges[index]
        counts[edge.kind] = counts.get(edge.kind, 0) + 1
        role = _role(topology.nodes[edge.target])
        types.append(NodeParameterType(edge.kind, counts[edge.kind], role))
    return types


def kernel_shape(edge: EdgeSet) -> tuple[int, ...]:
    """Returns the sizes of the axes of an edge set's parallel positions."""
    return tuple(len(set(axis)) for axis in zip(*edge.positions, strict=True))


def degrees_of(
    topology: Topology, blocks: Iterable[EdgeBlock], form: GraphForm, end: End
) -> np.ndarray:
    """Returns the number of edges at each node ``[N]`` of all sets, at least 1.

    Args:
        topology: A topology in a form.
        blocks: Its edge blocks.
        form: The form.
        end: The end at which edges are counted.
    """
    counts = [np.zeros(node.size) for node in topology.nodes]
    for block in blocks:
        parallel = 1
        if form.parallel and block.edge >= 0:
            parallel = topology.edges[block.edge].shape[3]
        # Edges that several nodes share count once at each of them.
        if end == "source":
            counts[block.source] += block.shape[2] * parallel
        else:
            counts[block.target] += block.shape[1] * parallel
    return np.maximum(np.concatenate(counts), 1.0).astype(np.float32)


def _fits(kernel: tuple[int, ...], grid: tuple[int, ...]) -> bool:
    wide = (1,) * (len(grid) - len(kernel)) + kernel
    return len(wide) == len(grid) and all(map(le, wide, grid))


def _grids(shapes: dict[str, list[tuple[int, ...]]]) -> tuple[KernelGrid, ...]:
    out, start = [], 0
    for kind, kernels in sorted(shapes.items()):
        rank = max(len(s) for s in kernels)
        wide = [(1,) * (rank - len(s)) + s for s in kernels]
        shape = tuple(max(axis) for axis in zip(*wide, strict=True))
        out.append(KernelGrid(kind, shape, start))
        start += math.prod(shape)
    return tuple(out)
