"""Numbers as pixels: feature maps in grey, first-layer filters in colour, signed values in a diverging map."""

import math

import torch
from torch import Tensor

from cnnlab.errors import InputError

NEGATIVE, POSITIVE = (33, 102, 172), (178, 24, 43)
"""The ends of the diverging map (ColorBrewer's RdBu): blue, white at zero, red."""


def grey_maps(maps_CHW: Tensor, scale: str = "channel") -> Tensor:
    """Feature maps as uint8 C x H x W; zero is always within the range, so that it is black behind a ReLU.

    scale: "channel", each to its own range, or "layer", all to one. A channel of zeros is black; values that are no
    number count as zero. Raises InputError for another scale.
    """
    maps = finite(maps_CHW)
    over = {"channel": (1, 2), "layer": (0, 1, 2)}
    if scale not in over:
        raise InputError(f"scale={scale}: use channel or layer.")
    low = maps.amin(over[scale], keepdim=True).clamp_max(0)
    high = maps.amax(over[scale], keepdim=True).clamp_min(0)
    return to_uint8(torch.where(high > low, (maps - low) / (high - low).clamp_min(1e-12), 0.0))


def colour_filters(filters_O3HW: Tensor, scale: str = "filter") -> Tensor:
    """Filters of three input channels as uint8 O x 3 x H x W, zero in mid-grey.

    scale: "filter", each by its largest magnitude, or "layer", all by one.
    """
    filters = finite(filters_O3HW)
    return to_uint8(0.5 + 0.5 * filters / magnitudes(filters, scale).clamp_min(1e-12))


def diverging(values: Tensor, magnitude: Tensor | float) -> Tensor:
    """Signed values ... x H x W as uint8 ... x 3 x H x W: blue below zero, white, red above, full at `magnitude`."""
    share = (finite(values) / torch.as_tensor(magnitude).clamp_min(1e-12)).clamp(-1, 1).unsqueeze(-3)
    ends = [torch.tensor(end).view(3, 1, 1) / 255 for end in (NEGATIVE, POSITIVE)]
    end = torch.where(share < 0, ends[0], ends[1])
    return to_uint8(1 - share.abs() * (1 - end))


def magnitudes(filters_OIHW: Tensor, scale: str = "filter") -> Tensor:
    """The largest |w| of each filter, or of the layer for each, O x 1 x 1 x 1; raises InputError for another scale."""
    largest = finite(filters_OIHW).abs().amax((1, 2, 3), keepdim=True)
    if scale not in ("filter", "layer"):
        raise InputError(f"scale={scale}: use filter or layer.")
    return largest if scale == "filter" else largest.amax().expand_as(largest)


def finite(values: Tensor) -> Tensor:
    """float32, with zeros for what is no number, so that a diverged network can be drawn."""
    return torch.nan_to_num(values.detach().float(), nan=0.0, posinf=0.0, neginf=0.0)


def tile(images_NCHW: Tensor, padding: int = 1) -> Tensor:
    """uint8 N x C x H x W -> one uint8 picture C x H' x W', rows filled from the top left, white lines between."""
    count, channels, height, width = images_NCHW.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    grid = torch.full(
        (channels, rows * (height + padding) + padding, columns * (width + padding) + padding),
        255,
        dtype=torch.uint8,
    )
    for index, image in enumerate(images_NCHW):
        top = padding + (index // columns) * (height + padding)
        left = padding + (index % columns) * (width + padding)
        grid[:, top : top + height, left : left + width] = image
    return grid


def to_uint8(images: Tensor) -> Tensor:
    """[0, 1] -> 0 ... 255, rounded."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)
