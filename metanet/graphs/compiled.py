"""Arrays that layouts derive from a topology, computed once per architecture."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from metanet.errors import MetanetError
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

    The fields from ``source`` to ``degree`` are those of `PackedGraphs`.

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
    edge_cells: np.ndarray
    node_cells: np.ndarray
    parameters: int

    @property
    def edges(self) -> int:
        """Number of edges."""
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
        """The index arrays of packed batches.

        Raises:
            MetanetError: if several pairs of nodes share a parameter (products over
                tokens); such graphs can only be stacked.
        """
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
    first = [0, *itertools.accumulate(node.size for node in topology.nodes)]
    positions = leaf_positions(topology)
    columns = 1 if form.parallel else schema.edge_columns
    rows: list[tuple[np.ndarray, ...]] = []
    primary: list[np.ndarray] = []
    for entry in compiled.blocks:
        block = entry.block
        if block.edge < 0:
            name = f"{topology.identity_edges[block.identity_edge].kind} edges"
            shape = (*block.shape, 1)
            index = np.full((*shape, columns), -1, np.int32)
            edge_positions, holds = np.zeros(1, int), False
        else:
            edge = topology.edges[block.edge]
            name = f"parameter {edge.name}"
            shape = (*block.shape, edge.shape[3] if form.parallel else 1)
            index = np.full((*shape, columns), -1, np.int32)
            if form.parallel:
                index[..., 0] = positions(edge)
                edge_positions = np.asarray(entry.columns)
            else:
                index[:, :, :, 0][..., list(entry.columns)] = positions(edge)
                edge_positions = np.zeros(1, int)
            holds = edge.primary
        source = first[block.source] + _node_numbers(block.ends[0], name)
        target = first[block.target] + _node_numbers(block.ends[1], name)
        count = math.prod(shape)
        primary.append(np.full(count, holds))
        rows.append(
            (
                index.reshape(count, columns),
                np.broadcast_to(source[:, :, None, None], shape).ravel(),
                np.broadcast_to(target[:, None, :, None], shape).ravel(),
                np.full(count, entry.type),
                np.broadcast_to(edge_positions, shape).ravel(),
                np.tile(np.asarray([[block.shape[2], block.shape[1]]]), (count, 1)),
            )
        )
    index, source, target, types, edge_positions, fan = (
        np.concatenate(column) for column in zip(*rows, strict=True)
    )
    node_index, node_keys = _pack_node_parameters(compiled, first)
    parameters = sum(math.prod(shape) for _, shape in topology.leaves)
    return PackedTopology(
        edge_index=index,
        node_index=node_index,
        source=source.astype(np.int32),
        target=target.astype(np.int32),
        edge_type=types.astype(np.int32),
        edge_position=edge_positions.astype(np.int32),
        fan=fan.astype(np.float32),
        node_type=compiled.node_type,
        identity=compiled.identity,
        node_keys=node_keys,
        degree=np.stack(
            [compiled.degrees["source"], compiled.degrees["target"]], axis=-1
        ),
        edge_cells=_cells(index, np.concatenate(primary), parameters),
        node_cells=_cells(node_index, np.ones(len(node_index), bool), parameters),
        parameters=parameters,
    )


def _cells(index: np.ndarray, rows: np.ndarray, parameters: int) -> np.ndarray:
    """Returns the position ``[P]`` of each parameter in ``index [R, C]``, -1 for none.

    Only rows whose entry in ``rows [R]`` is True count.
    """
    cells = np.full(parameters, -1, np.int32)
    row, column = np.nonzero((index >= 0) & rows[:, None])
    cells[index[row, column]] = row * index.shape[1] + column
    return cells


def _node_numbers(axis_map: AxisMap, name: str) -> np.ndarray:
    """Returns node numbers ``[diagonal, n]`` at an end where each edge has one node."""
    shared, diagonal, count, rest = axis_map.shape
    if shared > 1 or rest > 1:
        raise MetanetError(
            f"{name}: several nodes share its edges (a product over tokens, or a mean), "
            "which the packed layout does not support; stack graphs of one topology"
        )
    numbers = np.arange(diagonal * count).reshape(axis_map.units)
    return numbers.transpose(axis_map.order).reshape(diagonal, count)


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
            axis_map, edge = parameter.axis_map, topology.edges[parameter.edge]
            numbers = np.arange(math.prod(axis_map.units)).reshape(axis_map.units)
            nodes = start + numbers.transpose(axis_map.order).reshape(axis_map.shape)
            # [1, 1, 1, n, M] to [n, 1, M] beside nodes [1, 1, n, rest]
            block = positions(edge).reshape(-1, 1, edge.shape[3])
            rows = nodes.reshape(*nodes.shape[2:], 1)
            index[rows, np.asarray(parameter.columns)] = block
            keys[nodes.ravel(), parameter.grid] = parameter.type
    return index, keys
