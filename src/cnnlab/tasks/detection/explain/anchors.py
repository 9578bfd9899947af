"""`what=anchors`: the anchors of a detector, and those that are matched to an object of an image in training."""

import colorsys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_iou

from cnnlab.drawing.album import Album
from cnnlab.drawing.sheets import grid, titled
from cnnlab.errors import DataError, InputError
from cnnlab.explain.subject import Subject
from cnnlab.tasks.detection.drawing import Box, draw_boxes
from cnnlab.tasks.detection.explain.looking import Seen, detector_of, images_of, input_of
from cnnlab.tasks.detection.module import DetectionModule
from cnnlab.tasks.detection.truth import Truth

DRAWN = 24
"""Most anchors that are drawn of an object, those that overlap it most."""
OBJECT = (255, 255, 255)


@dataclass
class Options:
    """Draw the anchors of a detector that are matched to an object in training.

    limit: number of validation images.
    object: number of the object, 0 for the largest; null: every object of the image, the largest first.
    """

    limit: int = 1
    object: int | None = None


@dataclass(frozen=True)
class Matches:
    """The anchors of an image and the objects that they are matched to.

    boxes: A x 4 in pixels of the network's input. level: A. objects: A, -1 for none. overlap: IoU, objects x A.
    """

    boxes: Tensor
    level: Tensor
    objects: Tensor
    overlap: Tensor
    counts: list[int]
    """Number of anchors on each level."""


def draw(subject: Subject, options: Options, output: Path) -> list[Path]:
    """Write <image>.png, a row of each object with its anchors, and anchors.json."""
    if not subject.has_data:
        raise InputError(
            "what=anchors matches anchors with objects: add data=shapes, or data=coco_folder data.root=FOLDER."
        )
    module = detector_of(subject, trained=False)
    require_anchors(module, subject.cfg["model"]["name"])
    images = images_of(subject, None, options.limit, with_objects=True)
    if not images:
        raise DataError("None of the validation images has an object.")
    numbers: dict[str, Any] = {}
    with Album(output) as album:
        for seen in images:
            assert seen.truth is not None
            order = np.argsort(-seen.truth.areas, kind="stable")
            if options.object is not None and not 0 <= options.object < len(order):
                raise InputError(f"object={options.object}: {seen.name} has the objects 0 to {len(order) - 1}.")
            chosen = order if options.object is None else order[[options.object]]
            found = matches(module, seen, seen.truth)
            tiles = [_picture(seen, found, int(place)) for place in chosen[:12]]
            captions = [_caption(seen, found, int(place)) for place in chosen[:12]]
            sheet = grid(tiles, captions, columns=min(3, len(tiles)), gap=8, below=True)
            levels = " · ".join(
                f"level {n}: {count:,} anchors, {_side(found, n)} pixels" for n, count in enumerate(found.counts)
            )
            legend = grid(
                [Image.new("RGB", (110, 16), level_colour(n)) for n in range(len(found.counts))],
                [f"level {n}" for n in range(len(found.counts))],
                columns=len(found.counts),
                gap=4,
                below=True,
            )
            page = Image.new("RGB", (max(sheet.width, legend.width), sheet.height + legend.height + 8), "white")
            page.paste(sheet, (0, 0))
            page.paste(legend, (0, sheet.height + 8))
            title = f"{subject.name} · anchors matched to the objects of {seen.name}"
            album.add(seen.name, titled(page, title, f"white: the object; {levels} (sides at the network's input)"))
            numbers[seen.name] = _numbers(seen, found)
        album.numbers("anchors", numbers)
    return album.paths


def require_anchors(module: DetectionModule, name: str) -> None:
    """Raise InputError for a detector without anchors."""
    if generator_of(module) is None or not hasattr(_part(module), "proposal_matcher"):
        raise InputError(
            f"model={name} has no anchors: it predicts a box at every position of its maps. Use model=faster_rcnn, "
            "mask_rcnn, retinanet, ssd or ssdlite."
        )


def generator_of(module: DetectionModule) -> Any:
    """Return the generator of anchors of a detector that matches them by IoU; None for FCOS."""
    generator = getattr(_part(module), "anchor_generator", None)
    return generator if hasattr(_part(module), "proposal_matcher") else None


def _part(module: DetectionModule) -> Any:
    """Return the part of torchvision's detector that has the anchors."""
    model: Any = module.network.head.model
    return getattr(model, "rpn", model)


@torch.no_grad()
def matches(module: DetectionModule, seen: Seen, truth: Truth) -> Matches:
    """Match the anchors with the objects as training does."""
    _, images, pyramid = input_of(module, seen)
    maps = list(pyramid.values())
    (boxes,) = generator_of(module)(images, maps)
    part = _part(module)
    overlap = box_iou(seen.to_input(truth.boxes), boxes)
    objects = part.proposal_matcher(overlap).clamp(min=-1)
    cells = [each.shape[-2] * each.shape[-1] for each in maps]
    counts = [n * k for n, k in zip(cells, generator_of(module).num_anchors_per_location(), strict=True)]
    level = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return Matches(boxes, level, objects, overlap, counts)


def _picture(seen: Seen, found: Matches, place: int) -> Image.Image:
    mine = torch.nonzero(found.objects == place).flatten()
    best = mine[found.overlap[place, mine].argsort(descending=True)[:DRAWN]].flip(0)
    corners = seen.to_image(found.boxes[best])
    boxes = [
        Box(tuple(map(float, box)), "", level_colour(int(found.level[n])), dashed=True)
        for box, n in zip(corners, best, strict=True)
    ]
    assert seen.truth is not None
    return draw_boxes(seen.shown, [*boxes, Box(tuple(map(float, seen.truth.boxes[place])), "", OBJECT)], seen.size)


def _caption(seen: Seen, found: Matches, place: int) -> str:
    assert seen.truth is not None
    name = seen.classes[seen.truth.labels[place]]
    mine = found.objects == place
    by_level = {n: int((mine & (found.level == n)).sum()) for n in range(len(found.counts))}
    where = ", ".join(f"{count} of level {n}" for n, count in by_level.items() if count) or "none"
    most = float(found.overlap[place].max())
    count = int(mine.sum())
    return f"{name}: {count} anchor{'' if count == 1 else 's'} matched ({where})\nbest IoU of any anchor {most:.2f}"


def _numbers(seen: Seen, found: Matches) -> dict[str, Any]:
    assert seen.truth is not None
    objects = [
        {
            "class": seen.classes[label],
            "box": box.tolist(),
            "matched": int((found.objects == place).sum()),
            "best_iou": float(found.overlap[place].max()),
        }
        for place, (label, box) in enumerate(zip(seen.truth.labels, seen.truth.boxes, strict=True))
    ]
    return {"anchors_per_level": found.counts, "objects": objects}


def _side(found: Matches, level: int) -> str:
    """Return the range of the sides (square root of the area) of the anchors of a level."""
    boxes = found.boxes[found.level == level]
    sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=0).sqrt()
    low, high = float(sides.min()), float(sides.max())
    return f"{high:.0f}" if high - low < 1 else f"{low:.0f} to {high:.0f}"


def level_colour(level: int) -> tuple[int, int, int]:
    """Return the colour of a level of the pyramid."""
    red, green, blue = colorsys.hsv_to_rgb(level / 7, 0.9, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
