r"""Predicts the test accuracy of networks from their weights alone.

Trains a zoo of classifiers (an existing one is used again), then a metanetwork that reads
their weights. Digits are part of scikit-learn; the other image sets are read from
``data_root``.

Commands:

    metanet train --config configs/predict_accuracy.py
    metanet train --config configs/predict_accuracy.py:diverse,model=gmn
    metanet train --config configs/predict_accuracy.py:small_cnn,images=mnist,data_root=DIR
    metanet predict runs/predict_accuracy model.onnx

The first command takes five to eight minutes on two cores, the zoo of 1,000 networks with
nine checkpoints each included. Measured on its 300 test runs (seed 0): R2 0.956, Kendall's
tau 0.820, mean absolute error 4.6 points; 93.2 % of the accuracies lie in their 90 %
interval. Predictors without weights: boosting on the training settings reaches R2 0.868;
the accuracy after the first epoch predicts that of later epochs with R2 0.676, where the
model reaches 0.949.

Settings after the colon: a recipe of configs/zoo.py (small_cnn, varying, diverse,
wild_park, rnn, transformer) or smoke, and any of

    images=NAME    digits (default), mnist, fashion_mnist, cifar10
    model=NAME     any model of configs/classify_inr.py (default: product_gmn)
    fraction=F     share of the training runs; 0.1 is the published low-data setting
    wider=1        training on narrow networks, test on strictly wider ones
    where=C=V      networks whose column C of the zoo has the value V; models of one
                   architecture take a part of a zoo: ``where=activation=relu``
    runs=N, seed=N, data_root=DIR

Networks of several architectures or activations train in packed batches. Every field of
`ExperimentConfig` can be set by ``--config.SECTION.NAME=VALUE``.
"""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from metanet.models import MODELS
from metanet.training import experiment_config, parse_argument, read_config_file

VARIANTS = (
    "small_cnn",
    "varying",
    "diverse",
    "wild_park",
    "rnn",
    "transformer",
    "smoke",
)

# Options that differ from the defaults of the models: sizes for two cores, with 100,000 to
# 350,000 parameters (the weight-space functionals have more).
OPTIONS: dict[str, dict[str, Any]] = {
    "product_gmn": {"moments": 32, "readout": "moments"},
    "ng_gnn": {"dim": 32},
    "scale_gmn": {"dim": 64},
    "scale_gmn_b": {"dim": 64},
    "scale_product_gmn": {"dim": 64},
    "dws": {"dim": 8},
    "nfn_np": {"dim": 8},
    "nfn_hnp": {"dim": 8},
    "unf": {"dim": 8},
    "nft": {"dim": 8, "depth": 3},
    "flat_mlp": {"dim": 64},
    "deep_sets": {"dim": 128},
    "probegen": {"dim": 128},
}


def model_options(name: str, smoke: bool) -> dict[str, Any]:
    """Returns the options of a model that differ from its defaults.

    Args:
        name: Name of the model.
        smoke: Selects the smallest size.

    Raises:
        MetanetError: for an unknown model (with the nearest one).
    """
    known = MODELS.options(name)
    if smoke:
        smallest = {"dim": 16, "depth": 2}
        return {option: v for option, v in smallest.items() if option in known}
    return OPTIONS.get(name, {})


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config of the experiment.

    Args:
        argument: The text after the colon.
    """
    variant, settings = parse_argument(
        argument,
        VARIANTS,
        images="digits",
        model="product_gmn",
        fraction=1.0,
        wider=False,
        where="",
        runs=0,
        seed=0,
        data_root="",
    )
    smoke = variant == "smoke"
    images = "digits" if smoke else settings["images"]
    recipe = (
        f"{variant},images={images},runs={settings['runs']},"
        f"data_root={settings['data_root']}"
    )
    zoo = read_config_file(f"{Path(__file__).with_name('zoo.py')}:{recipe}")
    path = "zoos/smoke-small_cnn" if smoke else f"zoos/{images}-{variant}"
    one_shape = variant in ("small_cnn", "smoke")
    train = {
        # Zoos of several architectures have a third as many networks.
        "steps": 1_500 if variant == "small_cnn" else 750,
        "batch_size": 32,
        "eval_every": 250,
        "checkpoint_every": 250,
    }
    if smoke:
        train = {
            "steps": 20,
            "batch_size": 8,
            "log_every": 5,
            "eval_every": 10,
            "checkpoint_every": 10,
        }
    return experiment_config(
        seed=settings["seed"],
        # Canonical weights would hide the scales, which tell how a network was trained.
        canonicalize=False,
        zoo={"path": path, "population": zoo.to_dict()},
        data={
            "where": (settings["where"],) if settings["where"] else (),
            "fraction": settings["fraction"],
            "wider": "width" if settings["wider"] else "",
        },
        # Weights times the root of their fan-in are alike in layers of every width.
        graph={"fan_in": not one_shape},
        model={
            "name": settings["model"],
            **model_options(settings["model"], smoke),
        },
        task={"name": "accuracy", "hidden": 64},
        optimizer={
            "warmup_steps": 10 if smoke else 100,
            "ema_decay": 0.0 if smoke else 0.99,
        },
        train=train,
    )
