"""Weight symmetries, discovered from a network's program."""

from metanet.symmetry.activations import compute_activations
from metanet.symmetry.canonical import canonicalize
from metanet.symmetry.discovery import discover
from metanet.symmetry.elements import (
    Element,
    act,
    compose,
    identity,
    invert,
    random_element,
)
from metanet.symmetry.interpreter import register_rule
from metanet.symmetry.specs import from_rebasin, from_unf, to_rebasin, to_unf
from metanet.symmetry.symmetry import Coverage, Symmetry
from metanet.symmetry.verification import SymmetryError, check

__all__ = [
    "Coverage",
    "Element",
    "Symmetry",
    "SymmetryError",
    "act",
    "compute_activations",
    "canonicalize",
    "check",
    "compose",
    "discover",
    "from_rebasin",
    "from_unf",
    "identity",
    "invert",
    "random_element",
    "register_rule",
    "to_rebasin",
    "to_unf",
]
