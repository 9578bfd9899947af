"""The pixel work of augmentations on batches: what torchvision computes for one image, for many at once.

Images are uint8 N x C x H x W on any device. Each image has its own parameters, in torchvision's format; None leaves
an image as it is. The functions may overwrite the images that they are given.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample
from torchvision.transforms import v2
from torchvision.transforms.v2.functional._color import _hsv_to_rgb, _rgb_to_hsv  # adjust_hue takes only one factor

Given = list[dict[str, Any] | None]
"""The parameters of each image."""


def flip_horizontally(step: v2.RandomHorizontalFlip, images: Tensor, parameters: Given) -> Tensor:
    return _where_given(images, parameters, lambda chosen, given: chosen.flip(-1))


def flip_vertically(step: v2.RandomVerticalFlip, images: Tensor, parameters: Given) -> Tensor:
    return _where_given(images, parameters, lambda chosen, given: chosen.flip(-2))


def crop(step: v2.RandomCrop, images: Tensor, parameters: Given) -> Tensor:
    given = [each or {} for each in parameters]
    if given[0]["needs_pad"]:  # all images have one size, and so the same padding
        images = v2.functional.pad(images, given[0]["padding"], fill=step.fill, padding_mode=step.padding_mode)
    height, width = given[0]["height"], given[0]["width"]
    windows = images.permute(0, 2, 3, 1).unfold(1, height, 1).unfold(2, width, 1)  # N x tops x lefts x C x h x w
    top, left = (_tensor([each[name] for each in given], images.device) for name in ("top", "left"))
    chosen = windows.movedim(3, 5)[torch.arange(len(images), device=images.device), top, left]
    return chosen.movedim(3, 1)


def transform_affinely(step: Any, images: Tensor, parameters: Given) -> Tensor:
    """Do what RandomAffine does: mirror, pad, then sample the image where the inverse transform leads."""
    given = [each or {} for each in parameters]
    images = _where_given(
        images, [each if each["mirrored"] else None for each in given], lambda chosen, _: chosen.flip(-1)
    )
    height, width = images.shape[-2:]
    columns, rows = step.margins((height, width))
    if columns or rows:
        images = v2.functional.pad(images, [columns, rows], padding_mode=step.border)
    matrices = torch.from_numpy(inverse_matrices(given)).to(images.device)
    grid = _sampling_grid(matrices, (height, width), (images.shape[-2], images.shape[-1]))
    return _sampled(images, grid, v2.InterpolationMode(step.interpolation).value, step.fill)


def jitter_colours(step: v2.ColorJitter, images: Tensor, parameters: Given) -> Tensor:
    """Adjust brightness, contrast, saturation and hue of each image in its own order."""
    given = [each or {} for each in parameters]
    adjustments = {
        "brightness_factor": _adjust_brightness,
        "contrast_factor": _adjust_contrast,
        "saturation_factor": _adjust_saturation,
        "hue_factor": _adjust_hue,
    }
    for place in range(len(adjustments)):
        for number, (name, adjust) in enumerate(adjustments.items()):
            now = [each if each["fn_idx"][place] == number and each[name] is not None else None for each in given]

            def adjusted(chosen: Tensor, each: list[dict], name: str = name, adjust: Callable = adjust) -> Tensor:
                factors = [parameters[name] for parameters in each]
                return adjust(chosen, torch.tensor(factors, device=chosen.device).view(-1, 1, 1, 1))

            images = _where_given(images, now, adjusted)
    return images


def blur(step: v2.GaussianBlur, images: Tensor, parameters: Given) -> Tensor:
    """Convolve the rows, then the columns, of each image with its own kernel."""
    sigmas = torch.tensor([(each or {})["sigma"] for each in parameters], device=images.device)
    width, height = step.kernel_size
    padded = torch.nn.functional.pad(images.float(), [width // 2, width // 2, height // 2, height // 2], mode="reflect")
    for dim, size, sigma in ((-1, width, sigmas[:, 0]), (-2, height, sigmas[:, 1])):
        reach = (size - 1) / (2 * 2**0.5)  # torchvision's kernel: exp(-x^2 / (2 sigma^2)) at whole pixels
        places = torch.linspace(-reach, reach, size, device=images.device)
        kernel = torch.softmax(-((places / sigma[:, None]) ** 2), dim=1)
        length = padded.shape[dim] - size + 1
        padded = sum(padded.narrow(dim, place, length) * kernel[:, place].view(-1, 1, 1, 1) for place in range(size))  # type: ignore[assignment]
    return padded.round_().to(images.dtype)


def erase(step: v2.RandomErasing, images: Tensor, parameters: Given) -> Tensor:
    rows, columns = (torch.arange(side, device=images.device) for side in images.shape[-2:])

    def erased(chosen: Tensor, given: list[dict]) -> Tensor:
        top, left, height, width = (
            _tensor([each[name] for each in given], images.device).view(-1, 1) for name in ("i", "j", "h", "w")
        )
        in_rows, in_columns = (rows >= top) & (rows < top + height), (columns >= left) & (columns < left + width)
        inside = (in_rows[:, :, None] & in_columns[:, None, :])[:, None]
        value = given[0]["v"].to(images.device, images.dtype)  # the same for all images
        return torch.where(inside, value, chosen)

    return _where_given(images, parameters, erased)


# --- Geometry ---


def inverse_matrices(given: list[dict]) -> np.ndarray:
    """Return the transforms from output to input about the centre of the image, in pixels, float32 N x 2 x 3.

    The image is rotated by `angle`, scaled and sheared by `shear` (x, y), then translated, as in torchvision.
    """
    angle, shear_x, shear_y = np.radians([[each["angle"], *each["shear"]] for each in given]).T
    scale = np.array([each["scale"] for each in given])
    right, down = np.array([each["translate"] for each in given], float).T
    a = np.cos(angle - shear_y) / np.cos(shear_y)
    b = -np.cos(angle - shear_y) * np.tan(shear_x) / np.cos(shear_y) - np.sin(angle)
    c = np.sin(angle - shear_y) / np.cos(shear_y)
    d = -np.sin(angle - shear_y) * np.tan(shear_x) / np.cos(shear_y) + np.cos(angle)
    linear = np.array([[d, -b], [-c, a]]) / scale
    shift = -linear[:, 0] * right - linear[:, 1] * down
    return np.concatenate([linear, shift[:, None]], axis=1).transpose(2, 0, 1).astype(np.float32)


def _sampling_grid(matrices: Tensor, output: tuple[int, int], source: tuple[int, int]) -> Tensor:
    """Return where in the source (-1 to 1) each output pixel comes from, N x H x W x 2; both have the same centre."""
    height, width = output
    device = matrices.device
    places = torch.ones(1, height, width, 3, device=device)
    places[..., 0] = torch.linspace((1.0 - width) * 0.5, (width - 1.0) * 0.5, width, device=device)
    places[..., 1] = torch.linspace((1.0 - height) * 0.5, (height - 1.0) * 0.5, height, device=device)[:, None]
    half = torch.tensor([0.5 * source[1], 0.5 * source[0]], device=device)
    grid = places.view(1, -1, 3).expand(len(matrices), -1, -1).bmm(matrices.transpose(1, 2) / half)
    return grid.view(-1, height, width, 2)


def _sampled(images: Tensor, grid: Tensor, mode: str, fill: Any) -> Tensor:
    """Sample images at a grid; what lies outside them is `fill`."""
    mask = torch.ones_like(images[:, :1], dtype=torch.float32)
    sampled = grid_sample(torch.cat([images.float(), mask], dim=1), grid, mode, "zeros", align_corners=False)
    pixels, inside = sampled[:, :-1], sampled[:, -1:]
    colour = torch.tensor(fill if isinstance(fill, tuple | list) else [fill], device=images.device).view(1, -1, 1, 1)
    filled = torch.where(inside < 0.5, colour, pixels) if mode == "nearest" else (pixels - colour) * inside + colour
    return filled.round_().to(images.dtype)


# --- Colour ---


def _adjust_brightness(images: Tensor, factors: Tensor) -> Tensor:
    return (images * factors).clamp_(0, 255).to(images.dtype)


def _adjust_contrast(images: Tensor, factors: Tensor) -> Tensor:
    return _blended(images, _grey(images).mean(dim=(1, 2, 3), keepdim=True), factors)


def _adjust_saturation(images: Tensor, factors: Tensor) -> Tensor:
    return images if images.shape[1] == 1 else _blended(images, _grey(images), factors)


def _adjust_hue(images: Tensor, factors: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images
    hue, saturation, value = _rgb_to_hsv(v2.functional.to_dtype(images, torch.float32, scale=True)).unbind(dim=1)
    turned = torch.stack([(hue + factors[:, 0]).remainder_(1.0), saturation, value], dim=1)
    return v2.functional.to_dtype(_hsv_to_rgb(turned), torch.uint8, scale=True)


def _grey(images: Tensor) -> Tensor:
    """Return the brightness, float32 N x 1 x H x W with whole numbers."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.unbind(dim=1)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()[:, None]


def _blended(images: Tensor, others: Tensor, shares: Tensor) -> Tensor:
    """Return shares * images + (1 - shares) * others."""
    return (images * shares).add_(others * (1.0 - shares)).clamp_(0, 255).to(images.dtype)


# --- Parts of a batch ---


def _where_given(images: Tensor, parameters: Given, change: Callable[[Tensor, list[dict]], Tensor]) -> Tensor:
    """Change the images that have parameters, in place; `change` gets these images and their parameters."""
    places = [place for place, each in enumerate(parameters) if each is not None]
    if places:
        chosen = _tensor(places, images.device)
        images[chosen] = change(images[chosen], [each for each in parameters if each is not None])
    return images


def _tensor(numbers: list[int], device: torch.device) -> Tensor:
    """Return integers as an int64 tensor on a device; the host does not wait for the copy."""
    return torch.tensor(numbers).to(device, non_blocking=True)
