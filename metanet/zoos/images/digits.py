"""The 8x8 digits that come with scikit-learn."""

from __future__ import annotations

import numpy as np

from metanet.zoos.images.files import ImageFiles
from metanet.zoos.images.image_set import IMAGE_SETS, ImageSource, LabelledImages

DIGIT_NAMES = tuple(str(i) for i in range(10))


@IMAGE_SETS.register("digits")
class Digits(ImageSource):
    """UCI "Optical Recognition of Handwritten Digits", 1,797 images."""

    side, channels = 8, 1
    class_names = DIGIT_NAMES

    @classmethod
    def read(cls, files: ImageFiles) -> tuple[LabelledImages, None]:
        """Reads the images from scikit-learn; gray values 0..16 become 0..255."""
        from sklearn.datasets import load_digits  # slow to import

        values, labels = load_digits(return_X_y=True)
        scaled = np.asarray(values).reshape(-1, 8, 8, 1) * (255 / 16)
        pixels = np.rint(scaled).astype(np.uint8)
        return LabelledImages(pixels, np.asarray(labels, np.int32)), None
