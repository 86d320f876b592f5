"""Parameter graphs: a network's parameters as typed node sets and dense edge blocks."""

from metanet.graphs.batch import EdgeBlock, edge_blocks, node_parameters
from metanet.graphs.build import build_topology
from metanet.graphs.export import EdgeArrays, edge_arrays, to_networkx
from metanet.graphs.fan import fan_in
from metanet.graphs.form import GraphForm, apply_form
from metanet.graphs.layout import Edges, Layout, Rows, attention, map_edges
from metanet.graphs.open import GraphBatch, make_layout
from metanet.graphs.packed import SparseLayout
from metanet.graphs.packing import (
    Budget,
    PackedGraphs,
    Plan,
    first_fit_decreasing,
    pack,
    plan,
)
from metanet.graphs.plot import draw
from metanet.graphs.schema import GraphSchema, KernelGrid
from metanet.graphs.stacked import DenseLayout
from metanet.graphs.topology import EdgeSet, IdentityEdgeSet, NodeSet, Topology
from metanet.graphs.view import (
    ParameterGraph,
    parameter_graph,
    stack,
    to_graph,
    to_params,
)

__all__ = [
    "Budget",
    "KernelGrid",
    "EdgeArrays",
    "EdgeBlock",
    "EdgeSet",
    "Edges",
    "GraphForm",
    "GraphBatch",
    "IdentityEdgeSet",
    "Layout",
    "NodeSet",
    "SparseLayout",
    "PackedGraphs",
    "ParameterGraph",
    "Plan",
    "Rows",
    "DenseLayout",
    "Topology",
    "GraphSchema",
    "attention",
    "build_topology",
    "draw",
    "edge_arrays",
    "edge_blocks",
    "fan_in",
    "first_fit_decreasing",
    "map_edges",
    "node_parameters",
    "make_layout",
    "pack",
    "parameter_graph",
    "plan",
    "apply_form",
    "stack",
    "to_graph",
    "to_networkx",
    "to_params",
]
