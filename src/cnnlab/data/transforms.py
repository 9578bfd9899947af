"""Turn decoded images into uint8 tensors of the network's input size, with and without augmentation."""

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
"""Augmentations that mix the images of a batch and their labels."""
BATCH_TRANSFORMS = (v2.GaussianNoise, *MIXING)
"""Augmentations of float images or whole batches; they run on the device instead of in the workers."""
BORDERS = ("constant", "edge", "reflect", "symmetric")


class EvalTransform:
    """Resize an image and cut out its middle, as the weights of the network are evaluated.

    crop_mode, as in timm: "center" resizes the short side to `resize_size` and crops the central square of `image_size`
    (torchvision's way); "squash" resizes both sides to `resize_size`, whatever the shape of the image; "border" resizes
    the long side and fills the rest with the colour `fill` (0 to 255 for each channel; None: black).
    interpolation: "bilinear", "bicubic" or "nearest", with antialiasing.
    `prepare` is the same for an image each time, so its result can be cached; `augment` is random.
    """

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
        for step in self.augmentations:
            pixels = FASTER.get(type(step), apply)(step, pixels)
        size = self.evaluation.image_size
        return pixels if pixels.shape[-2:] == (size, size) else self.evaluation(pixels)

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

    def _first(self, kind: type) -> Any:
        return next((step for step in self.augmentations if isinstance(step, kind)), None)


def resized_crop(step: v2.RandomResizedCrop, pixels: Tensor) -> Tensor:
    """Apply `step` to uint8 C x H x W in channels-last layout, with the same random numbers and bits, but faster.

    torch's resize has a fast path for contiguous channels-last pixels, which torchvision does not use directly.
    (On CPUs that are neither ARM nor have AVX2, torchvision resizes floats, and values may differ by 1.)
    """
    top, left, height, width = draw_window(step, *pixels.shape[-2:])
    window = pixels[None, :, top : top + height, left : left + width].contiguous(memory_format=torch.channels_last)
    mode = v2.InterpolationMode(step.interpolation)
    if step.antialias and mode in (v2.InterpolationMode.BILINEAR, v2.InterpolationMode.BICUBIC):
        return interpolate(window, list(step.size), mode=mode.value, antialias=True)[0]
    return v2.functional.resize(window, step.size, step.interpolation, antialias=step.antialias)[0]


def draw_window(step: v2.RandomResizedCrop, height: int, width: int) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a crop with the same random numbers as `step.make_params`, but faster."""
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
    """Return the natural logarithms in single precision, as torchvision computes them."""
    return torch.tensor(numbers).log().tolist()


def horizontal_flip(step: v2.RandomHorizontalFlip, pixels: Tensor) -> Tensor:
    """Apply `step` to an image C x H x W with the same random number, without checking for other types of input."""
    return pixels.flip(-1) if torch.rand(1) < step.p else pixels


def apply(step: torch.nn.Module, pixels: Tensor) -> Tensor:
    return step(pixels)


FASTER: dict[type, Callable[[Any, Tensor], Tensor]] = {
    v2.RandomResizedCrop: resized_crop,
    v2.RandomHorizontalFlip: horizontal_flip,
}
"""torchvision's augmentation -> a faster function with the same result on images."""


def batch_transforms(augmentations: Iterable[torch.nn.Module], num_classes: int) -> list[torch.nn.Module]:
    """Return the augmentations that run on the device, on a float batch in [0, 1] and its labels."""
    chosen = [step for step in augmentations if isinstance(step, BATCH_TRANSFORMS)]
    for step in chosen:
        if isinstance(step, MIXING):
            step.num_classes = num_classes
    return chosen


class RandomAffine(v2.RandomAffine):
    """torchvision's RandomAffine with a choice of border, and mirroring with probability `reflect`.

    Mirroring and rotating an image reflects it about an axis of random direction.
    border: how to fill outside the image: "constant" (fill), "edge", "reflect" or "symmetric", as in torchvision's Pad.
    Raises InputError for an unknown border or a probability outside [0, 1].
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
            raise InputError(f"reflect={reflect}: use a probability between 0 and 1.")
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
        """Return how many pixels beyond the border the strongest transform can show; reflection allows side - 1."""
        angle = math.radians(min(45.0, max(abs(degree) for degree in self.degrees)))
        slant = math.tan(math.radians(max((abs(degree) for degree in self.shear or ()), default=0.0)))
        reach = (math.cos(angle) + math.sin(angle)) * (1 + slant) / min(self.scale[0] if self.scale else 1.0, 1.0)
        margin = side * ((reach - 1) / 2 + max(self.translate or (0.0,)))
        return min(math.ceil(margin) + 1, side - 1)
