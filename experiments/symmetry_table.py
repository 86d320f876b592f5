# pyright: reportMissingImports=false
"""Symmetries of networks of many families and libraries, as a Markdown table.

    python experiments/symmetry_table.py                      # prints the table
    python experiments/symmetry_table.py --only='lstm|gru'    # some of the rows
    python experiments/symmetry_table.py --output=metanet/symmetry/TABLE.md

Rows of jnp, Flax NNX and Flax Linen need no further packages; those of Equinox and PyTorch need
``pip install equinox torch timm transformers onnx onnxscript onnxruntime`` and are left
out without. PyTorch modules are exported to ONNX with random weights and read back;
their outputs are compared with onnxruntime's. About 6 minutes on 2 cores for all.
"""

from __future__ import annotations

import logging
import math
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app, flags
from absl import logging as absl_logging

# The networks whose groups are known on paper are those of the tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch_networks
from helpers import symmetry_families, symmetry_libraries, symmetry_networks

from metanet import importers
from metanet import symmetry as sym
from metanet.files import write_file
from metanet.networks import Network
from metanet.progress import track

_ONLY = flags.DEFINE_string("only", "", "Regular expression on names and libraries.")
_OUTPUT = flags.DEFINE_string(
    "output", "", "File for the table instead of the terminal."
)

HEADER = (
    "| network | family | library | group found | on paper | signs, scalings, phases | "
    "covered | check | runtime error | seconds |",
    "|---|---|---|---|---|---|---|---|---|---|",
)
LEGEND = """\
Made by `python experiments/symmetry_table.py` on jax {jax}. A group is a product of
symmetric groups (`4!^2 x 6!`); GL and O count those that are part of a continuous group.
"covered" is the share of parameters that some symmetry moves; "check" is the largest
relative change of the outputs (float64) under random elements, and the number of axes on
which the outputs do not depend (biases before a softmax or a batch norm), so that no
element could change them; "runtime error" the largest difference from onnxruntime,
relative to the outputs; "seconds" is discovery from shapes, tracing included, without the
check.

"On paper" counts permutations. Known to be missed (nothing false is reported):

* Queries, keys and values fused *per head* (`reshape(heads, 3, width)`, GPT-NeoX): the
  index that is read part by part is a factor of a product, so that the channels of all
  three and of all heads are tied, and in GPT-NeoX pinned by the rotation.
* Weights of experts that are *gathered* by a router's indices: experts are permuted, but
  the hidden channels of all experts are tied. With masks they are free.
* Permutations that are a symmetry only together with a factor: units times a constant
  vector; the two leaves of a soft tree's split, exchanged when the split's sign changes.
* Every second entry of units (`h[::2]`) and units along which a program sorts, cumulates
  or counts.
* Continuous groups are named (GL, O), but elements are permutations; the shift to which
  a softmax is invariant, and biases before a batch norm, are not reported.
"""


class Row(NamedTuple):
    """Row of the table.

    Attributes:
        name: Name of the network.
        family: Its family.
        library: Its library.
        network: The network.
        order: Order of the permutation group on paper; None if it was not derived.
        error: Error of the outputs against onnxruntime's; None for JAX networks.
    """

    name: str
    family: str
    library: str
    network: Network
    order: int | None
    error: float | None = None


Maker = Callable[[], Row]


def rows() -> Iterator[tuple[str, str, Maker]]:
    """Yields name, library and constructor of every network."""
    cases = [
        ("jnp, Flax NNX", symmetry_networks.NETWORKS),
        ("jnp", symmetry_families.FAMILIES),
        ("Flax Linen", symmetry_libraries.LINEN),
    ]
    try:
        cases.append(("Equinox", symmetry_libraries.equinox_cases()))
    except ImportError:
        print("left out: Equinox is not installed", file=sys.stderr)
    for library, networks in cases:
        for name, build in networks.items():
            yield name, library, partial(_of_case, name, library, build)
    missing = ", ".join(torch_networks.missing())
    if missing:
        print(f"left out: PyTorch networks need {missing}", file=sys.stderr)
        return
    for name, network in torch_networks.NETWORKS.items():
        library = f"{network.library} via ONNX"
        yield name, library, partial(_of_torch, name, library, network)


def _of_case(name: str, library: str, build: Callable[[], Any]) -> Row:
    case = build()
    network = Network(case.apply_fn, case.params, case.inputs)
    if library == "jnp, Flax NNX":
        nnx = case.apply_fn.__qualname__.startswith("functionalize")
        library = "Flax NNX" if nnx else "jnp"
    return Row(name, name, library, network, case.order)


def _of_torch(name: str, library: str, entry: torch_networks.TorchNetwork) -> Row:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.onnx"
        torch_networks.export(entry, path)
        network = importers.load_network(path, constants=torch_networks.CONSTANTS)
        session = onnxruntime.InferenceSession(path)
    kinds = {"tensor(int64)": np.int64, "tensor(float)": np.float32}
    feed = {
        i.name: np.asarray(x).astype(kinds[i.type])
        for i, x in zip(session.get_inputs(), network.inputs, strict=True)
    }
    selected = np.asarray(session.run(None, feed)[0])
    symmetry = np.asarray(jax.jit(network.apply_fn)(network.params, *network.inputs))
    error = float(np.abs(symmetry - selected).max() / np.abs(selected).max())
    order = None
    if entry.paper is not None:
        order = math.prod(math.factorial(d) ** n for d, n in entry.paper.items())
    return Row(name, entry.family, library, network, order, error)


def _group(symmetry: sym.Symmetry) -> str:
    counts: Counter[int] = Counter()
    linear: Counter[str] = Counter()
    for group in symmetry.groups:
        if group.degree > 1:
            counts[group.degree] += group.copies
            linear[group.linear] += group.copies
    parts = [f"{d}!" + (f"^{n}" if n > 1 else "") for d, n in sorted(counts.items())]
    named = [f"{n} {kind}" for kind, n in sorted(linear.items()) if kind]
    return " x ".join(parts or ["1"]) + (f" ({', '.join(named)})" if named else "")


def line(row: Row) -> str:
    """Returns the row of a network: discovery, its check, and the group on paper."""
    shapes = jax.eval_shape(lambda: row.network.params)
    start = time.perf_counter()
    symmetry = sym.discover(
        row.network.apply_fn, shapes, *row.network.inputs, check=False
    )
    seconds = time.perf_counter() - start
    result = sym.check(
        symmetry, row.network.apply_fn, row.network.params, *row.network.inputs
    )
    hidden = len({axis for g in result.unproven for axis in g.hidden})
    kinds = Counter(f.kind for f in symmetry.scaling_groups)
    scaling_groups = (
        ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())) or "-"
    )
    if row.order is None:
        paper = "not derived"
    elif row.order == symmetry.order:
        paper = "the same"
    else:
        paper = f"larger by a factor of {_short(row.order // symmetry.order)}"
    cells = (
        row.name,
        row.family,
        row.library,
        _group(symmetry),
        paper,
        scaling_groups,
        f"{symmetry.coverage().share:.1%}",
        f"{result.deviation:.0e}" + (f" ({hidden} hidden)" if hidden else ""),
        "" if row.error is None else f"{row.error:.0e}",
        f"{seconds:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def _short(number: int) -> str:
    return f"{number:,}" if number < 10**6 else f"10^{len(str(number)) - 1}"


def main(_: list[str]) -> None:
    """Writes the table; rows that fail are listed on the standard error."""
    warnings.filterwarnings("ignore")
    absl_logging.set_verbosity(absl_logging.ERROR)
    logging.disable(logging.WARNING)
    selected = [r for r in rows() if re.search(_ONLY.value, f"{r[0]} {r[1]}", re.I)]
    lines, failed = [], []
    with track(len(selected), "symmetries", unit="networks") as progress:
        for name, library, make in selected:
            try:
                lines.append(line(make()))
            except Exception as error:
                reason = " ".join(str(error).split())[:200]
                failed.append(f"{name} ({library}): {type(error).__name__}: {reason}")
            progress.advance(1)
    table = "\n".join((*HEADER, *lines))
    if _OUTPUT.value:
        text = f"# Symmetries found\n\n{LEGEND.format(jax=jax.__version__)}\n{table}\n"
        write_file(Path(_OUTPUT.value), text.encode())
    else:
        print(table)
    for text in failed:
        print(f"failed: {text}", file=sys.stderr)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    app.run(main)
