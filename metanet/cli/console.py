"""Helpers of the commands: tables on the terminal, quiet libraries, usage errors."""

from __future__ import annotations

import argparse
import logging
import os
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from metanet.errors import MetanetError


class UsageError(MetanetError):
    """The command line itself is wrong."""

    status = 2


def quiet_libraries() -> None:
    """Keeps the start-up chatter of jax, orbax and absl off the terminal."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for name in ("absl", "jax", "jax._src", "orbax", "matplotlib"):
        logging.getLogger(name).setLevel(logging.ERROR)


def add_command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    description: str,
    examples: str,
) -> argparse.ArgumentParser:
    """Adds a subcommand whose help has a description and examples."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=textwrap.dedent(description).strip(),
        epilog="examples:\n" + textwrap.indent(textwrap.dedent(examples).strip(), "  "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    return parser


def console() -> Any:
    """A console on standard output; without a terminal, lines are not wrapped."""
    from rich.console import Console

    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=1000)


def print_table(
    title: str,
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    right: Iterable[int] = (),
) -> None:
    """Prints a table; columns in ``right`` are right-aligned."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=title,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        show_header=any(header),
    )
    aligned = set(right)
    for i, column in enumerate(header):
        table.add_column(
            column, justify="right" if i in aligned else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console().print(table)
