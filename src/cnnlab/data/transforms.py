"""From a decoded picture to the uint8 tensor that a network's batch is made of."""

from collections.abc import Iterable

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

BATCH_TRANSFORMS = (v2.GaussianNoise, v2.MixUp, v2.CutMix)
"""Augmentations that work on float images or on whole batches, hence on the device rather than in the workers."""


def to_tensor(image: Image.Image) -> Tensor:
    """uint8, C x H x W."""
    return v2.functional.pil_to_tensor(image)


class EvalTransform:
    """Resize the short side to `resize_size`, then cut the central `image_size` square (torchvision's evaluation)."""

    def __init__(self, image_size: int, resize_size: int) -> None:
        self.image_size = image_size
        self.steps = v2.Compose([v2.Resize(resize_size, antialias=True), v2.CenterCrop(image_size)])

    def __call__(self, image: Image.Image) -> Tensor:
        """A uint8 tensor of C x image_size x image_size."""
        return self.steps(to_tensor(image))


class TrainTransform:
    """The augmentations in the order given; an image that no crop sizes is resized and cut as in evaluation."""

    def __init__(self, augmentations: Iterable[torch.nn.Module], image_size: int, resize_size: int) -> None:
        self.augmentations = [step for step in augmentations if not isinstance(step, BATCH_TRANSFORMS)]
        self.image_size = image_size
        self.finish = EvalTransform(image_size, resize_size)

    def __call__(self, image: Image.Image) -> Tensor:
        """A uint8 tensor of C x image_size x image_size."""
        resizes = any(isinstance(step, v2.RandomResizedCrop) for step in self.augmentations)
        crops = any(isinstance(step, v2.RandomCrop) for step in self.augmentations)
        large_enough = min(image.size) >= self.image_size
        pixels = to_tensor(image) if resizes or (crops and large_enough) else self.finish(image)
        for step in self.augmentations:
            pixels = step(pixels)
        return pixels if pixels.shape[-2:] == (self.image_size, self.image_size) else self.finish.steps(pixels)


def batch_transforms(augmentations: Iterable[torch.nn.Module]) -> list[torch.nn.Module]:
    """The augmentations that run on the device, on a float batch in [0, 1]."""
    return [step for step in augmentations if isinstance(step, BATCH_TRANSFORMS)]
