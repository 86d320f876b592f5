"""Fits one INR per image and view: many at once, in compiled programs.

A program takes a chunk of networks, small enough for its working set to stay in cache,
through initialisation, all Adam steps (one scan) and the final PSNR; on CPU a thread
per core runs one. Each network's initialisation depends on the seed, its image and its
view alone. Interruption and resumption do not change a bit of the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metanet.compiler import on_cpu, small_loop_options
from metanet.errors import MetanetError
from metanet.networks import (
    Architecture,
    Params,
    ParamSpec,
    abstract_network,
    coordinate_grid,
    create,
    to_targets,
    to_unit,
)
from metanet.options import NonNegativeInt, Options, PositiveFloat, PositiveInt
from metanet.progress import track
from metanet.registry import ModuleName
from metanet.tuning import INR_BATCH_ACCELERATOR, INR_BATCH_CPU
from metanet.zoos.cores import map_on_cores
from metanet.zoos.gradients import ApplyFn, error_gradient, inr_apply
from metanet.zoos.images import ImageSet, load_images
from metanet.zoos.optimizers import Moments, adam_step
from metanet.zoos.splits import choose_images
from metanet.zoos.store import Zoo, ZooWriter

# Columns of a zoo of INRs besides those of every zoo.
INR_COLUMNS = {
    "label": "int32",
    "image": "int32",
    "view": "int32",
    "psnr": "float32",
    "seed": "int64",
}
# Smallest mean squared error, which bounds the PSNR.
_MIN_MSE = 1e-12


@dataclass(frozen=True)
class FitConfig(Options):
    """A zoo of INRs.

    Attributes:
        imports: Modules outside the package that register image sets, families or
            architectures.
        images: Image set, see `load_images`.
        data_root: Folder of image files; "" if the set needs none.
        download: Fetch missing image files.
        limit: Number of images; 0 takes all.
        views: Networks per image, from independent initialisations.
        seed: Seed of initialisations and splits.
        architecture: The INR; its output width must match the images' channels.
        steps: Adam steps on all pixels.
        learning_rate: Peak learning rate, decayed to zero by a cosine.
        batch: Networks fitted at once; 0 chooses (8 on CPU, 1024 on accelerators).
        shard_size: Networks per file of the zoo.
    """

    imports: tuple[ModuleName, ...] = ()
    images: str = "digits"
    data_root: str = ""
    download: bool = False
    limit: NonNegativeInt = 0
    views: PositiveInt = 1
    seed: NonNegativeInt = 0
    architecture: Architecture = field(
        default_factory=lambda: Architecture.of("siren", hidden=(32, 32))
    )
    steps: PositiveInt = 200
    learning_rate: PositiveFloat = 2e-3
    batch: NonNegativeInt = 0
    shard_size: PositiveInt = 1024

    def identity(self) -> dict[str, Any]:
        """Returns the fields that decide the zoo's content, not those of data access."""
        fields = asdict(self)
        del fields["imports"], fields["data_root"], fields["download"]
        fields["architecture"] = self.architecture.complete().to_json()
        return fields


def convention_of(architecture: Architecture) -> str:
    """Returns the convention of an INR; "dws" if it has no such option."""
    return dict(architecture.options).get("convention", "dws")


def inr_function(architecture: Architecture) -> tuple[ParamSpec, ApplyFn]:
    """Returns spec and function of an INR, with the fastest sine.

    Raises:
        MetanetError: for an architecture that does not read coordinates.
    """
    network = abstract_network(architecture)
    if network.inputs[0].shape[-1] != 2 or network.inputs[0].ndim != 2:
        raise MetanetError(
            f"architecture {architecture.name}: does not map 2-D coordinates to pixels"
        )
    return ParamSpec.of(network.params), inr_apply(architecture)


# (keys [B], targets [B, pixels, channels]) -> weights [B, P], PSNR in dB [B]
_FitFn = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


@lru_cache(maxsize=4)
def _compiled_fit(
    architecture: Architecture, steps: int, learning_rate: float, shape: tuple[int, ...]
) -> _FitFn:
    """Compiles the fit of a chunk of INRs to images of a shape."""
    network = abstract_network(architecture)
    spec, apply_fn = ParamSpec.of(network.params), network.apply_fn
    convention = convention_of(architecture)
    grid = coordinate_grid(shape[0], shape[1], convention)
    gradient = error_gradient(architecture, grid)
    pixel_range = _pixel_range(convention)

    def mean_squared_error(params: Params, targets: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(apply_fn(params, jnp.asarray(grid)) - targets))

    def fit(keys: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        def step(
            state: tuple[Params, Moments], i: jax.Array
        ) -> tuple[tuple[Params, Moments], None]:
            params, moments = state
            rate = learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * i / steps))
            return adam_step(params, gradient(params, targets), moments, i, rate), None

        params = jax.vmap(lambda key: create(architecture, key).params)(keys)
        counter = jnp.arange(steps, dtype=jnp.float32)
        state = (params, Moments.zeros_like(params))
        (params, _), _ = jax.lax.scan(step, state, counter)
        mse = jnp.maximum(jax.vmap(mean_squared_error)(params, targets), _MIN_MSE)
        return spec.flatten(params), 10 * jnp.log10(pixel_range**2 / mse)

    return jax.jit(fit, compiler_options=small_loop_options())


def _pixel_range(convention: str) -> float:
    return 1.0 if convention == "dws" else 2.0


def psnr(images: np.ndarray, targets: np.ndarray, convention: str) -> np.ndarray:
    """Returns the PSNR in dB of images ``[N, height, width, channels]`` in [0, 1].

    Args:
        images: What networks draw, not clipped.
        targets: The true images.
        convention: Of the networks.
    """
    span = _pixel_range(convention)
    mse = np.square((images - targets) * span).mean((1, 2, 3))
    return 10 * np.log10(span**2 / np.maximum(mse, _MIN_MSE))


def _ignore_progress(count: int) -> None:
    del count


def fit_networks(
    config: FitConfig,
    images: np.ndarray,
    ids: np.ndarray,
    views: np.ndarray,
    advance: Callable[[int], None] = _ignore_progress,
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

    Raises:
        MetanetError: when a fit diverged.
    """
    convention = convention_of(config.architecture)
    shape, count = images.shape[1:], len(images)
    batch = config.batch or (INR_BATCH_CPU if on_cpu() else INR_BATCH_ACCELERATOR)
    fit = _compiled_fit(config.architecture, config.steps, config.learning_rate, shape)
    keys = _keys(config.seed, ids, views)

    def fit_chunk(start: int) -> tuple[np.ndarray, np.ndarray]:
        # A short chunk repeats its networks, so that one program serves all.
        size = min(batch, count - start)
        index = start + np.arange(batch) % size
        targets = to_targets(images[index].reshape(batch, -1, shape[-1]), convention)
        weights, quality = fit(keys[index], jnp.asarray(targets))
        return np.asarray(weights)[:size], np.asarray(quality)[:size]

    chunks = []
    for chunk in map_on_cores(fit_chunk, range(0, count, batch)):
        chunks.append(chunk)
        advance(len(chunk[1]))
    weights, quality = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    is_finite = np.isfinite(weights).all(axis=1)
    if not is_finite.all():
        raise MetanetError(
            f"{config.images}: image {ids[np.argmin(is_finite)]}: the fit diverged; lower "
            f"the learning rate ({config.learning_rate})"
        )
    return weights, quality


def _keys(seed: int, ids: np.ndarray, views: np.ndarray) -> jax.Array:
    root = jax.random.key(seed)

    def fold(image: jax.Array, view: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(root, image), view)

    return jax.vmap(fold)(jnp.asarray(ids), jnp.asarray(views))


def fit_inrs(config: FitConfig, out: str | Path, *, progress: bool = True) -> Zoo:
    """Fits a zoo of INRs, or finishes one that was interrupted.

    Args:
        config: Images and networks.
        out: Directory of the zoo; its completed shards are verified and reused.
        progress: Show a progress bar.

    Raises:
        MetanetError: for unusable images, an architecture that does not fit them, or a
            directory that holds another zoo.
    """
    dataset = load_images(
        config.images, config.data_root or None, download=config.download
    )
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
    title = f"fitting INRs to {config.images}"
    with track(total, title, unit="INRs", show=progress, done=writer.done) as tracker:
        for shard, rows in writer.shards():
            position, view = np.divmod(rows, config.views)
            image = chosen[position]
            weights, quality = fit_networks(
                config, dataset.images[image], image, view, tracker.advance
            )
            columns = {
                "id": rows,
                "architecture": ["0"] * len(rows),
                "label": dataset.labels[image],
                "image": image,
                "view": view,
                "split": split[position],
                "psnr": quality,
                "seed": [config.seed] * len(rows),
            }
            writer.write(shard, list(weights), columns)
    return writer.finish()


def _description(
    config: FitConfig, dataset: ImageSet, spec: ParamSpec, total: int
) -> dict[str, Any]:
    return {
        "kind": "inr",
        "config": config.identity(),
        "architectures": {"0": config.architecture.to_json()},
        "leaves": {"0": spec.to_json()},
        "columns": INR_COLUMNS,
        "convention": convention_of(config.architecture),
        "image_shape": list(dataset.images.shape[1:]),
        "class_names": list(dataset.class_names),
        "rows": total,
        "shard_size": config.shard_size,
    }


def reconstruct(zoo: Zoo, weights: np.ndarray, *, clip: bool = True) -> np.ndarray:
    """Renders the images of INRs, ``[N, height, width, channels]`` in [0, 1].

    Args:
        zoo: The zoo that the networks belong to.
        weights: Flat weights ``[N, P]``.
        clip: Clip intensities to [0, 1].
    """
    spec, apply_fn = inr_function(zoo.architecture)
    height, width, channels = zoo.info["image_shape"]
    convention = zoo.info["convention"]
    grid = jnp.asarray(coordinate_grid(height, width, convention))
    render = jax.jit(jax.vmap(lambda vector: apply_fn(spec.unflatten(vector), grid)))
    intensities = to_unit(render(jnp.asarray(weights)), convention)
    images = np.asarray(intensities).reshape(-1, height, width, channels)
    return np.clip(images, 0, 1) if clip else images
