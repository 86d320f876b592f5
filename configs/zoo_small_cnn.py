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

from ml_collections import ConfigDict

from metanet.training import ZOO_VARIANTS as VARIANTS
from metanet.training import zoo_config
from metanet.zoos import PopulationConfig

__all__ = ["VARIANTS", "get_config"]
POPULATION = PopulationConfig(
    images="mnist",
    families=("small_cnn",),
    runs=1_000,
    train_images=30_000,
    epochs=(0, 1, 2, 3, 4, 6, 10, 14, 18),
    shard_runs=50,
)


def get_config(argument: str = "") -> ConfigDict:
    """The zoo; ``argument`` is what follows the colon after the file's name."""
    config = zoo_config(argument, POPULATION)
    if config.images == "digits" and config.epochs == POPULATION.epochs:
        # So few images take more epochs until networks are good.
        config.epochs = (0, 2, 5, 8, 12, 18, 27, 36, 45)
    return config
