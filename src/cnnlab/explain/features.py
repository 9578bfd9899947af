"""`what=features`: every channel of chosen layers for an image, as separate pictures and as one grid."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cnnlab.drawing.album import Album
from cnnlab.drawing.maps import channel_tiles, describe_maps, layer_title, maps_sheet
from cnnlab.drawing.sheets import crossed, enlarged, tensor_image
from cnnlab.errors import InputError
from cnnlab.explain.subject import Picture, Subject
from cnnlab.models.feature_maps import feature_maps, layer_patterns, require_maps, resolve_layers, stage_index
from cnnlab.models.receptive_fields import Field, receptive_fields

LEAST = 128
"""Smallest length, in pixels, of the longer side of a channel's picture; it is enlarged by whole factors."""


@dataclass
class Options:
    """Draw every channel of chosen layers for an image.

    layer: indices of stages (0 is VGG16's features.0), names or globs, separated by commas; auto: the first, the middle
        and the last stage with maps; all: every stage with maps.
    images: a file or folder; null: the first validation image of the run.
    limit: number of images.
    scale: channel (each to its own range) or layer (all to a common range).
    """

    layer: str = "auto"
    images: str | None = None
    limit: int = 1
    scale: str = "channel"


def draw(subject: Subject, options: Options, output: Path) -> list[Path]:
    """Write layer_K/channel_00.png ..., grid.png and maps.json for every layer; return the grids and tables.

    With several images, each has a folder of its own.
    """
    pictures = subject.pictures(options.images, options.limit)
    inputs = subject.preprocessing(torch.cat([each.batch for each in pictures]))
    layers = resolve_layers(subject.network, layer_patterns(options.layer), inputs)
    maps = (feature_maps if options.layer == "all" else require_maps)(subject.network, inputs, layers)
    if not maps:
        raise InputError(f"{subject.name} has no layers with maps: none of its outputs has a height and a width.")
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
