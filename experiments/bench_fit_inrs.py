"""Speed and quality of INR fitting; one JSON line per case.

    python experiments/bench_fit_inrs.py
    python experiments/bench_fit_inrs.py --data_root=DIR

Cases are 28x28 grey and 32x32 colour images: MNIST and CIFAR-10 with ``--data_root``,
else enlarged digits. ``ratio`` compares with a plain loop in the same run: one image at
a time, one compiled Adam step (optax, ``jnp.sin``) per call.
"""

from __future__ import annotations

import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from scipy.ndimage import zoom

from metanet.networks import Architecture, coordinate_grid, create, to_targets
from metanet.zoos import FitConfig, fit_networks, load_images

_DATA_ROOT = flags.DEFINE_string("data_root", "", "Folder of the image sets.")
_COUNT = flags.DEFINE_integer("count", 512, "Networks fitted per case.")
_LOOP_COUNT = flags.DEFINE_integer("loop_count", 4, "Networks fitted by the loop.")
_STEPS = flags.DEFINE_integer("steps", 200, "Adam steps.")

CASES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


def case_images(name: str, shape: tuple[int, int, int]) -> tuple[str, np.ndarray]:
    """Source and images ``[count, *shape]``, bytes."""
    if _DATA_ROOT.value:
        source, images = name, load_images(name, _DATA_ROOT.value).images
    else:
        digits = load_images("digits").images[: _COUNT.value, :, :, 0]
        factors = (1, shape[0] / 8, shape[1] / 8)
        large = np.asarray(zoom(digits.astype(float), factors, order=1)).clip(0, 255)
        source, images = "digits", np.repeat(large[..., None], shape[2], axis=3)
    return source, np.resize(images, (_COUNT.value, *shape)).astype(np.uint8)


def fit_one_by_one(config: FitConfig, images: np.ndarray) -> float:
    """Networks per second of the plain loop, compilation excluded."""
    network = create(config.architecture, jax.random.key(0))
    grid = jnp.asarray(coordinate_grid(*images.shape[1:3]))
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    optimizer = optax.adam(schedule)

    @jax.jit
    def step(params, state, pixels):
        error = lambda p: jnp.mean(jnp.square(network.apply_fn(p, grid) - pixels))
        updates, state = optimizer.update(jax.grad(error)(params), state)
        return optax.apply_updates(params, updates), state

    targets = to_targets(images.reshape(len(images), -1, images.shape[-1]))
    step(network.params, optimizer.init(network.params), targets[0])
    start = time.perf_counter()
    for i, pixels in enumerate(targets):
        params = create(config.architecture, jax.random.key(i)).params
        state = optimizer.init(params)
        for _ in range(config.steps):
            params, state = step(params, state, pixels)
        jax.block_until_ready(params)
    return len(images) / (time.perf_counter() - start)


def main(argv: list[str]) -> None:
    """Runs the cases."""
    del argv
    for name, shape in CASES.items():
        architecture = Architecture.of("siren", hidden=(32, 32), out_dim=shape[2])
        config = FitConfig(images=name, architecture=architecture, steps=_STEPS.value)
        source, images = case_images(name, shape)
        ids, views = np.arange(len(images)), np.zeros(len(images), int)
        fit_networks(config, images[:32], ids[:32], views[:32])  # compiles
        start = time.perf_counter()
        _, psnr = fit_networks(config, images, ids, views)
        rate = len(images) / (time.perf_counter() - start)
        loop = fit_one_by_one(config, images[: _LOOP_COUNT.value])
        line = {
            "case": "x".join(map(str, shape)),
            "images": source,
            "inrs_per_second": round(rate, 2),
            "psnr": round(float(psnr.mean()), 2),
            "psnr_lowest_5_percent": round(float(np.quantile(psnr, 0.05)), 2),
            "steps": config.steps,
            "loop_inrs_per_second": round(loop, 2),
            "ratio": round(rate / loop, 2),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    app.run(main)
