"""`what=top_patches`: the patches that each channel responds to most strongly (Zeiler and Fergus 2014, figure 2)."""

import heapq
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from cnnlab.drawing.album import Album
from cnnlab.drawing.maps import layer_title
from cnnlab.drawing.sheets import grid, resized, tensor_image, titled
from cnnlab.errors import InputError
from cnnlab.explain.subject import Picture, Subject
from cnnlab.models.feature_maps import feature_maps, layer_patterns, require_maps, resolve_layers, stage_index
from cnnlab.models.receptive_fields import Field, receptive_fields

BATCH = 32
TILE = 56
"""Side of a patch in the picture, in pixels."""


@dataclass
class Options:
    """Draw the patches of a data set that each channel responds to most strongly.

    layer: index of a stage, a name or a glob; auto: the first, the middle and the last stage with maps; all.
    images: a folder; null: the validation images.
    limit: number of images, evenly spaced.
    patches: number of patches per channel, at most one from each image.
    channels: number of channels that are shown.
    """

    layer: str = "auto"
    images: str | None = None
    limit: int = 500
    patches: int = 9
    channels: int = 64


@dataclass(frozen=True, order=True)
class Peak:
    """The strongest response of a channel to an image, and where it is in the map."""

    value: float
    image: int
    row: int
    column: int


def draw(subject: Subject, options: Options, output: Path) -> list[Path]:
    """Write patches_<layer>.png and .json: the patches with the largest values of each channel, strongest first."""
    if min(options.patches, options.channels) < 1:
        raise InputError("patches and channels: at least 1 is needed.")
    pictures = subject.pictures(options.images, options.limit, spread=True)
    first = subject.preprocessing(pictures[0].batch)
    layers = resolve_layers(subject.network, layer_patterns(options.layer), first)
    if options.layer != "all":
        require_maps(subject.network, first, layers)
    fields = receptive_fields(subject.network)
    found = peaks(subject, pictures, list(layers), options.patches, options.channels)
    if not found:
        raise InputError(f"{subject.name} has no layers with maps: none of its outputs has a height and a width.")
    with Album(output) as album:
        for name, channels in found.items():
            field = fields.get(name)
            blocks = [_block(pictures, best, field, options.patches) for best in channels]
            size = f"{field.rows.size} x {field.columns.size} pixels" if field else "the whole image"
            picture = titled(
                grid(blocks, [f"{number}  max {best[0].value:.3g}" for number, best in enumerate(channels)], gap=6),
                layer_title(subject.name, name, layers[name], stage_index(subject.network, name)),
                f"the {options.patches} strongest patches of each channel among {len(pictures)} images, one per image "
                f"· receptive field {size}, clipped at the image's edge",
            )
            album.add(f"patches_{name}", picture)
            album.numbers(
                f"patches_{name}",
                {
                    "receptive_field": field and field.size,
                    "channels": [
                        [
                            {
                                "image": pictures[peak.image].name,
                                "value": peak.value,
                                "unit": [peak.row, peak.column],
                                "box": _box(field, peak, pictures[peak.image].pixels),
                            }
                            for peak in best
                        ]
                        for best in channels
                    ],
                },
            )
    return album.paths


@torch.no_grad()
def peaks(
    subject: Subject, pictures: list[Picture], layers: list[str], count: int, channels: int
) -> dict[str, list[list[Peak]]]:
    """Return layer -> channel -> its `count` strongest responses, strongest first, at most one from each image.

    Layers without maps are left out.
    """
    modules = resolve_layers(subject.network, layers)
    best: dict[str, list[list[Peak]]] = {}
    for start in tqdm(range(0, len(pictures), BATCH), "Looking", unit="batch", disable=None):
        batch = torch.cat([picture.batch for picture in pictures[start : start + BATCH]])
        for name, maps_NCHW in feature_maps(subject.network, subject.preprocessing(batch), modules).items():
            width = maps_NCHW.shape[-1]
            values, positions = maps_NCHW[:, :channels].flatten(2).max(dim=2)
            heaps = best.setdefault(name, [[] for _ in range(values.shape[1])])
            for number, (row, places) in enumerate(zip(values.tolist(), positions.tolist(), strict=True)):
                for heap, value, place in zip(heaps, row, places, strict=True):
                    peak = Peak(value, start + number, place // width, place % width)
                    (heapq.heappushpop if len(heap) == count else heapq.heappush)(heap, peak)
    return {name: [sorted(heap, reverse=True) for heap in heaps] for name, heaps in best.items()}


def _block(pictures: list[Picture], best: list[Peak], field: Field | None, patches: int) -> Image.Image:
    tiles = []
    for peak in best:
        picture = pictures[peak.image]
        top, left, bottom, right = _box(field, peak, picture.pixels)
        patch = resized(tensor_image(picture.pixels[:, top:bottom, left:right]), TILE)
        tile = Image.new("RGB", (TILE, TILE), (128, 128, 128))
        tile.paste(patch, ((TILE - patch.width) // 2, (TILE - patch.height) // 2))
        tiles.append(tile)
    tiles += [Image.new("RGB", (TILE, TILE), "white")] * (patches - len(tiles))
    return grid(tiles)


def _box(field: Field | None, peak: Peak, pixels: Tensor) -> tuple[int, int, int, int]:
    """Return (top, left, bottom, right) of the unit's receptive field, clipped to the image."""
    _, height, width = pixels.shape
    if field is None:
        return 0, 0, height, width
    top, left, bottom, right = field.box(peak.row, peak.column)
    return max(0, top), max(0, left), min(height, bottom), min(width, right)
