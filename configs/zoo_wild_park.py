r"""CNNs of any depth, width, kernels, shortcuts and activation.

As the CNN Wild Park (Kofinas et al. 2024): 2 to 5 layers of 4 to 32 channels, kernels 3 to
7, five activations.

    metanet zoo train --config configs/zoo_wild_park.py --out zoos/digits-wild_park
    metanet zoo train --config configs/zoo_wild_park.py:mnist,data_root=DIR,runs=1000 \
        --out zoos/mnist-wild_park

Settings after the colon: an image set (digits, mnist, fashion_mnist, cifar10, smoke), and
any of ``runs=N``, ``seed=N``, ``data_root=DIR``. Every field can be set by
``--config.NAME=VALUE``.
"""

from ml_collections import ConfigDict

from metanet.training import ZOO_VARIANTS as VARIANTS
from metanet.training import zoo_config
from metanet.zoos import VARIED, PopulationConfig

__all__ = ["VARIANTS", "get_config"]
POPULATION = PopulationConfig(
    images="mnist",
    families=("wild_park",),
    architectures=60,
    runs=480,
    train_images=10_000,
    epochs=(2, 6, 12),
    hyperparameters=VARIED,
    shard_runs=48,
)


def get_config(argument: str = "") -> ConfigDict:
    """The zoo; ``argument`` is what follows the colon after the file's name."""
    return zoo_config(argument, POPULATION)
