r"""CNNs of varying width, depth, kernel and norm.

The first set of experiments of Graph Metanetworks (Lim et al. 2024, section 5.1), at a size
that two cores can make.

    metanet zoo train --config configs/zoo_varying.py --out zoos/digits-varying
    metanet zoo train --config configs/zoo_varying.py:mnist,data_root=DIR,runs=1000 \
        --out zoos/mnist-varying

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
    families=("cnn",),
    architectures=40,
    runs=400,
    train_images=10_000,
    epochs=(2, 6, 12),
    hyperparameters=VARIED,
    shard_runs=40,
)


def get_config(argument: str = "") -> ConfigDict:
    """The zoo; ``argument`` is what follows the colon after the file's name."""
    return zoo_config(argument, POPULATION)
