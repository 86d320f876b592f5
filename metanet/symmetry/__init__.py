"""Weight symmetries, discovered from a network's program."""

from metanet.symmetry.action import (
    Element,
    act,
    compose,
    identity,
    invert,
    join_blocks,
    random_element,
)
from metanet.symmetry.activations import compute_activations
from metanet.symmetry.canonicalization import canonicalize
from metanet.symmetry.discovery import discover
from metanet.symmetry.interop import from_rebasin, from_unf, to_rebasin, to_unf
from metanet.symmetry.recorder import RULES, Trace, register_rule
from metanet.symmetry.symmetry import (
    Activation,
    AxisPart,
    Block,
    Coverage,
    Exponent,
    IdentityEdge,
    Index,
    Leaf,
    ParameterEdge,
    PermutationGroup,
    Position,
    Role,
    ScalingGroup,
    Shift,
    Symmetry,
    View,
    select_parts,
)
from metanet.symmetry.values import Value
from metanet.symmetry.verification import (
    CheckResult,
    GroupCheck,
    SymmetryError,
    check,
)

__all__ = [
    "RULES",
    "Activation",
    "AxisPart",
    "Block",
    "CheckResult",
    "Coverage",
    "Element",
    "Exponent",
    "GroupCheck",
    "IdentityEdge",
    "Index",
    "Leaf",
    "ParameterEdge",
    "PermutationGroup",
    "Position",
    "Role",
    "ScalingGroup",
    "Shift",
    "Symmetry",
    "SymmetryError",
    "Trace",
    "Value",
    "View",
    "act",
    "canonicalize",
    "check",
    "compose",
    "compute_activations",
    "discover",
    "from_rebasin",
    "from_unf",
    "identity",
    "invert",
    "join_blocks",
    "random_element",
    "register_rule",
    "select_parts",
    "to_rebasin",
    "to_unf",
]
