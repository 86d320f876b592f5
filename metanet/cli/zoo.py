"""``metanet zoo``: make and describe collections of trained networks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from metanet.cli.console import UsageError, add_command, console

_NETWORKS = {"siren": "siren", "fourier": "fourier_mlp", "tanh": "tanh_inr"}


def add_commands(commands: Any) -> None:
    """Adds ``zoo`` with its own subcommands."""
    zoo = commands.add_parser(
        "zoo",
        help="make and describe collections of trained networks",
        description="A zoo is a directory of Parquet shards, one row per network.",
        allow_abbrev=False,
    )
    inner = zoo.add_subparsers(
        title="commands", metavar="COMMAND", dest="zoo_command", required=True
    )
    info = add_command(
        inner,
        "info",
        run_info,
        "describe a zoo",
        """
        Prints the data card of a zoo (architectures, splits, quality, settings) and
        writes it, with plots, as a page.
        """,
        "metanet zoo info zoos/digits --html card.html",
    )
    info.add_argument("zoo", metavar="DIR", type=Path)
    info.add_argument(
        "--html", metavar="FILE", type=Path, help="the page (default: DIR/card.html)"
    )
    verify = add_command(
        inner,
        "verify",
        run_verify,
        "check a zoo",
        """
        Checks the checksum of every file, and evaluates a sample of the networks again:
        their accuracy or PSNR must be as recorded. The exit status is 1 if not.
        """,
        "metanet zoo verify zoos/mnist --data-root /data",
    )
    verify.add_argument("zoo", metavar="DIR", type=Path)
    verify.add_argument(
        "--sample",
        metavar="N",
        type=int,
        default=24,
        help="networks that are evaluated (default: 24)",
    )
    verify.add_argument(
        "--data-root", metavar="DIR", default="", help="where image files are"
    )
    export = add_command(
        inner,
        "export",
        run_export,
        "write a zoo for other frameworks",
        """
        npz, safetensors: per architecture one file with its parameters stacked, and
        networks.csv with everything else. torch: safetensors with PyTorch's names and
        layouts. hf: Parquet per split and a card; datasets.load_dataset(DIR) reads it.
        """,
        "metanet zoo export zoos/mnist --format torch --out exported",
    )
    export.add_argument("zoo", metavar="DIR", type=Path)
    export.add_argument(
        "--format",
        choices=("torch", "npz", "safetensors", "hf"),
        required=True,
        help="format of the files",
    )
    export.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="directory of the files"
    )
    _add_fit(inner)
    train = add_command(
        inner,
        "train",
        run_train,
        "train a population of classifiers",
        """
        Trains thousands of networks on images, with settings drawn from ranges, and
        stores their weights with accuracies as a zoo. Repeating an interrupted command
        continues it; several processes may work on one directory; the same config gives
        the same files. Every field of the config can be set by --config.NAME=VALUE.
        """,
        """
        metanet zoo train --config configs/zoo.py:small_cnn --out zoos/small_cnn
        metanet zoo train --config configs/zoo.py:diverse,images=mnist,data_root=/data \\
            --out zoos/diverse
        """,
    )
    train.add_argument(
        "--config", metavar="FILE[:ARG]", required=True, help="config file of a zoo"
    )
    train.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="directory of the zoo"
    )


def _add_fit(inner: Any) -> None:
    fit = add_command(
        inner,
        "fit-inrs",
        run_fit,
        "fit one small network per image",
        """
        Fits an implicit neural representation (a network from pixel coordinates to
        colours) to every image and stores the weights as a zoo. Repeating an
        interrupted command continues it; the same seed gives the same files.
        """,
        """
        metanet zoo fit-inrs --images digits --out zoos/digits
        metanet zoo fit-inrs --images mnist --download --limit 12000 --out zoos/mnist
        metanet zoo fit-inrs --images photos/ --hidden 64,64 --out zoos/photos
        """,
    )
    fit.add_argument(
        "--images",
        metavar="NAME|DIR",
        required=True,
        help="digits, mnist, fashion_mnist, cifar10, or a directory of image files",
    )
    fit.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="directory of the zoo"
    )
    fit.add_argument(
        "--limit",
        metavar="N",
        type=int,
        help="take N images, drawn evenly over the classes (default: all)",
    )
    fit.add_argument(
        "--views",
        metavar="V",
        type=int,
        help="independent networks per image (default: 1)",
    )
    fit.add_argument(
        "--seed", metavar="S", type=int, help="of initialisations (default: 0)"
    )
    fit.add_argument(
        "--steps",
        metavar="N",
        type=int,
        help="optimiser steps per network (default: 200)",
    )
    fit.add_argument(
        "--learning-rate",
        metavar="LR",
        type=float,
        help="step size of Adam (default: 0.002)",
    )
    fit.add_argument(
        "--network",
        choices=tuple(_NETWORKS),
        default="siren",
        help="kind of network (default: siren)",
    )
    fit.add_argument(
        "--hidden",
        metavar="W,W",
        type=_widths,
        help="widths of hidden layers (default: 32,32)",
    )
    fit.add_argument("--w0", metavar="W0", type=float, help="of a SIREN (default: 30)")
    fit.add_argument(
        "--convention",
        choices=("dws", "nfn"),
        help="dws: images in [0, 1], output + 0.5; nfn: images in [-1, 1], raw output "
        "(default: dws)",
    )
    fit.add_argument(
        "--data-root", metavar="DIR", help="where image files are, or are to be put"
    )
    fit.add_argument(
        "--download", action="store_true", help="fetch missing image files"
    )


def _widths(value: str) -> tuple[int, ...]:
    try:
        widths = tuple(int(part) for part in value.split(",") if part)
    except ValueError:
        widths = ()
    if not widths or min(widths) < 1:
        raise argparse.ArgumentTypeError(f"{value!r}: give widths such as 32,32")
    return widths


def run_info(args: argparse.Namespace) -> int:
    """Prints what a zoo holds, and writes the page."""
    from metanet.report import write_card
    from metanet.zoos import Zoo

    zoo = Zoo.open(args.zoo)
    _describe(zoo)
    print(f"card: {write_card(zoo, args.html or args.zoo / 'card.html')}")
    return 0


def _describe(zoo: Any) -> None:
    from metanet.zoos import describe

    console().print(*describe(zoo), sep="\n")


def fit_config(args: argparse.Namespace) -> Any:
    """The command's options as a `FitConfig`; what was not given keeps its default.

    The networks get as many outputs as the images have channels.
    """
    from metanet.networks import Architecture
    from metanet.zoos import FitConfig, load_images

    if args.network != "siren":
        for option in ("w0", "convention"):
            if getattr(args, option) is not None:
                raise UsageError(
                    f"--{option} applies to SIRENs, not to --network {args.network}"
                )
    images = load_images(args.images, args.data_root, download=args.download).images
    options = {
        name: value
        for name in ("hidden", "w0", "convention")
        if (value := getattr(args, name)) is not None
    }
    architecture = Architecture.of(
        _NETWORKS[args.network], out_dim=images.shape[-1], **options
    )
    names = ("limit", "views", "seed", "steps", "learning_rate", "data_root")
    fields = {n: v for n in names if (v := getattr(args, n)) is not None}
    return FitConfig(
        images=args.images, download=args.download, architecture=architecture, **fields
    )


def run_fit(args: argparse.Namespace) -> int:
    """Fits INRs and describes the zoo."""
    from metanet.zoos import fit_inrs

    _describe(fit_inrs(fit_config(args), args.out))
    print(f"zoo: {args.out}")
    return 0


def run_train(args: argparse.Namespace) -> int:
    """Trains a population and describes the zoo."""
    from metanet.cli.train import load_config
    from metanet.options import from_mapping
    from metanet.zoos import PopulationConfig, train_population

    mapping, _ = load_config(args.config, args.overrides)
    config = from_mapping(PopulationConfig, mapping.to_dict(), "config")
    _describe(train_population(config, args.out))
    print(f"zoo: {args.out}")
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Checks a zoo; damage is an error."""
    from metanet.zoos import Zoo, verify

    result = verify(Zoo.open(args.zoo), args.data_root, args.sample)
    print(
        f"{args.zoo}: {result.networks:,} networks, all files whole; {result.sample} "
        f"evaluated again: {result.measure} differs by at most {result.worst:.2g} "
        f"(allowed {result.allowed:.2g})"
    )
    return 0


def run_export(args: argparse.Namespace) -> int:
    """Writes the files and names them."""
    from metanet.zoos import Zoo, export

    for path in export(Zoo.open(args.zoo), args.out, args.format):
        print(path)
    return 0
