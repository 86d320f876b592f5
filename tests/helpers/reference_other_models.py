"""Models that are not graph models, and the edit head, in NumPy, entry by entry.

For networks of any kind. Written from the docstrings of the models; nothing of
`metanet.models` or `metanet.graphs.layouts` is called, except `terms`, which lists the maps
of weight-space functionals.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import softmax

from helpers.reference_models import encode, linear, list_edges, rms, silu, split, value
from metanet.graphs import ParameterGraph, edge_arrays
from metanet.models.equivariant_maps import terms

Array = np.ndarray


def dmc(model: Any, graphs: list[ParameterGraph]) -> Array:
    """Strided convolutions along the nodes and along the edges, then one mean."""
    pooled = []
    for graph in graphs:
        runs = [node_rows(model, graph), edge_rows(model, graph)]
        for layer in model.filters:
            runs = [silu(strided(layer, run, model.config.kernel)) for run in runs]
        pooled.append(np.concatenate(runs).mean(0))
    return np.stack(pooled)


def strided(layer: Any, rows: Array, kernel: int) -> Array:
    """A window of ``kernel`` rows from every second row on, with zeros behind the end."""
    out = []
    for start in range(0, len(rows), 2):
        window = np.zeros((kernel, rows.shape[1]))
        for i in range(kernel):
            if start + i < len(rows):
                window[i] = rows[start + i]
        out.append(linear(layer, window.ravel()))
    return np.stack(out)


def node_rows(model: Any, graph: ParameterGraph) -> Array:
    """Encoded parameters of every node, summed; zero for nodes without any."""
    arrays, schema, encoder = edge_arrays(graph), model.schema, model.on_nodes
    (bias_node,) = np.flatnonzero(arrays.node_set < 0)
    rows = np.zeros((bias_node, encoder.width))
    grids = [grid.kind for grid in schema.node_grids]
    for number, (edge_kind, nth) in node_parameters(graph.topology).items():
        target = graph.topology.nodes[graph.topology.edges[number].target]
        key = schema.node_keys.index((edge_kind, nth, role(target.kind)))
        kind = grids.index(grid_kind(edge_kind, nth))
        for node in range(bias_node):
            chosen = (arrays.edge_set == number) & (arrays.edge_index[1] == node)
            if chosen.any():
                values = arrays.edge_attr[chosen].astype(np.float64).ravel()
                rows[node] += encoded(
                    encoder, schema.node_grids[kind], kind, key, values
                )
    return rows


def edge_rows(model: Any, graph: ParameterGraph) -> Array:
    """Encoded kernels of every edge; an edge without a parameter has a learned vector."""
    arrays, schema, encoder = edge_arrays(graph), model.schema, model.on_edges
    topology = graph.topology
    grids = [grid.kind for grid in schema.edge_grids]
    rows = []
    for number, edge in enumerate((*topology.edges, *topology.identity_edges)):
        if edge.source is None:
            continue
        at = arrays.edge_set == number
        if number >= len(topology.edges):
            key = schema.edge_types.index((edge.kind, None, None))
            rows += [value(encoder.key)[key]] * int(at.sum())
            continue
        key = edge_type(schema, topology, edge)
        kind = grids.index(edge.kind)
        kernels = arrays.edge_attr[at].astype(np.float64).reshape(-1, edge.shape[3])
        rows += [
            encoded(encoder, schema.edge_grids[kind], kind, key, kernel)
            for kernel in kernels
        ]
    return np.stack(rows)


def encoded(encoder: Any, grid: Any, kind: int, key: int, values: Array) -> Array:
    """Encodes a kernel as large as its grid."""
    assert len(values) == grid.size
    return encode(encoder, kind, key, values[None], np.arange(grid.size))[0]


def role(kind: str) -> str:
    return kind if kind in ("input", "output") else "hidden"


def edge_type(schema: Any, topology: Any, edge: Any) -> int:
    """Number of an edge set's type: its kind and the roles of its ends."""
    ends = (role(topology.nodes[n].kind) for n in (edge.source, edge.target))
    return schema.edge_types.index((edge.kind, *ends))


def node_parameters(topology: Any) -> dict[int, tuple[str, int]]:
    """Per edge set without a source its kind, and its number among those at its nodes."""
    kinds: dict[int, tuple[str, int]] = {}
    count: dict[tuple[int, str], int] = {}
    for number, edge in enumerate(topology.edges):
        if edge.source is None:
            key = (edge.target, edge.kind)
            count[key] = count.get(key, 0) + 1
            kinds[number] = (edge.kind, count[key])
    return kinds


def grid_kind(kind: str, number: int) -> str:
    """Name of the grid of the first, second, ... parameter of a kind at a node."""
    return kind if number == 1 else f"{kind}:{number}"


def edit(
    head: Any, graph: ParameterGraph, numbers: ParameterGraph, x: Array, e: Array
) -> Array:
    """One value per parameter: of an edge from its features and its ends', of a node.

    Args:
        head: The edit head.
        graph: The graph of one network, biases as features of nodes.
        numbers: The same graph, with the number of each parameter for its value.
        x: ``[N, d]`` features of nodes in the form that the model reads.
        e: ``[E, d]`` features of edges.
    """
    schema, topology = head.schema, graph.topology
    edges, parallel = list_edges(numbers, schema.form), schema.form.parallel
    first_positions = np.flatnonzero(parallel | (edges.position == 0))
    hidden = linear(head.projection, e)
    if head.ends is not None:
        at_source, at_target = split(linear(head.ends, x), 2)
        hidden = hidden + at_source[edges.source[first_positions]]
        hidden = silu(hidden + at_target[edges.target[first_positions]])
    edge_columns = linear(head.on_edges, hidden)
    node_columns = linear(head.on_nodes, x) * value(head.node_scale)
    starts = {grid.kind: grid.start for grid in schema.edge_grids}
    node_starts = {grid.kind: grid.start for grid in schema.node_grids}
    out = np.full(topology.num_parameters, np.nan)
    for columns, first in zip(edge_columns, first_positions, strict=True):
        number = edges.edge_set[first]
        if number >= len(topology.edges) or not topology.edges[number].primary:
            continue
        edge = topology.edges[number]
        ends = (role(edges.kinds[n[first]]) for n in (edges.source, edges.target))
        scale = value(head.edge_scale)[schema.edge_types.index((edge.kind, *ends))]
        for position in range(1 if parallel else edge.shape[3]):
            column = 0 if parallel else starts[edge.kind] + position
            parameter = int(edges.value[first + position])
            out[parameter] = columns[column] * scale
    if schema.form.bias == "feature":
        arrays = edge_arrays(numbers)
        for number, (kind, nth) in node_parameters(topology).items():
            for i in np.flatnonzero(arrays.edge_set == number):
                column = node_starts[grid_kind(kind, nth)] + arrays.edge_position[i]
                parameter = int(arrays.edge_attr[i, 0])
                out[parameter] = node_columns[arrays.edge_index[1, i], column]
    return out


# Weight-space functionals. Features of an array are ``[*axes, channels]``.


def spec_arrays(specs: Any, leaves: list[Array]) -> list[Array]:
    """The blocks of the leaves with permuted axes first, all other values as channels."""
    out = []
    for spec in specs:
        block = leaves[spec.leaf][np.ix_(*(part.entries() for part in spec.parts))]
        block = block.reshape(spec.split).transpose(spec.order)
        out.append(block.reshape(*spec.shape, spec.dense))
    return out


def all_indices(sizes: Any) -> list[tuple[int, ...]]:
    return list(np.ndindex(*sizes))


def side_indices(side: Any, spec: Any) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Per index of all blocks, the kept indices and the indices of the array's axes."""
    sizes = [spec.shape[block[0]] for block in side.blocks]
    out = []
    for index in all_indices(sizes):
        axes = [0] * len(spec.shape)
        for block, i in zip(side.blocks, index, strict=True):
            for axis in block:
                axes[axis] = i
        out.append((tuple(index[block] for block in side.kept), tuple(axes)))
    return out


def pool(x: Array, side: Any, spec: Any, how: str) -> dict[tuple[int, ...], Array]:
    """Mean or maximum of the entries with equal kept indices."""
    entries: dict[tuple[int, ...], list[Array]] = {}
    for kept, axes in side_indices(side, spec):
        entries.setdefault(kept, []).append(x[axes])
    reduced = np.mean if how == "mean" else np.max
    return {kept: reduced(np.stack(rows), axis=0) for kept, rows in entries.items()}


def equivariant_linear(layer: Any, arrays: list[Array]) -> list[Array]:
    """Pools to the kept axes, mixes channels, broadcasts; divided by the root of the sums.

    The sum at an array has one summand per signature and side of the array.
    """
    specs, outputs = layer.specs, layer.outputs
    out = [np.zeros((*spec.shape, spec.dense * outputs)) for spec in specs]
    summands = [0] * len(specs)
    for (ins, outs), mix in zip(terms(specs).values(), layer.mixes, strict=True):
        pooled = [
            pool(arrays[side.array], side, specs[side.array], layer.reduce)
            for side in ins
        ]
        mixed = {
            kept: linear(mix, np.concatenate([part[kept] for part in pooled]))
            for kept in pooled[0]
        }
        start = 0
        for side in outs:
            spec = specs[side.array]
            stop = start + spec.dense * outputs
            for kept, axes in side_indices(side, spec):
                out[side.array][axes] += mixed[kept][start:stop]
            summands[side.array] += 1
            start = stop
    return [x / np.sqrt(count) for x, count in zip(out, summands, strict=True)]


def descendants(spec: Any, axis: int) -> set[int]:
    """Axes whose permutation depends on an axis, at first or second hand."""
    below: set[int] = set()
    for i, other in enumerate(spec.axes):
        if axis in other.parents:
            below |= {i} | descendants(spec, i)
    return below


def row_attention(layer: Any, x: Array) -> Array:
    """Attention between the slices along each permuted axis, heads of channels.

    Axes that depend on the axis are averaged; slices below different values of a parent
    do not attend to each other.
    """
    spec, heads = layer.spec, layer.heads
    query, key, values = np.split(linear(layer.read, x), 3, axis=-1)
    width = x.shape[-1] // heads
    out = np.zeros_like(x)
    for axis, size in enumerate(spec.shape):
        below = tuple(descendants(spec, axis))
        q, k, v = (y.mean(below, keepdims=True) for y in (query, key, values))
        parents = spec.axes[axis].parents
        for above in all_indices([spec.shape[p] for p in parents]):
            at: list[Any] = [slice(None)] * len(spec.shape)
            for p, i in zip(parents, above, strict=True):
                at[p] = i

            def cut(y: Array, i: int, head: int, at=at, axis=axis) -> Array:
                entry = (*at[:axis], i, *at[axis + 1 :])
                return y[entry][..., head * width : (head + 1) * width]

            for head in range(heads):
                for i in range(size):
                    mine = cut(q, i, head)
                    scores = [(mine * cut(k, j, head)).sum() for j in range(size)]
                    weights = softmax(np.asarray(scores) / np.sqrt(mine.size))
                    row = sum(weights[j] * cut(v, j, head) for j in range(size))
                    part = cut(out, i, head)
                    part += row
    return linear(layer.write, out)


def position_waves(size: int, axis: int, rank: int) -> Array:
    """Four sines and cosines of the positions 0 to 1 along an axis."""
    rows = np.zeros((size, 8))
    for i in range(size):
        position = i / (size - 1) if size > 1 else 0.0
        for j in range(4):
            rows[i, j] = np.sin(np.pi * position * 2**j)
            rows[i, 4 + j] = np.cos(np.pi * position * 2**j)
    return rows.reshape(*(size if i == axis else 1 for i in range(rank)), 8)


def functional_block(block: Any, arrays: list[Array]) -> list[Array]:
    if block.rows is not None:
        arrays = [
            x if rows is None else x + row_attention(rows, rms(x) * value(gain))
            for x, gain, rows in zip(arrays, block.row_gains, block.rows, strict=True)
        ]
    normed = [rms(x) * value(gain) for x, gain in zip(arrays, block.gains, strict=True)]
    maps = equivariant_linear(block.maps, normed)
    return [x + silu(y) for x, y in zip(arrays, maps, strict=True)]


def functional(
    model: Any, networks: list[list[Array]], hidden_groups: int
) -> tuple[Array, list[list[Array]]]:
    """Pooled features of each network, and features of its arrays.

    Args:
        model: The model.
        networks: Leaves of each network.
        hidden_groups: Number of permutation groups; units of inputs and outputs have
            greater numbers, and an encoding of their position.
    """
    specs = model.specs
    inputs = [spec_arrays(specs, leaves) for leaves in networks]
    statistics = []
    for members in zip(*inputs, strict=True):
        joined = np.stack(members)
        statistics.append((joined.mean(), joined.std()))
    pooled, features = [], []
    for network in inputs:
        arrays = []
        for x, spec, start, (mean, std) in zip(
            network, specs, model.start, statistics, strict=True
        ):
            parts = [(x - mean) / std]
            for i, axis in enumerate(spec.axes):
                if axis.label >= hidden_groups:
                    waves = position_waves(axis.size, i, len(spec.axes))
                    parts.append(np.broadcast_to(waves, (*spec.shape, 8)))
            arrays.append(linear(start, np.concatenate(parts, axis=-1)))
        for block in model.blocks:
            arrays = functional_block(block, arrays)
        means = [x.reshape(-1, x.shape[-1]).mean(0) for x in arrays]
        pooled.append(rms(np.concatenate(means)) * value(model.gain))
        features.append(arrays)
    return np.stack(pooled), features


def nfn_layer(
    layer: Any, weights: list[Array], biases: list[Array], permuted: list[bool]
) -> tuple[list[Array], list[Array]]:
    """The layer of NFN, theorem 3.1, on an MLP, with maps between all its layers.

    Every entry of W_i reads itself; the means of W_i along its row and its column; those of
    W_(i-1) and W_(i+1) at the same unit, and the biases of both its units; the means of all
    arrays. Biases read the same at their unit.

    Args:
        layer: The equivariant linear map, whose arrays are all biases, then all weights.
        weights: ``[n_i, n_(i+1), channels]`` without the axes of layers that are not
            permuted, which are among the channels.
        biases: ``[n_(i+1), channels]``, likewise.
        permuted: Whether units of layer i, inputs first, are permuted.
    """
    depth, specs, outputs = len(weights), layer.specs, layer.outputs
    # Shapes are those of layers; each group of units has the number that its axes carry.
    labels = {}
    for i in range(depth):
        ends = [j for j in (i, i + 1) if permuted[j]]
        axes = specs[depth + i].axes
        labels |= {j: axis.label for j, axis in zip(ends, axes, strict=True)}
    layers = {label: j for j, label in labels.items()}
    mixes = {}
    for key, mix in zip(terms(specs), layer.mixes, strict=True):
        mixes[tuple(sorted(layers[label] for label, *_ in key))] = mix

    widths = [spec.dense * outputs for spec in specs]
    arrays = [*biases, *weights]

    def members(units: tuple[int, ...]) -> list[int]:
        """Arrays with an axis of all these layers of units, biases first."""
        of_bias = [
            i for i in range(depth) if set(units) <= {i + 1} & set(layers.values())
        ]
        of_weight = [
            depth + i
            for i in range(depth)
            if set(units) <= {i, i + 1} & set(layers.values())
        ]
        return of_bias + of_weight

    def at_unit(array: int, unit_layer: int, unit: int) -> Array:
        """The bias of a unit, or the mean of its row or column."""
        x = arrays[array]
        if array < depth:
            return x[unit]
        i = array - depth
        if not (permuted[i] and permuted[i + 1]):
            return x[unit]
        return x[unit].mean(0) if unit_layer == i else x[:, unit].mean(0)

    def mixed(units: tuple[int, ...], inputs: list[Array]) -> dict[int, Array]:
        """Outputs of the mix of some layers of units, by array."""
        y = linear(mixes[units], np.concatenate(inputs))
        bounds = np.cumsum([widths[a] for a in members(units)])[:-1]
        return dict(zip(members(units), np.split(y, bounds), strict=True))

    everywhere = mixed((), [x.reshape(-1, x.shape[-1]).mean(0) for x in arrays])
    new = []
    for array, spec in enumerate(specs):
        i = array if array < depth else array - depth
        ends = [j for j in ((i + 1,) if array < depth else (i, i + 1)) if permuted[j]]
        out = np.zeros((*spec.shape, widths[array]))
        for index in all_indices(spec.shape):
            summands = [everywhere[array]]
            for j, unit in zip(ends, index, strict=True):
                inputs = [at_unit(a, j, unit) for a in members((j,))]
                summands.append(mixed((j,), inputs)[array])
            if len(ends) == 2:
                inputs = [arrays[array][index]]
                summands.append(mixed((ends[0], ends[1]), inputs)[array])
            out[index] = np.sum(summands, axis=0) / np.sqrt(len(summands))
        new.append(out)
    return new[depth:], new[:depth]
