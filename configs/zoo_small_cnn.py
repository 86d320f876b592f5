r"""A small CNN zoo: thousands of networks of one shape, trained in all sorts of ways.

The network and the ranges of the settings are those of Unterthiner et al. (2020): three
3x3 convolutions of 16 channels, average pooling, dense; nine checkpoints per run.

    metanet zoo train --config configs/zoo_small_cnn.py --out zoos/digits-small_cnn
    metanet zoo train --config configs/zoo_small_cnn.py:mnist,data_root=DIR,runs=1000 \
        --out zoos/mnist-small_cnn

Settings after the colon: an image set (digits, mnist, fashion_mnist, cifar10, smoke), and
any of ``runs=N``, ``seed=N``, ``data_root=DIR``. Every field can be set by
``--config.NAME=VALUE``.
"""

from metanet.training import parse_argument
from metanet.zoos import Hyperparameters, PopulationConfig, population_dict

VARIANTS = ("digits", "mnist", "fashion_mnist", "cifar10", "smoke")


def get_config(argument: str = ""):
    """The zoo; ``argument`` is what follows the colon after the file's name."""
    images, given = parse_argument(argument, VARIANTS, runs=0, seed=0, data_root="")
    smoke, digits = images == "smoke", images in ("digits", "smoke")
    return population_dict(
        PopulationConfig(
            images="digits" if smoke else images,
            data_root=given["data_root"],
            families=("small_cnn",),
            runs=given["runs"] or (12 if smoke else 1_000),
            train_images=0 if digits else 10_000,
            test_images=0 if digits else 2_000,
            epochs=(0, 1) if smoke else (0, 1, 2, 3, 4, 6, 10, 14, 18),
            hyperparameters=Hyperparameters(
                batch_size=(32,) if digits else (64,),
                train_fraction=(0.25, 0.5, 1.0) if digits else (0.1, 0.25, 0.5, 1.0),
            ),
            seed=given["seed"],
            shard_runs=4 if smoke else 50,
        )
    )
