"""`what=features`: every channel of chosen layers for an image, as pictures of their own and as one grid."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from cnnlab.errors import InputError
from cnnlab.explain.album import Album
from cnnlab.explain.feature_maps import feature_maps, layer_patterns, resolve_layers, stage_index
from cnnlab.explain.grids import finite, grey_maps
from cnnlab.explain.receptive_fields import Field, receptive_fields
from cnnlab.explain.sheets import crossed, enlarged, grid, side_by_side, tensor_image, titled
from cnnlab.explain.subject import Picture, Subject

GRID = 1000
"""Pixels of the merged grid's width, as far as whole enlargements allow."""
LEAST = 128
"""Pixels to which the picture of one channel is enlarged at least, by whole factors."""
NONLINEAR = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Tanh)


@dataclass
class Options:
    """layer: indices that count the stages (0 is VGG16's features.0), names or globs; `auto`, `all`.

    images: a file or folder; without it the first validation image of the run. limit: how many of a folder.
    scale: channel (each to its own range) or layer (all to one).
    """

    layer: str = "auto"
    images: str | None = None
    limit: int = 1
    scale: str = "channel"


def draw(subject: Subject, options: Options, output: Path) -> list[Path]:
    """Write layer_K/channel_00.png ..., grid.png and maps.json for every layer, below a folder for each image if there
    are several; returns the grids and tables."""
    layers = resolve_layers(subject.network, layer_patterns(options.layer))
    pictures = subject.pictures(options.images, options.limit)
    inputs = subject.preprocessing(torch.cat([each.batch for each in pictures]))
    maps = feature_maps(subject.network, inputs, layers)
    if missing := [name for name in layers if name not in maps and options.layer != "all"]:
        there = ", ".join(feature_maps(subject.network, inputs, resolve_layers(subject.network, ["all"])))
        raise InputError(f"layer={missing[0]} has no maps (no height and width). Stages with maps: {there}.")
    fields = receptive_fields(subject.network)
    with Album(output) as album:
        for number, picture in enumerate(pictures):
            for name, maps_NCHW in maps.items():
                index = stage_index(subject.network, name)
                folder = f"layer_{name if index is None else index}"
                folder = f"{picture.name}/{folder}" if len(pictures) > 1 else folder
                title = layer_title(subject.name, name, layers[name], index)
                _write(album, folder, title, maps_NCHW[number], fields.get(name), picture, options.scale)
    return album.paths


def _write(
    album: Album, folder: str, title: str, maps_CHW: Tensor, field: Field | None, picture: Picture, scale: str
) -> None:
    numbers = describe_maps(maps_CHW, field)
    digits = max(2, len(str(len(maps_CHW) - 1)))
    for channel, tile in enumerate(channel_tiles(maps_CHW, scale, LEAST)):
        marked = crossed(tile) if channel in numbers["dead_channels"] else tile
        album.keep(f"{folder}/channel_{channel:0{digits}d}", marked)
    shown = enlarged(tensor_image(picture.pixels), 224)
    album.add(f"{folder}/grid", maps_sheet(title, maps_CHW, numbers, scale, shown, picture.name))
    album.numbers(f"{folder}/maps", {"layer": title, "image": picture.name, **numbers})


def layer_title(network: str, name: str, layer: nn.Module, index: int | None = None) -> str:
    """vgg16 · features.0 (layer 0) · Conv2d, before the nonlinearity."""
    kind = type(layer).__name__
    if isinstance(layer, NONLINEAR):
        kind += ", behind the nonlinearity"
    elif isinstance(layer, nn.Conv2d):
        kind += ", before the nonlinearity"
    return " · ".join([network, name if index is None else f"{name} (layer {index})", kind])


def describe_maps(maps_CHW: Tensor, field: Field | None) -> dict[str, Any]:
    """The numbers behind a grid of channels.

    shape: C, H, W. zeros: share of values that are exactly 0. dead: how many channels are 0 everywhere.
    stride, receptive_field: pixels of the network's input, a pair where height and width differ, null where unknown.
    """
    maps = finite(maps_CHW)
    dead = (maps == 0).all(dim=2).all(dim=1)
    channels = [
        {"min": float(each.min()), "max": float(each.max()), "mean": float(each.mean()), "zeros": share_of_zeros(each)}
        for each in maps
    ]
    return {
        "shape": list(maps.shape),
        "min": float(maps.min()),
        "max": float(maps.max()),
        "zeros": share_of_zeros(maps),
        "dead": int(dead.sum()),
        "dead_channels": dead.nonzero().flatten().tolist(),
        "stride": field and field.stride,
        "receptive_field": field and field.size,
        "channels": channels,
    }


def share_of_zeros(values: Tensor) -> float:
    return float((values == 0).float().mean())


def channel_tiles(maps_CHW: Tensor, scale: str, least: int) -> list[Image.Image]:
    """Each channel in grey, enlarged by the smallest whole factor that makes its longer side at least `least`."""
    factor = max(1, math.ceil(least / max(maps_CHW.shape[1:])))
    large = grey_maps(maps_CHW, scale).repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    return [Image.fromarray(pixels) for pixels in large.numpy()]


def maps_sheet(
    title: str,
    maps_CHW: Tensor,
    numbers: dict[str, Any],
    scale: str = "channel",
    image: Image.Image | None = None,
    image_name: str = "",
    width: int = GRID,
) -> Image.Image:
    """All channels in a near-square grid below a title with their numbers, beside the image that they are of."""
    count, height, across = maps_CHW.shape
    columns = math.ceil(math.sqrt(count))
    tiles = channel_tiles(maps_CHW, scale, min(160, max(40, width // columns)))
    picture = grid(tiles, [str(channel) for channel in range(count)], numbers["dead_channels"], columns)
    if image is not None:
        picture = side_by_side([grid([image], [image_name]), picture])
    lines = [
        f"{count} channels of {height} x {across} · values {numbers['min']:.3g} to {numbers['max']:.3g} · "
        f"{numbers['zeros']:.0%} zeros · {numbers['dead']} of {count} dead" + (" (crossed)" if numbers["dead"] else ""),
        " · ".join([*_seen(numbers), scale_text(scale, numbers["min"])]),
    ]
    return titled(picture, title, *lines)


def scale_text(scale: str, least: float) -> str:
    own = "each channel to its own range" if scale == "channel" else "all channels to one range"
    return f"{own}, {'0 is black' if least >= 0 else 'dark is low, 0 within'}"


def _seen(numbers: dict[str, Any]) -> list[str]:
    if numbers["stride"] is None:
        return []
    size, stride = (
        [each] if isinstance(each, int) else each for each in (numbers["receptive_field"], numbers["stride"])
    )
    return [f"receptive field {size[0]} x {size[-1]} pixels", f"stride {' x '.join(map(str, stride))}"]
