"""Drawings of parameter graphs: node sets in columns by depth, weights as lines."""

from __future__ import annotations

import io
import math
import os
from collections import defaultdict
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from metanet.errors import MetanetError, suggest
from metanet.files import write_file
from metanet.graphs.topology import EdgeSet, IdentityEdgeSet, NodeSet, Topology
from metanet.graphs.view import ParameterGraph

_SHOWN = 12
_HEAD = 8
_INK, _FAINT = "#1f2933", "#7b8794"
_NODE = {
    "input": "#2e8b57",
    "hidden": "#5b6b7d",
    "output": "#e07b39",
    "state": "#8e5bbf",
    "latent": "#0f9fb3",
}
_EDGE = ("#2f6fde", "#c99700", "#a855c7", "#0f9fb3", "#d13c6b", "#6b8e23", "#7a5c3e")
_MAP = colormaps["RdBu_r"]
_FORMATS = ("png", "svg", "pdf")


class _Column(NamedTuple):
    """The drawn nodes of a set: flat indices (None: the ellipsis) and their heights."""

    x: float
    shown: list[int | None]
    y: list[float]


def draw(
    topology: Topology,
    path: str | os.PathLike[str] | None = None,
    graph: ParameterGraph | None = None,
) -> Figure:
    """Draws a parameter graph.

    Of a node set with more than 12 nodes the first 8 and the last 3 are shown. Edges
    are coloured by value, each block relative to its largest (the mean over parallel
    edges), or by kind when no graph is given; parameters without a source (biases,
    scales) are rings around their node, the first innermost.

    Args:
        topology: The topology.
        path: File to which the figure is saved (png, svg or pdf); None for no file.
        graph: Values that colour the edges; of a batch, those of the first network.

    Raises:
        MetanetError: for an unknown file type.
    """
    figure = _figure(topology, graph)
    if path is not None:
        _save(figure, Path(path))
    return figure


def _save(figure: Figure, path: Path) -> None:
    kind = path.suffix.removeprefix(".").lower()
    if kind not in _FORMATS:
        raise MetanetError(
            f"{path}: cannot draw to this file type.{suggest(kind, _FORMATS)}"
        )
    drawing = io.BytesIO()
    figure.savefig(drawing, format=kind, dpi=160)
    write_file(path, drawing.getvalue())


def _figure(topology: Topology, graph: ParameterGraph | None) -> Figure:
    columns = _columns(topology)
    xs = [c.x for c in columns]
    top = max(max(c.y) for c in columns)
    bottom = min(min(c.y) for c in columns)
    span = max(xs) - min(xs)
    size = (min(60.0, 2.6 + 2.3 * span), 1.9 + 0.3 * (top - bottom + 4))
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_xlim(min(xs) - 0.45, max(xs) + 0.45)
    values = None if graph is None else [_values(b) for b in graph.edges]
    kinds = list(dict.fromkeys(e.kind for e in topology.edges))
    palette = {k: _EDGE[i % len(_EDGE)] for i, k in enumerate(kinds)}
    rings: dict[int, list[int]] = defaultdict(list)
    highest = top + 2.2
    for i, edge in enumerate(topology.edges):
        if edge.source is None:
            rings[edge.target].append(i)
            continue
        value = None if values is None else values[i]
        reach = _lines(axes, topology, columns, edge, value, palette[edge.kind])
        highest = max(highest, reach)
    for edge in topology.identity_edges:
        highest = max(highest, _lines(axes, topology, columns, edge, None, _FAINT))
    axes.set_ylim(bottom - 1.2, highest + 0.4)
    for i, (node, column) in enumerate(zip(topology.nodes, columns, strict=True)):
        _dots(axes, node, column)
        for ring, k in enumerate(rings[i]):
            edge = topology.edges[k]
            value = None if values is None else values[k]
            _ring(axes, node, column, edge, value, palette[edge.kind], ring)
    _legend(figure, axes, topology, palette, graph is not None)
    return figure


def _columns(topology: Topology) -> list[_Column]:
    """Places the sets of one depth above each other, centred on a common line."""
    at_depth: dict[int, list[int]] = defaultdict(list)
    for i, node in enumerate(topology.nodes):
        at_depth[node.depth].append(i)
    columns: dict[int, _Column] = {}
    for x, depth in enumerate(sorted(at_depth)):
        height, rows = 0.0, []
        for i in at_depth[depth]:
            shown = _visible(topology.nodes[i].size)
            rows.append((i, shown, height))
            height -= len(shown) + 2.2
        middle = (height + 2.2 + 1) / 2
        for i, shown, start in rows:
            y = [start - k - middle for k in range(len(shown))]
            columns[i] = _Column(float(x), shown, y)
    return [columns[i] for i in range(len(topology.nodes))]


def _visible(size: int) -> list[int | None]:
    if size <= _SHOWN:
        return list(range(size))
    return [*range(_HEAD), None, *range(size - (_SHOWN - _HEAD - 1), size)]


def _values(block: object) -> np.ndarray:
    """Returns a block ``[..., diagonal, S, T, M, F]`` as ``[diagonal, S, T]`` in [-1, 1]."""
    array = np.asarray(block, np.float64)
    array = array.reshape(-1, *array.shape[-5:])[0, ..., 0].mean(-1)
    largest = np.abs(array).max(initial=0.0)
    return array / largest if largest > 0 else array


def _unit_index(node: NodeSet, flat: int) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(flat, node.units))


def _entry(
    edge: EdgeSet, source: tuple[int, ...], target: tuple[int, ...]
) -> tuple[int, int, int] | None:
    """Returns the index into ``[diagonal, S, T]`` of the edge between two nodes, if any."""
    if any(source[i] != target[k] for i, k in edge.join):
        return None
    flat, sizes = [0, 0, 0], [edge.split[i] for i in edge.order]
    for size, (s, t) in zip(sizes, edge.units, strict=True):
        if s >= 0 and t >= 0:
            if source[s] != target[t]:
                return None
            flat[0] = flat[0] * size + source[s]
        elif s >= 0:
            flat[1] = flat[1] * size + source[s]
        elif t >= 0:
            flat[2] = flat[2] * size + target[t]
    return flat[0], flat[1], flat[2]


def _lines(
    axes: Axes,
    topology: Topology,
    columns: list[_Column],
    edge: EdgeSet | IdentityEdgeSet,
    values: np.ndarray | None,
    colour: str,
) -> float:
    """Draws a curve per edge between shown nodes, the largest values on top.

    Returns:
        The greatest height that a curve reaches.
    """
    assert edge.source is not None
    ends = (edge.source, edge.target)
    nodes, (left, right) = [topology.nodes[i] for i in ends], [columns[i] for i in ends]
    curves = []
    for s, y0 in zip(left.shown, left.y, strict=True):
        for t, y1 in zip(right.shown, right.y, strict=True):
            if s is None or t is None:
                continue
            source, target = _unit_index(nodes[0], s), _unit_index(nodes[1], t)
            if isinstance(edge, IdentityEdgeSet):
                if any(source[i] != target[k] for i, k in edge.join):
                    continue
                value = 0.0
            else:
                entry = _entry(edge, source, target)
                if entry is None:
                    continue
                value = 0.0 if values is None else float(values[entry])
            curves.append((abs(value), value, _curve(left.x, y0, right.x, y1)))
    curves.sort(key=itemgetter(0))
    if isinstance(edge, IdentityEdgeSet):
        style = {"colors": [to_rgba(colour, 0.8)], "linestyles": "dashed"}
        widths = [1.0] * len(curves)
    elif values is None:
        style, widths = {"colors": [to_rgba(colour, 0.35)]}, [0.8] * len(curves)
    else:
        style = {
            "colors": [(*_MAP(0.5 + v / 2)[:3], 0.25 + 0.75 * a) for a, v, _ in curves]
        }
        widths = [0.4 + 1.4 * a for a, _, _ in curves]
    axes.add_collection(
        LineCollection([c for _, _, c in curves], linewidths=widths, zorder=1, **style)
    )
    return max((float(c[:, 1].max()) for _, _, c in curves), default=-math.inf)


def _curve(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Returns points ``[n, 2]`` from node to node, on an arc if other columns lie between."""
    u = np.linspace(0.0, 1.0, 25)
    smooth = u * u * (3 - 2 * u)
    x, y = x0 + (x1 - x0) * u, y0 + (y1 - y0) * smooth
    if abs(x1 - x0 - 1) < 1e-9:
        return np.stack([x, y], 1)
    bow = 4 * u * (1 - u)
    if x0 == x1:
        return np.stack([x + 0.3 * bow * (1 if y0 != y1 else 0.6), y + 0.4 * bow], 1)
    return np.stack([x, y + (0.8 + 0.5 * math.fabs(x1 - x0)) * bow], 1)


def _dots(axes: Axes, node: NodeSet, column: _Column) -> None:
    colour = _NODE.get(node.kind, _NODE["hidden"])
    drawn = [y for s, y in zip(column.shown, column.y, strict=True) if s is not None]
    face = colour if node.identified else "white"
    axes.scatter(
        [column.x] * len(drawn),
        drawn,
        s=70,
        c=face,
        edgecolors=colour,
        linewidths=1.6,
        zorder=3,
        marker="s" if node.kind == "latent" else "o",
    )
    for s, y in zip(column.shown, column.y, strict=True):
        if s is None:
            axes.text(
                column.x, y, "⋮", ha="center", va="center", color=_FAINT, fontsize=13
            )
    notes = [" × ".join(map(str, node.units)) or "1"]
    if node.nonlinearity:
        notes.append("∘".join(reversed(node.nonlinearity)))
    top = max(column.y)
    halo = [withStroke(linewidth=3, foreground="white")]
    axes.text(
        column.x,
        top + 1.25,
        node.name,
        ha="center",
        va="bottom",
        color=_INK,
        fontsize=9.5,
        fontweight="bold",
        path_effects=halo,
    )
    axes.text(
        column.x,
        top + 1.15,
        " · ".join(notes),
        ha="center",
        va="top",
        color=_FAINT,
        fontsize=8,
        path_effects=halo,
    )


def _ring(
    axes: Axes,
    node: NodeSet,
    column: _Column,
    edge: EdgeSet,
    values: np.ndarray | None,
    colour: str,
    ring: int,
) -> None:
    """Draws a ring around each node for a parameter without a source."""
    heights, colours = [], []
    for flat, y in zip(column.shown, column.y, strict=True):
        if flat is None:
            continue
        entry = _entry(edge, (), _unit_index(node, flat))
        assert entry is not None
        heights.append(y)
        value = None if values is None else 0.5 + float(values[entry]) / 2
        colours.append(to_rgba(colour) if value is None else _MAP(value))
    axes.scatter(
        [column.x] * len(heights),
        heights,
        s=70 * (1.55 + 0.55 * ring) ** 1.35,
        facecolors="none",
        edgecolors=colours,
        linewidths=1.8,
        zorder=2,
    )


def _legend(
    figure: Figure,
    axes: Axes,
    topology: Topology,
    palette: dict[str, str],
    valued: bool,
) -> None:
    handles = []
    for kind in dict.fromkeys(n.kind for n in topology.nodes):
        filled = any(n.identified for n in topology.nodes if n.kind == kind)
        colour = _NODE.get(kind, _NODE["hidden"])
        handles.append(
            Line2D(
                [],
                [],
                linestyle="none",
                marker="s" if kind == "latent" else "o",
                markersize=7,
                markeredgecolor=colour,
                label=kind,
                markerfacecolor=colour if filled else "white",
            )
        )
    for kind, colour in palette.items():
        ring = all(e.source is None for e in topology.edges if e.kind == kind)
        shade = _FAINT if valued else colour
        if ring:
            mark = Line2D(
                [],
                [],
                linestyle="none",
                marker="o",
                markersize=10,
                markerfacecolor="none",
                markeredgecolor=shade,
                label=kind,
            )
            handles.append(mark)
        elif not valued:
            handles.append(Line2D([], [], color=colour, label=kind))
    for kind in dict.fromkeys(edge.kind for edge in topology.identity_edges):
        handles.append(Line2D([], [], color=_FAINT, linestyle="dashed", label=kind))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), 6),
        frameon=False,
        fontsize=8,
        labelcolor=_INK,
    )
    if valued:
        scale = ScalarMappable(Normalize(-1, 1), _MAP)
        bar = figure.colorbar(scale, ax=axes, shrink=0.5, aspect=22, pad=0.01)
        bar.set_ticks([-1, 0, 1], labels=["−", "0", "+"])
        bar.set_label("value relative to the block's largest", color=_FAINT, fontsize=8)
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
        bar.ax.tick_params(length=0, colors=_FAINT)
