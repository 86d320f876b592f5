"""Speed and quality of INR fitting, one JSON line per case.

    python experiments/bench_fit_inrs.py
    python experiments/bench_fit_inrs.py --data-root DIR

Cases are 28x28 grey and 32x32 colour images: MNIST and CIFAR-10 with ``--data-root``,
otherwise enlarged digits. ``ratio`` is relative to a plain loop in the same process: one
image at a time, one compiled Adam step (optax, ``jnp.sin``) per call.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.ndimage import zoom

from metanet.errors import MetanetError
from metanet.networks import Architecture, coordinate_grid, create, to_targets
from metanet.zoos import FitConfig, fit_networks, load_images

CASES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


def case_images(
    name: str, shape: tuple[int, int, int], count: int, data_root: str
) -> tuple[str, np.ndarray]:
    """Returns the name of the image set and images ``[count, *shape]``, bytes."""
    if data_root:
        source, images = name, load_images(name, data_root).images
    else:
        digits = load_images("digits").images[:count, :, :, 0]
        factors = (1, shape[0] / 8, shape[1] / 8)
        large = np.asarray(zoom(digits.astype(float), factors, order=1)).clip(0, 255)
        source, images = "digits", np.repeat(large[..., None], shape[2], axis=3)
    return source, np.resize(images, (count, *shape)).astype(np.uint8)


def fit_one_by_one(config: FitConfig, images: np.ndarray) -> float:
    """Returns networks per second of the plain loop, without compilation."""
    network = create(config.architecture, jax.random.key(0))
    grid = jnp.asarray(coordinate_grid(*images.shape[1:3]))
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    optimizer = optax.adam(schedule)

    @jax.jit
    def step(params, state, pixels):
        def error(params):
            return jnp.mean(jnp.square(network.apply_fn(params, grid) - pixels))

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


def measure(name: str, args: argparse.Namespace) -> dict[str, object]:
    """Returns the record of a case."""
    shape = CASES[name]
    architecture = Architecture.of("siren", hidden=(32, 32), out_dim=shape[2])
    config = FitConfig(images=name, architecture=architecture, steps=args.steps)
    source, images = case_images(name, shape, args.count, args.data_root)
    ids, views = np.arange(len(images)), np.zeros(len(images), int)
    fit_networks(config, images[:32], ids[:32], views[:32])  # compiles
    start = time.perf_counter()
    _, psnr = fit_networks(config, images, ids, views)
    rate = len(images) / (time.perf_counter() - start)
    loop_rate = fit_one_by_one(config, images[: args.loop_count])
    return {
        "case": "x".join(map(str, shape)),
        "images": source,
        "inrs_per_second": round(rate, 2),
        "psnr": round(float(psnr.mean()), 2),
        "psnr_lowest_5_percent": round(float(np.quantile(psnr, 0.05)), 2),
        "steps": config.steps,
        "loop_inrs_per_second": round(loop_rate, 2),
        "ratio": round(rate / loop_rate, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data-root", default="", metavar="DIR", help="folder of the image sets"
    )
    parser.add_argument(
        "--count", type=int, default=512, help="networks per case (default: 512)"
    )
    parser.add_argument(
        "--loop-count", type=int, default=4, help="networks of the loop (default: 4)"
    )
    parser.add_argument(
        "--steps", type=int, default=200, help="Adam steps (default: 200)"
    )
    args = parser.parse_args()
    try:
        for name in CASES:
            print(json.dumps(measure(name, args)), flush=True)
    except MetanetError as error:
        print(f"bench_fit_inrs: error: {error}", file=sys.stderr)
        return error.status
    return 0


if __name__ == "__main__":
    sys.exit(main())
