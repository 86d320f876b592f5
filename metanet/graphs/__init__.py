"""Parameter graphs: a network's parameters as typed node sets and dense edge blocks."""

from metanet.graphs.batch import EdgeGroup, GraphBatch, edge_groups, node_parameters
from metanet.graphs.build import build_topology
from metanet.graphs.draw import draw
from metanet.graphs.export import EdgeArrays, edge_arrays, to_networkx
from metanet.graphs.topology import EdgeSet, JoinSet, NodeSet, Topology
from metanet.graphs.view import ParameterGraph, stack, to_graph, to_params

__all__ = [
    "EdgeArrays",
    "EdgeGroup",
    "EdgeSet",
    "GraphBatch",
    "JoinSet",
    "NodeSet",
    "ParameterGraph",
    "Topology",
    "build_topology",
    "draw",
    "edge_arrays",
    "edge_groups",
    "node_parameters",
    "stack",
    "to_graph",
    "to_networkx",
    "to_params",
]
