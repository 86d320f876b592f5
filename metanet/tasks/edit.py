"""Editing of implicit neural representations (INRs): new weights for another image.

The metanetwork outputs an update of every parameter; the loss compares the image that the
edited INR renders with the target image, an operation applied to the image to which the INR
was fitted.

Source: Zhou et al. 2023 ("stylising INRs", dilation of MNIST) and Kofinas et al. 2024. The
update moves along with the parameters: editing a permuted network gives the permuted edited
network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy import ndimage

from metanet.errors import MetanetError
from metanet.models import EditHead, Features, Model
from metanet.networks import coordinate_grid, to_targets, to_unit
from metanet.options import Options
from metanet.registry import Registry
from metanet.tasks.base import TASKS, Metrics, Targets, Task, TaskBatch
from metanet.zoos import Zoo, ZooTable, load_images

ImageOperation = Callable[[np.ndarray], np.ndarray]
IMAGE_OPERATIONS: Registry[ImageOperation] = Registry("image operation")


@IMAGE_OPERATIONS.register("dilate")
def dilate(images: np.ndarray) -> np.ndarray:
    """Returns grey-scale dilations by 3 x 3 pixels of images ``[N, H, W, C]``."""
    return ndimage.grey_dilation(images, size=(1, 3, 3, 1))


@IMAGE_OPERATIONS.register("erode")
def erode(images: np.ndarray) -> np.ndarray:
    """Returns grey-scale erosions by 3 x 3 pixels of images ``[N, H, W, C]``."""
    return ndimage.grey_erosion(images, size=(1, 3, 3, 1))


@IMAGE_OPERATIONS.register("invert")
def invert(images: np.ndarray) -> np.ndarray:
    """Returns the negatives ``1 - x`` of images with intensities in [0, 1]."""
    return 1 - images


@dataclass(frozen=True)
class EditConfig(Options):
    """Options of editing.

    Attributes:
        operation: Name in `IMAGE_OPERATIONS`, or ``module:function`` of a function from
            images ``[N, H, W, C]`` in [0, 1] to target images.
        convention: Coordinates and output range of the INRs; see `coordinate_grid`.
        data_root: Folder of the zoo's image files; "" if the set needs none.
    """

    operation: str = "dilate"
    convention: Literal["dws", "nfn"] = "dws"
    data_root: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            IMAGE_OPERATIONS[self.operation]
        except MetanetError as error:
            raise MetanetError(f"operation: {error}") from error


class WeightUpdate(nnx.Module):
    """Head that adds an equivariant update to every parameter."""

    def __init__(self, model: Model, *, rngs: nnx.Rngs):
        self.update = EditHead(model, rngs=rngs)

    def __call__(self, features: Features, batch: TaskBatch) -> jax.Array:
        """Returns edited flat weights ``[G, P]``."""
        assert batch.weights is not None, "the task reads weights"
        return batch.weights + self.update(batch.graphs, features)


@TASKS.register("edit")
class Edit(Task):
    """Edits INRs so that they render an operation on their images."""

    Config = EditConfig
    reads_weights = True
    columns = ("image",)
    select_by = "psnr"

    def targets(self, zoo: Zoo, table: ZooTable) -> Targets:
        """Returns the target images ``[N, H, W, C]`` with intensities in [0, 1].

        Raises:
            MetanetError: for a zoo that is not of INRs or has another convention, and for
                missing image files.
        """
        convention = zoo.info.get("convention")
        if convention is None:
            raise MetanetError(
                f"{zoo.path}: config.task: editing takes a zoo of INRs "
                "(metanet zoo fit-inrs)"
            )
        if convention != self.config.convention:
            raise MetanetError(
                f"{zoo.path}: config.task.convention: {self.config.convention!r}, the "
                f"zoo's networks have {convention!r}"
            )
        name, root = zoo.info["config"]["images"], self.config.data_root or None
        images = load_images(name, root).images[table["image"]]
        operation = IMAGE_OPERATIONS[self.config.operation]
        target = np.asarray(operation(to_targets(images)), np.float32)
        if target.shape != images.shape:
            raise MetanetError(
                f"config.task.operation: {self.config.operation} returns images of shape "
                f"{target.shape}, expected {images.shape}"
            )
        return {"target": target}

    def head(self, model: Model, *, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the `WeightUpdate`."""
        return WeightUpdate(model, rngs=rngs)

    def render(self, weights: jax.Array, batch: TaskBatch) -> jax.Array:
        """Renders INRs given by flat weights; images ``[G, H, W, C]`` in [0, 1].

        The size is that of the batch's target images.
        """
        assert batch.apply is not None, "the task reads weights"
        shape = batch.targets["target"].shape
        convention = self.config.convention
        grid = jnp.asarray(coordinate_grid(shape[1], shape[2], convention))
        return to_unit(batch.apply(weights, grid), convention).reshape(shape)

    def loss(self, outputs: jax.Array, batch: TaskBatch) -> jax.Array:
        """Returns the sum over networks of the mean squared error over pixels."""
        error = self.render(outputs, batch) - batch.targets["target"]
        return jnp.sum(jnp.square(error).mean((1, 2, 3)) * batch.mask)

    def evaluate(self, outputs: jax.Array, batch: TaskBatch) -> dict[str, jax.Array]:
        """Returns the images that the INRs render before and after the edit."""
        assert batch.weights is not None, "the task reads weights"
        return {
            "input": self.render(batch.weights, batch),
            "edited": self.render(outputs, batch),
        }

    def metrics(
        self,
        outputs: Mapping[str, np.ndarray],
        targets: Targets,
        calibration: Mapping[str, Any] | None = None,
        groups: np.ndarray | None = None,
    ) -> Metrics:
        """Returns mean squared error and mean PSNR (dB) of the edited images."""
        return image_errors(outputs["edited"], targets["target"])

    def references(
        self,
        tables: Mapping[str, ZooTable],
        targets: Mapping[str, Targets],
        outputs: Mapping[str, np.ndarray],
    ) -> dict[str, Metrics]:
        """Returns the errors without an edit, and of the mean training target."""
        truth = targets["test"]["target"]
        mean = targets["train"]["target"].mean(0, keepdims=True)
        return {
            "identity (no edit)": image_errors(outputs["input"], truth),
            "mean image": image_errors(np.broadcast_to(mean, truth.shape), truth),
        }

    def predictions(
        self, outputs: Any, calibration: Mapping[str, Any] | None = None
    ) -> np.ndarray:
        """Raises a `MetanetError`: edited networks are files, not table rows."""
        raise MetanetError(
            "the run edits networks; `metanet edit WORKDIR FILE... --out DIR` writes them"
        )


def image_errors(images: np.ndarray, targets: np.ndarray) -> Metrics:
    """Returns the mean squared error and the mean over images of the PSNR in dB.

    Args:
        images, targets: ``[N, H, W, C]`` with intensities in [0, 1].
    """
    squared = np.square(images.astype(np.float64) - targets).mean((1, 2, 3))
    psnr = -10 * np.log10(np.maximum(squared, 1e-12))
    return {"mse": float(squared.mean()), "psnr": float(psnr.mean())}
