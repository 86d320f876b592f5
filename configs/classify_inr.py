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

The first command takes under 2 minutes on two cores, the zoo of 10,782 networks
included; the MNIST runs take about 30 minutes each after the zoo.

Settings after the colon: a variant (digits, mnist, fashion_mnist, smoke), and any of
``model=product_gmn|flat_mlp|statnn``, ``probes=N``, ``seed=N``, ``data_root=DIR``.
"""

from ml_collections import ConfigDict

from metanet.training import parse_argument

VARIANTS = ("digits", "mnist", "fashion_mnist", "smoke")


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

    config.model = model = ConfigDict({"name": given["model"]})
    if given["model"] == "product_gmn":
        model.dim = 16 if variant == "smoke" else 64
        model.heads = 8
        model.depth = {"smoke": 2, "digits": 3}.get(variant, 4)
        model.frequencies = 16
        model.max_frequency = 8.0
        model.probes = 4 if variant == "smoke" and given["probes"] else given["probes"]
        model.readout = "roles"
        model.dropout = 0.0
    else:
        # About the graph model's number of parameters.
        model.dim = 16 if variant == "smoke" else 320
        model.depth = 3
        model.dropout = 0.0

    config.task = ConfigDict({"name": "classification"})
    config.task.hidden = 128
    config.task.label_smoothing = 0.0 if variant == "smoke" else 0.1

    config.augment = ConfigDict()
    config.augment.permutation = False
    config.augment.sign = False
    config.augment.phase = False
    config.augment.scale = False
    config.augment.noise = 0.0 if variant == "smoke" else 0.05

    config.optimizer = optimizer = ConfigDict()
    optimizer.name = "adamw"
    optimizer.learning_rate = 2e-3 if given["model"] == "product_gmn" else 5e-4
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
    return config
