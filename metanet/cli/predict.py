"""``metanet predict``: a run applied to networks in files."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from metanet.cli.console import print_table
from metanet.cli.inspect import read_row
from metanet.errors import MetanetError


class Prediction(NamedTuple):
    """Outcome for one file.

    Attributes:
        file: Name of the file, as on the command line.
        values: Predicted values by name.
        outside: Reasons why the network is unlike those of the training set.
        error: Reason why there is no prediction; "" where there is one.
    """

    file: str
    values: dict[str, Any]
    outside: tuple[str, ...] = ()
    error: str = ""


def run_predict(args: argparse.Namespace) -> int:
    """Predicts every file that can be read; fails if one cannot."""
    from metanet.training import load_run

    run = load_run(args.workdir)
    outcomes = [_outcome(file, run) for file in args.files]
    if args.json:
        print(json.dumps([_plain(o) for o in outcomes], indent=2))
    else:
        _print(outcomes)
    for outcome in outcomes:
        if outcome.outside:
            print(
                f"metanet: warning: {outcome.file}: outside what the run was trained "
                f"on: {'; '.join(outcome.outside)}",
                file=sys.stderr,
            )
        if outcome.error:
            print(f"metanet: error: {outcome.error}", file=sys.stderr)
    return 1 if any(o.error for o in outcomes) else 0


def _outcome(file: str, run: Any) -> Prediction:
    import numpy as np

    try:
        network, weights = read_network(file, run)
        if not np.isfinite(weights).all():
            raise MetanetError(f"{file}: weights: NaN or infinite values")
        row = run.predict(weights[None], network)[0]
        if not np.isfinite(row).all():
            raise MetanetError(f"{file}: weights: too large to be read in float32")
    except MetanetError as error:
        text = str(error)
        named = text if text.startswith(file) else f"{file}: {text}"
        return Prediction(file, {}, error=named)
    names = run.experiment.task.class_names
    if names:
        label = int(row.argmax())
        probability = float(row[label])
        values = {"label": label, "class": names[label], "probability": probability}
    else:
        value, low, high = row.tolist()
        values = {"accuracy": value, "low": low, "high": high}
    return Prediction(file, values, tuple(run.warnings(weights, network)))


def read_network(file: str, run: Any) -> tuple[Any, Any]:
    """Returns the input network of a file or zoo row, and its weights ``[P]``.

    Raises:
        MetanetError: unreadable, or of an architecture that the run does not take.
    """
    from metanet.training import InputArchitecture

    directory, colon, _ = file.rpartition(":")
    if colon and Path(directory).is_dir():
        architecture, weights, side = read_row(file)
        for known, candidate in zip(
            run.experiment.inputs.values(), run.architectures.values(), strict=True
        ):
            if same_architecture(architecture, candidate):
                return known, weights
        return InputArchitecture.of(architecture, run.config, side), weights
    if Path(file).suffix.lower() == ".onnx":
        import numpy as np

        from metanet.importers import load_network

        network = load_network(Path(file))
        known = InputArchitecture.of_network(network, run.config)
        return known, np.asarray(known.spec.flatten(network.params))
    return _bound(file, run)


def _bound(file: str, run: Any) -> tuple[Any, Any]:
    """Reads a file of weights as the architecture of the run that it fits."""
    from metanet.importers import bind, read_arrays

    arrays, errors, fitting = read_arrays(file), [], []
    for network in run.experiment.inputs.values():
        try:
            fitting.append((network, bind(arrays, network.spec, file)))
        except MetanetError as error:
            errors.append(error)
    if not fitting:
        if len(errors) == 1:
            raise errors[0]
        raise MetanetError(
            f"{file}: of none of the run's {len(errors)} architectures; export the "
            "network to ONNX, which says what it computes"
        )
    if len(fitting) > 1:
        raise MetanetError(
            f"{file}: fits {len(fitting)} of the run's architectures; export the network "
            "to ONNX, which says what it computes"
        )
    network, bound = fitting[0]
    if bound.ignored:
        print(f"{file}: left out {', '.join(bound.ignored)}", file=sys.stderr)
    return network, bound.vector


def same_architecture(a: Any, b: Any) -> bool:
    """Returns True if two architectures agree, default options included."""
    return a.complete() == b.complete()


def _plain(outcome: Prediction) -> dict[str, Any]:
    if outcome.error:
        return {"file": outcome.file, "error": outcome.error}
    return {"file": outcome.file, **outcome.values, "outside": list(outcome.outside)}


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _print(outcomes: list[Prediction]) -> None:
    rows, header = [], ("file", "class", "probability")
    for outcome in outcomes:
        if outcome.error:
            continue
        values, mark = outcome.values, " (!)" if outcome.outside else ""
        if "class" in values:
            probability = _percent(values["probability"]) + mark
            rows.append((outcome.file, values["class"], probability))
            continue
        header = ("file", "accuracy", "interval")
        interval = f"{_percent(values['low'])} to {_percent(values['high'])}"
        rows.append((outcome.file, _percent(values["accuracy"]) + mark, interval))
    if rows:
        print_table("", header, rows, right=[1, 2])
