"""Labelled images: digits, MNIST, Fashion-MNIST, CIFAR-10, folders of images."""

from metanet.zoos.images.cifar10 import CIFAR10
from metanet.zoos.images.digits import Digits
from metanet.zoos.images.files import ImageFiles
from metanet.zoos.images.image_set import (
    IMAGE_SETS,
    ImageSet,
    ImageSource,
    LabelledImages,
    load_images,
)
from metanet.zoos.images.mnist import MNIST, FashionMNIST

__all__ = [
    "CIFAR10",
    "IMAGE_SETS",
    "MNIST",
    "Digits",
    "FashionMNIST",
    "ImageFiles",
    "ImageSet",
    "ImageSource",
    "LabelledImages",
    "load_images",
]
