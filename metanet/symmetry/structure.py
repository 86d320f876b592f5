"""What discovery found, as plain hashable data: leaves, tiles, atoms, groups, sites.

Everything here is static (usable as a jit-static argument and a dictionary key) and
free of arrays, so that a `Symmetry` can be printed, compared, hashed and written as JSON.
Atoms are referred to by their index in `Symmetry.atoms`, leaves by their index in
`Symmetry.leaves` (the flattening order of the parameter pytree), sites by their index in
`Symmetry.sites`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Leaf:
    """One array of the parameter pytree: its path ("layers/0/kernel"), shape, dtype."""

    path: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Index:
    """An independent index of the program: an axis, or a factor or part of one.

    Attributes:
        size: Number of values the index takes.
        pinned: Why the index cannot be permuted (an output, a kernel position, a
            constant that varies along it, an unknown primitive); None when free.
    """

    size: int
    pinned: str | None = None


@dataclass(frozen=True, order=True)
class Position:
    """Where an atom stands in a leaf: axis, segment of the axis, place in the segment."""

    axis: int
    segment: int
    place: int


@dataclass(frozen=True)
class Block:
    """A block of a leaf: one segment per axis, factored into atoms.

    ``leaf[slices]`` reshaped to the sizes of ``atoms`` (in order: axes in order, places
    major first) gives one array axis per atom. A leaf without concatenated axes is one
    tile. A scalar leaf is one tile without atoms.

    Attributes:
        leaf: Index of the leaf.
        segments: Segment index per axis of the leaf.
        bounds: ``(start, stop)`` per axis of the leaf.
        positions: Position of each atom.
        atoms: Atom index of each position (size-1 axes have no atom).
    """

    leaf: int
    segments: tuple[int, ...]
    bounds: tuple[tuple[int, int], ...]
    positions: tuple[Position, ...]
    indices: tuple[int, ...]


@dataclass(frozen=True)
class PermutationGroup:
    """Independent permutations of the joint index of ``atoms``, one per parent index.

    Attributes:
        atoms: Atoms permuted jointly (usually one).
        parents: Atoms whose index the permutation may depend on (heads for the channels
            within heads).
        degree: Number of permuted things, the product of the atoms' sizes.
        copies: Number of independent permutations, the product of the parents' sizes.
        linear: "GL" where the permutations are part of the group of all invertible
            matrices, "O" of all orthogonal ones: the index occurs in linear algebra
            alone. Named only; elements are permutations.
    """

    indices: tuple[int, ...]
    parents: tuple[int, ...]
    degree: int
    copies: int
    linear: str = ""

    @property
    def order(self) -> int:
        """Number of elements of the group."""
        return math.factorial(self.degree) ** self.copies


@dataclass(frozen=True)
class Exponent:
    """Power with which a family's factor multiplies one tile along one of its atoms."""

    leaf: int
    position: Position
    power: Fraction


@dataclass(frozen=True)
class Shift:
    """What a phase element adds to one tile, per half turn of its unit (SIREN)."""

    leaf: int
    position: Position
    amount: float


@dataclass(frozen=True)
class ScalingGroup:
    """Free factors, one per unit of an atom (and per parent index).

    ``kind`` "positive": any factor > 0 (ReLU); "nonzero": any factor except 0, which
    discovery gives as a positive and a sign family; "sign": factor -1 or 1 (tanh, sine);
    "phase": an integer k per unit, factor (-1)^k and shifts of k times
    ``Shift.amount`` (sine: b -> b + k pi / w0).
    """

    kind: str
    axis_index: int
    parents: tuple[int, ...]
    exponents: tuple[Exponent, ...]
    shifts: tuple[Shift, ...] = ()


@dataclass(frozen=True)
class View:
    """Where the units of a site stand in an array of the traced program.

    Attributes:
        location: Path of equation indices from the outermost jaxpr, then the operand's
            index (``operand`` True) or the result's.
        operand: The array is an operand of the equation, not a result.
        axes: Per axis None (carries no unit), or ``(start, stop, factors)`` with factors
            ``(size, unit)``, unit -1 for an index that is no unit of the site.
        turns: Per `scan` around the array, outermost first, the unit that its turns
            are, or -1.
    """

    location: tuple[int, ...]
    operand: bool
    axes: tuple[tuple[int, int, tuple[tuple[int, int], ...]] | None, ...]
    turns: tuple[int, ...] = ()


@dataclass(frozen=True)
class Activation:
    """An activation that a parametrised or combining operation produces.

    Attributes:
        kind: "input" (also a constant that parameters read like one), "output",
            "hidden" or "state" (a scan's carry).
        units: Atoms whose joint index enumerates the nodes, major first; () is one node.
        location: Path of equation indices from the outermost jaxpr to the equation that
            produced the value, then the index of its output; for an input ``(-1, i)``,
            for a constant array that parameters read like one ``(-2, i)``.
        view: Where its activations, as its first reader reads them, are to be found;
            None where they cannot be captured.
    """

    kind: str
    units: tuple[int, ...]
    location: tuple[int, ...]
    view: View | None = None


@dataclass(frozen=True)
class Role:
    """One end of an edge that a tile position indexes: ``end`` "source" or "target",
    ``unit`` the place in that site's ``units``."""

    end: str
    unit: int


@dataclass(frozen=True)
class ParameterEdge:
    """One use of a parameter tile: the edges it makes between two sites.

    Attributes:
        leaf: Index of the leaf.
        segments: Segment per axis of the leaf: names the tile.
        source: Site read, or None (bias, scale, token: from a bias node).
        target: Site produced.
        kind: "weight", "conv", "bias", "scale", "embedding", ...
        chain: Nonlinearities applied to the source before it is read, in order ("sin",).
        roles: Per tile position: its roles. () is a multiplicity index (kernel or spatial
            position), or an atom of neither end; source and target both: a diagonal index.
        join: Pairs (source unit, target unit) that agree without indexing the tile.
        attributes: Further static facts, sorted: (("stride", (2, 2)), ("dilation", ...)).
    """

    leaf: int
    segments: tuple[int, ...]
    source: int | None
    target: int
    kind: str
    chain: tuple[str, ...]
    roles: tuple[tuple[Role, ...], ...]
    join: tuple[tuple[int, int], ...] = ()
    attributes: tuple[tuple[str, tuple[int, ...]], ...] = ()


@dataclass(frozen=True)
class IdentityEdge:
    """A parameter-free edge set: an edge exactly where the joined unit indices agree.

    ``kind`` "residual", "gate", "pairing", "recurrence", "bias" or "scale" (identity edge
    from the site before the addition of a bias), ...; ``join`` pairs (source unit, target
    unit).
    """

    source: int
    target: int
    kind: str
    chain: tuple[str, ...]
    join: tuple[tuple[int, int], ...]
