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
            families=("wild_park",),
            architectures=3 if smoke else 60,
            runs=given["runs"] or (12 if smoke else 480),
            train_images=0 if digits else 10_000,
            test_images=0 if digits else 2_000,
            epochs=(0, 1) if smoke else (2, 6, 12),
            hyperparameters=Hyperparameters(
                optimizer=("sgd", "adam"),
                learning_rate=(1e-3, 3e-2),
                weight_decay=(1e-6, 1e-2),
                dropout=(0.0, 0.5),
                activation=(),
                init=("lecun_normal", "he_normal"),
                init_scale=(0.5, 1.5),
                train_fraction=(0.1, 0.3, 1.0),
                label_noise=(0.0, 0.3),
                batch_size=(32,) if digits else (64,),
            ),
            seed=given["seed"],
            shard_runs=4 if smoke else 48,
        )
    )
