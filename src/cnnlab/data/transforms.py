"""Turn decoded images into uint8 tensors of the network's input size, with and without augmentation."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from cnnlab.data.augmentations import augment, augment_batch, works_on_batches
from cnnlab.data.decoding import to_pixels
from cnnlab.data.draws import Draws, TorchDraws

MIXING = (v2.MixUp, v2.CutMix)
"""Augmentations that mix the images of a batch and their labels."""
BATCH_TRANSFORMS = (v2.GaussianNoise, *MIXING)
"""Augmentations of float images or whole batches; they run on the device instead of in the workers."""
OBJECT_TRANSFORMS = (v2.RandomIoUCrop,)
"""Augmentations that need the boxes of objects; so do those with the attribute `needs_objects`."""


class EvalTransform:
    """Resize an image and cut out its middle, as the weights of the network are evaluated.

    crop_mode, as in timm: "center" resizes the short side to `resize_size` and crops the central square of `image_size`
    (torchvision's way); "squash" resizes both sides to `resize_size`, whatever the shape of the image; "border" resizes
    the long side and fills the rest with the colour `fill` (0 to 255 for each channel; None: black).
    interpolation: "bilinear", "bicubic" or "nearest", with antialiasing.
    `prepare` is the same for an image each time, so its result can be cached; `augment` is random. Both also take
    images of one size as a batch, N x C x H x W.
    """

    augmentations: Sequence[torch.nn.Module] = ()
    one_by_one: Sequence[str] = ()

    def __init__(
        self,
        image_size: int,
        resize_size: int,
        interpolation: str = "bilinear",
        crop_mode: str = "center",
        fill: Sequence[int] | None = None,
    ) -> None:
        self.image_size = image_size
        self.resize_size = resize_size
        self.interpolation = v2.InterpolationMode(interpolation)
        self.crop_mode = crop_mode
        self.fill = fill
        self.crop = v2.CenterCrop(image_size)

    def __call__(self, image: Image.Image | Tensor) -> Tensor:
        """Return the transformed image as uint8 C x image_size x image_size."""
        return self.augment(self.prepare(image))

    def prepare(self, image: Image.Image | Tensor) -> Tensor:
        """Return the resized and cropped image as uint8 C x image_size x image_size."""
        return self.crop(self.resize(image if isinstance(image, Tensor) else to_pixels(image)))

    def resize(self, pixels: Tensor) -> Tensor:
        """Return uint8 C x H x W in the size from which `image_size` is cropped."""
        sides = [self.resize_size]
        if self.crop_mode == "squash":
            sides = [self.resize_size, self.resize_size]
        elif self.crop_mode == "border":
            ratio = max(pixels.shape[-2:]) / self.resize_size
            sides = [max(1, round(side / ratio)) for side in pixels.shape[-2:]]
        resized = v2.functional.resize(pixels, sides, self.interpolation, antialias=True)
        if self.crop_mode != "border":
            return resized
        height, width = (max(0, self.image_size - side) for side in resized.shape[-2:])
        margins = [width // 2, height // 2, (width + 1) // 2, (height + 1) // 2]
        return v2.functional.pad(resized, margins, fill=None if self.fill is None else list(self.fill))

    def augment(self, pixels: Tensor) -> Tensor:
        """Return the image unchanged."""
        return pixels

    @property
    def prepared_size(self) -> int | None:
        """Height and width of every image that `prepare` returns; None if images differ."""
        return self.image_size

    def needed_side(self) -> None:
        """Return None: `prepare` resizes every image, so records need no size of their own."""

    def prepared_as(self) -> dict[str, Any]:
        """Return everything that the result of `prepare` depends on besides the image."""
        return {**self.resized_as(), "image_size": self.image_size}

    def resized_as(self) -> dict[str, Any]:
        """Return everything that the result of `resize` depends on besides the image."""
        border = {"image_size": self.image_size, "fill": self.fill} if self.crop_mode == "border" else {}
        how = {"interpolation": self.interpolation.value, "crop_mode": self.crop_mode}
        return {"resize_size": self.resize_size, **how, **border}


class TrainTransform:
    """Applies the augmentations in the given order to the image as evaluation sees it, unless one of them crops.

    RandomResizedCrop crops from the whole image, RandomCrop from the image as evaluation resizes it.
    resizing: further arguments of EvalTransform.
    """

    def __init__(
        self, augmentations: Iterable[torch.nn.Module], image_size: int, resize_size: int, **resizing: Any
    ) -> None:
        self.augmentations = [step for step in augmentations if not isinstance(step, BATCH_TRANSFORMS)]
        self.evaluation = EvalTransform(image_size, resize_size, **resizing)

    def __call__(self, image: Image.Image | Tensor) -> Tensor:
        """Return the augmented image as uint8 C x image_size x image_size."""
        return self.augment(self.prepare(image))

    def prepare(self, image: Image.Image | Tensor) -> Tensor:
        """Return the image as it is before augmentation, the same each time: uint8 C x H x W."""
        pixels = image if isinstance(image, Tensor) else to_pixels(image)
        if self._first(v2.RandomResizedCrop):
            return pixels
        return self.evaluation.resize(pixels) if self._first(v2.RandomCrop) else self.evaluation(pixels)

    def augment(self, pixels: Tensor) -> Tensor:
        """Apply the random augmentations to a prepared image: uint8 C x image_size x image_size."""
        draws = TorchDraws()
        for step in self.augmentations:
            pixels = augment(step, pixels, draws)
        return self._in_size(pixels)

    def augment_batch(self, images: Tensor, draws: Sequence[Draws]) -> Tensor:
        """Apply the random augmentations to prepared images of one size, uint8 N x C x H x W, which may be overwritten.

        draws: those of each image, N. The result is N x C x image_size x image_size, and equals `augment` up to
        rounding. Raises KeyError if there are augmentations that only work `one_by_one`.
        """
        for step in self.augmentations:
            images = augment_batch(step, images, draws)
        return self._in_size(images)

    @property
    def one_by_one(self) -> list[str]:
        """Names of the classes of augmentations that do not work on batches."""
        return [type(step).__name__ for step in self.augmentations if not works_on_batches(step)]

    @property
    def prepared_size(self) -> int | None:
        """Height and width of every image that `prepare` returns; None if images differ."""
        crops = self._first(v2.RandomResizedCrop) or self._first(v2.RandomCrop)
        return None if crops else self.evaluation.image_size

    def needed_side(self) -> int | None:
        """Return how many pixels of the short side RandomResizedCrop needs; None without it.

        With that side, the smallest crop has about as many pixels as the network's input; the side is limited to twice
        that of evaluation.
        """
        crop = self._first(v2.RandomResizedCrop)
        if crop is None:
            return None
        return min(math.ceil(max(crop.size) / math.sqrt(crop.scale[0])), 2 * self.evaluation.resize_size)

    def prepared_as(self) -> dict[str, Any]:
        """Return everything that the result of `prepare` depends on besides the image."""
        if self._first(v2.RandomResizedCrop):
            return {}
        if self._first(v2.RandomCrop):
            return self.evaluation.resized_as()
        return self.evaluation.prepared_as()

    def _in_size(self, pixels: Tensor) -> Tensor:
        size = self.evaluation.image_size
        return pixels if pixels.shape[-2:] == (size, size) else self.evaluation(pixels)

    def _first(self, kind: type) -> Any:
        return next((step for step in self.augmentations if isinstance(step, kind)), None)


def needs_objects(step: torch.nn.Module) -> bool:
    """Return whether an augmentation works only on images with objects (the task detection)."""
    return isinstance(step, OBJECT_TRANSFORMS) or getattr(step, "needs_objects", False)


def batch_transforms(augmentations: Iterable[torch.nn.Module], num_classes: int) -> list[torch.nn.Module]:
    """Return the augmentations that run on the device, on a float batch in [0, 1] and its labels."""
    chosen = [step for step in augmentations if isinstance(step, BATCH_TRANSFORMS)]
    for step in chosen:
        if isinstance(step, MIXING):
            step.num_classes = num_classes
    return chosen
