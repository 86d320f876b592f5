r"""Recurrent networks that read images row by row.

Three cells (tanh, GRU, LSTM), 8 to 32 units, one or two layers.

    metanet zoo train --config configs/zoo_rnn.py --out zoos/digits-rnn
    metanet zoo train --config configs/zoo_rnn.py:mnist,data_root=DIR,runs=1000 \
        --out zoos/mnist-rnn

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
    families=("row_rnn",),
    architectures=12,
    runs=360,
    train_images=10_000,
    epochs=(2, 6, 12),
    hyperparameters=VARIED,
    shard_runs=60,
)


def get_config(argument: str = "") -> ConfigDict:
    """The zoo; ``argument`` is what follows the colon after the file's name."""
    return zoo_config(argument, POPULATION)
