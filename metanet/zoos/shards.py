"""One file of a zoo: a Parquet table with a row per network, and its checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metanet.errors import MetanetError
from metanet.files import write_file


@dataclass(frozen=True)
class ZooTable:
    """Networks of a zoo; subsets share the values of the whole table.

    Attributes:
        values: Concatenated weights of the networks, float32; may be a mapped file.
        starts: ``[N]``, position of each network's first value.
        sizes: ``[N]``, number of values of each network.
        columns: The other columns by name, each ``[N]``.
    """

    values: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    columns: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, column: str) -> np.ndarray:
        return self.columns[column]

    def network(self, index: int) -> np.ndarray:
        """Returns the weights ``[P]`` of one network."""
        start = self.starts[index]
        return self.values[start : start + self.sizes[index]]

    @property
    def size(self) -> int:
        """Number of weights of each network.

        Raises:
            MetanetError: when the networks differ in size.
        """
        sizes = np.unique(self.sizes)
        if len(sizes) > 1:
            raise MetanetError(
                f"weights: networks of {len(sizes)} sizes do not form one matrix"
            )
        return int(sizes[0]) if len(sizes) else 0

    @property
    def weights(self) -> np.ndarray:
        """Copy of all weights, ``[N, P]``.

        Raises:
            MetanetError: when the networks differ in size.
        """
        size = self.size
        if size and not (self.starts % size).any() and len(self.values) % size == 0:
            return np.asarray(self.values.reshape(-1, size)[self.starts // size])
        out = np.empty((len(self), size), np.float32)
        for index, row in enumerate(out):
            row[:] = self.network(index)
        return out

    def take(self, index: np.ndarray | slice) -> ZooTable:
        """Selects networks by indices, a slice or a mask."""
        columns = {name: values[index] for name, values in self.columns.items()}
        return ZooTable(self.values, self.starts[index], self.sizes[index], columns)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def recorded_checksum(path: Path) -> str | None:
    """Returns the checksum in the file beside a shard; None if there is no such file.

    Raises:
        MetanetError: when it cannot be read.
    """
    try:
        words = path.with_name(f"{path.name}.sha256").read_text().split()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise MetanetError(f"{path}.sha256: not readable: {error}") from error
    return words[0] if words else ""


def is_intact(path: Path) -> bool:
    """Returns True for a shard that exists and matches its checksum."""
    expected = recorded_checksum(path)
    try:
        return expected is not None and _sha256(path.read_bytes()) == expected
    except FileNotFoundError:
        return False


def write_shard(
    path: Path,
    types: Mapping[str, pa.DataType],
    weights: Sequence[np.ndarray],
    columns: Mapping[str, Sequence[object] | np.ndarray],
) -> None:
    """Writes a shard, then its checksum.

    Args:
        path: The file.
        types: Type of each column.
        weights: ``[P]`` of each network.
        columns: Values ``[n]`` by name.

    Raises:
        MetanetError: when the file cannot be written.
    """
    lengths = [len(w) for w in weights]
    values = pa.array(np.concatenate(weights).astype(np.float32, copy=False))
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    arrays: dict[str, pa.Array] = {}
    for name, kind in types.items():
        arrays[name] = pa.array(np.asarray(columns[name]).tolist(), kind)
    arrays["weights"] = pa.ListArray.from_arrays(offsets, values)
    sink = pa.BufferOutputStream()
    # Neither a dictionary nor a compressor makes weights smaller.
    options: dict[str, Any] = {
        "compression": {n: "none" if n == "weights" else "zstd" for n in arrays},
        "use_dictionary": [n for n in arrays if n != "weights"],
    }
    pq.write_table(pa.table(arrays), sink, version="2.6", **options)
    data = sink.getvalue().to_pybytes()
    write_file(path, data)
    line = f"{_sha256(data)}  {path.name}\n"
    write_file(path.with_name(f"{path.name}.sha256"), line.encode())


def read_shard(
    path: Path, types: Mapping[str, pa.DataType], rows: int, sizes: Mapping[str, int]
) -> ZooTable:
    """Reads a shard and checks it.

    Args:
        path: The file.
        types: Type of each column.
        rows: Expected number of networks.
        sizes: Number of weights by architecture.

    Raises:
        MetanetError: when it is missing, altered or contradicts the arguments.
    """
    if not path.is_file():
        raise MetanetError(f"{path}: missing shard; make the zoo again to restore it")
    data = path.read_bytes()
    if _sha256(data) != recorded_checksum(path):
        raise MetanetError(
            f"{path}: its checksum differs from the recorded one; the shard is "
            "truncated or altered: delete it and run the command that made the zoo"
        )
    try:
        stored = pq.read_table(pa.BufferReader(data))
        table = stored.select(list(types)).cast(pa.schema(types))
        column = stored.column("weights").combine_chunks()
        lengths = pc.call_function("list_value_length", [column]).to_numpy(
            zero_copy_only=False
        )
        values = column.flatten().cast(pa.float32()).to_numpy()
    except (pa.ArrowException, KeyError, OSError) as error:
        raise MetanetError(f"{path}: not readable as a shard: {error}") from error
    if len(table) != rows:
        raise MetanetError(f"{path}: {len(table)} rows, not the {rows} of zoo.json")
    columns = {n: table.column(n).to_numpy() for n in types}
    keys, inverse = np.unique(columns["architecture"], return_inverse=True)
    for key in keys:
        if key not in sizes:
            raise MetanetError(f"{path}: architecture: no {key!r} in zoo.json")
    is_expected = np.asarray([sizes[key] for key in keys])[inverse] == lengths
    if not is_expected.all():
        index = int(np.argmin(is_expected))
        raise MetanetError(
            f"{path}: weights: row {columns['id'][index]} has {lengths[index]} "
            f"values, not the {sizes[columns['architecture'][index]]} of "
            "its architecture in zoo.json"
        )
    return ZooTable(values, np.cumsum(lengths) - lengths, lengths, columns)
