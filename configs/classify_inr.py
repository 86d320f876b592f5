r"""Classifies implicit neural representations (INRs) by the image that they represent.

Fits one SIREN per image and view (the zoo; an existing one is used again), then trains a
graph metanetwork on their weights. Digits are part of scikit-learn; the other sets are
read from ``data_root``.

Commands:

    metanet train --config configs/classify_inr.py
    metanet train --config configs/classify_inr.py:smoke
    metanet train --config configs/classify_inr.py:mnist,data_root=DIR
    metanet train --config configs/classify_inr.py:fashion_mnist,data_root=DIR,probes=64

Measured, test accuracy in per cent (digits: mean and deviation over seeds 0 to 2):

    digits                16 probes 94.2 +- 0.6, without 71.8 +- 0.4;
                          model=flat_mlp 16.2 +- 0.4, model=statnn 24.4 +- 0.4
    mnist                 64 probes 96.4, without 89.2 (seed 0; 18,500 and 20,000 steps)
    fashion_mnist         64 probes 80.1, without 70.0 (seed 0; 3,101 and 2,500 steps)
    all 70,000 images     model=probegen, --config.zoo.fit.limit=0: mnist 98.4 and
                          fashion_mnist 86.7 (seed 0; validation 98.2 and 87.5)

The first command takes under 2 minutes on two cores, the zoo of 10,782 networks
included. 70,000 INRs take about 5 minutes, ProbeGen another 5 on one core, and graph
metanetworks on 24,000 MNIST INRs about 30.

Settings after the colon: a variant (digits, mnist, fashion_mnist, smoke), and any of

    model=NAME     one of the names below, or package.module:Class (default: product_gmn)
    probes=N       learned input coordinates whose activations the model also reads
    augment=1      a random permutation, signs and phases of each network at every step,
                   for models that do not have these symmetries (model=flat_mlp), instead
                   of canonical weights
    seed=N, data_root=DIR

    product_gmn gmn ng_gnn ng_t scale_gmn scale_gmn_b scale_product_gmn
                                                        graph metanetworks
    dws nfn_np nfn_hnp unf nft                          weight-space functionals
    flat_mlp statnn dmc deep_sets set_transformer transformer probegen   baselines

Every field of `ExperimentConfig` can be set by ``--config.SECTION.NAME=VALUE``.
"""

from typing import Any

from ml_collections import ConfigDict

from metanet.models import MODELS
from metanet.training import experiment_config, parse_argument

VARIANTS = ("digits", "mnist", "fashion_mnist", "smoke")

# Widths and dropout of the papers on MNIST INRs, where they differ from the defaults of
# the models; the baselines have about as many parameters as the product GMN.
PUBLISHED: dict[str, dict[str, Any]] = {
    "ng_gnn": {"dropout": 0.2},
    "ng_t": {"dropout": 0.2},
    "scale_gmn": {"dropout": 0.2},
    "scale_gmn_b": {"dropout": 0.2},
    "scale_product_gmn": {"dropout": 0.2},
    "nfn_np": {"dim": 512, "dropout": 0.5},
    "nfn_hnp": {"dim": 512, "dropout": 0.5},
    "nft": {"dim": 64},
    "flat_mlp": {"dim": 320},
    "statnn": {"dim": 320},
    "deep_sets": {"dim": 128},
    "probegen": {"probes": 128},
}
# The SIRENs of digits have 105 weights; a third of the width and a layer less suffice.
DIGITS: dict[str, dict[str, Any]] = {
    "flat_mlp": {"dim": 320, "depth": 3},
    "statnn": {"dim": 320, "depth": 3},
    "probegen": {"dim": 64, "depth": 3, "probes": 64},
}
LEARNING_RATES = {
    "product_gmn": 2e-3,
    "gmn": 2e-3,
    "flat_mlp": 5e-4,
    "statnn": 5e-4,
    "nfn_np": 5e-4,
    "nfn_hnp": 5e-4,
}
# INRs and training steps by the size of the image set.
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "digits": {
        "fit": {
            # 8x8 images need a small network of low frequency: 105 weights, 64 pixels.
            "architecture": {"name": "siren", "options": {"hidden": (8, 8), "w0": 5.0}},
            "views": 6,
            "steps": 300,
            "learning_rate": 1e-2,
        },
        "train": {
            "steps": 4_000,
            "batch_size": 32,
            "eval_every": 500,
            "checkpoint_every": 500,
        },
    },
    "large": {
        "fit": {
            "architecture": {
                "name": "siren",
                "options": {"hidden": (32, 32), "w0": 30.0},
            },
            "limit": 24_000,
            "steps": 100,
        },
        "train": {"steps": 20_000, "eval_every": 1_000, "checkpoint_every": 1_000},
    },
    "smoke": {
        "fit": {
            "architecture": {"name": "siren", "options": {"hidden": (8, 8), "w0": 5.0}},
            "limit": 60,
            "steps": 50,
            "learning_rate": 1e-2,
        },
        "train": {
            "steps": 20,
            "batch_size": 8,
            "log_every": 5,
            "eval_every": 10,
            "checkpoint_every": 10,
        },
    },
}


def model_options(name: str, variant: str, probes: int) -> dict[str, Any]:
    """Returns the options of a model that differ from its defaults.

    Args:
        name: Name of the model.
        variant: Variant of the config.
        probes: Number of probes of graph metanetworks.

    Raises:
        MetanetError: for an unknown model (with the nearest one).
    """
    known = MODELS.options(name)
    if variant == "smoke":
        count = 8 if name == "probegen" else min(probes, 4)
        options = {"dim": 16, "depth": 2, "probes": count}
    elif variant == "digits":
        options = {"probes": probes, **DIGITS.get(name, {"dim": 64, "depth": 3})}
    else:
        options = {"probes": probes, **PUBLISHED.get(name, {})}
    return {option: value for option, value in options.items() if option in known}


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config of the experiment.

    Args:
        argument: The text after the colon.
    """
    variant, settings = parse_argument(
        argument,
        VARIANTS,
        model="product_gmn",
        probes=16,
        augment=False,
        seed=0,
        data_root="",
    )
    name, augment = settings["model"], settings["augment"]
    size = SIZES[variant if variant in SIZES else "large"]
    files = {
        "images": "digits" if variant == "smoke" else variant,
        "data_root": settings["data_root"],
    }
    regularized = variant != "smoke"
    return experiment_config(
        seed=settings["seed"],
        canonicalize=not augment,
        zoo={"path": f"zoos/{variant}-siren", "fit": {**size["fit"], **files}},
        model={"name": name, **model_options(name, variant, settings["probes"])},
        task={
            "name": "classification",
            "label_smoothing": 0.1 if regularized else 0.0,
        },
        augment={
            "symmetry": {"permutation": augment, "sign": augment, "phase": augment},
            "noise": {"level": 0.05 if regularized else 0.0},
        },
        optimizer={
            "learning_rate": LEARNING_RATES.get(name, 1e-3),
            "warmup_steps": 200 if regularized else 10,
            "ema_decay": 0.998 if regularized else 0.0,
        },
        train=size["train"],
    )
