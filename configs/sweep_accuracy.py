r"""Sweeps of accuracy prediction: models, amounts of data, graph constructions.

    python experiments/sweep.py --config configs/sweep_accuracy.py:models --out runs/models
    metanet report --group-by model.name runs/models/*/

Variants: ``models`` (every model on one zoo; on zoos of several architectures those that
read them), ``mixed`` (networks of several architectures: all data, a tenth, a test on wider
networks, the same without scaling weights by their fan-in), ``wild_park`` (graphs with and
without activations, depths and shared nodes), ``ablations`` (parts of the GMN), ``smoke``.
Settings: ``zoo=NAME``, ``images=NAME``, ``runs=N`` and ``data_root=DIR`` as of
configs/predict_accuracy.py, ``seeds=N``, and ``models=NAME+NAME``.
"""

from pathlib import Path

from ml_collections import ConfigDict

from metanet.training import parse_argument

VARIANTS = ("models", "mixed", "wild_park", "ablations", "smoke")
# Cheapest first.
SINGLE = (
    "statnn", "flat_mlp", "product_gmn", "deep_sets", "dmc", "unf", "dws", "ng_gnn",
    "gmn", "probegen", "set_transformer", "scale_product_gmn", "nfn_hnp", "transformer",
    "ng_t", "scale_gmn", "scale_gmn_b", "nfn_np", "nft",
)  # fmt: skip
MIXED = ("product_gmn", "gmn", "ng_gnn", "scale_product_gmn", "deep_sets", "dmc")


def get_config(argument: str = "") -> ConfigDict:
    """The sweep; ``argument`` is what follows the colon after the file's name."""
    variant, given = parse_argument(
        argument, VARIANTS, zoo="", images="digits", data_root="", runs=0, seeds=3,
        models="",
    )  # fmt: skip
    zoos = {"mixed": "diverse", "wild_park": "wild_park", "smoke": "smoke"}
    zoo = given["zoo"] or zoos.get(variant, "small_cnn")
    file = Path(__file__).with_name("predict_accuracy.py")
    single = zoo == "small_cnn" and variant in ("models", "ablations")
    where = "activation=relu" if single else ""
    models = {
        "models": SINGLE if single else MIXED,
        "mixed": MIXED,
        "wild_park": MIXED,
        "ablations": ("gmn",),
    }
    chosen = tuple(given["models"].split("+")) if given["models"] else ()

    config = ConfigDict()
    config.config = f"{file}:{zoo},data_root={given['data_root']}"
    if variant != "smoke":
        config.config += f",images={given['images']},runs={given['runs']},where={where}"
    config.arguments = {"seed": tuple(range(given["seeds"]))}
    config.values = {}
    config.alternatives = ({},)
    if variant in models:
        config.arguments["model"] = chosen or models[variant]
    if variant == "mixed":
        config.alternatives = (
            {},
            {"data.fraction": 0.1},
            {"data.wider": "width"},
            {"data.wider": "width", "graph.fan_in": False},
        )
    elif variant == "wild_park":
        config.alternatives = (
            {},
            {"graph.activations": False},
            {"graph.depths": False},
            {"graph.fuse": "quotient"},
        )
    elif variant == "ablations":
        config.alternatives = (
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
        )
    config.draws = 0
    config.seed = 0
    return config
