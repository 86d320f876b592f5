"""``metanet inspect``: what a network looks like to the later stages."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from metanet.cli.console import add_command, console, print_table
from metanet.errors import MetanetError, suggest

if TYPE_CHECKING:
    from metanet.networks import Network


def add_commands(commands: Any) -> None:
    """Adds ``inspect``."""
    parser = add_command(
        commands,
        "inspect",
        run_inspect,
        "show a network's symmetries and parameter graph",
        """
        Traces a network, discovers which permutations, signs, scalings and phase shifts
        of its weights leave its function unchanged (each checked numerically, and broken
        on purpose to see whether the example inputs could tell), and prints them with the
        node and edge sets of its parameter graph.

        NETWORK is one of
          an ONNX file        model.onnx, exported from PyTorch or any other framework
          a Python function   package.module:function, which takes no arguments and
                              returns (apply_fn, params, inputs), or (module, inputs)
                              with a Flax or Equinox module; inputs is a tuple
          an architecture     siren, or with options siren:hidden=64,64 or siren:{JSON}
          a zoo, or its row   zoos/digits, or zoos/digits:17 to draw its weights
          a config            configs/classify_inr.py: the architecture of its zoo
          a run's directory   runs/classify_inr
        """,
        """
        metanet inspect model.onnx
        metanet inspect model.onnx --dim batch=4 --dim image:2=64 --constants 'mean'
        metanet inspect mypackage.models:small_resnet --plot graph.png
        metanet inspect model.onnx --explain layer1.0.conv1.weight:0
        metanet inspect siren:hidden=32,32
        metanet inspect zoos/digits:0 --plot graph.png
        """,
    )
    parser.add_argument("network", metavar="NETWORK")
    parser.add_argument(
        "--plot",
        metavar="FILE",
        type=Path,
        help="draw the parameter graph (png, svg, pdf)",
    )
    parser.add_argument(
        "--explain",
        metavar="PARAMETER:AXIS",
        action="append",
        default=[],
        help="say what joined or pinned an axis of a parameter, and in which line",
    )
    parser.add_argument(
        "--json", metavar="FILE", type=Path, help="write the symmetry as JSON"
    )
    parser.add_argument(
        "--constants",
        metavar="PATTERN",
        action="append",
        default=[],
        help="ONNX: stored tensors that are constants of the program, not parameters",
    )
    parser.add_argument(
        "--dim",
        metavar="NAME=SIZE",
        action="append",
        default=[],
        help="ONNX: size of an input's axis that the file leaves open, by the axis' name "
        "or as INPUT:AXIS=SIZE; sizes that fit are tried for the others",
    )


def parse_architecture(text: str) -> Any:
    """``name``, ``name:key=value,...`` or ``name:{json}`` to an `Architecture`.

    A comma continues a list where no ``key=`` follows it: ``siren:hidden=32,32,w0=20``.
    """
    from metanet.networks import Architecture

    name, _, rest = text.partition(":")
    if rest.lstrip().startswith("{"):
        try:
            options = json.loads(rest)
        except ValueError as error:
            raise MetanetError(
                f"{name}: options are not valid JSON ({error})"
            ) from None
    else:
        values: dict[str, list[str]] = {}
        key = ""
        for part in filter(None, (p.strip() for p in rest.split(","))):
            left, equals, right = part.partition("=")
            if equals:
                key, part = left.strip(), right.strip()
            elif not key:
                raise MetanetError(f"{name}: options are key=value, got {part!r}")
            values.setdefault(key, []).append(part)
        defaults = Architecture(name)
        options = {k: _value(v) for k, v in values.items()}
        for key, value in options.items():
            # hidden=32 is the list of one width that hidden=32,32 makes obvious.
            if _is_list(defaults, key) and not isinstance(value, list):
                options[key] = [value]
    return Architecture.from_json({"name": name, "options": options})


def _is_list(defaults: Any, key: str) -> bool:
    try:
        return isinstance(defaults.option(key), tuple)
    except KeyError:
        return False


def _value(parts: list[str]) -> Any:
    def single(part: str) -> Any:
        try:
            return json.loads(part)
        except ValueError:
            return part

    values = [single(part) for part in parts]
    return values if len(values) > 1 else values[0]


def read_row(name: str) -> tuple[Any, Any, int | None]:
    """Architecture and weights ``[P]`` of ``ZOO:ID``, and the side of its images."""
    from metanet.zoos import Zoo

    directory, _, identifier = name.rpartition(":")
    if not identifier.isdecimal():
        raise MetanetError(f"{name}: the id of a zoo's row is a number")
    zoo = Zoo.open(directory)
    weights, columns = zoo.row(int(identifier))
    return zoo.architectures[columns["architecture"]], weights, zoo.image_side


class _Inspected(NamedTuple):
    """A network to look at, and what to call it."""

    title: str
    kind: str
    network: Network


def _of_architecture(
    title: str, architecture: Any, side: int | None = None, vector: Any = None
) -> _Inspected:
    import jax
    import jax.numpy as jnp

    from metanet.networks import ParamSpec, create

    network = create(architecture, jax.random.key(0), side)
    if vector is not None:
        params = ParamSpec.of(network.params).unflatten(jnp.asarray(vector))
        network = network._replace(params=params)
    options = ", ".join(f"{k}={v}" for k, v in architecture.options)
    return _Inspected(title, f"{architecture.name}({options})", network)


def _networks(args: argparse.Namespace) -> list[_Inspected]:
    """Returns the networks that NETWORK names; one for each architecture of a zoo."""
    from metanet.networks import ARCHITECTURES
    from metanet.zoos import Zoo

    network = args.network
    path = Path(network)
    directory, colon, identifier = network.rpartition(":")
    if path.suffix.lower() == ".onnx":
        from metanet.importers import load_network

        loaded = load_network(path, constants=args.constants, dims=_dims(args.dim))
        shapes = ", ".join(f"{x.dtype}{[*x.shape]}" for x in loaded.inputs)
        return [_Inspected(network, f"ONNX, inputs {shapes}", loaded)]
    if (path / "zoo.json").is_file():
        zoo = Zoo.open(path)
        return [
            _of_architecture(network, architecture, zoo.image_side)
            for architecture in zoo.architectures.values()
        ]
    if colon and (Path(directory) / "zoo.json").is_file():
        architecture, weights, side = read_row(network)
        return [_of_architecture(network, architecture, side, weights)]
    if path.is_dir():
        from metanet.training import read_inputs

        inputs = read_inputs(path)
        return [
            _of_architecture(network, architecture, inputs.image_side)
            for architecture in inputs.architectures.values()
        ]
    if path.suffix == ".py" or (colon and directory.endswith(".py")):
        from metanet.cli.train import load_config
        from metanet.training import ExperimentConfig

        config, _ = load_config(network)
        fit = ExperimentConfig.from_mapping(config.to_dict()).zoo.fit
        if fit is None:
            raise MetanetError(
                f"{network}: draws its networks from a zoo; make that and inspect it"
            )
        return [_of_architecture(network, fit.architecture)]
    name = network.partition(":")[0]
    if name in ARCHITECTURES:
        return [_of_architecture(network, parse_architecture(network))]
    if colon and all(p.isidentifier() for p in (*directory.split("."), identifier)):
        return [_Inspected(network, "Python function", _called(directory, identifier))]
    if path.is_file():
        raise MetanetError(
            f"{network}: not an ONNX file by its name. A file of weights alone has no "
            "program: export the network with torch.onnx.export, or give "
            "module:function that loads the weights"
        )
    raise MetanetError(
        f"{network}: neither an ONNX file, module:function (a function of a module that "
        "can be imported), a zoo, a run, a config nor an architecture."
        f"{suggest(name, ARCHITECTURES)}"
    )


def _dims(entries: list[str]) -> dict[str, int]:
    sizes = {}
    for entry in entries:
        name, _, size = entry.rpartition("=")
        if not name or not size.isdecimal() or int(size) < 1:
            raise MetanetError(
                f"--dim {entry}: expected NAME=SIZE or INPUT:AXIS=SIZE, a positive number"
            )
        sizes[name] = int(size)
    return sizes


def _called(module: str, function: str) -> Network:
    """Calls a function of a Python module that returns a network."""
    from metanet.importers import from_module
    from metanet.networks import Network

    name = f"{module}:{function}"
    try:
        attribute = getattr(importlib.import_module(module), function, None)
    except ModuleNotFoundError as error:
        raise MetanetError(f"{name}: no module named {error.name}") from None
    if not callable(attribute):
        raise MetanetError(f"{name}: module {module} has no function {function}")
    try:
        result = attribute()
    except MetanetError:
        raise
    except Exception as error:
        raise MetanetError(
            f"{name}: fails when it is called: {_first(error)}"
        ) from error
    if not isinstance(result, tuple) or len(result) not in (2, 3):
        raise MetanetError(
            f"{name}: must return (apply_fn, params, inputs) or (module, inputs), "
            f"got {type(result).__name__}"
        )
    inputs = result[-1]
    if not isinstance(inputs, (tuple, list)):
        raise MetanetError(
            f"{name}: inputs must be a tuple of arrays, such as (x,), got "
            f"{type(inputs).__name__}"
        )
    if len(result) == 2:
        return from_module(result[0], *inputs)
    return Network(result[0], result[1], tuple(inputs))


def run_inspect(args: argparse.Namespace) -> int:
    """Prints symmetry and graph of every network named; draws the first."""
    from metanet.files import write_file
    from metanet.graphs import build_topology, draw, to_graph
    from metanet.symmetry import check, discover

    questions = [_question(text) for text in args.explain]
    for i, subject in enumerate(_networks(args)):
        network = subject.network
        arguments = (network.apply_fn, network.params, *network.inputs)
        with console().status("discovering and checking symmetries"):
            _try(subject)
            symmetry = discover(*arguments, check=False)
            result = check(symmetry, *arguments)
            topology = build_topology(symmetry)
        if questions:
            for path, axis in questions:
                print(symmetry.explain(path, axis))
        else:
            _print_network(subject, symmetry, result, topology)
        if i > 0:
            continue
        if args.json:
            write_file(args.json, symmetry.to_json().encode())
            print(f"symmetry: {args.json}")
        if args.plot:
            draw(topology, args.plot, to_graph(topology, network.params))
            print(f"plot: {args.plot}")
    return 0


def _try(subject: _Inspected) -> None:
    """Raises one line when the network itself cannot be called."""
    import jax

    network = subject.network
    try:
        jax.eval_shape(network.apply_fn, network.params, *network.inputs)
    except MetanetError:
        raise
    except Exception as error:
        raise MetanetError(
            f"{subject.title}: calling the network fails: {_first(error)}. It is called "
            "as apply_fn(params, *inputs), in evaluation mode (no dropout), an Equinox "
            "module with one example"
        ) from error


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {lines[0][:200]}"


def _question(text: str) -> tuple[str, int]:
    path, _, axis = text.rpartition(":")
    if not path or not axis.isdecimal():
        raise MetanetError(
            f"--explain {text}: expected PARAMETER:AXIS, such as conv.weight:0"
        )
    return path, int(axis)


def _print_network(
    subject: _Inspected, symmetry: Any, result: Any, topology: Any
) -> None:
    from metanet.report import (
        coverage_rows,
        edge_rows,
        family_rows,
        group_rows,
        node_rows,
    )

    out = console()
    out.print(f"{subject.title}\n  {subject.kind}", markup=False)
    out.print(
        f"  {topology.num_parameters:,} parameters, {topology.num_nodes} nodes in "
        f"{len(topology.nodes)} sets, {len(topology.edges)} edge sets\n"
    )
    tables = (
        ("Permutation groups", group_rows(symmetry)),
        ("Signs, scalings, phases", family_rows(symmetry)),
        ("Coverage", coverage_rows(symmetry)),
        ("Node sets", node_rows(topology)),
        ("Edge sets", edge_rows(topology)),
    )
    for title, (header, *rows) in tables:
        if rows:
            print_table(title, header, rows)
    out.print(str(result), markup=False, highlight=False)
    if any(name.startswith("random") for name, _ in symmetry.unknown):
        out.print(
            "The network draws random numbers, which pin all that they touch: put it "
            "into evaluation mode."
        )
