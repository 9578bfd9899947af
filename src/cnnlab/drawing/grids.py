"""Turn tensors into pixels: feature maps in grey, first-layer filters in colour, signed values in a diverging map."""

import math

import torch
from torch import Tensor

from cnnlab.errors import InputError

NEGATIVE, POSITIVE = (33, 102, 172), (178, 24, 43)
"""End colours of the diverging map (ColorBrewer's RdBu): blue and red, with white at zero."""


def grey_maps(maps_CHW: Tensor, scale: str = "channel") -> Tensor:
    """Return feature maps as uint8 C x H x W; the range always includes zero, so that zero is black after a ReLU.

    scale: "channel" scales each channel to its own range, "layer" all to a common one. A channel of zeros is black;
    NaN and infinity count as zero. Raises InputError for another scale.
    """
    maps = finite(maps_CHW)
    over = {"channel": (1, 2), "layer": (0, 1, 2)}
    if scale not in over:
        raise InputError(f"scale={scale}: use channel or layer.")
    low = maps.amin(over[scale], keepdim=True).clamp_max(0)
    high = maps.amax(over[scale], keepdim=True).clamp_min(0)
    return to_uint8(torch.where(high > low, (maps - low) / (high - low).clamp_min(1e-12), 0.0))


def colour_filters(filters_O3HW: Tensor, scale: str = "filter") -> Tensor:
    """Return filters of three input channels as uint8 O x 3 x H x W, with zero in mid-grey.

    scale: see `magnitudes`.
    """
    filters = finite(filters_O3HW)
    return to_uint8(0.5 + 0.5 * filters / magnitudes(filters, scale).clamp_min(1e-12))


def diverging(values: Tensor, magnitude: Tensor | float) -> Tensor:
    """Return signed values ... x H x W as uint8 ... x 3 x H x W: blue below zero, white at zero, red above.

    magnitude: the |value| from which on the colour is saturated.
    """
    share = (finite(values) / torch.as_tensor(magnitude).clamp_min(1e-12)).clamp(-1, 1).unsqueeze(-3)
    ends = [torch.tensor(end).view(3, 1, 1) / 255 for end in (NEGATIVE, POSITIVE)]
    end = torch.where(share < 0, ends[0], ends[1])
    return to_uint8(1 - share.abs() * (1 - end))


def overlaid(image_CHW: Tensor, values_HW: Tensor) -> Tensor:
    """Return uint8 3 x H x W: the image in grey, with red where the map is large.

    image_CHW: uint8.
    """
    grey = image_CHW.float().mean(0).expand(3, -1, -1) / 255
    strength = (values_HW / values_HW.max().clamp_min(1e-12)).clamp(0, 1) * 0.8
    red = torch.tensor([0.9, 0.1, 0.1]).view(3, 1, 1)
    return to_uint8(grey * (1 - strength) + red * strength)


def magnitudes(filters_OIHW: Tensor, scale: str = "filter") -> Tensor:
    """Return the |w| by which each filter is scaled, O x 1 x 1 x 1; raise InputError for an unknown scale.

    scale: "filter" gives each filter's own maximum, "layer" the maximum of the layer for all.
    """
    largest = finite(filters_OIHW).abs().amax((1, 2, 3), keepdim=True)
    if scale not in ("filter", "layer"):
        raise InputError(f"scale={scale}: use filter or layer.")
    return largest if scale == "filter" else largest.amax().expand_as(largest)


def finite(values: Tensor) -> Tensor:
    """Return values as float32 with NaN and infinity replaced by zero, so that a diverged network can be drawn."""
    return torch.nan_to_num(values.detach().float(), nan=0.0, posinf=0.0, neginf=0.0)


def tile(images_NCHW: Tensor, padding: int = 1) -> Tensor:
    """Arrange uint8 images N x C x H x W in one near-square uint8 picture C x H' x W', with white lines between."""
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
    """Convert values in [0, 1] to uint8, rounded; values outside are clamped."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)
