"""What each augmentation draws for an image, and how that changes one image or a whole batch.

An augmentation's parameters come from one function, whichever way the pixels are changed. They are the numbers that
torchvision's `make_params` draws from the same generator, in the format that its `transform` takes.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import v2

from cnnlab.data import batch_augmentations as whole
from cnnlab.data.draws import Draws, TorchDraws
from cnnlab.errors import InputError

Size = tuple[int, int]
"""Height and width of an image."""
Parameters = dict[str, Any]
BORDERS = ("constant", "edge", "reflect", "symmetric")


class Augmentation(NamedTuple):
    """How one class of augmentations works."""

    parameters: Callable[[Any, Draws, Size], Parameters | None]
    """Draws the parameters for one image; None if the image stays as it is."""
    one: Callable[[Any, Tensor, Parameters], Tensor]
    """Changes an image, uint8 C x H x W."""
    batch: Callable[[Any, Tensor, list[Parameters | None]], Tensor]
    """Changes images of one size, uint8 N x C x H x W; equals `one` up to rounding. It may overwrite them."""


def augment(step: torch.nn.Module, pixels: Tensor, draws: Draws) -> Tensor:
    """Apply an augmentation to an image, uint8 C x H x W.

    draws: those of torch's default generator if the class is not in AUGMENTATIONS, since it then draws by itself.
    """
    known = AUGMENTATIONS.get(type(step))
    if known is None:
        return step(pixels)
    height, width = pixels.shape[-2:]
    parameters = known.parameters(step, draws, (height, width))
    return pixels if parameters is None else known.one(step, pixels, parameters)


def augment_batch(step: torch.nn.Module, images: Tensor, draws: Sequence[Draws]) -> Tensor:
    """Apply an augmentation to images of one size, uint8 N x C x H x W, which may be overwritten; draws: N."""
    known = AUGMENTATIONS[type(step)]
    height, width = images.shape[-2:]
    return known.batch(step, images, [known.parameters(step, each, (height, width)) for each in draws])


def works_on_batches(step: torch.nn.Module) -> bool:
    """Return whether `augment_batch` can apply an augmentation."""
    random_pixels = isinstance(step, v2.RandomErasing) and step.value is None
    return type(step) in AUGMENTATIONS and not random_pixels


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
        height, width = v2.functional.get_size(flat_inputs[0])
        return affine_parameters(self, TorchDraws(), (height, width))

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        geometry = {name: value for name, value in params.items() if name != "mirrored"}
        image = v2.functional.horizontal_flip(inpt) if params["mirrored"] else inpt
        if self.border == "constant":
            return super().transform(image, geometry)
        height, width = image.shape[-2:]
        padded = v2.functional.pad(image, list(self.margins((height, width))), padding_mode=self.border)
        return v2.functional.center_crop(super().transform(padded, geometry), [height, width])

    def margins(self, size: Size) -> tuple[int, int]:
        """Return how many columns and rows the image is padded by on each side; (0, 0) for a constant border."""
        return (0, 0) if self.border == "constant" else (self._margin(size[1]), self._margin(size[0]))

    def _margin(self, side: int) -> int:
        """Return how many pixels beyond the border the strongest transform can show; reflection allows side - 1."""
        angle = math.radians(min(45.0, max(abs(degree) for degree in self.degrees)))
        slant = math.tan(math.radians(max((abs(degree) for degree in self.shear or ()), default=0.0)))
        reach = (math.cos(angle) + math.sin(angle)) * (1 + slant) / min(self.scale[0] if self.scale else 1.0, 1.0)
        margin = side * ((reach - 1) / 2 + max(self.translate or (0.0,)))
        return min(math.ceil(margin) + 1, side - 1)


# --- Parameters ---


def flip_parameters(
    step: v2.RandomHorizontalFlip | v2.RandomVerticalFlip, draws: Draws, size: Size
) -> Parameters | None:
    return {} if draws.uniform() < step.p else None


def crop_parameters(step: v2.RandomCrop, draws: Draws, size: Size) -> Parameters:
    left, right, top, bottom = step.padding or (0, 0, 0, 0)
    height, width = step.size
    if step.pad_if_needed:
        rows, columns = max(0, height - size[0] - top - bottom), max(0, width - size[1] - left - right)
        left, right, top, bottom = left + columns, right + columns, top + rows, bottom + rows
    padded = size[0] + top + bottom, size[1] + left + right
    spare = padded[0] - height, padded[1] - width
    if min(spare) < 0:
        raise ValueError(
            f"crops of {height} x {width} pixels do not fit into the padded image of {padded[0]} x {padded[1]}"
        )
    return {
        "top": draws.integer(spare[0] + 1) if spare[0] else 0,
        "left": draws.integer(spare[1] + 1) if spare[1] else 0,
        "height": height,
        "width": width,
        "padding": [left, top, right, bottom],
        "needs_pad": any((left, top, right, bottom)),
        "needs_crop": any(spare),
    }


def resized_crop_parameters(step: v2.RandomResizedCrop, draws: Draws, size: Size) -> Parameters:
    height, width = size
    for ratio, area in _drawn_windows(step, draws, size):
        columns, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < columns <= width and 0 < rows <= height:
            top, left = draws.integer(height - rows + 1), draws.integer(width - columns + 1)
            return {"top": top, "left": left, "height": rows, "width": columns}
    rows = min(height, round(width / min(step.ratio)))
    columns = min(width, round(height * max(step.ratio)))
    return {"top": (height - rows) // 2, "left": (width - columns) // 2, "height": rows, "width": columns}


def affine_parameters(step: RandomAffine, draws: Draws, size: Size) -> Parameters:
    height, width = size
    angle = draws.uniform(*step.degrees)
    translate = (0, 0)
    if step.translate is not None:
        reach = step.translate[0] * width, step.translate[1] * height
        translate = round(draws.uniform(-reach[0], reach[0])), round(draws.uniform(-reach[1], reach[1]))
    scale = 1.0 if step.scale is None else draws.uniform(*step.scale)
    shear = (0.0, 0.0)
    if step.shear is not None:
        shear = draws.uniform(*step.shear[:2]), draws.uniform(*step.shear[2:]) if len(step.shear) == 4 else 0.0
    mirrored = draws.uniform() < step.reflect
    return {"angle": angle, "translate": translate, "scale": scale, "shear": shear, "mirrored": mirrored}


def jitter_parameters(step: v2.ColorJitter, draws: Draws, size: Size) -> Parameters:
    order = draws.permutation(4)
    ranges = {name: getattr(step, name) for name in ("brightness", "contrast", "saturation", "hue")}
    factors = {f"{name}_factor": limits and draws.uniform(*limits) for name, limits in ranges.items()}
    return {"fn_idx": order, **factors}


def blur_parameters(step: v2.GaussianBlur, draws: Draws, size: Size) -> Parameters:
    sigma = draws.uniform(*step.sigma)
    return {"sigma": [sigma, sigma]}


def erasing_parameters(step: v2.RandomErasing, draws: Draws, size: Size) -> Parameters | None:
    if draws.uniform() >= step.p:
        return None
    height, width = size
    for ratio, area in _drawn_windows(step, draws, size):
        rows, columns = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if rows < height and columns < width:
            value = torch.tensor(step.value)[:, None, None]
            top, left = draws.integer(height - rows + 1), draws.integer(width - columns + 1)
            return {"i": top, "j": left, "h": rows, "w": columns, "v": value}
    return None


def _drawn_windows(
    step: v2.RandomResizedCrop | v2.RandomErasing, draws: Draws, size: Size
) -> Iterator[tuple[float, float]]:
    """Yield ratio of the sides and area in pixels of ten random windows, for as many attempts to place one."""
    low, high = _logarithms(*step.ratio)
    for _ in range(10):
        area = size[0] * size[1] * draws.uniform(*step.scale)
        yield _exponential(draws.uniform(low, high)), area


@cache
def _logarithms(*numbers: float) -> list[float]:
    """Return the natural logarithms in single precision, as torchvision computes them."""
    return torch.tensor(numbers).log().tolist()


def _exponential(number: float) -> float:
    """Return e^number in single precision, as torchvision computes it."""
    return torch.tensor(number).exp().item()


# --- One image ---


def flip_horizontally(step: v2.RandomHorizontalFlip, pixels: Tensor, parameters: Parameters) -> Tensor:
    return pixels.flip(-1)


def crop_and_resize(step: v2.RandomResizedCrop, pixels: Tensor, parameters: Parameters) -> Tensor:
    """Return the same pixels as torchvision, sooner.

    torch's resize has a fast path for contiguous channels-last pixels, which torchvision does not use directly.
    (On CPUs that are neither ARM nor have AVX2, torchvision resizes floats, and values may differ by 1.)
    """
    top, left, height, width = (parameters[name] for name in ("top", "left", "height", "width"))
    window = pixels[None, :, top : top + height, left : left + width].contiguous(memory_format=torch.channels_last)
    mode = v2.InterpolationMode(step.interpolation)
    if step.antialias and mode in (v2.InterpolationMode.BILINEAR, v2.InterpolationMode.BICUBIC):
        return interpolate(window, list(step.size), mode=mode.value, antialias=True)[0]
    return v2.functional.resize(window, step.size, step.interpolation, antialias=step.antialias)[0]


def transform(step: v2.Transform, pixels: Tensor, parameters: Parameters) -> Tensor:
    return step.transform(pixels, parameters)


def crop_and_resize_each(step: v2.RandomResizedCrop, images: Tensor, parameters: list[Parameters | None]) -> Tensor:
    """One by one: the windows are of different sizes, and resizing them takes longer than the calls."""
    return torch.stack(
        [crop_and_resize(step, image, each or {}) for image, each in zip(images, parameters, strict=True)]
    )


AUGMENTATIONS: dict[type, Augmentation] = {
    v2.RandomHorizontalFlip: Augmentation(flip_parameters, flip_horizontally, whole.flip_horizontally),
    v2.RandomVerticalFlip: Augmentation(flip_parameters, transform, whole.flip_vertically),
    v2.RandomCrop: Augmentation(crop_parameters, transform, whole.crop),
    v2.RandomResizedCrop: Augmentation(resized_crop_parameters, crop_and_resize, crop_and_resize_each),
    RandomAffine: Augmentation(affine_parameters, transform, whole.transform_affinely),
    v2.ColorJitter: Augmentation(jitter_parameters, transform, whole.jitter_colours),
    v2.GaussianBlur: Augmentation(blur_parameters, transform, whole.blur),
    v2.RandomErasing: Augmentation(erasing_parameters, transform, whole.erase),
}
"""Class of augmentations -> how it works. Only the class itself counts: a subclass may change anything."""
