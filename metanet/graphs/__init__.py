"""Parameter graphs: a network's parameters as typed node sets and dense edge blocks."""

from metanet.graphs.batch import EdgeBlock, End, edge_blocks, node_parameters
from metanet.graphs.build import build_topology
from metanet.graphs.export import EdgeArrays, edge_arrays, to_networkx
from metanet.graphs.fan import fan_in
from metanet.graphs.form import GraphForm, apply_form
from metanet.graphs.layout import (
    Edges,
    Layout,
    Rows,
    attention,
    head_matrix,
    map_edges,
)
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
from metanet.graphs.reductions import broadcast, extreme, total
from metanet.graphs.scales import remaining_symmetry
from metanet.graphs.schema import MAX_DEPTH, GraphSchema, KernelGrid
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
    "DenseLayout",
    "EdgeArrays",
    "EdgeBlock",
    "EdgeSet",
    "Edges",
    "End",
    "GraphBatch",
    "GraphForm",
    "GraphSchema",
    "IdentityEdgeSet",
    "KernelGrid",
    "Layout",
    "MAX_DEPTH",
    "NodeSet",
    "PackedGraphs",
    "ParameterGraph",
    "Plan",
    "Rows",
    "SparseLayout",
    "Topology",
    "apply_form",
    "attention",
    "broadcast",
    "build_topology",
    "draw",
    "edge_arrays",
    "edge_blocks",
    "extreme",
    "fan_in",
    "first_fit_decreasing",
    "head_matrix",
    "make_layout",
    "map_edges",
    "node_parameters",
    "pack",
    "parameter_graph",
    "plan",
    "remaining_symmetry",
    "stack",
    "to_graph",
    "to_networkx",
    "to_params",
    "total",
]
