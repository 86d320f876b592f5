"""Fits one INR per image and view: many at once, in compiled programs.

A program takes a chunk of networks, small enough for its working set to stay in cache,
through initialisation, all Adam steps (one scan) and the final PSNR; on CPU a thread
per core runs one. Each network's initialisation depends on the seed, its image and its
view alone. The result is the same to the bit whatever is interrupted and resumed.
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
from metanet.zoos.cores import map_on_cores
from metanet.zoos.gradients import error_gradient, inr_apply
from metanet.zoos.images import ImageSet, load_images
from metanet.zoos.splits import choose_images
from metanet.zoos.store import Zoo, ZooWriter

# Columns of a zoo of INRs beside those of every zoo.
COLUMNS = {
    "label": "int32",
    "image": "int32",
    "view": "int32",
    "psnr": "float32",
    "seed": "int64",
}
# Networks per call: on CPU the arrays of a chunk should stay in a core's cache.
_CPU_BATCH, _ACCELERATOR_BATCH = 8, 1024


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
        """What decides the zoo's content: all fields but those of data access."""
        fields = asdict(self)
        del fields["imports"], fields["data_root"], fields["download"]
        fields["architecture"] = self.architecture.complete().to_json()
        return fields


def convention_of(architecture: Architecture) -> str:
    """The coordinate and pixel convention of an INR; "dws" where it has no option."""
    return dict(architecture.options).get("convention", "dws")


def inr_function(architecture: Architecture) -> tuple[ParamSpec, Callable[..., Any]]:
    """Spec and function of an INR with the sine that is fastest here.

    Raises:
        MetanetError: for an architecture that does not read coordinates.
    """
    network = abstract_network(architecture)
    if network.inputs[0].shape[-1] != 2 or network.inputs[0].ndim != 2:
        raise MetanetError(
            f"architecture {architecture.name}: does not map 2-D coordinates to pixels"
        )
    return ParamSpec.of(network.params), inr_apply(architecture)


@lru_cache(maxsize=4)
def _program(
    architecture: Architecture, steps: int, learning_rate: float, shape: tuple[int, ...]
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Compiled ``fit(keys [B], targets [B, pixels, channels]) -> weights, psnr``."""
    network = abstract_network(architecture)
    spec, exact = ParamSpec.of(network.params), network.apply_fn
    convention = convention_of(architecture)
    grid = coordinate_grid(shape[0], shape[1], convention)
    gradient = error_gradient(architecture, grid)

    def error(params: Any, targets: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(exact(params, jnp.asarray(grid)) - targets))

    def fit(keys: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        def step(state: Any, i: jax.Array) -> tuple[Any, None]:
            x, m, v = state
            g = gradient(x, targets)
            m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
            v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * (g * g), v, g)
            rate = learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * i / steps))
            rate, scale = rate / (1 - 0.9 ** (i + 1)), 1 / (1 - 0.999 ** (i + 1))
            move = lambda x, m, v: x - rate * m / (jnp.sqrt(v * scale) + 1e-8)
            return (jax.tree.map(move, x, m, v), m, v), None

        start = jax.vmap(lambda key: create(architecture, key).params)(keys)
        zeros = jax.tree.map(jnp.zeros_like, start)
        counter = jnp.arange(steps, dtype=jnp.float32)
        (x, _, _), _ = jax.lax.scan(step, (start, zeros, zeros), counter)
        span = 1.0 if convention == "dws" else 2.0
        mse = jnp.maximum(jax.vmap(error)(x, targets), 1e-12)
        return spec.flatten(x), 10 * jnp.log10(span**2 / mse)

    return jax.jit(fit, compiler_options=small_loop_options())


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

    Raises:
        MetanetError: when a fit diverged.
    """
    convention = convention_of(config.architecture)
    shape, count = images.shape[1:], len(images)
    batch = config.batch or (_CPU_BATCH if on_cpu() else _ACCELERATOR_BATCH)
    fit = _program(config.architecture, config.steps, config.learning_rate, shape)
    keys = _keys(config.seed, ids, views)

    def chunk(start: int) -> tuple[np.ndarray, np.ndarray]:
        # A short chunk repeats its networks, so that one program serves all.
        kept = min(batch, count - start)
        index = start + np.arange(batch) % kept
        targets = to_targets(images[index].reshape(batch, -1, shape[-1]), convention)
        weights, psnr = fit(keys[index], targets)
        return np.asarray(weights)[:kept], np.asarray(psnr)[:kept]

    done = []
    for part in map_on_cores(chunk, range(0, count, batch)):
        done.append(part)
        advance(len(part[1]))
    weights, psnr = (np.concatenate(parts) for parts in zip(*done, strict=True))
    finite = np.isfinite(weights).all(axis=1)
    if not finite.all():
        raise MetanetError(
            f"{config.images}: image {ids[np.argmin(finite)]}: the fit diverged; lower "
            f"the learning rate ({config.learning_rate})"
        )
    return weights, psnr


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
    with track(
        total, f"fitting INRs to {config.images}", unit="INRs", show=progress,
        done=writer.done,
    ) as bar:  # fmt: skip
        for shard, rows in writer.shards():
            place, view = np.divmod(rows, config.views)
            image = chosen[place]
            pixels = dataset.images[image]
            weights, psnr = fit_networks(config, pixels, image, view, bar.advance)
            columns = {
                "id": rows,
                "architecture": ["0"] * len(rows),
                "label": dataset.labels[image],
                "image": image,
                "view": view,
                "split": split[place],
                "psnr": psnr,
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
        "columns": COLUMNS,
        "convention": convention_of(config.architecture),
        "image_shape": list(dataset.images.shape[1:]),
        "class_names": list(dataset.class_names),
        "rows": total,
        "shard_size": config.shard_size,
    }


def reconstruct(zoo: Zoo, weights: np.ndarray, clip: bool = True) -> np.ndarray:
    """Images ``[N, height, width, channels]`` in [0, 1] that networks draw.

    Args:
        zoo: The zoo that the networks belong to.
        weights: Flat weights ``[N, P]``.
        clip: Cut off what lies outside [0, 1].
    """
    architecture = zoo.architecture
    spec, apply_fn = inr_function(architecture)
    height, width, channels = zoo.info["image_shape"]
    convention = zoo.info["convention"]
    grid = jnp.asarray(coordinate_grid(height, width, convention))
    draw = jax.jit(jax.vmap(lambda v: apply_fn(spec.unflatten(v), grid)))
    values = to_unit(draw(jnp.asarray(weights)), convention)
    drawn = np.asarray(values).reshape(-1, height, width, channels)
    return np.clip(drawn, 0, 1) if clip else drawn
