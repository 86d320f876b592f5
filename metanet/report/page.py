"""One self-contained HTML page: markup helpers, the style sheet, the frame.

Everything that enters a page as text goes through `text`; what is already markup is of
type `Markup`, so that forgetting to escape is a type error rather than a hole.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NewType

from metanet.files import write_file

Markup = NewType("Markup", str)

_STYLE = """
:root { color-scheme: light dark;
  --ink: #1c2330; --soft: #667085; --line: #e3e7ee; --card: #ffffff; --ground: #f5f7fa;
  --accent: #2f6fde; --bad: #d13c3c; --good: #2e8b57; --heat: 47 111 222; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e6e9ef; --soft: #98a2b3; --line: #2d3442; --card: #1a1f29; --ground: #12161d;
  --accent: #6ea0ff; --bad: #ff7b72; --good: #6fcf97; --heat: 110 160 255; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 0 0 14px; }
.sub, .note { color: var(--soft); } .note { font-size: 13px; margin: 10px 0 0; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 20px 22px; margin-top: 20px; overflow-x: auto; }
.tiles { display: grid; gap: 12px; margin-top: 20px;
  grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 14px 16px; }
.tile b { display: block; font-size: 24px; line-height: 1.25; font-weight: 650; }
.tile span { color: var(--soft); font-size: 13px; }
table { border-collapse: collapse; font-size: 14px; }
th, td { padding: 5px 12px 5px 0; text-align: left; white-space: nowrap;
  border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
table.heat td { width: 40px; min-width: 40px; height: 32px; padding: 2px 4px;
  text-align: center; border: 1px solid var(--card); }
table.heat th { padding: 2px 8px; border: 0; text-align: right; }
table.heat tr:first-child th { text-align: center; }
svg { max-width: 100%; height: auto; display: block; }
svg text { font-family: inherit; }
.drawing { max-width: 100%; background: #fff; border-radius: 6px; }
.samples { display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fill, minmax(172px, 1fr)); }
figure { margin: 0; padding: 10px; border: 1px solid var(--line); border-radius: 8px; }
figure.wrong { border-color: var(--bad); box-shadow: inset 0 0 0 1px var(--bad); }
figure .pair { display: flex; gap: 6px; }
figure img { width: 50%; min-width: 0; image-rendering: pixelated; border-radius: 4px; }
figcaption { font-size: 13px; margin-top: 6px; } .wrong b { color: var(--bad); }
b.right { color: var(--good); }
pre { margin: 0; font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; }
details + details { margin-top: 12px; } summary { cursor: pointer; font-weight: 600; }
details pre { margin-top: 8px; }
"""


def text(value: object) -> Markup:
    """Escapes a value for use in markup, also inside quoted attributes."""
    return Markup(html.escape(str(value), quote=True))


def join(parts: Iterable[Markup]) -> Markup:
    """Concatenates markup."""
    return Markup("".join(parts))


def section(title: str, *parts: Markup, note: str = "") -> Markup:
    """A titled card; ``note`` is a small line below its content."""
    foot = f'<p class="note">{text(note)}</p>' if note else ""
    return Markup(f"<section><h2>{text(title)}</h2>{join(parts)}{foot}</section>")


def tiles(numbers: Iterable[tuple[str, str]]) -> Markup:
    """Main numbers as a row of tiles, ``(label, number)`` each."""
    cells = (
        Markup(f'<div class="tile"><b>{text(v)}</b><span>{text(k)}</span></div>')
        for k, v in numbers
    )
    return Markup(f'<div class="tiles">{join(cells)}</div>')


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    """A table; numbers and strings that look like numbers are right-aligned.

    A column is numeric where all its cells are.
    """
    body = [[str(cell) for cell in row] for row in rows]

    def numeric(column: int) -> bool:
        cells = [row[column].strip() for row in body]
        return bool(cells) and all(
            c[:1].isdigit() or c[:2].lstrip("-").isdigit() or c in ("", "-")
            for c in cells
        )

    classes = [' class="n"' if numeric(i) else "" for i in range(len(header))]

    def line(tag: str, cells: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{c}>{text(v)}</{tag}>" for c, v in zip(classes, cells, strict=True)
        )

    lines = "".join(f"<tr>{line('td', row)}</tr>" for row in body)
    return Markup(f"<table><tr>{line('th', header)}</tr>{lines}</table>")


def heat(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> Markup:
    """A confusion matrix as a table shaded by each row's shares.

    Args:
        matrix: Counts ``[true][predicted]``.
        names: Class names.
    """
    rows = ["<tr><th></th>" + "".join(f"<th>{text(n)}</th>" for n in names) + "</tr>"]
    for name, counts in zip(names, matrix, strict=True):
        total = max(sum(counts), 1)
        cells = "".join(
            f'<td style="background:rgb(var(--heat) / {0.75 * c / total:.3f})">'
            f"{c if c else ''}</td>"
            for c in counts
        )
        rows.append(f"<tr><th>{text(name)}</th>{cells}</tr>")
    return Markup(f'<table class="heat">{"".join(rows)}</table>')


def image(png: bytes, alt: str, css: str = "") -> Markup:
    """A PNG inside the page."""
    data = base64.b64encode(png).decode("ascii")
    kind = f' class="{text(css)}"' if css else ""
    return Markup(f'<img{kind} alt="{text(alt)}" src="data:image/png;base64,{data}">')


def code(content: str) -> Markup:
    """Preformatted text."""
    return Markup(f"<pre>{text(content)}</pre>")


def folded(summary: str, content: str) -> Markup:
    """Preformatted text that opens on a click."""
    return Markup(
        f"<details><summary>{text(summary)}</summary>{code(content)}</details>"
    )


def write_page(path: Path, title: str, subtitle: str, parts: Iterable[Markup]) -> Path:
    """Writes the page, whole or not at all."""
    content = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head><body><main>"
        f'<h1>{text(title)}</h1><div class="sub">{text(subtitle)}</div>'
        f"{join(parts)}</main></body></html>\n"
    )
    write_file(path, content.encode("utf-8"))
    return path
