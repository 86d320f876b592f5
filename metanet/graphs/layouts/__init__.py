"""Layouts of a batch: dense blocks of one topology, or packed lists of edges of many."""

from metanet.graphs.layouts.base import (
    Edges,
    Encoder,
    HeadEdges,
    Layout,
    Reduction,
    Rows,
    attention,
    head_matrix,
    map_edges,
)
from metanet.graphs.layouts.dense import DenseLayout
from metanet.graphs.layouts.packing import (
    Budget,
    PackedGraphs,
    first_fit_decreasing,
    pack,
)
from metanet.graphs.layouts.sparse import SparseLayout
from metanet.graphs.schema import GraphSchema
from metanet.graphs.view import ParameterGraph

# Graphs of one topology, or of many.
GraphBatch = ParameterGraph | PackedGraphs


def make_layout(graphs: GraphBatch, schema: GraphSchema) -> Layout:
    """Returns the layout of a batch.

    Args:
        graphs: Parameter graphs ``[B, ...]`` of one topology, or packed graphs.
        schema: The model's schema.

    Raises:
        MetanetError: for graphs that the schema does not cover.
    """
    if isinstance(graphs, PackedGraphs):
        return SparseLayout(graphs, schema)
    return DenseLayout(graphs, schema)


__all__ = [
    "Budget",
    "DenseLayout",
    "Edges",
    "Encoder",
    "GraphBatch",
    "HeadEdges",
    "Layout",
    "PackedGraphs",
    "Reduction",
    "Rows",
    "SparseLayout",
    "attention",
    "first_fit_decreasing",
    "head_matrix",
    "make_layout",
    "map_edges",
    "pack",
]
