"""Fits one INR per image and view: many at once, in one compiled program.

Networks are fitted in chunks of 16 under `vmap` (the working set of a chunk stays in
cache), chunks and Adam steps run under two nested scans, and each network's
initialisation depends on the seed, its image and its view alone. The result is the same
to the bit whatever is interrupted and resumed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metanet.errors import MetanetError
from metanet.networks import (
    Architecture,
    ParamSpec,
    coordinate_grid,
    create,
    sine,
    siren_on_grid,
    to_targets,
    to_unit,
)
from metanet.progress import track
from metanet.zoos.images import ImageSet, load_images
from metanet.zoos.splits import choose_images
from metanet.zoos.store import Zoo, ZooWriter

# Chunks per call of the compiled program: enough to hide its start, few enough to show
# progress.
_CHUNKS_PER_CALL = 8


@dataclass(frozen=True)
class FitConfig:
    """A zoo of INRs.

    Attributes:
        images: Image set, see `load_images`.
        data_root: Folder of image files; "" if the set needs none.
        download: Fetch missing image files.
        limit: Number of images; 0 takes all.
        views: Networks per image, from independent initialisations.
        seed: Seed of initialisations and splits.
        architecture: The INR; its output width must match the images' channels.
        steps: Adam steps on all pixels.
        learning_rate: Peak learning rate, decayed to zero by a cosine.
        batch: Networks fitted at once.
        shard_size: Networks per file of the zoo.
    """

    images: str = "digits"
    data_root: str = ""
    download: bool = False
    limit: int = 0
    views: int = 1
    seed: int = 0
    architecture: Architecture = field(
        default_factory=lambda: Architecture.of("siren", hidden=(32, 32))
    )
    steps: int = 200
    learning_rate: float = 2e-3
    batch: int = 16
    shard_size: int = 1024

    def identity(self) -> dict[str, Any]:
        """What decides the zoo's content: all fields but those of data access."""
        fields = asdict(self)
        del fields["data_root"], fields["download"]
        fields["architecture"] = self.architecture.to_json()
        return fields


def convention_of(architecture: Architecture) -> str:
    """The coordinate and pixel convention of an INR; "dws" where it has no option."""
    return dict(architecture.options).get("convention", "dws")


def inr_function(architecture: Architecture) -> tuple[ParamSpec, Callable[..., Any]]:
    """Spec and function of an INR with the sine that is fastest here.

    Raises:
        MetanetError: for an architecture that does not read coordinates.
    """
    network = create(architecture, jax.random.key(0))
    if network.inputs[0].shape[-1] != 2 or network.inputs[0].ndim != 2:
        raise MetanetError(
            f"architecture {architecture.name}: does not map 2-D coordinates to pixels"
        )
    spec = ParamSpec.of(network.params)
    if architecture.name != "siren":
        return spec, network.apply_fn
    w0 = architecture.option("w0")
    offset = 0.5 if convention_of(architecture) == "dws" else 0.0
    return spec, lambda params, grid: siren_on_grid(params, grid, w0, offset, sine)


@lru_cache(maxsize=4)
def _program(
    architecture: Architecture, steps: int, learning_rate: float, shape: tuple[int, ...]
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Compiled ``fit(keys [C, M], pixels [C, M, P, channels]) -> weights, psnr``."""
    spec, apply_fn = inr_function(architecture)
    exact = create(architecture, jax.random.key(0)).apply_fn
    convention = convention_of(architecture)
    grid = jnp.asarray(coordinate_grid(shape[0], shape[1], convention))

    def error(vector: jax.Array, pixels: jax.Array, function: Any) -> jax.Array:
        difference = function(spec.unflatten(vector), grid) - pixels
        return jnp.mean(difference * difference)

    gradient = jax.vmap(jax.grad(lambda v, p: error(v, p, apply_fn)))

    def initial(key: jax.Array) -> jax.Array:
        return spec.flatten(create(architecture, key).params)

    def chunk(keys: jax.Array, pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
        start = jax.vmap(initial)(keys)

        def step(carry, i):
            x, m, v = carry
            g = gradient(x, pixels)
            m = 0.9 * m + 0.1 * g
            v = 0.999 * v + 0.001 * (g * g)
            rate = learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * i / steps))
            m_hat = m / (1 - 0.9 ** (i + 1))
            v_hat = v / (1 - 0.999 ** (i + 1))
            x = x - rate * m_hat / (jnp.sqrt(v_hat) + 1e-8)
            return (x, m, v), None

        zero = jnp.zeros_like(start)
        counter = jnp.arange(steps, dtype=jnp.float32)
        (x, _, _), _ = jax.lax.scan(step, (start, zero, zero), counter)
        mse = jax.vmap(lambda v, p: error(v, p, exact))(x, pixels)
        span = 1.0 if convention == "dws" else 2.0
        psnr = 10 * jnp.log10(span**2 / jnp.maximum(mse, 1e-12))
        return x, psnr

    @jax.jit
    def fit(keys: jax.Array, pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.lax.map(lambda a: chunk(*a), (keys, pixels))

    return fit


def fit_networks(
    config: FitConfig,
    images: np.ndarray,
    ids: np.ndarray,
    views: np.ndarray,
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Fits one network to each image.

    Args:
        config: Architecture, optimiser, seed.
        images: ``[N, height, width, channels]`` bytes.
        ids: ``[N]`` index of each image in its set.
        views: ``[N]`` view of each network.
        advance: Called with the number of networks just fitted.

    Returns:
        Flat weights ``[N, P]`` and PSNR in dB ``[N]``.
    """
    convention = convention_of(config.architecture)
    shape, count = images.shape[1:], len(images)
    fit = _program(config.architecture, config.steps, config.learning_rate, shape)
    targets = to_targets(images.reshape(count, -1, shape[-1]), convention)
    keys = _keys(config.seed, ids, views)
    group = config.batch * _CHUNKS_PER_CALL

    def run(start: int) -> tuple[np.ndarray, np.ndarray]:
        # Short groups repeat their first networks, so that one program serves all.
        kept = min(group, count - start)
        index = start + np.arange(group) % kept
        pixels = targets[index].reshape(-1, config.batch, *targets.shape[1:])
        x, p = fit(keys[index].reshape(-1, config.batch), pixels)
        weights = np.asarray(x).reshape(group, -1)[:kept]
        return weights, np.asarray(p).reshape(group)[:kept]

    # Chunks are small: two programs side by side keep the cores of a CPU busier than
    # one that splits every small operation between them.
    workers = min(os.cpu_count() or 1, 8) if jax.default_backend() == "cpu" else 1
    parts = []
    with ThreadPoolExecutor(workers) as pool:
        for weights, psnr in pool.map(run, range(0, count, group)):
            parts.append((weights, psnr))
            advance(len(weights))
    return np.concatenate([w for w, _ in parts]), np.concatenate([p for _, p in parts])


def _keys(seed: int, ids: np.ndarray, views: np.ndarray) -> jax.Array:
    root = jax.random.key(seed)
    fold = jax.vmap(lambda i, v: jax.random.fold_in(jax.random.fold_in(root, i), v))
    return fold(jnp.asarray(ids), jnp.asarray(views))


def fit_inrs(config: FitConfig, out: str | Path, *, progress: bool = True) -> Zoo:
    """Fits a zoo of INRs, or finishes one that was interrupted.

    Args:
        config: What to fit.
        out: Directory of the zoo; completed shards in it are verified and kept.
        progress: Show a progress bar.

    Raises:
        MetanetError: for unusable images, an architecture that does not fit them, or a
            directory that holds another zoo.
    """
    dataset = load_images(config.images, config.data_root or None, config.download)
    channels = dataset.images.shape[-1]
    spec, _ = inr_function(config.architecture)
    if config.architecture.option("out_dim") != channels:
        raise MetanetError(
            f"architecture: out_dim {config.architecture.option('out_dim')} does not "
            f"match the {channels} channels of {config.images}"
        )
    chosen, split = choose_images(dataset, config.limit, config.seed)
    total = len(chosen) * config.views
    writer = ZooWriter(out, _description(config, dataset, spec, total))
    rows = np.arange(total)
    with track(
        total, f"fitting INRs to {config.images}", unit="INRs", show=progress,
        done=writer.done,
    ) as bar:  # fmt: skip
        for shard in writer.missing():
            part = rows[shard * config.shard_size : (shard + 1) * config.shard_size]
            image, view = chosen[part // config.views], part % config.views
            pixels = dataset.images[image]
            weights, psnr = fit_networks(config, pixels, image, view, bar.advance)
            writer.write(
                shard,
                {
                    "id": part,
                    "weights": weights,
                    "label": dataset.labels[image],
                    "image": image,
                    "view": view,
                    "split": split[part // config.views],
                    "psnr": psnr,
                },
            )
    return writer.finish()


def _description(
    config: FitConfig, dataset: ImageSet, spec: ParamSpec, total: int
) -> dict[str, Any]:
    return {
        "kind": "inr",
        "config": config.identity(),
        "architectures": {"0": config.architecture.to_json()},
        "leaves": [
            {"path": p, "shape": list(s)}
            for p, s in zip(spec.paths, spec.shapes, strict=True)
        ],
        "convention": convention_of(config.architecture),
        "image_shape": list(dataset.images.shape[1:]),
        "class_names": list(dataset.class_names),
        "rows": total,
        "shard_size": config.shard_size,
    }


def open_or_fit(path: str | Path, config: FitConfig, *, progress: bool = True) -> Zoo:
    """Opens a zoo; fits it first where it is missing or unfinished.

    Raises:
        MetanetError: when the directory holds a zoo of another configuration.
    """
    return fit_inrs(config, path, progress=progress)


def reconstruct(zoo: Zoo, weights: np.ndarray) -> np.ndarray:
    """Images ``[N, height, width, channels]`` in [0, 1] that networks draw.

    Args:
        zoo: The zoo that the networks belong to.
        weights: Flat weights ``[N, P]``.
    """
    architecture = zoo.architecture
    spec, apply_fn = inr_function(architecture)
    height, width, channels = zoo.info["image_shape"]
    convention = zoo.info["convention"]
    grid = jnp.asarray(coordinate_grid(height, width, convention))
    draw = jax.jit(jax.vmap(lambda v: apply_fn(spec.unflatten(v), grid)))
    values = to_unit(draw(jnp.asarray(weights)), convention)
    return np.clip(np.asarray(values), 0, 1).reshape(-1, height, width, channels)
