"""From graphs as training hands them over to the layout that a model reads."""

from __future__ import annotations

from metanet.graphs.layout import Layout
from metanet.graphs.packed import Packed
from metanet.graphs.packing import PackedGraphs
from metanet.graphs.stacked import Stacked
from metanet.graphs.view import ParameterGraph
from metanet.graphs.vocabulary import Vocabulary

# What every model takes: networks of one topology, or of many.
GraphBatch = ParameterGraph | PackedGraphs


def open_graphs(graphs: GraphBatch, vocabulary: Vocabulary) -> Layout:
    """The batch as a `Layout`.

    Args:
        graphs: Parameter graphs ``[B, ...]`` of one topology, or packed graphs.
        vocabulary: The model's.
    """
    if isinstance(graphs, PackedGraphs):
        return Packed(graphs, vocabulary)
    return Stacked(graphs, vocabulary)
