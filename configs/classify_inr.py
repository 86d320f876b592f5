r"""Tell from an INR's weights what it represents.

Fits one SIREN per image and view (a zoo, made when it is missing), then trains a graph
metanetwork on the weights. Digits come with scikit-learn; the other sets are read from
``data_root``.

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
``model=NAME``, ``probes=N``, ``seed=N``, ``data_root=DIR``, where NAME is one of

    product_gmn gmn ng_gnn ng_t scale_gmn scale_gmn_b scale_product_gmn
                                                        graph metanetworks
    dws nfn_np nfn_hnp unf nft                          weight-space functionals
    flat_mlp statnn dmc deep_sets set_transformer transformer probegen   baselines
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from metanet.models import MODELS, model_config
from metanet.training import parse_argument

VARIANTS = ("digits", "mnist", "fashion_mnist", "smoke")

# Widths and depths are those of the papers on MNIST INRs, but for the product GMN and
# the baselines, which have about its number of parameters. Digits' SIRENs have 105
# weights, so that a third of the width and a layer less serve.
PUBLISHED: dict[str, dict[str, Any]] = {
    "product_gmn": {"dim": 64, "depth": 4},
    "gmn": {"dim": 64, "depth": 4},
    "ng_gnn": {"dim": 64, "depth": 4, "dropout": 0.2},
    "ng_t": {
        "dim": 64,
        "edge_dim": 32,
        "attention_dim": 64,
        "depth": 4,
        "dropout": 0.2,
    },
    "scale_gmn": {"dim": 128, "depth": 4, "dropout": 0.2},
    "scale_gmn_b": {"dim": 128, "depth": 4, "dropout": 0.2},
    "scale_product_gmn": {"dim": 128, "heads": 16, "depth": 4, "dropout": 0.2},
    "dws": {"dim": 32, "depth": 4},
    "nfn_np": {"dim": 512, "depth": 3, "dropout": 0.5},
    "nfn_hnp": {"dim": 512, "depth": 3, "dropout": 0.5},
    "unf": {"dim": 32, "depth": 4},
    "nft": {"dim": 64, "depth": 4},
    "flat_mlp": {"dim": 320, "depth": 3},
    "statnn": {"dim": 320, "depth": 3},
    "dmc": {"dim": 128, "depth": 4},
    "deep_sets": {"dim": 128, "depth": 3},
    "set_transformer": {"dim": 64, "depth": 3},
    "transformer": {"dim": 128, "depth": 4},
    "probegen": {"probes": 128, "dim": 256},
}
DIGITS = {"dim": 64, "depth": 3}
SMOKE = {"dim": 16, "depth": 2}
LEARNING_RATES = {
    "product_gmn": 2e-3,
    "gmn": 2e-3,
    "flat_mlp": 5e-4,
    "statnn": 5e-4,
    "nfn_np": 5e-4,
    "nfn_hnp": 5e-4,
}


def model_options(name: str, variant: str) -> dict[str, Any]:
    """A model's options for a variant.

    Raises:
        MetanetError: for an unknown model.
    """
    known = MODELS.options(name)
    options = dict(PUBLISHED[name])
    if variant in ("digits", "smoke"):
        options.pop("dropout", None)
        small = SMOKE if variant == "smoke" else DIGITS
        options |= {k: v for k, v in small.items() if k in known}
        if variant == "digits" and name in ("flat_mlp", "statnn"):
            options["dim"] = 320
        if name == "probegen":
            options["probes"] = 8 if variant == "smoke" else 64
    # All options, so that each can be set on the command line.
    return dataclasses.asdict(model_config(name, options))


def get_config(argument: str = "") -> ConfigDict:
    """The experiment; ``argument`` is what follows the colon after the file's name."""
    variant, given = parse_argument(
        argument, VARIANTS, model="product_gmn", probes=16, seed=0, data_root=""
    )
    small = variant in ("digits", "smoke")
    images = "digits" if small else variant

    config = ConfigDict()
    config.seed = given["seed"]
    config.canonicalize = True

    config.zoo = ConfigDict()
    config.zoo.path = f"zoos/{variant}-siren"
    config.zoo.fit = fit = ConfigDict()
    fit.images = images
    fit.data_root = given["data_root"]
    fit.download = False
    fit.limit = {"smoke": 60, "digits": 0}.get(variant, 24_000)
    fit.views = {"smoke": 1, "digits": 6}.get(variant, 1)
    fit.seed = 0
    # 8x8 images need a small network of low frequency: 105 weights for 64 pixels.
    fit.architecture = ConfigDict({"name": "siren"})
    fit.architecture.options = ConfigDict(
        {"hidden": (8, 8), "w0": 5.0} if small else {"hidden": (32, 32), "w0": 30.0}
    )
    fit.steps = {"smoke": 50, "digits": 300}.get(variant, 100)
    fit.learning_rate = 1e-2 if small else 2e-3
    fit.batch = 0  # chosen for the image size
    fit.shard_size = 1024

    config.data = data = ConfigDict()
    data.where = ()
    data.checkpoints = "all"
    data.fraction = 1.0
    data.wider = ""
    data.memory = 0.0

    config.graph = ConfigDict()
    config.graph.fuse = "reader"
    config.graph.activations = True
    config.graph.depths = True
    config.graph.fan_in = False

    name = given["model"]
    config.model = ConfigDict({"name": name, **model_options(name, variant)})
    if "probes" in MODELS.options(name) and name != "probegen":
        config.model.probes = min(given["probes"], 4 if variant == "smoke" else 1024)

    config.task = ConfigDict({"name": "classification"})
    config.task.hidden = 128
    config.task.label_smoothing = 0.0 if variant == "smoke" else 0.1

    config.augment = ConfigDict()
    config.augment.symmetry = ConfigDict()
    config.augment.symmetry.permutation = False
    config.augment.symmetry.sign = False
    config.augment.symmetry.phase = False
    config.augment.symmetry.scale = False
    config.augment.noise = ConfigDict()
    config.augment.noise.level = 0.0 if variant == "smoke" else 0.05

    config.optimizer = optimizer = ConfigDict()
    optimizer.name = "adamw"
    optimizer.learning_rate = LEARNING_RATES.get(name, 1e-3)
    optimizer.weight_decay = 1e-2
    optimizer.schedule = "cosine"
    optimizer.warmup_steps = 10 if variant == "smoke" else 200
    optimizer.clip_norm = 1.0
    optimizer.ema_decay = 0.0 if variant == "smoke" else 0.998

    config.train = train = ConfigDict()
    train.steps = {"smoke": 20, "digits": 4_000}.get(variant, 20_000)
    train.batch_size = {"smoke": 8, "digits": 32}.get(variant, 64)
    train.micro_batch = 0
    train.log_every = {"smoke": 5}.get(variant, 50)
    train.eval_every = {"smoke": 10, "digits": 500}.get(variant, 1_000)
    train.checkpoint_every = {"smoke": 10, "digits": 500}.get(variant, 1_000)
    train.keep = 2
    train.patience = 0
    train.eval_batch = 32
    train.bf16 = False
    return config
