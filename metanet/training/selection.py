"""Networks of a zoo for training, for model selection and for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from metanet.errors import MetanetError, suggest
from metanet.training.config import DataConfig
from metanet.zoos import SPLITS, Zoo, ZooTable


def select(zoo: Zoo, data: DataConfig, columns: Sequence[str]) -> dict[str, ZooTable]:
    """The networks of each split.

    Args:
        zoo: The zoo.
        data: Conditions.
        columns: Columns that the task reads.

    Returns:
        Tables by split, with all columns of the zoo. Runs that diverged are left out.

    Raises:
        MetanetError: for a column or value that does not exist, and an empty split.
    """
    for column in columns:
        if column not in zoo.column_names:
            raise MetanetError(
                f"{zoo.path}: config.task: the zoo has no column {column!r}."
                f"{suggest(column, zoo.column_names)}"
            )
    marked = "diverged" in zoo.column_names
    table = zoo.read(skip_broken=marked, memory=data.memory)
    keep = np.ones(len(table), bool)
    if marked:
        keep &= ~table["diverged"].astype(bool)
    for condition in data.where:
        name, value = condition.split("=")
        keep &= _equal(zoo, table, name, value)
    parts = {split: keep & (table["split"] == split) for split in SPLITS}
    if data.wider:
        sizes = _column(zoo, table, data.wider)
        levels = np.unique(sizes[keep])
        if len(levels) < 2:
            raise MetanetError(
                f"{zoo.path}: config.data.wider: all networks have {data.wider} "
                f"{levels[0]}; take a zoo in which it varies"
            )
        cut = min(np.median(sizes[keep]), levels[-2])
        parts = {
            split: rows & ((sizes > cut) if split == "test" else (sizes <= cut))
            for split, rows in parts.items()
        }
    if data.fraction < 1:
        parts["train"] &= _share(table, parts["train"], data.fraction)
    for split, rows in parts.items():
        if not rows.any():
            raise MetanetError(
                f"{zoo.path}: the {split} split is empty under config.data; take a "
                "larger zoo or fewer conditions"
            )
    return {split: table.take(rows) for split, rows in parts.items()}


def groups_of(table: ZooTable) -> np.ndarray:
    """Numbers ``[N]`` of the independent units: training runs, or images of INRs."""
    for name in ("run", "image", "id"):
        if name in table.columns:
            return table[name]
    return np.arange(len(table))


def _column(zoo: Zoo, table: ZooTable, name: str) -> np.ndarray:
    if name not in table.columns:
        raise MetanetError(
            f"{zoo.path}: config.data: no column {name!r}."
            f"{suggest(name, table.columns)}"
        )
    return table[name]


def _equal(zoo: Zoo, table: ZooTable, name: str, value: str) -> np.ndarray:
    values = _column(zoo, table, name)
    try:
        required: Any = (
            values.dtype.type(value) if values.dtype.kind in "iuf" else value
        )
    except ValueError:
        required = None
    members = (
        values == required if required is not None else np.zeros(len(values), bool)
    )
    if not members.any():
        examples = [str(v) for v in np.unique(values)[:20]]
        raise MetanetError(
            f"{zoo.path}: config.data.where: no network has {name}={value}."
            f"{suggest(value, examples)}"
        )
    return np.asarray(members)


def _share(table: ZooTable, rows: np.ndarray, fraction: float) -> np.ndarray:
    """Whole training runs, the share of them that is asked for."""
    units = groups_of(table)
    names = np.unique(units[rows])
    count = max(1, round(len(names) * fraction))
    chosen = np.random.default_rng(0xF2AC).permutation(names)[:count]
    return np.isin(units, chosen)
