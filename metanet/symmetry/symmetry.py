"""The result of discovery: printable, hashable, explained, and writable as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from metanet.errors import MetanetError, suggest
from metanet.symmetry.structure import (
    Activation,
    Block,
    IdentityEdge,
    Index,
    Leaf,
    ParameterEdge,
    PermutationGroup,
    ScalingGroup,
)


@dataclass(frozen=True)
class Coverage:
    """How much of a network has a symmetry.

    Attributes:
        share: Share of the parameters that some element moves or changes.
        parameters: Number of parameters.
        pinned: Reason -> number of pinned atoms.
        unknown: Primitives without a rule -> where they were met first.
    """

    share: float
    parameters: int
    pinned: dict[str, int]
    unknown: dict[str, str]


@dataclass(frozen=True)
class Symmetry:
    """The weight symmetries of a network, and its program's sites and uses.

    Static and hashable; two discoveries of one architecture are equal.

    Attributes:
        leaves, atoms, tiles: The parameters and their indices.
        groups: Permutation groups, parents before children.
        families: Scale, sign and phase families.
        sites, uses, joins: The raw parameter graph, see `metanet.graphs`.
        unknown: Primitives without a rule, and where they were met.
        notes: Per atom the equations that joined axes to it.
        program: Digest of the program's equations; locations refer to it.
        mirrors: Pairs (output, leaf): outputs that are a leaf's next value (statistics
            of a batch) and so move along with it; see `discover`.
    """

    leaves: tuple[Leaf, ...]
    indices: tuple[Index, ...]
    blocks: tuple[Block, ...]
    groups: tuple[PermutationGroup, ...]
    scaling_groups: tuple[ScalingGroup, ...]
    activations: tuple[Activation, ...]
    parameter_edges: tuple[ParameterEdge, ...]
    identity_edges: tuple[IdentityEdge, ...]
    unknown: tuple[tuple[str, str], ...] = ()
    notes: tuple[tuple[str, ...], ...] = field(default=(), compare=False)
    program: str = ""
    state_outputs: tuple[tuple[int, int], ...] = ()

    @property
    def order(self) -> int:
        """Number of elements of the permutation group."""
        return math.prod(g.order for g in self.groups)

    def __str__(self) -> str:
        lines = [f"permutations: order {_short(self.order)}"]
        for group in self.groups:
            copies = f" x {group.copies} copies" if group.copies > 1 else ""
            where = ", ".join(self.axes_of(group.indices))
            whole = f" in {group.linear}({group.degree})" if group.linear else ""
            lines.append(f"  S{group.degree}{whole}{copies}: {where}")
        lines.append("scales, signs and phases:")
        for scaling_group in self.scaling_groups:
            powers = ", ".join(
                f"{self.leaves[e.leaf].path}[{e.position.axis}]^{e.power}"
                for e in scaling_group.exponents
            )
            shifts = "".join(
                f", {self.leaves[s.leaf].path} + {s.amount:.4g} k"
                for s in scaling_group.shifts
            )
            size = self.indices[scaling_group.axis_index].size
            lines.append(f"  {scaling_group.kind} per unit of {size}: {powers}{shifts}")
        coverage = self.coverage()
        lines.append(f"coverage: {coverage.share:.1%} of {coverage.parameters:,}")
        for name, where in self.unknown:
            lines.append(f"  no rule for {name} ({where})")
        return "\n".join(lines)

    def axes_of(self, indices: tuple[int, ...]) -> list[str]:
        """Where atoms stand: "path[axis]" of every parameter axis."""
        found = {
            f"{self.leaves[t.leaf].path}[{p.axis}]"
            for t in self.blocks
            for p, a in zip(t.positions, t.indices, strict=True)
            if a in indices
        }
        return sorted(found)

    def explain(self, path: str, axis: int) -> str:
        """Why an axis of a parameter is permuted, joined to others, or pinned.

        Args:
            path: Path of the parameter ("layers/0/kernel").
            axis: Its axis; negative from the last.

        Raises:
            MetanetError: for an unknown path or axis.
        """
        index, axis = self._place(path, axis)
        indices = dict.fromkeys(
            a
            for t in self.blocks
            if t.leaf == index
            for p, a in zip(t.positions, t.indices, strict=True)
            if p.axis == axis
        )
        lines = [f"{path} axis {axis} ({self.leaves[index].shape[axis]}):"]
        if not indices:
            lines.append("  has size 1: nothing to permute")
        for a in indices:
            axis_index = self.indices[a]
            others = [o for o in self.axes_of((a,)) if o != f"{path}[{axis}]"]
            state = f"pinned: {axis_index.pinned}" if axis_index.pinned else "free"
            lines.append(f"  index of size {axis_index.size}, {state}")
            if others:
                lines.append(f"    shared with {', '.join(others)}")
            for note in self.notes[a] if a < len(self.notes) else ():
                lines.append(f"    joined by {note}")
        return "\n".join(lines)

    def _place(self, path: str, axis: int) -> tuple[int, int]:
        paths = [leaf.path for leaf in self.leaves]
        if path not in paths:
            raise MetanetError(f"no parameter {path!r}.{suggest(path, paths)}")
        index = paths.index(path)
        rank = len(self.leaves[index].shape)
        if not -rank <= axis < rank:
            raise MetanetError(f"parameter {path}: axis {axis}, it has {rank} axes")
        return index, axis % rank

    def coverage(self) -> Coverage:
        """Share of the parameters with a symmetry, and what stands in the way."""
        moved = {a for g in self.groups for a in g.indices if g.degree > 1}
        scaled = {
            (e.leaf, e.position)
            for f in self.scaling_groups
            for e in f.exponents
            if e.power
        }
        scaled |= {(s.leaf, s.position) for f in self.scaling_groups for s in f.shifts}
        covered = total = 0
        for block in self.blocks:
            size = math.prod(stop - start for start, stop in block.bounds)
            total += size
            touched = moved.intersection(block.indices) or any(
                (block.leaf, p) in scaled for p in block.positions
            )
            covered += size if touched else 0
        pinned: dict[str, int] = {}
        for axis_index in self.indices:
            if axis_index.pinned:
                pinned[axis_index.pinned] = pinned.get(axis_index.pinned, 0) + 1
        return Coverage(covered / max(total, 1), total, pinned, dict(self.unknown))

    def to_json(self) -> str:
        """The symmetry as JSON text."""
        return json.dumps(_encode(self))

    @classmethod
    def from_json(cls, text: str) -> Symmetry:
        """Reads `to_json` text.

        Raises:
            MetanetError: when it is no such text.
        """
        try:
            return _decode(cls, json.loads(text))
        except (ValueError, TypeError, KeyError) as error:
            raise MetanetError(f"symmetry: not readable as JSON: {error}") from error


def _short(number: int) -> str:
    return f"{number:,}" if number < 10**9 else f"about 10^{len(str(number)) - 1}"


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {f.name: _encode(getattr(value, f.name)) for f in fields}
    if isinstance(value, tuple):
        return [_encode(v) for v in value]
    return str(value) if isinstance(value, Fraction) else value


def _decode(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{k: _decode(hints[k], v) for k, v in value.items()})  # type: ignore[operator]
    if kind is Fraction:
        return Fraction(value)
    if isinstance(kind, types.UnionType):
        inner = [a for a in typing.get_args(kind) if a is not type(None)]
        return None if value is None else _decode(inner[0], value)
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        if len(inner) == 2 and inner[1] is Ellipsis:
            return tuple(_decode(inner[0], v) for v in value)
        return tuple(_decode(k, v) for k, v in zip(inner, value, strict=True))
    return value
