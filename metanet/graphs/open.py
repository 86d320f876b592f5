"""From graphs as training hands them over to the layout that a model reads."""

from __future__ import annotations

from metanet.graphs.layout import Layout
from metanet.graphs.packed import SparseLayout
from metanet.graphs.packing import PackedGraphs
from metanet.graphs.schema import GraphSchema
from metanet.graphs.stacked import DenseLayout
from metanet.graphs.view import ParameterGraph

# What every model takes: networks of one topology, or of many.
GraphBatch = ParameterGraph | PackedGraphs


def make_layout(graphs: GraphBatch, schema: GraphSchema) -> Layout:
    """The batch as a `Layout`.

    Args:
        graphs: Parameter graphs ``[B, ...]`` of one topology, or packed graphs.
        schema: The model's.
    """
    if isinstance(graphs, PackedGraphs):
        return SparseLayout(graphs, schema)
    return DenseLayout(graphs, schema)
