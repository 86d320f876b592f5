"""Plots as inline SVG that takes the page's colours, and images as PNG bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.image
import numpy as np
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from metanet.report.page import Markup

# Drawn for text and axes, then replaced by the colour of the text around the figure.
_INK = "#010203"
_COLOURS = ("#2f6fde", "#e07b39", "#2e8b57", "#a855c7", "#d13c3c", "#0f9fb3")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=_COLOURS),
    "legend.frameon": False,
}

Curve = tuple[Sequence[float], Sequence[float]]


def _to_svg(figure: Figure, salt: str) -> Markup:
    """Renders to an ``<svg>`` element; ``salt`` keeps ids of one page apart."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return Markup(svg.replace(_INK, "currentColor"))


def curves(panels: Mapping[str, Mapping[str, Curve]]) -> Markup:
    """Line plots side by side.

    Args:
        panels: Per panel title its lines: name to ``(steps, values)``.
    """
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}
    with matplotlib.rc_context(_STYLE):
        count = len(panels)
        figure = Figure(figsize=(5.0 * count, 3.2), layout="constrained")
        axes = figure.subplots(1, count, squeeze=False)[0]
        for axis, (title, lines) in zip(axes, panels.items(), strict=True):
            for name, (steps, values) in lines.items():
                few = len(steps) <= 30
                axis.plot(
                    steps,
                    values,
                    label=name,
                    color=colours[name],
                    lw=1.6,
                    marker="o" if few else None,
                    ms=3,
                )
            positive = [v for _, values in lines.values() for v in values if v > 0]
            if "loss" in title and positive and max(positive) > 20 * min(positive):
                axis.set_yscale("log")
            axis.set_title(title, loc="left", fontsize=11)
            axis.set_xlabel("step")
            axis.grid(alpha=0.15, color=_INK)
            axis.legend()
        return _to_svg(figure, "curves")


def bars(
    names: Sequence[str], means: Sequence[float], spreads: Sequence[float]
) -> Markup:
    """Horizontal bars with spreads, one per run group, first on top."""
    with matplotlib.rc_context(_STYLE):
        height = 0.9 + 0.42 * len(names)
        figure = Figure(figsize=(8.0, height), layout="constrained")
        axis = figure.subplots()
        heights = np.arange(len(names))[::-1]
        axis.barh(
            heights, means, xerr=spreads, height=0.6, color=_COLOURS[0], ecolor=_INK
        )
        axis.set_yticks(heights, [n.replace("$", r"\$") for n in names])
        for height_of, mean, spread in zip(heights, means, spreads, strict=True):
            axis.annotate(
                f"{mean:.3f}",
                (mean + spread, float(height_of)),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
            )
        axis.margins(x=0.12)
        return _to_svg(figure, "bars")


def histograms(panels: Mapping[str, Mapping[str, np.ndarray]]) -> Markup:
    """Stacked histograms side by side: per panel title the values of its groups."""
    with matplotlib.rc_context(_STYLE):
        count = len(panels)
        figure = Figure(figsize=(5.0 * count, 3.0), layout="constrained")
        axes = figure.subplots(1, count, squeeze=False)[0]
        for axis, (title, groups) in zip(axes, panels.items(), strict=True):
            colours = [_COLOURS[i % len(_COLOURS)] for i in range(len(groups))]
            axis.hist(
                list(groups.values()),
                bins=40,
                stacked=True,
                color=colours,
                label=list(groups),
            )
            axis.set_title(title, loc="left", fontsize=11)
            axis.set_ylabel("networks")
            if len(groups) > 1:
                axis.legend()
        return _to_svg(figure, "histograms")


def points(panels: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Markup:
    """Scatter plots in rows of three, logarithmic across where values span decades."""
    with matplotlib.rc_context(_STYLE):
        rows = -(-len(panels) // 3)
        figure = Figure(figsize=(12.0, 2.6 * rows), layout="constrained")
        axes = figure.subplots(rows, 3, squeeze=False).ravel()
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        for axis, (title, (x, y)) in zip(axes, panels.items(), strict=False):
            axis.scatter(x, y, s=6, alpha=0.4, lw=0, rasterized=len(x) > 2000)
            if x.min() > 0 and x.max() > 30 * x.min():
                axis.set_xscale("log")
            axis.set_title(title, loc="left", fontsize=11)
        return _to_svg(figure, "points")


def scatter(
    groups: Mapping[str, tuple[np.ndarray, np.ndarray]], across: str, up: str
) -> Markup:
    """Points by group in the unit square, with its diagonal.

    Args:
        groups: Per name the two coordinates of its points.
        across, up: What they are.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.6, 4.6), layout="constrained")
        axis = figure.subplots()
        axis.plot([0, 1], [0, 1], color=_INK, lw=0.8, alpha=0.4)
        for i, (name, (x, y)) in enumerate(groups.items()):
            colour = _COLOURS[i % len(_COLOURS)]
            # Thousands of points as one picture, or the page takes long to draw.
            axis.scatter(
                x,
                y,
                s=9,
                alpha=0.5,
                color=colour,
                label=name,
                lw=0,
                rasterized=len(x) > 2000,
            )
        axis.set(xlim=(0, 1), ylim=(0, 1), xlabel=across, ylabel=up)
        axis.grid(alpha=0.15, color=_INK)
        if len(groups) > 1:
            axis.legend(loc="upper left")
        return _to_svg(figure, "scatter")


def png(values: np.ndarray) -> bytes:
    """An image ``[H, W]`` or ``[H, W, 1 or 3]`` in [0, 1] (float) or uint8 as PNG."""
    if values.dtype != np.uint8:
        clipped = np.clip(np.nan_to_num(values, nan=0.0), 0.0, 1.0)
        values = np.rint(clipped * 255).astype(np.uint8)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim == 2:
        values = np.repeat(values[:, :, None], 3, axis=2)
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, values, format="png")
    return buffer.getvalue()
