"""From a decoded picture to the uint8 tensor that a network's batch is made of."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import v2

from cnnlab.data.decoding import to_pixels
from cnnlab.errors import InputError

MIXING = (v2.MixUp, v2.CutMix)
"""Augmentations that mix the images of a batch, and their labels."""
BATCH_TRANSFORMS = (v2.GaussianNoise, *MIXING)
"""Augmentations that work on float images or on whole batches, hence on the device rather than in the workers."""
BORDERS = ("constant", "edge", "reflect", "symmetric")


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
    """The augmentations in the order given, on what evaluation sees unless one of them cuts the image itself.

    RandomResizedCrop cuts from the whole image, RandomCrop from one whose short side is `resize_size`.
    """

    def __init__(self, augmentations: Iterable[torch.nn.Module], image_size: int, resize_size: int) -> None:
        self.augmentations = [step for step in augmentations if not isinstance(step, BATCH_TRANSFORMS)]
        self.evaluation = EvalTransform(image_size, resize_size)

    def __call__(self, image: Image.Image | Tensor) -> Tensor:
        """A uint8 tensor of C x image_size x image_size."""
        return self.augment(self.prepare(image))

    def prepare(self, image: Image.Image | Tensor) -> Tensor:
        """What is the same for an image each time: uint8 C x H x W."""
        pixels = image if isinstance(image, Tensor) else to_pixels(image)
        if self._first(v2.RandomResizedCrop):
            return pixels
        return self.evaluation.resize(pixels) if self._first(v2.RandomCrop) else self.evaluation(pixels)

    def augment(self, pixels: Tensor) -> Tensor:
        """What differs each time: a uint8 tensor of C x image_size x image_size."""
        for step in self.augmentations:
            pixels = FASTER.get(type(step), apply)(step, pixels)
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
        if self._first(v2.RandomCrop):
            return {"resize_size": self.evaluation.resize.size[0]}
        return self.evaluation.prepared_as()

    def _first(self, kind: type) -> Any:
        return next((step for step in self.augmentations if isinstance(step, kind)), None)


def resized_crop(step: v2.RandomResizedCrop, pixels: Tensor) -> Tensor:
    """What `step` makes of uint8 C x H x W, drawn alike and equal to the bit, with the layout of `to_pixels`.

    It takes a third of the time: torch's resize has a fast path for pixels that lie side by side without gaps between
    rows, and torchvision's way to it costs half as much as the resize. (Where a CPU is neither ARM nor has AVX2,
    torchvision resizes floats, and a value may differ by 1.)
    """
    top, left, height, width = draw_window(step, *pixels.shape[-2:])
    window = pixels[None, :, top : top + height, left : left + width].contiguous(memory_format=torch.channels_last)
    if step.antialias and step.interpolation in ("bilinear", v2.InterpolationMode.BILINEAR):
        return interpolate(window, list(step.size), mode="bilinear", antialias=True)[0]
    return v2.functional.resize(window, step.size, step.interpolation, antialias=step.antialias)[0]


def draw_window(step: v2.RandomResizedCrop, height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of what `step.make_params` cuts from an image of that size, drawn alike, in half the
    time."""
    low, high = _logarithms(*step.ratio)
    number = torch.empty(1)
    for _ in range(10):
        area = height * width * number.uniform_(*step.scale).item()
        ratio = number.uniform_(low, high).exp_().item()
        columns, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < columns <= width and 0 < rows <= height:
            top = torch.randint(height - rows + 1, (1,)).item()
            left = torch.randint(width - columns + 1, (1,)).item()
            return int(top), int(left), rows, columns
    rows = min(height, round(width / min(step.ratio)))
    columns = min(width, round(height * max(step.ratio)))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


@cache
def _logarithms(*numbers: float) -> list[float]:
    """In single precision."""
    return torch.tensor(numbers).log().tolist()


def horizontal_flip(step: v2.RandomHorizontalFlip, pixels: Tensor) -> Tensor:
    """What `step` makes of C x H x W, drawn alike, without looking for what else it may have been given."""
    return pixels.flip(-1) if torch.rand(1) < step.p else pixels


def apply(step: torch.nn.Module, pixels: Tensor) -> Tensor:
    return step(pixels)


FASTER: dict[type, Callable[[Any, Tensor], Tensor]] = {
    v2.RandomResizedCrop: resized_crop,
    v2.RandomHorizontalFlip: horizontal_flip,
}
"""Augmentations of torchvision -> what does the same on images in less time."""


def batch_transforms(augmentations: Iterable[torch.nn.Module], num_classes: int) -> list[torch.nn.Module]:
    """The augmentations that run on the device, on a float batch in [0, 1] and its labels."""
    chosen = [step for step in augmentations if isinstance(step, BATCH_TRANSFORMS)]
    for step in chosen:
        if isinstance(step, MIXING):
            step.num_classes = num_classes
    return chosen


class RandomAffine(v2.RandomAffine):
    """torchvision's RandomAffine with a choice of border and, with probability `reflect`, a mirrored image.

    A mirrored and rotated image is the reflection about an axis of random direction.
    border: what lies outside the image: "constant" (fill), "edge", "reflect" or "symmetric", as in torchvision's Pad.
    Raises InputError for another border or a probability outside [0, 1].
    """

    def __init__(
        self,
        degrees: float | Sequence[float],
        translate: Sequence[float] | None = None,
        scale: Sequence[float] | None = None,
        shear: float | Sequence[float] | None = None,
        reflect: float = 0.0,
        border: str = "constant",
        interpolation: str = "bilinear",
        fill: float = 0.0,
    ) -> None:
        super().__init__(degrees, translate, scale, shear, interpolation, fill)
        if border not in BORDERS:
            raise InputError(f"border={border}: use {', '.join(BORDERS)}.")
        if not 0 <= reflect <= 1:
            raise InputError(f"reflect={reflect}: it is a probability, between 0 and 1.")
        self.reflect = reflect
        self.border = border

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {**super().make_params(flat_inputs), "mirrored": torch.rand(1).item() < self.reflect}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        geometry = {name: value for name, value in params.items() if name != "mirrored"}
        image = v2.functional.horizontal_flip(inpt) if params["mirrored"] else inpt
        if self.border == "constant":
            return super().transform(image, geometry)
        height, width = image.shape[-2:]
        vertical, horizontal = (self._margin(side) for side in (height, width))
        padded = v2.functional.pad(image, [horizontal, vertical], padding_mode=self.border)
        return v2.functional.center_crop(super().transform(padded, geometry), [height, width])

    def _margin(self, side: int) -> int:
        """Pixels beyond the border that the strongest transform can bring into view; a mirror has less than `side`."""
        angle = math.radians(min(45.0, max(abs(degree) for degree in self.degrees)))
        slant = math.tan(math.radians(max((abs(degree) for degree in self.shear or ()), default=0.0)))
        reach = (math.cos(angle) + math.sin(angle)) * (1 + slant) / min(self.scale[0] if self.scale else 1.0, 1.0)
        margin = side * ((reach - 1) / 2 + max(self.translate or (0.0,)))
        return min(math.ceil(margin) + 1, side - 1)
