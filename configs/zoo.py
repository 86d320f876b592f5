r"""Zoos of image classifiers, from one recipe each.

    small_cnn     one small CNN trained in all sorts of ways. Network and ranges of the
                  settings of Unterthiner et al. (2020): three 3x3 convolutions of 16
                  channels, average pooling, dense; nine checkpoints per run
    varying       CNNs of varying width, depth, kernel and norm; as the first experiments
                  of Graph Metanetworks (Lim et al. 2024, section 5.1)
    diverse       five kinds of architectures: CNNs, 1-D CNNs on rows, DeepSets, ResNets,
                  ViTs; as the second experiments of Graph Metanetworks
    wild_park     as the CNN Wild Park (Kofinas et al. 2024): 2 to 5 layers of 4 to 32
                  channels, kernels 3 to 7, shortcuts, five activations
    rnn           three recurrent cells (tanh, GRU, LSTM) of 8 to 32 units, one or two
                  layers, on images row by row
    transformer   vision transformers of width 8 to 24, one or two blocks, one to four
                  heads, 16 patches
    smoke         a few networks of small_cnn

All have sizes that two cores can train, on digits in a few minutes.

Commands:

    metanet zoo train --config configs/zoo.py:small_cnn --out zoos/digits-small_cnn
    metanet zoo train --config configs/zoo.py:diverse,images=mnist,data_root=DIR,runs=1000 \
        --out zoos/mnist-diverse

Settings after the colon: a recipe (default: small_cnn), and any of

    images=NAME    digits (default; part of scikit-learn), mnist, fashion_mnist, cifar10
    data_root=DIR  folder of the image files, which digits do not need
    runs=N         number of training runs
    seed=N         seed of architectures, settings, initialisations and splits
    smoke=1        a few runs of one epoch

Every field of `PopulationConfig` can be set by ``--config.NAME=VALUE``.
"""

from dataclasses import replace
from typing import Any

from ml_collections import ConfigDict

from metanet.training import parse_argument, to_config_dict
from metanet.zoos import VARIED, PopulationConfig

SHORT = (2, 6, 12)
RECIPES = {
    "small_cnn": PopulationConfig(
        families=("small_cnn",),
        runs=1_000,
        train_images=30_000,
        epochs=(0, 1, 2, 3, 4, 6, 10, 14, 18),
        shard_runs=50,
    ),
    "varying": PopulationConfig(
        families=("cnn",),
        architectures=40,
        runs=400,
        train_images=10_000,
        epochs=SHORT,
        hyperparameters=VARIED,
        shard_runs=40,
    ),
    "diverse": PopulationConfig(
        families=("cnn", "row_cnn", "pixel_set", "resnet", "vit"),
        architectures=50,
        runs=600,
        train_images=10_000,
        epochs=SHORT,
        hyperparameters=VARIED,
        shard_runs=60,
    ),
    "wild_park": PopulationConfig(
        families=("wild_park",),
        architectures=60,
        runs=480,
        train_images=10_000,
        epochs=SHORT,
        hyperparameters=VARIED,
        shard_runs=48,
    ),
    "rnn": PopulationConfig(
        families=("row_rnn",),
        architectures=12,
        runs=360,
        train_images=10_000,
        epochs=SHORT,
        hyperparameters=VARIED,
        shard_runs=60,
    ),
    "transformer": PopulationConfig(
        families=("vit",),
        architectures=16,
        runs=320,
        train_images=10_000,
        epochs=SHORT,
        hyperparameters=VARIED,
        shard_runs=40,
    ),
}
# Networks need more epochs on so few images until they are good.
DIGITS_EPOCHS = {"small_cnn": (0, 2, 5, 8, 12, 18, 27, 36, 45)}
VARIANTS = (*RECIPES, "smoke")


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config of a zoo.

    Args:
        argument: The text after the colon.
    """
    variant, settings = parse_argument(
        argument,
        VARIANTS,
        images="digits",
        data_root="",
        runs=0,
        seed=0,
        smoke=False,
    )
    smoke = settings["smoke"] or variant == "smoke"
    recipe = "small_cnn" if variant == "smoke" else variant
    zoo = RECIPES[recipe]
    changes: dict[str, Any] = {
        "images": settings["images"],
        "data_root": settings["data_root"],
        "seed": settings["seed"],
        "runs": settings["runs"] or (12 if smoke else zoo.runs),
    }
    if settings["images"] == "digits":
        changes |= {
            "train_images": 0,  # all
            "test_images": 0,
            "hyperparameters": replace(zoo.hyperparameters, batch_size=(32,)),
            "epochs": DIGITS_EPOCHS.get(recipe, zoo.epochs),
        }
    if smoke:
        changes |= {
            "architectures": min(zoo.architectures, max(2, len(zoo.families))),
            "epochs": (0, 1),
            "shard_runs": 4,
        }
    return to_config_dict(replace(zoo, **changes))
