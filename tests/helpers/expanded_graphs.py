"""Expands the blocks of a parameter graph into an undirected coloured graph.

A vertex per node, a vertex per parameter, and each edge subdivided by two typed vertices
(which gives it a direction).
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Hashable, Iterator

from metanet.graphs import EdgeSet, NodeSet, Topology

Index = tuple[int, ...]


class Expanded:
    """Undirected coloured graph under construction."""

    def __init__(self):
        self.ids: dict[Hashable, int] = {}
        self.classes: dict[Hashable, set[int]] = defaultdict(set)
        self.adjacent: dict[int, list[int]] = defaultdict(list)

    def vertex(self, key: Hashable, colour: Hashable) -> int:
        if key not in self.ids:
            self.ids[key] = len(self.ids)
            self.classes[colour].add(self.ids[key])
        return self.ids[key]

    def node(self, topology: Topology, index: int, unit: Index) -> int:
        node = topology.nodes[index]
        fixed = tuple(i for i, p in zip(unit, node.pinned, strict=True) if p)
        return self.vertex(("node", index, unit), ("node", index, fixed))

    def automorphisms(self) -> float:
        import pynauty

        graph = pynauty.Graph(
            len(self.ids),
            adjacency_dict=self.adjacent,
            vertex_coloring=list(self.classes.values()),
        )
        _, mantissa, exponent, *_ = pynauty.autgrp(graph)
        return mantissa * 10.0**exponent


def units(node: NodeSet) -> Iterator[Index]:
    return itertools.product(*(range(n) for n in node.units))


def multiplicity_index(edge: EdgeSet, index: Index) -> Index:
    """Returns the kernel or spatial position of a parameter."""
    ends = zip(index, edge.units, strict=True)
    return tuple(i for i, (s, t) in ends if s < 0 and t < 0)


def agrees(edge: EdgeSet, index: Index, source: Index, target: Index) -> bool:
    """Returns True if the parameter belongs to an edge between two nodes."""
    return all(
        (s < 0 or source[s] == i) and (t < 0 or target[t] == i)
        for i, (s, t) in zip(index, edge.units, strict=True)
    ) and all(source[i] == target[k] for i, k in edge.join if source)


def expand(topology: Topology) -> Expanded:
    graph = Expanded()
    for k, node in enumerate(topology.nodes):
        for unit in units(node):
            graph.node(topology, k, unit)
    for e, edge in enumerate(topology.edges):
        block = (edge.leaf, edge.parts)
        sources = [()]
        if edge.source is not None:
            sources = list(units(topology.nodes[edge.source]))
        targets = list(units(topology.nodes[edge.target]))
        for index in itertools.product(*(range(edge.split[i]) for i in edge.order)):
            position = multiplicity_index(edge, index)
            # Uses of a tied parameter share its vertex, whose key is its index in the leaf.
            leaf_index = tuple(index[edge.order.index(i)] for i in range(len(index)))
            parameter = graph.vertex((*block, leaf_index), (*block, position))
            for source, target in itertools.product(sources, targets):
                if not agrees(edge, index, source, target):
                    continue
                key = (e, index, source, target)
                end = graph.vertex(("end", *key), ("end", e, position))
                graph.adjacent[end] += [
                    parameter,
                    graph.node(topology, edge.target, target),
                ]
                if edge.source is not None:
                    start = graph.vertex(("start", *key), ("start", e, position))
                    node = graph.node(topology, edge.source, source)
                    graph.adjacent[start] += [end, node]
    for j, join in enumerate(topology.identity_edges):
        ends = (topology.nodes[join.source], topology.nodes[join.target])
        for source, target in itertools.product(*map(units, ends)):
            if all(source[i] == target[k] for i, k in join.join):
                key = (j, source, target)
                start = graph.vertex(("js", *key), ("js", j))
                end = graph.vertex(("je", *key), ("je", j))
                graph.adjacent[start] += [
                    end,
                    graph.node(topology, join.source, source),
                ]
                graph.adjacent[end] += [graph.node(topology, join.target, target)]
    return graph
