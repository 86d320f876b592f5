"""Writes zoos in the formats of other frameworks.

An exporter is a function that yields the files of a format, registered in `EXPORTERS`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save as to_safetensors

from metanet.files import write_file
from metanet.registry import Registry
from metanet.zoos.shards import ZooTable
from metanet.zoos.splits import SPLITS
from metanet.zoos.store import Zoo

# Yields names and contents of files for the networks of a table.
Exporter = Callable[[Zoo, ZooTable], Iterator[tuple[str, bytes]]]
EXPORTERS: Registry[Exporter] = Registry("export format")


def export(zoo: Zoo, out: str | Path, format_name: str) -> list[Path]:
    """Writes a zoo in another format.

    Args:
        zoo: The zoo.
        out: Directory of the files.
        format_name: "npz" or "safetensors": per architecture one file with its parameters
            stacked, ``[N, ...]`` each, and networks.csv with everything else; "torch":
            the same with PyTorch's names and layouts, as safetensors; "hf": Parquet per
            split and a card, which `datasets.load_dataset` reads; or another name in
            `EXPORTERS`.

    Returns:
        The files.

    Raises:
        MetanetError: for an unknown format, a damaged zoo, or a directory that cannot be
            written.
    """
    exporter = EXPORTERS[format_name]
    table = zoo.read(skip_broken=True)
    written = []
    for name, data in exporter(zoo, table):
        write_file(Path(out) / name, data)
        written.append(Path(out) / name)
    return written


def _stacked_params(
    zoo: Zoo, table: ZooTable
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yields per architecture its parameters by path, and the ids of the networks."""
    for key, leaves in zoo.info["leaves"].items():
        rows = table.take(table["architecture"] == key)
        if not len(rows):
            continue
        arrays, weights, start = {"id": rows["id"]}, rows.weights, 0
        for leaf in leaves:
            size = int(np.prod(leaf["shape"], dtype=int))
            part = weights[:, start : start + size]
            arrays[leaf["path"]] = part.reshape(-1, *leaf["shape"])
            start += size
        yield key, arrays


def _csv(table: ZooTable) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    names = list(table.columns)
    writer.writerow(names)
    writer.writerows(zip(*(table[n].tolist() for n in names), strict=True))
    return text.getvalue().encode()


@EXPORTERS.register("npz")
def export_npz(zoo: Zoo, table: ZooTable) -> Iterator[tuple[str, bytes]]:
    """Yields networks.csv and an npz archive per architecture."""
    yield "networks.csv", _csv(table)
    for key, arrays in _stacked_params(zoo, table):
        data = io.BytesIO()
        np.savez(data, **arrays)  # type: ignore[arg-type]
        yield f"networks-{key}.npz", data.getvalue()


@EXPORTERS.register("safetensors")
def export_safetensors(zoo: Zoo, table: ZooTable) -> Iterator[tuple[str, bytes]]:
    """Yields networks.csv and a safetensors file per architecture."""
    yield "networks.csv", _csv(table)
    for key, arrays in _stacked_params(zoo, table):
        contiguous = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
        yield f"networks-{key}.safetensors", to_safetensors(contiguous)


@EXPORTERS.register("torch")
def export_torch(zoo: Zoo, table: ZooTable) -> Iterator[tuple[str, bytes]]:
    """Yields the files of `export_safetensors` with PyTorch's names and layouts."""
    yield "networks.csv", _csv(table)
    for key, arrays in _stacked_params(zoo, table):
        converted = {}
        for path, value in arrays.items():
            name, array = _to_torch(path, value)
            converted[name] = np.ascontiguousarray(array)
        yield f"networks-{key}.safetensors", to_safetensors(converted)


# Names of PyTorch's parameters; others keep theirs.
_TORCH_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}


def _to_torch(path: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    """Returns PyTorch's name and layout: outputs first, then inputs, then positions.

    Attention keeps its axes: PyTorch has no array of their meaning.

    Args:
        path: Path of the parameter.
        value: ``[N, *shape]``.
    """
    module, _, last = path.rpartition("/")
    name = _TORCH_NAMES.get(last, last)
    if last == "kernel" and value.ndim > 2 and "attention" not in path:
        axes = (0, value.ndim - 1, value.ndim - 2, *range(1, value.ndim - 2))
        value = value.transpose(axes)
    return ".".join([*module.split("/"), name] if module else [name]), value


@EXPORTERS.register("hf")
def export_hf(zoo: Zoo, table: ZooTable) -> Iterator[tuple[str, bytes]]:
    """Yields a Parquet file per split, zoo.json and a card for the Hugging Face hub."""
    for split in SPLITS:
        rows = table.take(table["split"] == split)
        if not len(rows):
            continue
        columns: dict[str, pa.Array] = {
            n: pa.array(v.tolist()) for n, v in rows.columns.items()
        }
        offsets = pa.array(np.concatenate([[0], np.cumsum(rows.sizes)]), pa.int64())
        values = np.concatenate([rows.network(i) for i in range(len(rows))])
        columns["weights"] = pa.LargeListArray.from_arrays(offsets, pa.array(values))
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), sink, compression="zstd")
        data = sink.getvalue().to_pybytes()
        yield f"data/{split}-00000-of-00001.parquet", data
    yield "zoo.json", (zoo.path / "zoo.json").read_bytes()
    yield "README.md", _card(zoo).encode()


def _card(zoo: Zoo) -> str:
    files = "".join(
        f"  - split: {split}\n    path: data/{split}-*.parquet\n" for split in SPLITS
    )
    kinds = sorted({a.name for a in zoo.architectures.values()})
    return (
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n\n"
        f"# {zoo.path.resolve().name}\n\n"
        f"{len(zoo):,} trained networks ({', '.join(kinds)}), made with metanet.\n\n"
        "`weights` holds the raveled parameters of a network one after another, in the "
        "order and shapes that zoo.json lists under `leaves` for its `architecture`.\n"
    )
