r"""Sweeps of accuracy prediction: models, amounts of data, graphs, parts of a model.

Commands:

    metanet sweep --config configs/sweep_accuracy.py:models --out runs/models
    metanet report --group-by model.name runs/models/*/

Settings after the colon: a variant,

    models      every model on one zoo; on zoos of several architectures those that
                read them
    mixed       networks of several architectures: all data, a tenth, a test on wider
                networks, and the same without scaling weights by their fan-in
    wild_park   graphs with and without activations, depths and shared nodes
    ablations   parts of the GMN, one changed at a time
    smoke       one run of the smallest size

and any of ``zoo=NAME``, ``images=NAME``, ``runs=N``, ``data_root=DIR`` (as of
configs/predict_accuracy.py), ``seeds=N`` (runs per combination, default 3), and
``models=NAME+NAME``.
"""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from metanet.models import MODELS
from metanet.training import SweepConfig, parse_argument, to_config_dict

VARIANTS = ("models", "mixed", "wild_park", "ablations", "smoke")
ZOOS = {"mixed": "diverse", "wild_park": "wild_park", "smoke": "smoke"}
# Models of networks of one architecture and of several, the cheapest first.
SINGLE = (
    "statnn",
    "flat_mlp",
    "product_gmn",
    "deep_sets",
    "dmc",
    "unf",
    "dws",
    "ng_gnn",
    "gmn",
    "probegen",
    "set_transformer",
    "scale_product_gmn",
    "nfn_hnp",
    "transformer",
    "ng_t",
    "scale_gmn",
    "scale_gmn_b",
    "nfn_np",
    "nft",
)
MIXED = ("product_gmn", "gmn", "ng_gnn", "scale_product_gmn", "deep_sets", "dmc")
ALTERNATIVES: dict[str, tuple[dict[str, Any], ...]] = {
    "mixed": (
        {},
        {"data.fraction": 0.1},
        {"data.wider": "width"},
        {"data.wider": "width", "graph.fan_in": False},
    ),
    "wild_park": (
        {},
        {"graph.activations": False},
        {"graph.depths": False},
        {"graph.fuse": "quotient"},
    ),
    "ablations": (
        {},
        {"model.bias": "feature"},
        {"model.bias": "loop"},
        {"model.directions": "forward"},
        {"model.aggregate": "sum"},
        {"model.aggregate": "attention"},
        {"model.frequencies": 0},
        {"model.readout": "mean"},
        {"canonicalize": True},
        {"graph.depths": False},
        {"model.probes": 16},
        {"model.kernel": "parallel"},  # the slowest
    ),
}


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config of the sweep.

    Args:
        argument: The text after the colon.
    """
    variant, settings = parse_argument(
        argument,
        VARIANTS,
        zoo="",
        images="digits",
        data_root="",
        runs=0,
        seeds=3,
        models="",
    )
    zoo = settings["zoo"] or ZOOS.get(variant, "small_cnn")
    one_architecture = zoo == "small_cnn" and variant in ("models", "ablations")
    experiment = f"{zoo},data_root={settings['data_root']}"
    if variant != "smoke":
        # One architecture with two activations is two architectures.
        where = "activation=relu" if one_architecture else ""
        images, runs = settings["images"], settings["runs"]
        experiment += f",images={images},runs={runs},where={where}"
    arguments: dict[str, tuple[Any, ...]] = {"seed": tuple(range(settings["seeds"]))}
    if settings["models"]:
        models = tuple(settings["models"].split("+"))
        for name in models:
            MODELS.check(name)
        arguments["model"] = models
    elif variant == "ablations":
        arguments["model"] = ("gmn",)
    elif variant != "smoke":
        arguments["model"] = SINGLE if one_architecture else MIXED
    file = Path(__file__).with_name("predict_accuracy.py")
    return to_config_dict(
        SweepConfig(
            config=f"{file}:{experiment}",
            arguments=arguments,
            alternatives=ALTERNATIVES.get(variant, ({},)),
        )
    )
