"""The zoo on disk: Parquet shards with one row per network, and ``zoo.json``.

    zoo.json             architectures, leaves, conventions, provenance, checksums
    shard-00000.parquet  id, architecture, weights, label, image, view, split, psnr,
                         seed

``weights`` is a list of float32: the raveled parameter leaves in the order of
``leaves`` in zoo.json. The files open in pandas, DuckDB or the Hugging Face hub as they
are.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metanet import __version__
from metanet.errors import MetanetError, suggest
from metanet.networks import Architecture
from metanet.zoos.splits import SPLITS

FORMAT = 1
_FIELDS = (
    "config", "architectures", "leaves", "class_names", "rows", "shard_size", "shards"
)  # fmt: skip
_TYPES = {
    "id": pa.int64(),
    "architecture": pa.string(),
    "label": pa.int32(),
    "image": pa.int32(),
    "view": pa.int32(),
    "split": pa.string(),
    "psnr": pa.float32(),
    "seed": pa.int64(),
}


class ZooTable(NamedTuple):
    """Networks of a zoo.

    Attributes:
        weights: ``[N, P]`` float32.
        columns: The other columns by name, each ``[N]``.
    """

    weights: np.ndarray
    columns: dict[str, np.ndarray]

    def __getitem__(self, column: str) -> np.ndarray:  # type: ignore[override]
        return self.columns[column]


def write_file(path: Path, data: bytes) -> None:
    """Writes a file by a temporary name and a rename: whole or not at all.

    Raises:
        MetanetError: when the place cannot be written (permissions, full disk).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise MetanetError(f"{path}: cannot be written: {error.strerror}") from error


def _shard_name(index: int) -> str:
    return f"shard-{index:05d}.parquet"


class ZooWriter:
    """Writes a zoo shard by shard; what is already there and whole is kept.

    Args:
        path: Directory of the zoo.
        description: Content of zoo.json but format, versions and shards; its ``rows``
            and ``shard_size`` fix the shards, its ``config`` must equal that of a zoo
            already there.
    """

    def __init__(self, path: str | Path, description: Mapping[str, Any]):
        self.path, self.description = Path(path), dict(description)
        rows, size = self.description["rows"], self.description["shard_size"]
        self._sizes = [min(size, rows - s) for s in range(0, rows, size)]
        self._shards: list[dict[str, Any] | None] = [None] * len(self._sizes)
        shards = _intact_shards(self.path, self.description["config"])
        if shards is None:
            self._save()
        else:
            self._shards = shards
            for leftover in self.path.glob(".*.tmp"):  # of a writer that was killed
                leftover.unlink()

    @property
    def done(self) -> int:
        """Number of networks that are already stored."""
        pairs = zip(self._sizes, self._shards, strict=True)
        return sum(size for size, entry in pairs if entry)

    def missing(self) -> list[int]:
        """Indices of the shards that are still to be written."""
        return [i for i, entry in enumerate(self._shards) if entry is None]

    def write(self, shard: int, columns: Mapping[str, np.ndarray]) -> None:
        """Stores one shard; ``columns`` holds ``weights [n, P]`` and the others [n]."""
        weights = np.ascontiguousarray(columns["weights"], np.float32)
        values = pa.array(weights.ravel())
        arrays = {
            "weights": pa.FixedSizeListArray.from_arrays(values, weights.shape[1])
        }
        for name, kind in _TYPES.items():
            data = columns.get(name, np.full(len(weights), "0"))
            arrays[name] = pa.array(data.tolist(), kind)
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(arrays), sink, compression="zstd", version="2.6")
        data = sink.getvalue().to_pybytes()
        file = _shard_name(shard)
        write_file(self.path / file, data)
        self._shards[shard] = {
            "file": file,
            "rows": len(weights),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        self._save()

    def finish(self) -> Zoo:
        """Opens the completed zoo."""
        return Zoo.open(self.path)

    def _save(self) -> None:
        content = {
            "format": FORMAT,
            **self.description,
            "versions": {
                "metanet": __version__,
                "jax": jax.__version__,
                "numpy": np.__version__,
            },
            "shards": self._shards,
        }
        write_file(self.path / "zoo.json", json.dumps(content, indent=1).encode())


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


def _checksum(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


def _intact_shards(
    path: Path, config: Mapping[str, Any]
) -> list[dict[str, Any] | None] | None:
    """Entries of the shards that are whole, None for others; None without a zoo."""
    held = _read_json(path / "zoo.json")
    if held is None:
        return None
    old = held.get("config", {})
    differing = [k for k in config if old.get(k) != config[k]]
    if differing and not any(held["shards"]):
        return None  # holds nothing yet, so it claims nothing
    if differing:
        found = "; ".join(f"{k} {old.get(k)!r}, not {config[k]!r}" for k in differing)
        raise MetanetError(
            f"{path}: holds a zoo of another configuration ({found}); name another "
            "directory or delete this one"
        )
    whole = lambda e: e and _checksum(path / e["file"]) == e["sha256"]
    return [entry if whole(entry) else None for entry in held["shards"]]


def completed(path: str | Path, config: Mapping[str, Any]) -> Zoo | None:
    """The zoo of a configuration, if all of it is there and whole.

    Raises:
        MetanetError: when the directory holds a zoo of another configuration.
    """
    shards = _intact_shards(Path(path), config)
    return Zoo.open(path) if shards and all(shards) else None


class Zoo:
    """A zoo opened for reading; see `Zoo.open`.

    Attributes:
        path: Its directory.
        info: Content of zoo.json.
    """

    def __init__(self, path: Path, info: dict[str, Any]):
        self.path, self.info = path, info

    @classmethod
    def open(cls, path: str | Path) -> Zoo:
        """Opens a zoo directory.

        Raises:
            MetanetError: when it is no zoo, or an unfinished one.
        """
        path = Path(path)
        info = _read_json(path / "zoo.json")
        if info is None:
            raise MetanetError(f"{path}: not a zoo (no zoo.json in it)")
        if not all(info["shards"]):
            missing = sum(1 for s in info["shards"] if not s)
            raise MetanetError(
                f"{path}: unfinished: {missing} of {len(info['shards'])} shards are "
                "missing; run the command that made it again"
            )
        return cls(path, info)

    @property
    def architectures(self) -> dict[str, Architecture]:
        """Architectures by id."""
        held = self.info["architectures"]
        return {k: Architecture.from_json(v) for k, v in held.items()}

    @property
    def architecture(self) -> Architecture:
        """The zoo's only architecture.

        Raises:
            MetanetError: when there are several.
        """
        held = list(self.architectures.values())
        if len(held) != 1:
            raise MetanetError(f"{self.path}: holds {len(held)} architectures, not one")
        return held[0]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes that labels index."""
        return tuple(self.info["class_names"])

    def __len__(self) -> int:
        return self.info["rows"]

    def read(
        self,
        split: str | None = None,
        columns: Sequence[str] | None = None,
        *,
        skip_broken: bool = False,
    ) -> ZooTable:
        """Reads networks into memory.

        Args:
            split: "train", "validation", "test", or None for all.
            columns: Columns beside the weights; None reads all.
            skip_broken: Leave out networks with NaN or infinite weights.

        Raises:
            MetanetError: for unknown names, and damaged shards or NaN weights (naming
                shard, row and column).
        """
        if split is not None and split not in SPLITS:
            raise MetanetError(f"unknown split {split!r}.{suggest(split, SPLITS)}")
        wanted = list(_TYPES) if columns is None else list(columns)
        for name in wanted:
            if name not in _TYPES:
                raise MetanetError(
                    f"{self.path}: no column {name!r}.{suggest(name, _TYPES)}"
                )
        weights, tables = zip(*map(self._shard, self.info["shards"]), strict=True)
        weights, table = np.concatenate(weights), pa.concat_tables(tables)
        finite = np.asarray(np.isfinite(weights).all(axis=1))
        if not skip_broken:
            self._require_finite(finite)
        keep = finite if split is None else finite & (_column(table, "split") == split)
        if not keep.all():
            weights, table = weights[keep], table.filter(pa.array(keep))
        return ZooTable(weights, {n: _column(table, n) for n in wanted})

    def _require_finite(self, finite: np.ndarray) -> None:
        if not finite.all():
            row = int(np.argmin(finite))
            entry = self.info["shards"][row // self.info["shard_size"]]
            raise MetanetError(
                f"{self.path / entry['file']}: weights: row {row} holds NaN or "
                "infinite values; remove the network from the zoo"
            )

    def row(self, row_id: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Weights ``[P]`` and the other columns of one network.

        Raises:
            MetanetError: when there is no such row.
        """
        size, rows = self.info["shard_size"], len(self)
        if not 0 <= row_id < rows:
            raise MetanetError(
                f"{self.path}: id {row_id}: the zoo has ids 0..{rows - 1}"
            )
        weights, table = self._shard(self.info["shards"][row_id // size])
        place = row_id % size
        finite = np.ones(rows, bool)
        finite[row_id] = bool(np.isfinite(weights[place]).all())
        self._require_finite(finite)
        return weights[place], {n: table.column(n)[place].as_py() for n in _TYPES}

    def _shard(self, entry: Mapping[str, Any]) -> tuple[np.ndarray, pa.Table]:
        path = self.path / entry["file"]
        if not path.is_file():
            raise MetanetError(
                f"{path}: missing shard; make the zoo again to restore it"
            )
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise MetanetError(
                f"{path}: checksum differs from zoo.json; the shard is truncated or "
                "altered: delete it and run the command that made the zoo again"
            )
        expected = sum(math.prod(leaf["shape"]) for leaf in self.info["leaves"])
        try:
            stored = pq.read_table(pa.BufferReader(data))
            table = stored.select(list(_TYPES)).cast(pa.schema(_TYPES))
            column = stored.column("weights").combine_chunks()
            lengths = pc.call_function("list_value_length", [column]).to_numpy(
                zero_copy_only=False
            )
            values = column.flatten().cast(pa.float32()).to_numpy()
        except (pa.ArrowException, KeyError, OSError) as error:
            raise MetanetError(f"{path}: not readable as a shard: {error}") from error
        if len(table) != entry["rows"]:
            raise MetanetError(
                f"{path}: {len(table)} rows, not the {entry['rows']} of zoo.json"
            )
        if not (lengths == expected).all():
            place = int(np.argmin(lengths == expected))
            row = table.column("id")[place].as_py()
            raise MetanetError(
                f"{path}: weights: row {row} has {lengths[place]} values, not the "
                f"{expected} of the architecture in zoo.json"
            )
        return values.reshape(-1, expected), table


def _column(table: pa.Table, name: str) -> np.ndarray:
    return table.column(name).to_numpy()
