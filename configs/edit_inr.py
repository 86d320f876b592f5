r"""Edit INRs: new weights, so that each network renders another image.

Fits one SIREN per image and view (the zoo of classify_inr.py, made when it is missing), then
trains a graph metanetwork to update every weight. The target is an operation on the image to
which the network was fitted.

    metanet train --config configs/edit_inr.py
    metanet train --config configs/edit_inr.py:erode
    metanet edit runs/edit_inr zoos/digits-siren:0 network.npz --out edited

Settings after the colon: the operation (dilate, erode, invert, or smoke for a run of
seconds), and any of

    model=NAME     a graph metanetwork; see configs/classify_inr.py
    seed=N
"""

from ml_collections import ConfigDict

from metanet.training import experiment_config, parse_argument, read_config_file

VARIANTS = ("dilate", "erode", "invert", "smoke")


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config of the experiment.

    Args:
        argument: The text after the colon.
    """
    variant, settings = parse_argument(argument, VARIANTS, model="product_gmn", seed=0)
    smoke = variant == "smoke"
    zoo = read_config_file("classify_inr:smoke" if smoke else "classify_inr").zoo
    return experiment_config(
        seed=settings["seed"],
        # The written networks are to stay close to those that were read.
        canonicalize=False,
        zoo=zoo.to_dict(),
        model={
            "name": settings["model"],
            "dim": 16 if smoke else 64,
            "depth": 2 if smoke else 4,
        },
        task={"name": "edit", "operation": "dilate" if smoke else variant},
        optimizer={
            "learning_rate": 2e-3,
            "warmup_steps": 10 if smoke else 200,
            "ema_decay": 0.0 if smoke else 0.998,
        },
        train={
            "steps": 20 if smoke else 3_000,
            "batch_size": 8 if smoke else 32,
            "log_every": 5 if smoke else 50,
            "eval_every": 10 if smoke else 500,
            "checkpoint_every": 10 if smoke else 500,
        },
    )
