"""The zoo on disk: Parquet shards with one row per network, and ``zoo.json``.

    zoo.json             architectures, leaves, conventions, provenance, checksums
    shard-00000.parquet  id, architecture, weights, label, image, view, split, psnr

``weights`` is a list of float32: the raveled parameter leaves in the order of ``leaves``
in zoo.json. The files open in pandas, DuckDB or the Hugging Face hub as they are.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metanet import __version__
from metanet.errors import MetanetError, suggest
from metanet.networks import Architecture
from metanet.zoos.splits import SPLITS

FORMAT = 1
_TYPES = {
    "id": pa.int64(),
    "architecture": pa.string(),
    "label": pa.int32(),
    "image": pa.int32(),
    "view": pa.int32(),
    "split": pa.string(),
    "psnr": pa.float32(),
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
        temporary.unlink(missing_ok=True)
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
        held = _read_json(self.path / "zoo.json")
        if held is not None:
            self._require_same(held)
            for i, entry in enumerate(held["shards"]):
                if entry and _checksum(self.path / entry["file"]) == entry["sha256"]:
                    self._shards[i] = entry
        else:
            self._save()

    def _require_same(self, held: Mapping[str, Any]) -> None:
        old, new = held.get("config", {}), self.description["config"]
        differing = [k for k in new if old.get(k) != new[k]]
        if differing:
            found = "; ".join(f"{k} {old.get(k)!r}, not {new[k]!r}" for k in differing)
            raise MetanetError(
                f"{self.path}: holds a zoo of another configuration ({found}); name "
                "another directory or delete this one"
            )

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
        arrays = {"weights": pa.FixedSizeListArray.from_arrays(values, weights.shape[1])}
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
    return content


def _checksum(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


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
        self, split: str | None = None, columns: Sequence[str] | None = None
    ) -> ZooTable:
        """Reads networks into memory.

        Args:
            split: "train", "validation", "test", or None for all.
            columns: Columns beside the weights; None reads all.

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
        tables = [self._shard(entry) for entry in self.info["shards"]]
        weights = np.concatenate([t[0] for t in tables])
        held = {
            n: np.concatenate([t[1].column(n).to_numpy(zero_copy_only=False) for t in tables])
            for n in {*wanted, "split"}
        }  # fmt: skip
        if split is not None:
            keep = held["split"] == split
            weights = weights[keep]
            held = {n: c[keep] for n, c in held.items()}
        return ZooTable(weights, {n: held[n] for n in wanted})

    def row(self, row_id: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Weights ``[P]`` and the other columns of one network.

        Raises:
            MetanetError: when there is no such row.
        """
        size, rows = self.info["shard_size"], len(self)
        if not 0 <= row_id < rows:
            raise MetanetError(f"{self.path}: id {row_id}: the zoo has ids 0..{rows - 1}")
        weights, table = self._shard(self.info["shards"][row_id // size])
        place = row_id % size
        return weights[place], {n: table.column(n)[place].as_py() for n in _TYPES}

    def _shard(self, entry: Mapping[str, Any]) -> tuple[np.ndarray, pa.Table]:
        path = self.path / entry["file"]
        if not path.is_file():
            raise MetanetError(f"{path}: missing shard; make the zoo again to restore it")
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise MetanetError(
                f"{path}: checksum differs from zoo.json; the shard is truncated or "
                "altered: delete it and run the command that made the zoo again"
            )
        try:
            table = pq.read_table(pa.BufferReader(data))
            column = table.column("weights").combine_chunks()
            weights = column.flatten().to_numpy()
        except (pa.ArrowException, KeyError, OSError) as error:
            raise MetanetError(f"{path}: weights: not readable: {error}") from error
        expected = sum(int(np.prod(leaf["shape"])) for leaf in self.info["leaves"])
        if weights.size != expected * len(table):
            raise MetanetError(
                f"{path}: weights: rows do not have the {expected} values of the "
                "architecture in zoo.json"
            )
        weights = weights.reshape(len(table), expected)
        finite = np.isfinite(weights).all(axis=1)
        if not finite.all():
            bad = table.column("id")[int(np.argmin(finite))].as_py()
            raise MetanetError(
                f"{path}: weights: row {bad} holds NaN or infinite values; remove the "
                "network from the zoo"
            )
        return weights, table
