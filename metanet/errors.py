"""The error that a user of metanet is meant to read, and name suggestions for it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MetanetError(Exception):
    """Bad input, said in one line: what is wrong, where, and what to do.

    The command line prints the message alone (no traceback).

    Attributes:
        status: Exit status of the command line.
    """

    status = 1


def suggest(name: str, known: Iterable[str]) -> str:
    """Returns ``' Did you mean "x"?'`` for the known name nearest to ``name``.

    Where nothing is near, the known names are listed instead.
    """
    options = sorted(known)
    near = difflib.get_close_matches(name, options, n=1)
    if near:
        return f' Did you mean "{near[0]}"?'
    return f" Known: {', '.join(options)}." if options else ""


def require_at_least(options: object, **least: int) -> None:
    """Checks numbers of a config's section.

    Raises:
        MetanetError: when ``options`` has a number below the least allowed.
    """
    for name, bound in least.items():
        value = getattr(options, name)
        if value < bound:
            raise MetanetError(f"{name}: must be at least {bound}, got {value}")


def require_one_of(options: object, **choices: Iterable[str]) -> None:
    """Checks named choices of a config's section.

    Raises:
        MetanetError: when a choice is not one of those known (with the nearest one).
    """
    for name, known in choices.items():
        value = getattr(options, name)
        if value not in known:
            raise MetanetError(f"{name}: no {value!r}.{suggest(str(value), known)}")
