"""``metanet inspect``: what a network looks like to the later stages."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from metanet.cli.console import add_command, console, print_table
from metanet.errors import MetanetError, suggest


def add_commands(commands: Any) -> None:
    """Adds ``inspect``."""
    parser = add_command(
        commands,
        "inspect",
        run_inspect,
        "show a network's symmetries and parameter graph",
        """
        Traces a network, discovers which permutations, signs, scalings and phase shifts
        of its weights leave its function unchanged (each checked numerically), and
        prints them with the node and edge sets of its parameter graph.

        NETWORK is one of
          an architecture     siren, or with options siren:hidden=64,64 or siren:{JSON}
          a zoo, or its row   zoos/digits, or zoos/digits:17 to draw its weights
          a config            configs/classify_inr.py: the architecture of its zoo
          a run's directory   runs/classify_inr
        """,
        """
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


def read_row(name: str) -> tuple[Any, Any]:
    """Architecture and weights ``[P]`` of ``ZOO:ID``."""
    from metanet.zoos import Zoo

    directory, _, identifier = name.rpartition(":")
    if not identifier.isdecimal():
        raise MetanetError(f"{name}: the id of a zoo's row is a number")
    zoo = Zoo.open(directory)
    weights, columns = zoo.row(int(identifier))
    return zoo.architectures[columns["architecture"]], weights


class _Subject(NamedTuple):
    """A network to look at, and what to call it."""

    title: str
    architecture: Any
    vector: Any = None


def _subjects(network: str) -> list[_Subject]:
    """Everything that NETWORK names; one for each architecture of a zoo."""
    from metanet.networks import ARCHITECTURES
    from metanet.zoos import Zoo

    path = Path(network)
    directory, colon, identifier = network.rpartition(":")
    if (path / "zoo.json").is_file():
        return [_Subject(network, a) for a in Zoo.open(path).architectures.values()]
    if colon and (Path(directory) / "zoo.json").is_file():
        architecture, weights = read_row(network)
        return [_Subject(network, architecture, weights)]
    if path.is_dir():
        from metanet.training import read_config

        return [_Subject(network, read_config(path).zoo.fit.architecture)]
    if path.suffix == ".py" or (colon and directory.endswith(".py")):
        from metanet.cli.train import load_config
        from metanet.training import ExperimentConfig

        config, _ = load_config(network)
        experiment = ExperimentConfig.from_mapping(config.to_dict())
        return [_Subject(network, experiment.zoo.fit.architecture)]
    name = network.partition(":")[0]
    if name not in ARCHITECTURES:
        raise MetanetError(
            f"{network}: neither a zoo, a run, a config nor an architecture."
            f"{suggest(name, ARCHITECTURES)}"
        )
    return [_Subject(network, parse_architecture(network))]


def run_inspect(args: argparse.Namespace) -> int:
    """Prints symmetry and graph of every architecture named; draws the first."""
    import jax
    import jax.numpy as jnp

    from metanet.graphs import build_topology, draw, to_graph
    from metanet.networks import ParamSpec, create
    from metanet.symmetry import discover

    for i, subject in enumerate(_subjects(args.network)):
        network = create(subject.architecture, jax.random.key(0))
        symmetry = discover(network.apply_fn, network.params, *network.inputs)
        topology = build_topology(symmetry)
        _print_network(subject, symmetry, topology)
        if args.plot and i == 0:
            params = network.params
            if subject.vector is not None:
                params = ParamSpec.of(params).unflatten(jnp.asarray(subject.vector))
            draw(topology, args.plot, to_graph(topology, params))
            print(f"plot: {args.plot}")
    return 0


def _print_network(subject: _Subject, symmetry: Any, topology: Any) -> None:
    from metanet.report import (
        coverage_rows,
        edge_rows,
        family_rows,
        group_rows,
        node_rows,
    )

    options = ", ".join(f"{k}={v}" for k, v in subject.architecture.options)
    out = console()
    out.print(
        f"{subject.title}\n  {subject.architecture.name}({options})", markup=False
    )
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
