"""Parameter graphs: a network's parameters as typed node sets and dense edge blocks."""

from metanet.graphs.batch import EdgeGroup, edge_groups, node_parameters
from metanet.graphs.build import build_topology
from metanet.graphs.draw import draw
from metanet.graphs.export import EdgeArrays, edge_arrays, to_networkx
from metanet.graphs.fan import fan_in
from metanet.graphs.form import Form, reform
from metanet.graphs.layout import Edges, Layout, Rows, attention, map_edges
from metanet.graphs.open import GraphBatch, open_graphs
from metanet.graphs.packed import Packed
from metanet.graphs.packing import Budget, PackedGraphs, Plan, fill, pack, plan
from metanet.graphs.stacked import Stacked
from metanet.graphs.topology import EdgeSet, JoinSet, NodeSet, Topology
from metanet.graphs.view import ParameterGraph, stack, to_graph, to_params
from metanet.graphs.vocabulary import Canvas, Vocabulary

__all__ = [
    "Budget",
    "Canvas",
    "EdgeArrays",
    "EdgeGroup",
    "EdgeSet",
    "Edges",
    "Form",
    "GraphBatch",
    "JoinSet",
    "Layout",
    "NodeSet",
    "Packed",
    "PackedGraphs",
    "ParameterGraph",
    "Plan",
    "Rows",
    "Stacked",
    "Topology",
    "Vocabulary",
    "attention",
    "build_topology",
    "draw",
    "edge_arrays",
    "edge_groups",
    "fan_in",
    "fill",
    "map_edges",
    "node_parameters",
    "open_graphs",
    "pack",
    "plan",
    "reform",
    "stack",
    "to_graph",
    "to_networkx",
    "to_params",
]
