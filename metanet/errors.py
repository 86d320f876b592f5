"""The error class for bad input, and suggestions for misspelled names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MetanetError(Exception):
    """Bad input; the message states in one line what is wrong and what to do.

    The command line prints the message without a traceback.

    Attributes:
        status: Exit status of the command line.
    """

    status = 1


def suggest(name: str, known: Iterable[str]) -> str:
    """Returns the end of a message about an unknown name.

    Args:
        name: The unknown name.
        known: Known names.

    Returns:
        ``' Did you mean "x"?'`` with the nearest known name, or ``" Known: a, b."``
        when no name is near.
    """
    options = sorted(known)
    near = difflib.get_close_matches(name, options, n=1)
    if near:
        return f' Did you mean "{near[0]}"?'
    return f" Known: {', '.join(options)}." if options else ""
