# pyright: reportMissingImports=false
"""Symmetries of networks of many families and libraries, as a Markdown table.

    python experiments/symmetry_table.py                      # prints the table
    python experiments/symmetry_table.py --only='lstm|gru'    # some of the rows
    python experiments/symmetry_table.py --output=metanet/symmetry/TABLE.md

Rows of jnp, Flax NNX and Flax Linen need no further packages. The others need some of

    pip install equinox dm-haiku jraph keras
    pip install torch timm transformers diffusers onnx onnxscript onnxruntime
    pip install --no-deps openwakeword==0.4.0 magika silero-vad  # files that they ship

and are left out without. PyTorch modules are exported to ONNX with random weights and read
back (--exports=DIR keeps the files); outputs of all ONNX files are compared with
onnxruntime's. About half an hour on 2 cores for all.
"""

from __future__ import annotations

import logging
import math
import re
import sys
import tempfile
import textwrap
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from absl import logging as absl_logging
from flax import nnx

# The networks whose groups are known on paper are those of the tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import shipped_networks
import torch_networks
from helpers import (
    symmetry_families,
    symmetry_haiku,
    symmetry_keras,
    symmetry_libraries,
    symmetry_networks,
    symmetry_sciences,
    symmetry_sequences,
    symmetry_vision,
)
from helpers.symmetry_missed import MISSED

from metanet import importers
from metanet import symmetry as sym
from metanet.errors import MetanetError
from metanet.files import write_file
from metanet.graphs import Budget, build_topology, compile_topology, pack, to_graph
from metanet.models import GraphModel, build_model
from metanet.networks import Network
from metanet.progress import track

_ONLY = flags.DEFINE_string("only", "", "Regular expression on names and libraries.")
_OUTPUT = flags.DEFINE_string(
    "output", "", "File for the table instead of the terminal."
)

_EXPORTS = flags.DEFINE_string(
    "exports", "", "Folder in which exported files are kept and looked up."
)
_MODELS = flags.DEFINE_list(
    "models", ["gmn"], "Metanetworks that read every network; none with --models="
)

# A metanetwork runs on networks up to this size; of others the layouts are built alone.
LARGEST_READ = 300_000
INVARIANT = 1e-5
HEADER = (
    "| network | family | library | group found | on paper | signs, scalings, phases | "
    "covered | check | read | runtime error | seconds |",
    "|---|---|---|---|---|---|---|---|---|---|---|",
)
LEGEND = """\
Made by `python experiments/symmetry_table.py` on jax {jax}. A group is a product of
symmetric groups (`4!^2 x 6!`); GL and O count those that are part of a continuous group.
"On paper" counts permutations of units, derived by hand beside each network's code.
"covered" is the share of parameters that some symmetry moves; "check" is the largest
relative change of the outputs (in double precision) under two random elements, with the
number of axes that the inputs hide from it; "read" is the largest relative change of a
graph metanetwork's features under a random element and between the dense and the packed
layout (`built`: the network is larger than {largest:,} parameters, both layouts were built
alone); "runtime error" is the largest difference from onnxruntime, relative to the outputs;
"seconds" is the processor time of discovery from shapes, tracing included, without the
check.

{summary}

"On paper" leaves out what is no permutation of units: a permutation that needs a factor
besides (units times a constant vector, the two leaves of a soft split), matrices of a
continuous group, shifts that softmax or a norm removes, and entries of parameters that
nothing reads. Reasons for groups that are smaller than on paper stand in their rows.
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


class Result(NamedTuple):
    """Cells of a row, and what the summary counts.

    Attributes:
        cells: Text of every column.
        paper: The order on paper divided by that found; None if it was not derived.
        readable: True if metanetworks read the network and are invariant; None if none
            has tried.
        seconds: Time of discovery.
    """

    cells: tuple[str, ...]
    paper: Fraction | None
    readable: bool | None
    seconds: float


def _installed(cases: Callable[[], dict[str, Any]], library: str) -> dict[str, Any]:
    try:
        return cases()
    except ImportError:
        print(f"left out: {library} is not installed", file=sys.stderr)
        return {}


def rows() -> Iterator[tuple[str, str, Maker]]:
    """Yields name, library and constructor of every network."""
    cases = [
        ("jnp, Flax NNX", symmetry_networks.NETWORKS),
        ("jnp", symmetry_families.FAMILIES),
        ("jnp", symmetry_vision.VISION),
        ("jnp", symmetry_sequences.SEQUENCES),
        ("jnp", symmetry_sciences.SCIENCES),
        ("Flax Linen", symmetry_libraries.LINEN),
    ]
    for library, make in (
        ("Equinox", symmetry_libraries.equinox_cases),
        ("Haiku", symmetry_haiku.haiku_cases),
        ("jraph", symmetry_haiku.jraph_cases),
        ("Keras", symmetry_keras.keras_cases),
    ):
        cases.append((library, _installed(make, library)))
    for library, networks in cases:
        for name, build in networks.items():
            yield name, library, partial(_of_case, name, library, build)
    for name, file in shipped_networks.installed():
        yield name, f"files of {file.package}", partial(_of_file, name, file)
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


def _order(paper: torch_networks.Paper | None) -> int | None:
    if paper is None:
        return None
    return math.prod(math.factorial(d) ** n for d, n in paper.items())


def _of_torch(name: str, library: str, entry: torch_networks.TorchNetwork) -> Row:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(_EXPORTS.value or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.onnx"
        if not path.exists():
            torch_networks.export(entry, str(path))
        network = importers.load_network(path)
        error = _runtime_error(path, network)
    return Row(name, entry.family, library, network, _order(entry.paper), error)


def _of_file(name: str, file: shipped_networks.ShippedNetwork) -> Row:
    path = file.path()
    network = importers.load_network(path)
    error = _runtime_error(path, network)
    library = f"files of {file.package}"
    return Row(name, file.family, library, network, _order(file.paper), error)


def _runtime_error(path: Path, network: Network) -> float:
    """Returns the difference of the first output from onnxruntime's, relative to it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    kinds = {
        "tensor(int64)": np.int64,
        "tensor(int32)": np.int32,
        "tensor(float)": np.float32,
    }
    feed = {
        i.name: np.asarray(x).astype(kinds[i.type])
        for i, x in zip(session.get_inputs(), network.inputs, strict=True)
    }
    expected = np.asarray(session.run(None, feed)[0])
    outputs = jax.jit(network.apply_fn)(network.params, *network.inputs)
    first = np.asarray(jax.tree.leaves(outputs)[0])
    return float(np.abs(first - expected).max() / np.abs(expected).max())


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


def _flat(params: Any) -> np.ndarray:
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(params)])


def reading(symmetry: sym.Symmetry, params: Any, model: str) -> float:
    """Reads a network and an equivalent one with a metanetwork, in both layouts.

    Args:
        symmetry: Symmetry of the network.
        params: Its parameters; for shapes the layouts are built, and nothing is read.
        model: Name of the metanetwork.

    Returns:
        The largest change of the features from the network to the other, or from the
        dense to the packed layout, relative to their size.
    """
    topology = build_topology(symmetry)
    options = {"dim": 8, "depth": 1}
    net = build_model(model, options, topology=topology, rngs=nnx.Rngs(0))
    if not isinstance(net, GraphModel):
        raise MetanetError(f"{model} reads no graphs")
    packed = compile_topology(topology, net.schema).packed
    if any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(params)):
        return 0.0

    @jax.jit
    def equivalent(params: Any) -> list[Any]:
        element = sym.random_element(symmetry, jax.random.key(0))
        both = [params, sym.act(symmetry, element, params)]
        return [sym.canonicalize(symmetry, x) for x in both]

    @nnx.jit
    def features(net: Any, graphs: Any) -> jax.Array:
        net.set_statistics(graphs)
        return net(graphs).pooled

    pair = equivalent(params)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *pair)
    dense = features(net, to_graph(topology, stacked))
    budget = Budget(2 * packed.nodes, 2 * packed.edges, 2)
    sparse = features(net, pack([packed] * 2, [_flat(x) for x in pair], budget))
    changes = dense[0] - dense[1], sparse[0] - sparse[1], dense - sparse
    return max(float(jnp.abs(x).max() / jnp.abs(dense).max()) for x in changes)


def _reading_cell(symmetry: sym.Symmetry, params: Any) -> tuple[str, bool | None]:
    if not _MODELS.value:
        return "", None
    size = sum(x.size for x in jax.tree.leaves(params))
    if size > LARGEST_READ:
        params = jax.eval_shape(lambda: params)
    try:
        change = max(reading(symmetry, params, model) for model in _MODELS.value)
    except MetanetError as error:
        return f"refused: {error}", False
    return ("built" if size > LARGEST_READ else f"{change:.0e}"), change < INVARIANT


def result(row: Row) -> Result:
    """Discovers the symmetry of a network and compares it with the group on paper."""
    network = row.network
    shapes = jax.eval_shape(lambda: network.params)
    start = time.process_time()
    symmetry = sym.discover(network.apply_fn, shapes, *network.inputs, check=False)
    seconds = time.process_time() - start
    checked = sym.check(symmetry, network.apply_fn, network.params, *network.inputs)
    hidden = len({axis for g in checked.unproven for axis in g.hidden})
    kinds = Counter(f.kind for f in symmetry.scaling_groups)
    scaling_groups = (
        ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())) or "-"
    )
    ratio = None if row.order is None else Fraction(row.order, symmetry.order)
    if ratio is None:
        paper = "not derived"
    elif ratio == 1:
        paper = "the same"
    elif ratio.denominator == 1:
        paper = f"larger by a factor of {_short(ratio.numerator)}"
        if row.name in MISSED:
            paper += f": {MISSED[row.name]}"
    else:
        paper = "not larger"
    read, readable = _reading_cell(symmetry, network.params)
    cells = (
        row.name,
        row.family,
        row.library,
        _group(symmetry),
        paper,
        scaling_groups,
        f"{symmetry.coverage().share:.1%}",
        f"{checked.deviation:.0e}" + (f" ({hidden} hidden)" if hidden else ""),
        read,
        "" if row.error is None else f"{row.error:.0e}",
        f"{seconds:.2f}",
    )
    return Result(cells, ratio, readable, seconds)


def summary(results: Sequence[Result], failed: Sequence[str]) -> str:
    """Returns what the rows add up to, and the rows that failed."""
    libraries = sorted({r.cells[2].removesuffix(" via ONNX") for r in results})
    derived = [r.paper for r in results if r.paper is not None]
    exact = derived.count(Fraction(1))
    larger = sum(ratio.denominator > 1 for ratio in derived)
    tried = [r.readable for r in results if r.readable is not None]
    text = (
        f"{len(results)} networks of {len(libraries)} libraries ({'; '.join(libraries)}). "
        f"The group was derived for {len(derived)}, and is found exactly for "
        f"{exact} of them ({exact / max(len(derived), 1):.1%}); it is larger than "
        f"on paper for {larger}. Discovery takes "
        f"{max((r.seconds for r in results), default=0):.1f} s at most."
    )
    if tried:
        text += (
            f" Graph metanetworks ({', '.join(_MODELS.value)}) were given {len(tried)}, "
            f"and read {sum(tried)} in both layouts, invariant to {INVARIANT:.0e}."
        )
    lines = textwrap.wrap(text, 90, break_on_hyphens=False)
    if failed:
        lines += ["", "Failed:", "", *(f"* {reason}" for reason in failed)]
    return "\n".join(lines)


def table(results: Sequence[Result]) -> str:
    """Returns the rows as a table."""
    lines = (f"| {' | '.join(r.cells)} |" for r in results)
    return "\n".join((*HEADER, *lines))


def page(results: Sequence[Result], failed: Sequence[str]) -> str:
    """Returns the page: legend, summary, and table."""
    legend = LEGEND.format(
        jax=jax.__version__, largest=LARGEST_READ, summary=summary(results, failed)
    )
    return f"# Symmetries found\n\n{legend}\n{table(results)}\n"


def _short(number: int) -> str:
    return f"{number:,}" if number < 10**6 else f"10^{len(str(number)) - 1}"


def main(_: list[str]) -> None:
    """Writes the table; rows that fail are listed on the standard error."""
    warnings.filterwarnings("ignore")
    absl_logging.set_verbosity(absl_logging.ERROR)
    logging.disable(logging.WARNING)
    selected = [r for r in rows() if re.search(_ONLY.value, f"{r[0]} {r[1]}", re.I)]
    results, failed = [], []
    with track(len(selected), "symmetries", unit="networks") as progress:
        for name, library, make in selected:
            try:
                results.append(result(make()))
            except Exception as error:
                reason = " ".join(str(error).split())[:200]
                failed.append(f"{name} ({library}): {type(error).__name__}: {reason}")
            progress.advance(1)
    if _OUTPUT.value:
        write_file(Path(_OUTPUT.value), page(results, failed).encode())
    else:
        print(table(results))
        print(f"\n{summary(results, failed)}")
    for text in failed:
        print(f"failed: {text}", file=sys.stderr)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    app.run(main)
