r"""Five kinds of architectures: CNNs, 1-D CNNs on rows, DeepSets, ResNets, ViTs.

The second set of experiments of Graph Metanetworks (Lim et al. 2024, section 5.1), at a
size that two cores can make.

    metanet zoo train --config configs/zoo_diverse.py --out zoos/digits-diverse
    metanet zoo train --config configs/zoo_diverse.py:mnist,data_root=DIR,runs=1000 \
        --out zoos/mnist-diverse

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
    families=("cnn", "row_cnn", "pixel_set", "resnet", "vit"),
    architectures=50,
    runs=600,
    train_images=10_000,
    epochs=(2, 6, 12),
    hyperparameters=VARIED,
    shard_runs=60,
)


def get_config(argument: str = "") -> ConfigDict:
    """The zoo; ``argument`` is what follows the colon after the file's name."""
    return zoo_config(argument, POPULATION)
