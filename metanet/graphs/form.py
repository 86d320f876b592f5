"""Where biases stand, and whether a kernel is one edge or several: forms of one graph.

A `Topology` says for each parameter which nodes it joins. Parameters that are read
through no node (biases, gains, statistics) are features of the nodes that they reach, as
in Neural Graphs; here they can become edges from a bias node (Graph Metanetworks) or
loops at the nodes themselves. A form only renames ends: the values stay where they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from metanet.graphs.batch import node_parameters
from metanet.graphs.topology import EdgeSet, NodeSet, Topology
from metanet.graphs.view import ParameterGraph


@dataclass(frozen=True)
class GraphForm:
    """How a model wants its graphs.

    Attributes:
        bias: "feature": biases are values of nodes; "node": edges from one bias node
            per parameter; "loop": an edge of every node to itself.
        parallel: Every kernel position is an edge of its own; otherwise an edge holds
            the whole kernel.
    """

    bias: Literal["feature", "node", "loop"] = "feature"
    parallel: bool = False


@lru_cache
def apply_form(topology: Topology, form: GraphForm) -> Topology:
    """The topology with biases where the form wants them."""
    if form.bias == "feature":
        return topology
    nodes, edges = list(topology.nodes), list(topology.edges)
    for held in node_parameters(topology):
        for index, _ in held:
            edge = edges[index]
            if form.bias == "node":
                target = topology.nodes[edge.target]
                bias = NodeSet(
                    f"{edge.name} node", (), "bias", target.depth, False, pinned=()
                )
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
    """Graphs in a form; blocks are reshaped at most."""
    topology = apply_form(graphs.topology, form)
    if topology is graphs.topology:
        return graphs
    edges = tuple(
        block.reshape(*graphs.batch_shape, *edge.shape, graphs.features)
        for block, edge in zip(graphs.edges, topology.edges, strict=True)
    )
    more = (None,) * (len(topology.nodes) - len(graphs.nodes))
    return ParameterGraph(edges, (*graphs.nodes, *more), topology)
