"""Forms of one graph: biases as features or edges, kernels as one edge or several.

A `Topology` holds for each parameter the nodes that it connects. Parameters that multiply
no activation (biases, gains, statistics) are features of the nodes that they reach, as
in Neural Graphs; here they can become edges from a bias node (Graph Metanetworks) or
loops at the nodes themselves. A form changes ends only; values are not moved.
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
        parallel: Every kernel position is an edge of its own; otherwise an edge holds
            the whole kernel.
    """

    bias: Literal["feature", "node", "loop"] = "feature"
    parallel: bool = False


def apply_form(topology: Topology, form: GraphForm) -> Topology:
    """Returns the topology with biases as the form has them."""
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
    """Returns graphs in a form; blocks are reshaped at most."""
    topology = apply_form(graphs.topology, form)
    if topology is graphs.topology:
        return graphs
    edges = tuple(
        block.reshape(*graphs.batch_shape, *edge.shape, graphs.features)
        for block, edge in zip(graphs.edges, topology.edges, strict=True)
    )
    return ParameterGraph(edges, topology)
