"""Graph variants: encoding of biases (features, edges) and of kernels (one edge or several).

A `Topology` names for each parameter the nodes that it connects. Parameters that multiply
no activation (biases, gains, statistics) are features of the nodes that they reach, as
in Neural Graphs; a form can turn them into edges from a bias node (Graph Metanetworks)
or into self-loops. A form changes the ends of edges only; values are not moved.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from metanet.graphs.blocks import node_parameters
from metanet.graphs.topology import EdgeSet, NodeSet, Topology
from metanet.graphs.view import ParameterGraph


@dataclass(frozen=True)
class GraphForm:
    """Form of the graphs that a model reads.

    Attributes:
        bias: "feature": biases are values of nodes; "node": edges from one bias node
            per parameter; "loop": an edge of every node to itself.
        parallel: True for an edge per kernel position; otherwise an edge has the whole
            kernel as its feature.
    """

    bias: Literal["feature", "node", "loop"] = "feature"
    parallel: bool = False


def apply_form(topology: Topology, form: GraphForm) -> Topology:
    """Returns the topology with biases encoded as the form says."""
    if form.bias == "feature":
        return topology
    nodes, edges = list(topology.nodes), list(topology.edges)
    for parameters in node_parameters(topology):
        for index, _ in parameters:
            edge = edges[index]
            if form.bias == "node":
                target = topology.nodes[edge.target]
                bias = NodeSet(f"{edge.name} node", (), "bias", target.depth)
                edges[index] = replace(edge, source=len(nodes))
                nodes.append(bias)
            else:
                edges[index] = _loop(edge)
    return replace(topology, nodes=tuple(nodes), edges=tuple(edges))


def _loop(edge: EdgeSet) -> EdgeSet:
    units = tuple((t, t) if t >= 0 else (s, t) for s, t in edge.units)
    _, _, targets, parallel = edge.shape
    shape = (targets, 1, 1, parallel)
    return replace(edge, source=edge.target, shape=shape, units=units)


def apply_form_to_graph(graphs: ParameterGraph, form: GraphForm) -> ParameterGraph:
    """Returns graphs in a form; blocks are at most reshaped."""
    topology = apply_form(graphs.topology, form)
    if topology is graphs.topology:
        return graphs
    edges = tuple(
        block.reshape(*graphs.batch_shape, *edge.shape, graphs.features)
        for block, edge in zip(graphs.edges, topology.edges, strict=True)
    )
    return ParameterGraph(edges, topology)
