"""Many small pictures in one: near-square grids of channels and filters."""

import math

import torch
from torch import Tensor


def channel_grid(maps_CHW: Tensor, padding: int = 1) -> Tensor:
    """Every channel of one feature map side by side in a near-square grid, each scaled to its own range.

    maps_CHW: float. A channel without contrast is black if it is zero, grey otherwise; values that are no number are 0.
    Returns uint8 1 x H' x W' with white lines of `padding` pixels; maps below 16 pixels are enlarged by repetition.
    """
    maps = torch.nan_to_num(maps_CHW.float(), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    flat = torch.where(maps == 0, 0.0, 0.5)
    scaled = torch.where(high > low, (maps - low) / (high - low).clamp_min(1e-12), flat)
    return tile(enlarge(to_uint8(scaled))[:, None], padding)


def filter_grid(filters_OIHW: Tensor, padding: int = 1) -> Tensor:
    """The filters of a convolution in a near-square grid, zero in mid-grey, each scaled to its largest magnitude.

    Filters with three input channels are shown in colour, others by their first input channel.
    Returns uint8 3 x H' x W'.
    """
    filters = torch.nan_to_num(filters_OIHW.float(), nan=0.0, posinf=0.0, neginf=0.0)
    filters = filters if filters.shape[1] == 3 else filters[:, :1].expand(-1, 3, -1, -1)
    magnitude = filters.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    return tile(enlarge(to_uint8(0.5 + 0.5 * filters / magnitude)), padding)


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


def enlarge(images: Tensor, least: int = 16) -> Tensor:
    """Repeat pixels until the last dimension has at least `least`."""
    factor = max(1, math.ceil(least / images.shape[-1]))
    return images.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


def to_uint8(images: Tensor) -> Tensor:
    """[0, 1] -> 0 ... 255, rounded."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)
