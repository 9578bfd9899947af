"""`what=features` of a detector: the levels of its pyramid of feature maps for an image."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cnnlab.drawing.album import Album
from cnnlab.drawing.grids import overlaid
from cnnlab.drawing.maps import describe_maps, maps_sheet
from cnnlab.drawing.sheets import enlarged, grid, resized, tensor_image, titled
from cnnlab.errors import InputError
from cnnlab.explain.subject import Subject
from cnnlab.tasks.detection.explain.looking import Seen, detector_of, images_of, input_of

TILE = 320


@dataclass
class Options:
    """Draw the levels of a detector's pyramid for an image: what each looks at, and its channels.

    images: a file or folder; null: the first validation image.
    limit: number of images.
    level: numbers of levels whose channels are drawn, 0 the finest, separated by commas; all: every level.
    scale: channel (each to its own range) or layer (all to a common range).
    """

    images: str | None = None
    limit: int = 1
    level: str = "all"
    scale: str = "channel"


@torch.no_grad()
def draw(subject: Subject, options: Options, output: Path) -> list[Path]:
    """Write pyramid.png, the mean of each level over the image, and level_K.png and .json with its channels.

    With several images, each has a folder of its own.
    """
    if options.scale not in ("channel", "layer"):
        raise InputError(f"scale={options.scale}: use channel or layer.")
    module = detector_of(subject, trained=False)
    images = images_of(subject, options.images, options.limit)
    with Album(output) as album:
        for seen in images:
            inputs, _, pyramid = input_of(module, seen)
            maps = [each[0].float() for each in pyramid.values()]
            folder = f"{seen.name}/" if len(images) > 1 else ""
            strides = [round(inputs.shape[-1] / each.shape[-1]) for each in maps]
            album.add(f"{folder}pyramid", _overview(subject.name, seen, maps, strides))
            for level in levels(options.level, len(maps)):
                numbers = describe_maps(maps[level], None)
                title = f"{subject.name} · level {level} of the pyramid, stride {strides[level]} pixels"
                shown = enlarged(tensor_image(seen.prepared.tiles[0].pixels), 224)
                sheet = maps_sheet(title, maps[level], numbers, options.scale, shown, seen.name)
                album.add(f"{folder}level_{level}", sheet)
                album.numbers(f"{folder}level_{level}", {**numbers, "stride": strides[level], "image": seen.name})
    return album.paths


def levels(text: str, count: int) -> list[int]:
    """Return the levels that an option names; raise InputError for others."""
    if text == "all":
        return list(range(count))
    chosen = [part.strip() for part in text.split(",")]
    if bad := [part for part in chosen if not part.isdigit() or int(part) >= count]:
        raise InputError(f"level={bad[0]}: this pyramid has the levels 0 to {count - 1}; all draws every one.")
    return [int(part) for part in chosen]


def _overview(name: str, seen: Seen, maps: list[Tensor], strides: list[int]) -> Image.Image:
    pixels = seen.prepared.tiles[0].pixels
    height, width = pixels.shape[-2:]
    tiles, captions = [resized(tensor_image(pixels), TILE)], [seen.name]
    for level, (each, stride) in enumerate(zip(maps, strides, strict=True)):
        size = (each.shape[-2] * stride, each.shape[-1] * stride)
        heat = F.interpolate(each.abs().mean(dim=0)[None, None], size=size, mode="bilinear")[0, 0, :height, :width]
        heat = F.pad(heat, (0, width - heat.shape[-1], 0, height - heat.shape[-2]))
        tiles.append(resized(tensor_image(overlaid(pixels, heat - heat.min())), TILE))
        rows, columns = each.shape[-2:]
        where = f", stride {stride}" if rows * columns > 1 else ": one position"
        captions.append(f"level {level}: {len(each)} x {rows} x {columns}{where}")
    sheet = grid(tiles, captions, columns=min(4, len(tiles)), gap=8, below=True)
    line = "red: where the mean magnitude of a level's channels is large"
    return titled(sheet, f"{name} · levels of the pyramid", line, least_width=sheet.width)
