r"""Sweeps of accuracy prediction: models, amounts of data, graph constructions.

    python experiments/sweep.py --config configs/sweep_accuracy.py:models --out runs/models
    metanet report --group-by model.name runs/models/*/

Variants: ``models`` (every model on one zoo), ``mixed`` (models for networks of several
architectures; all data, a tenth, wider networks), ``ablations`` (parts of the GMN),
``smoke``. Settings: ``zoo=NAME`` and ``images=NAME`` of configs/predict_accuracy.py,
``data_root=DIR``, ``seeds=N``.
"""

from pathlib import Path

from ml_collections import ConfigDict

from metanet.training import parse_argument

VARIANTS = ("models", "mixed", "ablations", "smoke")
SINGLE = (
    "product_gmn", "gmn", "ng_gnn", "ng_t", "scale_gmn", "scale_gmn_b",
    "scale_product_gmn", "dws", "nfn_np", "nfn_hnp", "unf", "nft", "statnn", "flat_mlp",
    "dmc", "deep_sets", "set_transformer", "transformer", "probegen",
)  # fmt: skip
MIXED = ("product_gmn", "gmn", "ng_gnn", "scale_product_gmn", "deep_sets")


def get_config(argument: str = "") -> ConfigDict:
    """The sweep; ``argument`` is what follows the colon after the file's name."""
    variant, given = parse_argument(
        argument, VARIANTS, zoo="", images="digits", data_root="", seeds=3
    )
    zoos = {"models": "small_cnn", "mixed": "diverse", "ablations": "small_cnn"}
    zoo = given["zoo"] or zoos.get(variant, "smoke")
    file = Path(__file__).with_name("predict_accuracy.py")
    where = "activation=relu" if variant == "models" else ""

    config = ConfigDict()
    config.config = f"{file}:{zoo},data_root={given['data_root']}"
    if variant != "smoke":
        config.config += f",images={given['images']},where={where}"
    config.arguments = {"seed": tuple(range(given["seeds"]))}
    config.values = {}
    config.alternatives = ({},)
    if variant == "models":
        config.arguments["model"] = SINGLE
    elif variant == "mixed":
        config.arguments["model"] = MIXED
        config.arguments["fraction"] = (1.0, 0.1)
        config.arguments["wider"] = (0, 1)
    elif variant == "ablations":
        config.arguments["model"] = ("gmn",)
        config.alternatives = (
            {},
            {"model.bias": "feature"},
            {"model.bias": "loop"},
            {"model.kernel": "parallel"},
            {"model.directions": "forward"},
            {"model.aggregate": "sum"},
            {"model.aggregate": "attention"},
            {"model.frequencies": 0},
            {"model.readout": "mean"},
            {"canonicalize": False},
            {"graph.depths": False},
            {"graph.activations": False},
            {"graph.fuse": "quotient"},
        )
    config.draws = 0
    config.seed = 0
    return config
