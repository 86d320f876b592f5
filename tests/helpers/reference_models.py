"""Blocks and readouts of the graph metanetworks in NumPy, edge by edge.

Written from the equations in the models' docstrings; nothing of `metanet.models` or
`metanet.graphs.layouts` is called. Features are rows in float64: nodes ``x [N, d]``, edges
``e [E, d]`` between ``source [E]`` and ``target [E]``, and one vector ``g [d]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, softmax

from metanet.graphs import GraphForm, ParameterGraph, edge_arrays

Array = np.ndarray


@dataclass
class Graph:
    """The edges of one network, a row per pair of nodes.

    Attributes:
        source, target: ``[E]`` node numbers.
        number: ``[E]`` number of the edge, equal where several pairs of nodes share one (the
            channels of a product over tokens). Features of these rows are equal.
        block: ``[E]`` number of the edge's block; edges of one block have one fan.
        kinds: ``[N]`` kind of every node's set.
        scale_kinds: ``[N]`` kinds of the scaling groups that act on every node.
        mean_log_degree: Mean of log(1 + edges that arrive) over the nodes of all graphs for
            which the model was built.
    """

    source: Array
    target: Array
    number: Array
    block: Array
    kinds: list[str]
    scale_kinds: list[tuple[str, ...]]
    mean_log_degree: float

    @property
    def size(self) -> int:
        return len(self.kinds)

    def arriving(self, node: int) -> Array:
        """Numbers of the edges that arrive at a node."""
        return np.flatnonzero(self.target == node)

    def leaving(self, node: int) -> Array:
        """Numbers of the edges that leave a node."""
        return np.flatnonzero(self.source == node)

    def mean_over_shared(self, rows: Array) -> Array:
        """Averages rows of pairs of nodes that share an edge."""
        sums = np.zeros((self.number.max() + 1, rows.shape[1]))
        np.add.at(sums, self.number, rows)
        return (sums / np.bincount(self.number)[:, None])[self.number]

    def once(self, rows: Array) -> Array:
        """One row per edge."""
        return rows[np.unique(self.number, return_index=True)[1]]


@dataclass
class EdgeList:
    """All edges of one network in a form, those of parallel positions behind one another.

    Attributes:
        source, target: ``[E]`` node numbers.
        number: ``[E]`` number of the edge, see `Graph`.
        edge_set: ``[E]`` number of the edge set; behind all of them, of the identity edges.
        position: ``[E]`` number among parallel edges.
        value: ``[E]`` the parameter.
        kinds: ``[N]`` kind of every node's set.
        scale_kinds: ``[N]`` kinds of the scaling groups that act on every node.
    """

    source: Array
    target: Array
    number: Array
    edge_set: Array
    position: Array
    value: Array
    kinds: list[str]
    scale_kinds: list[tuple[str, ...]]


def list_edges(graph: ParameterGraph, form: GraphForm) -> EdgeList:
    """Lists the edges; those of biases come from a node each, from their node, or are none.

    Edge sets are in the order of the topology, before the identity edges; bias nodes follow
    all others in the order of the nodes that they reach.
    """
    arrays, topology = edge_arrays(graph), graph.topology
    (none,) = np.flatnonzero(arrays.node_set < 0)
    sets = [topology.nodes[i] for i in arrays.node_set if i >= 0]
    kinds = [node.kind for node in sets]
    scale_kinds = [node.scale_kinds for node in sets]
    source, target = arrays.edge_index.copy()
    of_bias = source == none
    if form.bias == "loop":
        source[of_bias] = target[of_bias]
    if form.bias == "node":
        for node in range(len(topology.nodes)):
            for number, edge in enumerate(topology.edges):
                if edge.source is None and edge.target == node:
                    source[arrays.edge_set == number] = len(kinds)
                    kinds.append("bias")
                    scale_kinds.append(())
    order = np.argsort(arrays.edge_set, kind="stable")
    if form.bias == "feature":
        order = order[~of_bias[order]]
    number, first = np.zeros(len(order), int), 0
    for edge_set in np.unique(arrays.edge_set[order]):
        rows = np.flatnonzero(arrays.edge_set[order] == edge_set)
        count = len(rows)
        if edge_set < len(topology.edges):
            # Pairs of nodes that share an edge are listed one channel after another.
            count = int(np.prod(topology.edges[edge_set].shape))
        number[rows] = first + np.arange(len(rows)) % count
        first += count
    return EdgeList(
        source[order],
        target[order],
        number,
        arrays.edge_set[order],
        arrays.edge_position[order],
        arrays.edge_attr[order, 0],
        kinds,
        scale_kinds,
    )


def read_graph(
    graph: ParameterGraph, mean_log_degree: float, form: GraphForm | None = None
) -> Graph:
    """Returns the edges of one network, one per kernel or, if parallel, per position.

    Args:
        graph: The graph, biases as features of nodes.
        mean_log_degree: See `Graph`.
        form: The form; None for biases as features and an edge per kernel.
    """
    form = GraphForm() if form is None else form
    edges = list_edges(graph, form)
    chosen = form.parallel | (edges.position == 0)
    return Graph(
        edges.source[chosen],
        edges.target[chosen],
        np.unique(edges.number[chosen], return_inverse=True)[1],
        edges.edge_set[chosen],
        edges.kinds,
        edges.scale_kinds,
        mean_log_degree,
    )


def mean_log_degree(graphs: list[ParameterGraph]) -> float:
    """Mean of log(1 + edges that arrive, at least 1) over the nodes of all graphs."""
    logs = []
    for graph in graphs:
        flat = read_graph(graph, 0.0)
        counts = [max(len(flat.arriving(v)), 1) for v in range(flat.size)]
        logs += [np.log(1 + count) for count in counts]
    return float(np.mean(logs))


def value(param: Any) -> Array:
    return np.asarray(param[...], np.float64)


def linear(layer: Any, x: Array) -> Array:
    y = x @ value(layer.kernel)
    return y if layer.bias is None else y + value(layer.bias)


def rms(x: Array) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)


def norm_linear(layer: Any, x: Array) -> Array:
    return (rms(x) * value(layer.gain)) @ value(layer.kernel)


def silu(x: Array) -> Array:
    return x * expit(x)


def mlp(layers: Any, x: Array) -> Array:
    return linear(layers.second, silu(linear(layers.first, x)))


def split(x: Array, parts: int) -> list[Array]:
    return np.split(x, parts, axis=-1)


def each_node(function: Callable[[int], Array], size: int) -> Array:
    return np.stack([function(v) for v in range(size)])


def aggregate(aggregator: Any, graph: Graph, messages: Array, end: str) -> Array:
    """Mean, sum, attention with four heads, or PNA of the messages at every node."""
    edges_at = graph.arriving if end == "target" else graph.leaving
    width = messages.shape[1]

    def at(node: int) -> Array:
        rows = messages[edges_at(node)]
        degree = max(len(rows), 1)
        if aggregator.how == "sum":
            return rows.sum(0)
        if aggregator.how == "mean":
            return rows.sum(0) / degree
        if aggregator.how == "attention":
            if not len(rows):
                return np.zeros(width)
            weights = softmax(linear(aggregator.scores, rows), axis=0)
            heads = weights.shape[1]
            values = rows.reshape(len(rows), heads, -1)
            return (weights[:, :, None] * values).sum(0).ravel()
        mean = rows.sum(0) / degree
        variance = (rows**2).sum(0) / degree - mean**2
        low = rows.min(0) if len(rows) else np.zeros(width)
        high = rows.max(0) if len(rows) else np.zeros(width)
        plain = np.concatenate([mean, low, high, np.sqrt(variance + 1e-5)])
        return np.concatenate(
            [plain, plain * np.log(1 + degree) / graph.mean_log_degree]
        )

    return each_node(at, graph.size)


def gmn(block: Any, graph: Graph, x: Array, e: Array, g: Array):
    """Equations of gmn.py."""
    source, target = graph.source, graph.target
    w2, w3, w6 = split(norm_linear(block.node_in, x), 3)
    w4, w9, w11 = split(norm_linear(block.global_in, g), 3)
    h = silu(norm_linear(block.edge_in, e) + w2[source] + w3[target] + w4)
    e = e + graph.mean_over_shared(linear(block.edge_out, h))
    update = w6 + w9
    for end, aggregator, layer in zip(
        ("target", "source"), block.aggregators, block.message_maps, strict=False
    ):
        update = update + linear(layer, aggregate(aggregator, graph, h, end))
    x = x + linear(block.node_out, silu(update))
    g = g + linear(block.global_out, silu(w11 + linear(block.global_nodes, x.mean(0))))
    return x, e, g


def ng_gnn(block: Any, graph: Graph, x: Array, e: Array, g: None):
    """Equations of ng_gnn.py."""
    source, target = graph.source, graph.target
    w1, w8, w2, w9, w3 = split(norm_linear(block.node_in, x), 5)
    scale, shift, w7 = split(norm_linear(block.edge_in, e), 3)
    m = scale * (w1[source] + w2[target]) + shift
    update = w3 + linear(block.arriving, aggregate(block.aggregate, graph, m, "target"))
    update += linear(block.leaving, aggregate(block.aggregate, graph, m, "source"))
    changed = silu(w7 + w8[source] + w9[target])
    return (
        x + linear(block.node_out, silu(update)),
        e + graph.mean_over_shared(linear(block.edge_out, changed)),
        g,
    )


def ng_t(block: Any, graph: Graph, x: Array, e: Array, g: None):
    """Equations of ng_t.py: attention over arriving and leaving edges at once."""
    query, key, val = split(norm_linear(block.node_in, x), 3)
    heads, width = block.heads, query.shape[1]
    shape = (-1, heads, width // heads)
    parts = {
        end: split(norm_linear(block.edge_in[end], e), 4)
        for end in ("target", "source")
    }

    def at(node: int) -> Array:
        scores, values = [], []
        for end, edges, others in (
            ("target", graph.arriving(node), graph.source),
            ("source", graph.leaving(node), graph.target),
        ):
            q_e, k_e, v_s, v_e = (part[edges] for part in parts[end])
            q = (query[node] + q_e).reshape(shape)
            k = (key[others[edges]] + k_e).reshape(shape)
            scores.append((q * k).sum(-1) / np.sqrt(width / heads))
            values.append(val[others[edges]] * v_s + v_e)
        if not len(np.concatenate(scores)):
            return np.zeros(width)
        weights = softmax(np.concatenate(scores), axis=0)
        rows = np.concatenate(values).reshape(len(weights), heads, -1)
        return (weights[:, :, None] * rows).sum(0).ravel()

    x = x + linear(block.node_out, each_node(at, graph.size))
    x = x + linear(block.second, silu(norm_linear(block.first, x)))
    at_source, at_target = split(norm_linear(block.edge_ends, x), 2)
    hidden = norm_linear(block.edge_self, e)
    hidden = hidden + at_source[graph.source] + at_target[graph.target]
    return x, e + graph.mean_over_shared(linear(block.edge_out, silu(hidden))), g


def _fan(graph: Graph, edge: int, end: str) -> int:
    """Edges of the same block at an end of an edge."""
    ends = graph.target if end == "target" else graph.source
    return int(np.sum((ends == ends[edge]) & (graph.block == graph.block[edge])))


def _products(graph: Graph, e: Array, values: Array, end: str) -> Array:
    """fan^(-1/2) sums of e_i times the i-th run of the values of the other end."""
    into = graph.target if end == "target" else graph.source
    other = graph.source if end == "target" else graph.target
    heads = e.shape[1]
    out = np.zeros((graph.size, values.shape[1]))
    for i in range(len(e)):
        runs = values[other[i]].reshape(heads, -1)
        message = (e[i][:, None] * runs).ravel()
        out[into[i]] += message / np.sqrt(_fan(graph, i, end))
    return out


def _scores(graph: Graph, queries: Array, keys: Array, heads: int) -> Array:
    """<q_s, k_t> / sqrt(width of a head), per head."""
    q = queries[graph.source].reshape(len(graph.source), heads, -1)
    k = keys[graph.target].reshape(len(graph.target), heads, -1)
    return graph.mean_over_shared((q * k).sum(-1) / np.sqrt(q.shape[-1]))


def product_gmn(block: Any, graph: Graph, x: Array, e: Array, g: Array):
    """Equations of product_gmn.py."""
    w_a, w_b, w_q, w_k, w_1, w_u = split(norm_linear(block.node_in, x), 6)
    w_h, w_5 = split(norm_linear(block.global_in, g), 2)
    update = w_1 + w_h
    update = update + linear(block.incoming, _products(graph, e, w_a, "target"))
    update = update + linear(block.outgoing, _products(graph, e, w_b, "source"))
    if block.edge_out is not None:
        hidden = np.tanh(e + _scores(graph, w_q, w_k, e.shape[1]))
        e = e + hidden @ value(block.edge_out)
    x = x + linear(block.node_out, silu(update) * (1 + w_u))
    g = g + linear(block.global_out, silu(w_5 + linear(block.global_nodes, x.mean(0))))
    return x, e, g


def invariant(graph: Graph, x: Array) -> Array:
    """inv(x): x / |x| for positive factors, the absolute value for signs."""
    out = np.array(x)
    for v, kinds in enumerate(graph.scale_kinds):
        if "positive" in kinds and out[v].any():
            out[v] = out[v] / _size(out[v])
        if "sign" in kinds:
            out[v] = np.abs(out[v])
    return out


def _size(x: Array) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(x * x)))


def _equivariant_update(update: Any, graph: Graph, parts: list[Array]) -> Array:
    """(a W) * MLP(inv(a W')) for nodes with a factor, MLP(a) / 2 for others."""
    a = np.concatenate(parts, axis=-1)
    with_factor = linear(update.linear, a)
    with_factor = with_factor * mlp(
        update.factor, invariant(graph, linear(update.mixed, a))
    )
    plain = 0.5 * mlp(update.plain, a)
    acted = np.asarray([bool(kinds) for kinds in graph.scale_kinds])
    return np.where(acted[:, None], with_factor, plain)


def _positive_size(graph: Graph, x: Array) -> Array:
    """|x_s| for nodes with a positive factor, 1 for others, ``[N, 1]``."""
    sizes = [
        _size(x[v]) if "positive" in kinds else 1.0
        for v, kinds in enumerate(graph.scale_kinds)
    ]
    return np.asarray(sizes)[:, None]


def _divisor(graph: Graph, largest: Array, x: Array) -> Array:
    """n_t: the largest reading, at least |x| / 10; see scale_gmn.py for other nodes."""
    out = np.zeros((graph.size, 1))
    for v, kinds in enumerate(graph.scale_kinds):
        tenth = 0.1 * _size(x[v])
        if "positive" in kinds and max(largest[v], tenth) > 0:
            out[v] = max(largest[v], tenth)
        else:
            out[v] = max(0.1 * largest[v], tenth, 1.0)
    return out


def _largest_arriving(graph: Graph, readings: Array) -> Array:
    return np.asarray(
        [
            np.abs(readings[graph.arriving(v)]).max(initial=0.0)
            for v in range(graph.size)
        ]
    )


def scale_gmn(block: Any, graph: Graph, x: Array, e: Array, g: None):
    """Equations of scale_gmn.py; sums are divided by the root of the degree."""
    source, target = graph.source, graph.target

    def summed(messages: Array, end: str) -> Array:
        edges_at = graph.arriving if end == "target" else graph.leaving

        def at(v: int) -> Array:
            rows = messages[edges_at(v)]
            return rows.sum(0) / np.sqrt(max(len(rows), 1))

        return each_node(at, graph.size)

    z = linear(block.ends, invariant(graph, linear(block.mixed, x)))
    z_s, z_t = split(z, 2)
    h = silu(z_s[source] + z_t[target])
    factor = graph.mean_over_shared(linear(block.edge_factor, h))
    e = e + linear(block.edge_linear, e) * factor
    m = linear(block.message, e) * linear(block.neighbour, x)[source]
    parts = [x, summed(m, "target")]
    if block.reading is not None:
        sizes = _positive_size(graph, x)[source]
        readings = linear(block.reading, e) * sizes
        divisor = _divisor(graph, _largest_arriving(graph, readings), x)
        u, r = readings / divisor[target], sizes
        bounded = 0.1 * u / (u * u + 0.01)
        weights = np.concatenate([r * bounded, r * u], -1) @ value(block.reciprocal)
        back = linear(block.reverse, x / divisor)[target]
        parts.append(summed(weights * back, "source"))
    return x + _equivariant_update(block.update, graph, parts), e, g


def scale_product_gmn(block: Any, graph: Graph, x: Array, e: Array, g: None):
    """Equations of scale_product_gmn.py."""
    source, target = graph.source, graph.target
    w_a, w_b = split(linear(block.projections, x), 2)
    incoming = _products(graph, e, w_a, "target")
    sizes = _positive_size(graph, x)
    readings = e * sizes[source]
    divisor = _divisor(graph, _largest_arriving(graph, readings), x)
    u = readings / divisor[target]
    bounded = graph.mean_over_shared(u / (u * u + 0.1))
    outgoing = sizes * _products(graph, bounded, w_b / divisor, "source")
    if block.edge_out is not None:
        z_q, z_k = split(
            linear(block.ends, invariant(graph, linear(block.mixed, x))), 2
        )
        hidden = e * np.tanh(_scores(graph, z_q, z_k, e.shape[1]))
        e = e + hidden @ value(block.edge_out)
    return x + _equivariant_update(block.update, graph, [x, incoming, outgoing]), e, g


def deep_sets(block: Any, graph: Graph, x: Array, e: Array, g: None):
    """A residual MLP on every member of the set."""
    return x + mlp(block.mlp, rms(x)), e + mlp(block.mlp, rms(e)), g


def set_transformer(block: Any, graph: Graph, x: Array, e: Array, g: None):
    """Points attend to the set, members to the points, then an MLP on each member."""
    members = np.concatenate([x, graph.once(e)])
    count = block.points
    scores, choices, values = np.split(
        norm_linear(block.attention_in, members), [count, 2 * count], axis=-1
    )
    points = softmax(scores, axis=0).T @ values
    points = points + mlp(block.refine, points)
    members = members + softmax(choices, axis=1) @ points
    members = members + mlp(block.mlp, rms(members))
    return members[: len(x)], members[len(x) :][graph.number], g


BLOCKS = {
    "gmn": gmn,
    "ng_gnn": ng_gnn,
    "ng_t": ng_t,
    "product_gmn": product_gmn,
    "scale_gmn": scale_gmn,
    "scale_gmn_b": scale_gmn,
    "scale_product_gmn": scale_product_gmn,
    "deep_sets": deep_sets,
    "set_transformer": set_transformer,
}


def readout(
    layer: Any, graph: Graph, x: Array, e: Array | None, g: Array | None
) -> Array:
    """The pooled feature; kinds of readouts are listed in readout.py."""
    kinds = np.asarray(graph.kinds)
    hidden = (kinds != "input") & (kinds != "output")
    roles = [kinds == "input", hidden, kinds == "output"]
    parts: list[Array] = []
    if layer.how in ("roles", "moments"):
        chosen = [x[role] for role in roles if role.any()]
        parts = [rows.mean(0) for rows in chosen]
        if layer.how == "moments":
            parts += [np.log(rows.var(0) + 1e-4) for rows in chosen]
    elif layer.how == "mean":
        parts = [x.mean(0)]
    elif layer.how == "attention":
        parts = list(softmax(linear(layer.query, x), axis=0).T @ x)
    elif layer.how == "outputs":
        parts = list(x[kinds == "output"])
    if layer.how in ("edges", "nodes_edges"):
        parts.append(silu(linear(layer.edge_map, graph.once(e))).mean(0))
    if layer.how == "nodes_edges":
        parts.append(silu(linear(layer.node_map, x)).mean(0))
    if g is not None:
        parts.append(g)
    return rms(np.concatenate(parts)) * value(layer.gain)


def moments(graph: Graph, e: Array) -> Array:
    """Means and log variances of edge features over arriving, then leaving edges."""
    parts = []
    for edges_at in (graph.arriving, graph.leaving):
        rows = [e[edges_at(v)] for v in range(graph.size)]
        empty = np.zeros((1, e.shape[1]))
        rows = [r if len(r) else empty for r in rows]
        parts.append([r.mean(0) for r in rows])
        parts.append([np.log(r.var(0) + 1e-4) for r in rows])
    return np.concatenate([np.stack(p) for p in parts], axis=-1)


def encode(encoder: Any, kind: int, key: int, values: Array, columns: Array) -> Array:
    """[v, sin(v P), cos(v P)] times weights, of values brought to unit deviation.

    Args:
        encoder: The model's encoder of edges or of parameters of nodes.
        kind: Number of the parameter's grid.
        key: Number of its type.
        values: ``[R, M]``, M parallel values.
        columns: ``[M]`` their columns within the grid.
    """
    mean = 0.0 if encoder.spans[kind][2] else value(encoder.mean)[key]
    unit = (values - mean) / value(encoder.deviation)[key]
    out = unit @ value(encoder.direct[kind].kernel)[columns] + value(encoder.key)[key]
    size, frequencies, highest = encoder.spectra[kind]
    if not frequencies:
        return out
    norms = np.geomspace(0.25, highest, frequencies)
    directions = norms[None]
    if size > 1:
        draw = np.random.default_rng([size, frequencies]).normal(
            size=(size, frequencies)
        )
        directions = draw * norms / np.sqrt(size)
    angles = unit @ directions[columns]
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
    return out + linear(encoder.waves[kind], waves)
