"""From a decoded picture to the uint8 tensor that a network's batch is made of."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from cnnlab.data.decoding import to_pixels

BATCH_TRANSFORMS = (v2.GaussianNoise, v2.MixUp, v2.CutMix)
"""Augmentations that work on float images or on whole batches, hence on the device rather than in the workers."""


class EvalTransform:
    """Resize the short side to `resize_size`, then cut the central `image_size` square (torchvision's evaluation)."""

    def __init__(self, image_size: int, resize_size: int) -> None:
        self.image_size = image_size
        self.resize = v2.Resize(resize_size, antialias=True)
        self.crop = v2.CenterCrop(image_size)

    def __call__(self, image: Image.Image | Tensor) -> Tensor:
        """A uint8 tensor of C x image_size x image_size."""
        return self.augment(self.prepare(image))

    def prepare(self, image: Image.Image | Tensor) -> Tensor:
        """What is the same for an image each time."""
        return self.crop(self.resize(image if isinstance(image, Tensor) else to_pixels(image)))

    def augment(self, pixels: Tensor) -> Tensor:
        """What differs: nothing."""
        return pixels

    def needed_side(self) -> None:
        """`prepare` resizes every image."""

    def prepared_as(self) -> dict[str, int]:
        """What the result of `prepare` depends on, beside the image."""
        return {"resize_size": self.resize.size[0], "image_size": self.image_size}


class TrainTransform:
    """The augmentations in the order given; an image that no crop sizes is resized and cut as in evaluation."""

    def __init__(self, augmentations: Iterable[torch.nn.Module], image_size: int, resize_size: int) -> None:
        self.augmentations = [step for step in augmentations if not isinstance(step, BATCH_TRANSFORMS)]
        self.evaluation = EvalTransform(image_size, resize_size)

    def __call__(self, image: Image.Image | Tensor) -> Tensor:
        """A uint8 tensor of C x image_size x image_size."""
        return self.augment(self.prepare(image))

    def prepare(self, image: Image.Image | Tensor) -> Tensor:
        """What is the same for an image each time: uint8 C x H x W."""
        pixels = image if isinstance(image, Tensor) else to_pixels(image)
        large_enough = min(pixels.shape[-2:]) >= self.evaluation.image_size
        crops = self._first(v2.RandomCrop) and large_enough
        return pixels if self._first(v2.RandomResizedCrop) or crops else self.evaluation(pixels)

    def augment(self, pixels: Tensor) -> Tensor:
        """What differs each time: a uint8 tensor of C x image_size x image_size."""
        for step in self.augmentations:
            pixels = step(pixels)
        size = self.evaluation.image_size
        return pixels if pixels.shape[-2:] == (size, size) else self.evaluation(pixels)

    def needed_side(self) -> int | None:
        """Pixels of the short side of an image that suffice for RandomResizedCrop; None for others.

        The smallest crop then has about as many pixels as the network takes, up to twice the side of evaluation.
        """
        crop = self._first(v2.RandomResizedCrop)
        if crop is None:
            return None
        return min(math.ceil(max(crop.size) / math.sqrt(crop.scale[0])), 2 * self.evaluation.resize.size[0])

    def prepared_as(self) -> dict[str, int]:
        """What the result of `prepare` depends on, beside the image."""
        if self._first(v2.RandomResizedCrop):
            return {}
        least = {"whole_from": self.evaluation.image_size} if self._first(v2.RandomCrop) else {}
        return self.evaluation.prepared_as() | least

    def _first(self, kind: type) -> Any:
        return next((step for step in self.augmentations if isinstance(step, kind)), None)


def batch_transforms(augmentations: Iterable[torch.nn.Module]) -> list[torch.nn.Module]:
    """The augmentations that run on the device, on a float batch in [0, 1]."""
    return [step for step in augmentations if isinstance(step, BATCH_TRANSFORMS)]
