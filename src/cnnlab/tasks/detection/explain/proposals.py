"""`what=proposals`: the boxes that the first stage of an R-CNN proposes to the second, by their objectness."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import box_iou

from cnnlab.drawing.album import Album
from cnnlab.drawing.sheets import grid, titled
from cnnlab.errors import InputError
from cnnlab.explain.subject import Subject
from cnnlab.tasks.detection.drawing import Box, draw_boxes
from cnnlab.tasks.detection.explain.looking import Seen, detector_of, images_of, input_of
from cnnlab.tasks.detection.module import DetectionModule

COLOURS = colormaps["plasma"]


@dataclass
class Options:
    """Draw the boxes that the first stage of an R-CNN proposes to the second, by their objectness.

    images: a file or folder; null: the first validation images.
    limit: number of images.
    count: number of proposals that are drawn, those of highest objectness.
    """

    images: str | None = None
    limit: int = 1
    count: int = 50


def draw(subject: Subject, options: Options, output: Path) -> list[Path]:
    """Write <image>.png, a few and many proposals of each image, and proposals.json."""
    if options.count < 1:
        raise InputError(f"count={options.count}: at least 1 is needed.")
    name = subject.cfg["model"]["name"]
    if not bool(subject.cfg["model"]["network"]["_target_"].endswith(".rcnn")):
        raise InputError(
            f"model={name} has one stage, and no proposals: what=detections shows what it finds. Two stages have "
            "model=faster_rcnn and mask_rcnn."
        )
    module = detector_of(subject)
    numbers: dict[str, Any] = {}
    with Album(output) as album:
        for seen in images_of(subject, options.images, options.limit):
            boxes, scores = proposals(module, seen)
            counts = sorted({min(10, options.count), min(options.count, len(boxes))})
            tiles = [_picture(seen, boxes[:count], scores[:count]) for count in counts]
            captions = [f"the first {count}{_recall(seen, boxes[:count])}" for count in counts]
            sheet = grid(tiles, captions, columns=2, gap=8, below=True)
            title = f"{subject.name} · proposals in {seen.name}"
            line = f"{len(boxes)} proposals{_recall(seen, boxes)}; yellow: objectness 100 %, dark: 0 %; white: objects"
            album.add(seen.name, titled(sheet, title, line, least_width=sheet.width))
            numbers[seen.name] = [
                {"box": box.tolist(), "objectness": float(score)}
                for box, score in zip(seen.to_image(boxes), scores, strict=True)
            ]
        album.numbers("proposals", numbers)
    return album.paths


@torch.no_grad()
def proposals(module: DetectionModule, seen: Seen) -> tuple[Tensor, Tensor]:
    """Return boxes N x 4 in pixels of the network's input and objectness N, best first.

    As RegionProposalNetwork.forward, which keeps the objectness to itself.
    """
    _, images, pyramid = input_of(module, seen)
    maps = [each.float() for each in pyramid.values()]
    rpn: Any = module.network.head.model.rpn
    objectness, deltas = rpn.head(maps)
    anchors = rpn.anchor_generator(images, maps)
    counts = [each[0].numel() for each in objectness]
    scores, moves = concat_box_prediction_layers(objectness, deltas)
    boxes = rpn.box_coder.decode(moves, anchors).view(1, -1, 4)
    (kept,), (objects,) = rpn.filter_proposals(boxes, scores, images.image_sizes, counts)
    return kept, objects


def _picture(seen: Seen, boxes: Tensor, scores: Tensor) -> Image.Image:
    objects = [] if seen.truth is None else [Box(tuple(map(float, b)), "", (255, 255, 255)) for b in seen.truth.boxes]
    drawn = []
    for number, (box, score) in reversed(list(enumerate(zip(seen.to_image(boxes), scores.tolist(), strict=True)))):
        red, green, blue, _ = COLOURS(score, bytes=True)
        text = f"{score:.0%}" if number < 5 else ""
        drawn.append(Box(tuple(map(float, box)), text, (int(red), int(green), int(blue))))
    return draw_boxes(seen.shown, [*drawn, *objects], seen.size)


def _recall(seen: Seen, boxes: Tensor) -> str:
    """Return how many objects have a proposal, in words."""
    if seen.truth is None or not len(seen.truth.boxes):
        return ""
    overlap = box_iou(seen.to_input(seen.truth.boxes), boxes)
    near = int((overlap.max(dim=1).values >= 0.5).sum()) if len(boxes) else 0
    return f": {near} of {len(overlap)} objects have one of IoU .50 or more"
