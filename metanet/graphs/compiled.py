"""Arrays that layouts derive from a topology, computed once per architecture."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from metanet.graphs.blocks import (
    AxisMap,
    EdgeBlock,
    End,
    edge_blocks,
    node_parameters,
)
from metanet.graphs.form import apply_form
from metanet.graphs.schema import (
    GraphSchema,
    degrees_of,
    edge_type,
    node_parameter_types,
    node_type,
)
from metanet.graphs.topology import Topology
from metanet.graphs.view import leaf_positions


class CompiledBlock(NamedTuple):
    """An edge block and its numbers in a schema.

    Attributes:
        block: The edges.
        type: Number in ``schema.edge_types``.
        grid: Number of the parameter's grid in ``schema.edge_grids``; -1 for identity
            edges.
        positions: Columns of the parallel values within the grid.
        columns: The same columns within all grids.
    """

    block: EdgeBlock
    type: int
    grid: int
    positions: tuple[int, ...]
    columns: tuple[int, ...]


class NodeParameter(NamedTuple):
    """A parameter of the nodes of a set and its numbers in a schema.

    Attributes:
        edge: Index of its edge set.
        axis_map: Brings its values to the nodes.
        type: Number in ``schema.node_keys``.
        grid: Number of its grid in ``schema.node_grids``.
        positions: Columns of the parallel values within the grid.
        columns: The same columns within all grids.
    """

    edge: int
    axis_map: AxisMap
    type: int
    grid: int
    positions: tuple[int, ...]
    columns: tuple[int, ...]


class PackedTopology(NamedTuple):
    """Index arrays with which networks of a topology are packed.

    The fields from ``source`` to ``repeated`` are those of `PackedGraphs`; averages are
    numbered from the number of nodes on.

    Attributes:
        edge_index, node_index: ``[E, C]`` and ``[N, C']`` position of each value in the
            flat weights of a network, -1 for none.
        edge_cells, node_cells: ``[P]`` position of each parameter among the flattened
            values of primary edge sets, the inverse; -1 for none.
        parameters: Number of parameters P.
    """

    edge_index: np.ndarray
    node_index: np.ndarray
    source: np.ndarray
    target: np.ndarray
    edge_type: np.ndarray
    edge_position: np.ndarray
    fan: np.ndarray
    node_type: np.ndarray
    identity: np.ndarray
    node_keys: np.ndarray
    degree: np.ndarray
    averaged: np.ndarray
    average: np.ndarray
    average_size: np.ndarray
    repeat: np.ndarray
    repeated: np.ndarray
    edge_cells: np.ndarray
    node_cells: np.ndarray
    parameters: int

    @property
    def edges(self) -> int:
        """Number of rows of edges."""
        return len(self.source)

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return len(self.node_type)


@dataclass(frozen=True, eq=False)
class CompiledTopology:
    """A topology in the form of a schema, with all that layouts derive from it.

    Attributes:
        original: The topology, biases as features of nodes.
        topology: The topology in the schema's form.
        schema: The schema.
        blocks: Edge blocks.
        node_parameters: Parameters of nodes, per node set.
        node_type, identity: ``[N]`` integers, see `Layout`.
        degrees: ``[N]`` number of edges at each node, by end.
    """

    original: Topology
    topology: Topology
    schema: GraphSchema
    blocks: tuple[CompiledBlock, ...]
    node_parameters: tuple[tuple[NodeParameter, ...], ...]
    node_type: np.ndarray
    identity: np.ndarray
    degrees: dict[End, np.ndarray]

    @cached_property
    def packed(self) -> PackedTopology:
        """The index arrays of packed batches."""
        return _pack_topology(self)


@lru_cache(maxsize=16384)  # zoos have thousands of architectures
def compile_topology(topology: Topology, schema: GraphSchema) -> CompiledTopology:
    """Derives the arrays of a topology that layouts read; results are cached.

    Raises:
        MetanetError: for graphs that the schema does not cover.
    """
    schema.require(topology)
    formed = apply_form(topology, schema.form)
    edge_grids = {grid.kind: i for i, grid in enumerate(schema.edge_grids)}
    node_grids = {grid.kind: i for i, grid in enumerate(schema.node_grids)}
    blocks = edge_blocks(formed)
    compiled_blocks = []
    for block in blocks:
        kind = edge_type(formed, block)
        number = schema.edge_types.index(kind)
        if kind.is_identity:
            compiled_blocks.append(CompiledBlock(block, number, -1, (), ()))
            continue
        grid = schema.edge_grids[edge_grids[kind.kind]]
        positions = grid.positions(formed.edges[block.edge])
        columns = tuple(grid.start + position for position in positions)
        index = edge_grids[kind.kind]
        compiled_blocks.append(CompiledBlock(block, number, index, positions, columns))
    parameters = []
    for members in node_parameters(formed):
        types = node_parameter_types(formed, [index for index, _ in members])
        row = []
        for key, (index, axis_map) in zip(types, members, strict=True):
            grid = schema.node_grids[node_grids[key.grid]]
            positions = grid.positions(formed.edges[index])
            columns = tuple(grid.start + position for position in positions)
            number = schema.node_keys.index(key)
            row.append(
                NodeParameter(
                    index, axis_map, number, node_grids[key.grid], positions, columns
                )
            )
        parameters.append(tuple(row))
    types = [schema.node_types.index(node_type(node)) for node in formed.nodes]
    sizes = [node.size for node in formed.nodes]
    return CompiledTopology(
        original=topology,
        topology=formed,
        schema=schema,
        blocks=tuple(compiled_blocks),
        node_parameters=tuple(parameters),
        node_type=np.repeat(np.asarray(types, np.int32), sizes),
        identity=np.concatenate([schema.identity(node) for node in formed.nodes]),
        degrees={
            "source": degrees_of(formed, blocks, schema.form, "source"),
            "target": degrees_of(formed, blocks, schema.form, "target"),
        },
    )


def _pack_topology(compiled: CompiledTopology) -> PackedTopology:
    topology, schema = compiled.topology, compiled.schema
    form = schema.form
    averages = _Averages(topology)
    positions = leaf_positions(topology)
    columns = 1 if form.parallel else schema.edge_columns
    rows: list[_Rows] = []
    repeats: list[_Rows] = []
    repeated: list[np.ndarray] = [np.zeros(0, np.int64)]
    for entry in compiled.blocks:
        block = entry.block
        edge = topology.edges[block.edge] if block.edge >= 0 else None
        parallel = edge.shape[3] if edge is not None and form.parallel else 1
        shape, edge_positions = (*block.shape, parallel), np.zeros(1, int)
        values = np.full((*shape, columns), -1, np.int32)
        if edge is not None and form.parallel:
            values[..., 0] = positions(edge)
            edge_positions = np.asarray(entry.columns)
        elif edge is not None:
            values[:, :, :, 0][..., list(entry.columns)] = positions(edge)
        count = math.prod(shape)
        part = _Rows(
            values=values.reshape(count, columns),
            source=np.zeros(0, int),
            target=np.zeros(0, int),
            type=np.full(count, entry.type),
            position=np.broadcast_to(edge_positions, shape).ravel(),
            fan=np.tile(np.asarray([[block.shape[2], block.shape[1]]]), (count, 1)),
            holds=np.full(count, edge is not None and edge.primary),
        )
        sources = averages.numbers(block.source, block.ends[0])
        targets = averages.numbers(block.target, block.ends[1])
        start = sum(len(r.type) for r in rows)
        # A pair of nodes is a row; all but the first pair that share an edge repeat it.
        for number, (source, target) in enumerate(zip(sources, targets, strict=True)):
            row = part._replace(
                source=np.broadcast_to(source[:, :, None, None], shape).ravel(),
                target=np.broadcast_to(target[:, None, :, None], shape).ravel(),
            )
            if number == 0:
                rows.append(row)
            else:
                repeats.append(row._replace(holds=np.zeros(count, bool)))
                repeated.append(start + np.arange(count))
    first_repeat = sum(len(r.type) for r in rows)
    row = _Rows(*map(np.concatenate, zip(*rows, *repeats, strict=True)))
    of_repeats = np.concatenate(repeated)
    node_index, node_keys = _pack_node_parameters(compiled, averages.first)
    parameters = sum(math.prod(shape) for _, shape in topology.leaves)
    return PackedTopology(
        edge_index=row.values,
        node_index=node_index,
        source=row.source.astype(np.int32),
        target=row.target.astype(np.int32),
        edge_type=row.type.astype(np.int32),
        edge_position=row.position.astype(np.int32),
        fan=row.fan.astype(np.float32),
        node_type=compiled.node_type,
        identity=compiled.identity,
        node_keys=node_keys,
        degree=np.stack(
            [compiled.degrees["source"], compiled.degrees["target"]], axis=-1
        ),
        **averages.arrays(),
        repeat=(first_repeat + np.arange(len(of_repeats))).astype(np.int32),
        repeated=of_repeats.astype(np.int32),
        edge_cells=_cells(row.values, row.holds, parameters),
        node_cells=_cells(node_index, np.ones(len(node_index), bool), parameters),
        parameters=parameters,
    )


class _Rows(NamedTuple):
    """Rows of edges: fields of `PackedTopology`, and True for primary edge sets."""

    values: np.ndarray
    source: np.ndarray
    target: np.ndarray
    type: np.ndarray
    position: np.ndarray
    fan: np.ndarray
    holds: np.ndarray


class _Averages:
    """Numbers of the nodes of a topology, and of averages over several of them.

    An edge that does not index all units of a set reads the average of the nodes that
    differ in the others.

    Attributes:
        first: Number of the first node of each set.
    """

    def __init__(self, topology: Topology):
        self.first = [0, *itertools.accumulate(n.size for n in topology.nodes)]
        self._members: list[np.ndarray] = []  # [averages, nodes of each] per axis map
        self._numbers: dict[tuple[int, AxisMap], np.ndarray] = {}
        self._count = 0

    def numbers(self, node_set: int, axis_map: AxisMap) -> np.ndarray:
        """Returns the node or average ``[shared, diagonal, n]`` at an end of edges."""
        if (node_set, axis_map) not in self._numbers:
            nodes = self.first[node_set] + axis_map.node_numbers()
            if nodes.shape[3] == 1:
                numbers = nodes[..., 0]
            else:
                start = self.first[-1] + self._count
                count = math.prod(nodes.shape[:3])
                numbers = np.arange(start, start + count).reshape(nodes.shape[:3])
                self._members.append(nodes.reshape(count, -1))
                self._count += count
            self._numbers[node_set, axis_map] = numbers
        return self._numbers[node_set, axis_map]

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the averages as fields of a `PackedTopology`."""
        sizes = [np.full(len(m), m.shape[1]) for m in self._members]
        size = np.concatenate([np.zeros(0), *sizes]).astype(np.int32)
        members = [np.zeros(0), *(m.ravel() for m in self._members)]
        return {
            "averaged": np.concatenate(members).astype(np.int32),
            "average": np.repeat(np.arange(len(size), dtype=np.int32), size),
            "average_size": size.astype(np.float32),
        }


def _cells(index: np.ndarray, rows: np.ndarray, parameters: int) -> np.ndarray:
    """Returns the position ``[P]`` of each parameter in ``index [R, C]``, -1 for none.

    Only rows whose entry in ``rows [R]`` is True count.
    """
    cells = np.full(parameters, -1, np.int32)
    row, column = np.nonzero((index >= 0) & rows[:, None])
    cells[index[row, column]] = row * index.shape[1] + column
    return cells


def _pack_node_parameters(
    compiled: CompiledTopology, first: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns ``node_index`` and ``node_keys`` of a `PackedTopology`."""
    topology, schema = compiled.topology, compiled.schema
    positions = leaf_positions(topology)
    index = np.full((first[-1], schema.node_columns), -1, np.int32)
    keys = np.full((first[-1], len(schema.node_grids)), -1, np.int32)
    for start, parameters in zip(first, compiled.node_parameters, strict=False):
        for parameter in parameters:
            edge = topology.edges[parameter.edge]
            nodes = start + parameter.axis_map.node_numbers()
            # [1, 1, 1, n, M] to [n, 1, M] beside nodes [1, 1, n, rest]
            block = positions(edge).reshape(-1, 1, edge.shape[3])
            rows = nodes.reshape(*nodes.shape[2:], 1)
            index[rows, np.asarray(parameter.columns)] = block
            keys[nodes.ravel(), parameter.grid] = parameter.type
    return index, keys
