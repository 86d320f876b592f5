"""Parameter graphs: a network's parameters as typed node sets and dense edge blocks."""

from metanet.graphs.blocks import (
    AxisMap,
    EdgeBlock,
    End,
    edge_blocks,
    node_parameters,
)
from metanet.graphs.build import build_topology
from metanet.graphs.compiled import CompiledTopology, PackedTopology, compile_topology
from metanet.graphs.export import EdgeArrays, edge_arrays, to_networkx
from metanet.graphs.fan import fan_in
from metanet.graphs.form import GraphForm, apply_form
from metanet.graphs.layouts import (
    Budget,
    DenseLayout,
    Edges,
    Encoder,
    GraphBatch,
    HeadEdges,
    Layout,
    PackedGraphs,
    Reduction,
    Rows,
    SparseLayout,
    attention,
    first_fit_decreasing,
    head_matrix,
    make_layout,
    map_edges,
    pack,
)
from metanet.graphs.plot import draw
from metanet.graphs.reductions import broadcast, extreme, total
from metanet.graphs.scales import remaining_symmetry
from metanet.graphs.schema import (
    MAX_DEPTH,
    EdgeType,
    GraphSchema,
    KernelGrid,
    NodeParameterType,
    NodeType,
)
from metanet.graphs.topology import EdgeSet, IdentityEdgeSet, NodeSet, Topology
from metanet.graphs.view import (
    ParameterGraph,
    parameter_graph,
    stack,
    to_graph,
    to_params,
)

__all__ = [
    "AxisMap",
    "Budget",
    "CompiledTopology",
    "DenseLayout",
    "EdgeArrays",
    "EdgeBlock",
    "EdgeSet",
    "EdgeType",
    "Edges",
    "Encoder",
    "End",
    "GraphBatch",
    "GraphForm",
    "GraphSchema",
    "HeadEdges",
    "IdentityEdgeSet",
    "KernelGrid",
    "Layout",
    "MAX_DEPTH",
    "NodeParameterType",
    "NodeSet",
    "NodeType",
    "PackedGraphs",
    "PackedTopology",
    "ParameterGraph",
    "Reduction",
    "Rows",
    "SparseLayout",
    "Topology",
    "apply_form",
    "attention",
    "broadcast",
    "build_topology",
    "compile_topology",
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
    "remaining_symmetry",
    "stack",
    "to_graph",
    "to_networkx",
    "to_params",
    "total",
]
