r"""Predict a network's test accuracy from its weights alone.

Trains a zoo of classifiers (when it is missing), then a metanetwork that reads their
weights. Digits come with scikit-learn; the other sets are read from ``data_root``.

    metanet train --config configs/predict_accuracy.py
    metanet train --config configs/predict_accuracy.py:diverse,model=gmn
    metanet train --config configs/predict_accuracy.py:small_cnn,images=mnist,data_root=DIR
    metanet predict runs/predict_accuracy model.onnx

The first command takes five to eight minutes on two cores, the zoo of 1,000 networks with
nine checkpoints each included. Measured on its 300 test runs (seed 0): R2 0.956, Kendall tau
0.820, mean error 4.6 points; 93.2 % lie in the interval that is to hold 90 %. Settings
alone, without weights, reach R2 0.868 (boosting); the first epoch's accuracy tells that of
later ones with 0.676, the model 0.949.

Settings after the colon: the zoo (small_cnn, varying, diverse, wild_park, rnn,
transformer, smoke), each made by its configs/zoo_*.py, and any of

    images=NAME    digits, mnist, fashion_mnist, cifar10
    model=NAME     any that `metanet train --config configs/classify_inr.py` takes
    fraction=F     share of the training runs, 0.1 for the low-data setting
    wider=1        train on narrow networks, test on strictly wider ones
    runs=N, seed=N, data_root=DIR

Networks of several architectures, or activations, train in packed batches; models that
are bound to one architecture take a part of the zoo: ``where=activation=relu``.
"""

import dataclasses
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from metanet.models import MODELS, model_config
from metanet.training import parse_argument, read_config_file

VARIANTS = (
    "small_cnn",
    "varying",
    "diverse",
    "wild_park",
    "rnn",
    "transformer",
    "smoke",
)

# Small enough for two cores; mostly 100,000 to 350,000 parameters, of the functionals more.
OPTIONS: dict[str, dict[str, Any]] = {
    "product_gmn": {"dim": 64, "depth": 4, "moments": 32, "readout": "moments"},
    "gmn": {"dim": 64, "depth": 4},
    "ng_gnn": {"dim": 32, "depth": 4},
    "ng_t": {"dim": 64, "edge_dim": 32, "attention_dim": 64, "depth": 4},
    "scale_gmn": {"dim": 64, "depth": 4},
    "scale_gmn_b": {"dim": 64, "depth": 4},
    "scale_product_gmn": {"dim": 64, "depth": 4},
    "dws": {"dim": 8, "depth": 4},
    "nfn_np": {"dim": 8, "depth": 3},
    "nfn_hnp": {"dim": 8, "depth": 3},
    "unf": {"dim": 8, "depth": 4},
    "nft": {"dim": 8, "depth": 3},
    "flat_mlp": {"dim": 64, "depth": 3},
    "statnn": {"dim": 256, "depth": 3},
    "dmc": {"dim": 128, "depth": 4},
    "deep_sets": {"dim": 128, "depth": 3},
    "set_transformer": {"dim": 64, "depth": 3},
    "transformer": {"dim": 128, "depth": 4},
    "probegen": {"probes": 64, "dim": 128},
}


def get_config(argument: str = "") -> ConfigDict:
    """The experiment; ``argument`` is what follows the colon after the file's name."""
    variant, given = parse_argument(
        argument, VARIANTS, images="digits", model="product_gmn", fraction=1.0, wider=0,
        where="", runs=0, seed=0, data_root="",
    )  # fmt: skip
    smoke = variant == "smoke"
    name = "small_cnn" if smoke else variant
    images = "smoke" if smoke else given["images"]
    file = Path(__file__).with_name(f"zoo_{name}.py")
    zoo = f"{images},runs={given['runs']},data_root={given['data_root']}"

    config = ConfigDict()
    config.seed = given["seed"]
    # Scales change nothing in what a network computes, but tell how it was trained.
    config.canonicalize = False

    config.zoo = ConfigDict({"path": f"zoos/{images}-{name}"})
    config.zoo.population = read_config_file(f"{file}:{zoo}")

    config.data = data = ConfigDict()
    data.where = (given["where"],) if given["where"] else ()
    data.checkpoints = "all"
    data.fraction = given["fraction"]
    data.wider = "width" if given["wider"] else ""
    data.memory = 0.0

    config.graph = ConfigDict()
    config.graph.fuse = "reader"
    config.graph.activations = True
    config.graph.depths = True
    # Layers of all widths look alike then; of one shape they do anyway.
    config.graph.fan_in = variant not in ("small_cnn", "smoke")

    options = OPTIONS[given["model"]]
    if smoke:
        known = MODELS.options(given["model"])
        options = {k: v for k, v in {"dim": 16, "depth": 2}.items() if k in known}
    full = dataclasses.asdict(model_config(given["model"], options))
    config.model = ConfigDict({"name": given["model"], **full})

    config.task = ConfigDict({"name": "accuracy"})
    config.task.column = "test_accuracy"
    config.task.hidden = 64
    config.task.loss = "bce"
    config.task.coverage = 0.9

    config.augment = ConfigDict()
    config.augment.symmetry = ConfigDict()
    config.augment.symmetry.permutation = False
    config.augment.symmetry.sign = False
    config.augment.symmetry.phase = False
    config.augment.symmetry.scale = False
    config.augment.noise = ConfigDict()
    config.augment.noise.level = 0.0

    config.optimizer = optimizer = ConfigDict()
    optimizer.name = "adamw"
    optimizer.learning_rate = 1e-3
    optimizer.weight_decay = 1e-2
    optimizer.schedule = "cosine"
    optimizer.warmup_steps = 10 if smoke else 100
    optimizer.clip_norm = 1.0
    optimizer.ema_decay = 0.0 if smoke else 0.99

    config.train = train = ConfigDict()
    # Zoos of several architectures hold a third as many networks.
    train.steps = 20 if smoke else 1_500 if variant == "small_cnn" else 750
    train.batch_size = 8 if smoke else 32
    train.micro_batch = 0
    train.log_every = 5 if smoke else 50
    train.eval_every = 10 if smoke else 250
    train.checkpoint_every = 10 if smoke else 250
    train.keep = 2
    train.patience = 0
    train.eval_batch = 32
    train.bf16 = False
    return config
