"""Zoos on disk: Parquet shards with one row per network, and ``zoo.json``.

    zoo.json             architectures, leaves, conventions, provenance, checksums
    shard-00000.parquet  id, architecture, weights, label, image, view, split, psnr,
                         seed

``weights`` is a list of float32: the raveled parameter leaves in the order of
``leaves`` in zoo.json. The files open in pandas, DuckDB or the Hugging Face hub as they
are.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa

from metanet import __version__
from metanet.errors import MetanetError, suggest
from metanet.files import lock, write_file
from metanet.networks import Architecture
from metanet.zoos.float_buffer import FloatBuffer
from metanet.zoos.shards import (
    ZooTable,
    is_intact,
    read_shard,
    recorded_checksum,
    write_shard,
)
from metanet.zoos.splits import SPLITS

FORMAT = 2
# Pause between looks at shards that other processes are writing.
_POLL_SECONDS = 0.2
_FIELDS = (
    "kind",
    "config",
    "architectures",
    "leaves",
    "columns",
    "class_names",
    "rows",
    "shard_size",
)
# Columns of every zoo; zoo.json names the others.
_COMMON = {"id": "int64", "architecture": "string", "split": "string"}


def _shard_name(index: int) -> str:
    return f"shard-{index:05d}.parquet"


def _shard_sizes(info: Mapping[str, Any]) -> list[int]:
    rows, size = info["rows"], info["shard_size"]
    return [min(size, rows - start) for start in range(0, rows, size)]


def _types(info: Mapping[str, Any]) -> dict[str, pa.DataType]:
    names = {**_COMMON, **info["columns"]}
    return {name: pa.type_for_alias(kind) for name, kind in names.items()}


class ZooWriter:
    """Writes a zoo shard by shard; intact shards in the directory are reused.

    Args:
        path: Directory of the zoo.
        description: Content of zoo.json except format and versions; its ``rows`` and
            ``shard_size`` fix the shards, its ``config`` must equal that of a zoo in the
            directory.

    Raises:
        MetanetError: when the directory holds a zoo of another configuration.
    """

    def __init__(self, path: str | Path, description: Mapping[str, Any]):
        self.path, self.info = Path(path), dict(description)
        self._sizes = _shard_sizes(self.info)
        if not _contains(self.path, self.info["config"]):
            # Locked, because two processes may come to an empty directory together.
            with lock(self.path / ".zoo.lock"):
                if not _contains(self.path, self.info["config"]):
                    self._write_description()
        self._intact = [is_intact(self._shard(i)) for i in range(len(self._sizes))]

    def _write_description(self) -> None:
        versions = {
            "metanet": __version__,
            "jax": jax.__version__,
            "numpy": np.__version__,
        }
        content = {"format": FORMAT, **self.info, "versions": versions}
        write_file(self.path / "zoo.json", json.dumps(content, indent=1).encode())

    def _shard(self, shard: int) -> Path:
        return self.path / _shard_name(shard)

    @property
    def done(self) -> int:
        """Number of networks in intact shards."""
        pairs = zip(self._sizes, self._intact, strict=True)
        return sum(size for size, intact in pairs if intact)

    def shards(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yields the shards to write, with the ids ``[n]`` of their rows.

        Each shard is locked against other processes while the loop's body runs. After the
        last, waits for those that other processes are writing.
        """
        while not all(self._intact):
            acquired_any = False
            for shard in [i for i, intact in enumerate(self._intact) if not intact]:
                lock_file = self.path / f".{_shard_name(shard)}.lock"
                with lock(lock_file, wait=False) as acquired:
                    if not acquired:
                        continue
                    acquired_any = True
                    if not is_intact(self._shard(shard)):
                        for leftover in self.path.glob(f".{_shard_name(shard)}*.tmp"):
                            leftover.unlink(missing_ok=True)
                        start = shard * self.info["shard_size"]
                        yield shard, np.arange(start, start + self._sizes[shard])
                    self._intact[shard] = True
            if not acquired_any:
                time.sleep(_POLL_SECONDS)

    def write(
        self,
        shard: int,
        weights: Sequence[np.ndarray],
        columns: Mapping[str, Sequence[object] | np.ndarray],
    ) -> None:
        """Writes one shard.

        Args:
            shard: Number of the shard.
            weights: ``[P]`` of each network.
            columns: Values ``[n]`` by name.
        """
        write_shard(self._shard(shard), _types(self.info), weights, columns)

    def finish(self) -> Zoo:
        """Opens the completed zoo."""
        for pattern in (".*.lock", ".zoo.json.*.tmp"):  # of killed writers
            for leftover in self.path.glob(pattern):
                leftover.unlink(missing_ok=True)
        return Zoo.open(self.path)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise MetanetError(f"{path}: cannot be read: {error.strerror}") from error
    except (OSError, ValueError) as error:
        raise MetanetError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise MetanetError(
            f"{path}: format: expected {FORMAT}; not a zoo, or one of another version"
        )
    for field in _FIELDS:
        if field not in content:
            raise MetanetError(
                f"{path}: {field}: missing; make the zoo again in another directory"
            )
    return content


def _contains(path: Path, config: Mapping[str, Any]) -> bool:
    """Returns True if a directory has a zoo of a configuration.

    Raises:
        MetanetError: when it has a zoo of another configuration.
    """
    info = _read_json(path / "zoo.json")
    if info is None:
        return False
    old = info["config"]
    differing = [k for k in config if old.get(k) != config[k]]
    if differing and not any(path.glob("shard-*.sha256")):
        return False  # no shard yet: a description alone may be replaced
    if differing:
        differences = "; ".join(
            f"{k} {_short(old.get(k))}, not {_short(config[k])}" for k in differing
        )
        raise MetanetError(
            f"{path}: holds a zoo of another configuration ({differences}); name another "
            "directory or delete this one"
        )
    return True


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def completed(path: str | Path, config: Mapping[str, Any]) -> Zoo | None:
    """Opens the zoo of a configuration; None if it is missing, unfinished or damaged.

    Raises:
        MetanetError: when the directory has a zoo of another configuration.
    """
    path = Path(path)
    info = _read_json(path / "zoo.json")
    if info is None or not _contains(path, config):
        return None
    shards = range(len(_shard_sizes(info)))
    intact = all(is_intact(path / _shard_name(i)) for i in shards)
    return Zoo(path, info) if intact else None


class Zoo:
    """A zoo opened for reading; see `Zoo.open`.

    Attributes:
        path: Its directory.
        info: Content of zoo.json.
    """

    def __init__(self, path: Path, info: dict[str, Any]):
        self.path, self.info = path, info
        self._shards = [path / _shard_name(i) for i in range(len(_shard_sizes(info)))]
        self._lengths = {
            key: sum(math.prod(leaf["shape"]) for leaf in leaves)
            for key, leaves in info["leaves"].items()
        }

    @classmethod
    def open(cls, path: str | Path) -> Zoo:
        """Opens a zoo directory.

        Raises:
            MetanetError: when the directory has no zoo, or an unfinished one.
        """
        path = Path(path)
        info = _read_json(path / "zoo.json")
        if info is None:
            raise MetanetError(f"{path}: not a zoo (no zoo.json in it)")
        zoo = cls(path, info)
        missing = sum(recorded_checksum(shard) is None for shard in zoo._shards)
        if missing:
            raise MetanetError(
                f"{path}: unfinished: {missing} of {len(zoo._shards)} shards are "
                "missing; run the command that made it again"
            )
        return zoo

    @property
    def architectures(self) -> dict[str, Architecture]:
        """Architectures by id."""
        items = self.info["architectures"].items()
        return {key: Architecture.from_json(data) for key, data in items}

    @property
    def architecture(self) -> Architecture:
        """The zoo's only architecture.

        Raises:
            MetanetError: when there are several.
        """
        architectures = list(self.architectures.values())
        if len(architectures) != 1:
            raise MetanetError(
                f"{self.path}: holds {len(architectures)} architectures, not one"
            )
        return architectures[0]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes that labels index."""
        return tuple(self.info["class_names"])

    @property
    def image_side(self) -> int | None:
        """Height and width of the images that the networks read; None if not recorded."""
        return self.info.get("image_side")

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the columns besides the weights."""
        return tuple(_types(self.info))

    def __len__(self) -> int:
        return self.info["rows"]

    def read(
        self,
        split: str | None = None,
        columns: Sequence[str] | None = None,
        *,
        skip_broken: bool = False,
        memory: float = 0.0,
    ) -> ZooTable:
        """Reads networks.

        Args:
            split: "train", "validation", "test", or None for all.
            columns: Columns besides the weights; None reads all.
            skip_broken: Leave out networks with NaN or infinite weights.
            memory: GiB of weights up to which they stay in memory; more are mapped from
                an unlinked file in the zoo's directory. 0: a quarter of the machine's
                memory.

        Raises:
            MetanetError: for unknown names, and damaged shards or NaN weights (naming
                shard, row and column).
        """
        if split is not None and split not in SPLITS:
            raise MetanetError(f"unknown split {split!r}.{suggest(split, SPLITS)}")
        known = self.column_names
        names = list(known) if columns is None else list(columns)
        for name in names:
            if name not in known:
                raise MetanetError(
                    f"{self.path}: no column {name!r}.{suggest(name, known)}"
                )
        buffer, tables = FloatBuffer(self.path, memory), []
        for index in range(len(self._shards)):
            table = self._read_shard(index)
            part = self._select(index, table, split, skip_broken=skip_broken)
            start = buffer.append(part.values)
            # The buffer has the values now: the table need not keep a second copy.
            tables.append(replace(part, values=np.empty(0), starts=part.starts + start))
        return ZooTable(
            buffer.finish(),
            np.concatenate([table.starts for table in tables]),
            np.concatenate([table.sizes for table in tables]),
            {n: np.concatenate([table[n] for table in tables]) for n in names},
        )

    def _select(
        self, shard: int, table: ZooTable, split: str | None, *, skip_broken: bool
    ) -> ZooTable:
        """Selects the rows of a shard that `read` returns."""
        broken = np.flatnonzero(~np.isfinite(table.values))
        rows = np.searchsorted(table.starts, broken, side="right") - 1
        if len(rows) and not skip_broken:
            raise self._broken_row(shard, int(table["id"][rows[0]]))
        is_selected = np.ones(len(table), bool)
        is_selected[rows] = False
        if split is not None:
            is_selected &= table["split"] == split
        return table if is_selected.all() else table.take(is_selected)

    def row(self, row_id: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Returns the weights ``[P]`` and the other columns of one network.

        Raises:
            MetanetError: when there is no such row.
        """
        size, rows = self.info["shard_size"], len(self)
        if not 0 <= row_id < rows:
            raise MetanetError(
                f"{self.path}: id {row_id}: the zoo has ids 0..{rows - 1}"
            )
        shard, index = divmod(row_id, size)
        table = self._read_shard(shard)
        weights = table.network(index)
        if not np.isfinite(weights).all():
            raise self._broken_row(shard, row_id)
        columns = {n: v[[index]].tolist()[0] for n, v in table.columns.items()}
        return weights, columns

    def _broken_row(self, shard: int, row_id: int) -> MetanetError:
        return MetanetError(
            f"{self._shards[shard]}: weights: row {row_id} holds NaN or infinite "
            "values; remove the network from the zoo"
        )

    def _read_shard(self, index: int) -> ZooTable:
        rows = _shard_sizes(self.info)[index]
        types = _types(self.info)
        return read_shard(self._shards[index], types, rows, self._lengths)
