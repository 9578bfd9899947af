"""`what=attribution` of a detector: the pixels that the score of one detection depends on."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_iou

from cnnlab.drawing.album import Album
from cnnlab.drawing.grids import diverging, overlaid
from cnnlab.drawing.sheets import grid, resized, tensor_image, titled
from cnnlab.errors import DataError, InputError
from cnnlab.explain.subject import Subject
from cnnlab.models.gradients import differentiable
from cnnlab.seeds import derived_rng
from cnnlab.tasks.detection.augmenting import padded
from cnnlab.tasks.detection.drawing import Box, draw_boxes
from cnnlab.tasks.detection.explain.looking import SIDE, Seen, detector_of, images_of
from cnnlab.tasks.detection.module import DetectionModule, with_area
from cnnlab.tasks.detection.networks import Detected

METHODS = ("saliency", "smoothgrad", "occlusion")
DETECTION = (255, 255, 0)
NOISE = 0.1
"""Standard deviation of SmoothGrad's noise, of pixels in [0, 1]."""
GREY = 0.5
"""The value of occluded pixels."""


@dataclass
class Options:
    """Draw the pixels that the score of one detection depends on.

    images: a file or folder; null: the first validation images with objects.
    limit: number of images.
    detection: number of the detection, 0 for the most certain one (of the class `target`).
    target: class (name or number) of the detection; null: any.
    methods: any of saliency, smoothgrad, occlusion.
    samples: number of SmoothGrad samples.
    window: side of the occlusion window in pixels of the network's input; null: an eighth of its longer side.
    seed: of SmoothGrad's noise.
    """

    images: str | None = None
    limit: int = 1
    detection: int = 0
    target: str | None = None
    methods: list[str] = field(default_factory=lambda: list(METHODS))
    samples: int = 12
    window: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Explained:
    """One detection in an image; its box is in pixels of the network's input."""

    label: int
    score: float
    box: Tensor


def draw(subject: Subject, options: Options, output: Path) -> list[Path]:
    """Write <image>.png, the detection and one map of each method, and attribution.json."""
    if unknown := [name for name in options.methods if name not in METHODS]:
        raise InputError(f"Unknown method {unknown[0]} in methods=[...]. Available: {', '.join(METHODS)}.")
    if options.samples < 1 or (options.window is not None and options.window < 1):
        raise InputError(f"samples={options.samples}, window={options.window}: at least 1 is needed.")
    module = detector_of(subject)
    target = None if options.target is None else subject.class_index(options.target)
    rows = []
    with Album(output) as album:
        for seen in images_of(subject, options.images, options.limit, with_objects=True):
            explained = chosen(module, seen, target, options.detection)
            maps = {name: attribute(module, seen, explained, name, options) for name in options.methods}
            album.add(seen.name, _sheet(subject.name, module, seen, explained, maps))
            for name, values in maps.items():
                album.keep(f"{seen.name}/{name}", tensor_image(coloured(values)))
            inside = {name: share_inside(values, explained.box) for name, values in maps.items()}
            box = seen.to_image(explained.box[None])[0].tolist()
            name = module.classes[explained.label]
            rows.append({"image": seen.name, "class": name, "score": explained.score, "box": box, "inside": inside})
        album.numbers("attribution", {"images": rows})
    return album.paths


def chosen(module: DetectionModule, seen: Seen, target: int | None, number: int) -> Explained:
    """Return detection `number` of an image, best first; raise InputError or DataError if there is none."""
    with torch.no_grad():
        (found,) = detections(module, seen, batch_of(module, seen))
    mine = torch.nonzero(found["labels"] == target if target is not None else found["scores"] >= 0).flatten()
    mine = mine[found["scores"][mine].argsort(descending=True, stable=True)]
    what = "detections" if target is None else f"detections of {module.classes[target]}"
    if not len(mine):
        raise DataError(f"There are no {what} in {seen.name}, so that none can be explained.")
    if not 0 <= number < len(mine):
        raise InputError(f"detection={number}: {seen.name} has the {what} 0 to {len(mine) - 1}, best first.")
    place = int(mine[number])
    return Explained(int(found["labels"][place]), float(found["scores"][place]), found["boxes"][place])


def batch_of(module: DetectionModule, seen: Seen) -> Tensor:
    """Return the image as a padded batch, float32 1 x C x H x W in [0, 1]."""
    return padded([seen.prepared.tiles[0].pixels], module.pads_to).float() / 255


def detections(module: DetectionModule, seen: Seen, images: Tensor) -> list[Detected]:
    """Return the detections in copies of an image, N x C x H x W, without their masks."""
    found = module(images, [seen.fitted] * len(images))
    return [with_area({name: each[name] for name in ("boxes", "scores", "labels")}) for each in found]


def score_of(module: DetectionModule, seen: Seen, images: Tensor, explained: Explained) -> Tensor:
    """Return how surely the detection is still found in changed copies of its image, N.

    It is the largest product of score and IoU over the detections of its class (Petsiuk et al. 2021, D-RISE); the
    gradient is that of the score alone.
    """
    values = []
    for found in detections(module, seen, images):
        same = found["labels"] == explained.label
        if not bool(same.any()):
            values.append(images.sum() * 0)
            continue
        overlap = box_iou(found["boxes"][same].detach(), explained.box[None])[:, 0]
        values.append((found["scores"][same] * overlap).max())
    return torch.stack(values)


def attribute(module: DetectionModule, seen: Seen, explained: Explained, method: str, options: Options) -> Tensor:
    """Return the map H x W of an image as the network takes it: positive where pixels raise the score."""
    image = batch_of(module, seen)
    height, width = seen.fitted
    if method == "occlusion":
        return occlusion(module, seen, explained, image, options.window)[:height, :width]
    samples = [image]
    if method == "smoothgrad":
        with derived_rng(options.seed, method):
            samples = [image + NOISE * torch.randn_like(image) for _ in range(options.samples)]
    total = torch.zeros_like(image)
    for sample in samples:
        with differentiable(sample) as (pixels,):
            total += torch.autograd.grad(score_of(module, seen, pixels, explained).sum(), pixels)[0]
    return (total / len(samples))[0].sum(dim=0)[:height, :width]


@torch.no_grad()
def occlusion(module: DetectionModule, seen: Seen, explained: Explained, image: Tensor, window: int | None) -> Tensor:
    """Return by how much the score falls if a grey window covers a pixel, the mean over windows, H x W."""
    height, width = seen.fitted
    side = window or max(4, max(height, width) // 8)
    step = max(1, side // 2)
    drops, counts = torch.zeros(2, *image.shape[-2:])
    whole = score_of(module, seen, image, explained)[0]
    corners = [(top, left) for top in range(0, height, step) for left in range(0, width, step)]
    for first in range(0, len(corners), 8):
        some = corners[first : first + 8]
        copies = image.repeat(len(some), 1, 1, 1)
        for copy, (top, left) in zip(copies, some, strict=True):
            copy[:, top : top + side, left : left + side] = GREY
        for (top, left), score in zip(some, score_of(module, seen, copies, explained), strict=True):
            drops[top : top + side, left : left + side] += whole - score
            counts[top : top + side, left : left + side] += 1
    return drops / counts.clamp_min(1)


def share_inside(values: Tensor, box: Tensor) -> float:
    """Return the share of a map's magnitude that lies inside the box."""
    x1, y1, x2, y2 = (int(value) for value in box.round())
    total = float(values.abs().sum())
    return float(values[max(0, y1) : y2, max(0, x1) : x2].abs().sum()) / total if total else 0.0


def coloured(values: Tensor) -> Tensor:
    """Return uint8 3 x H x W, positive in red and negative in blue, saturated at the 99th percentile of |value|."""
    largest = np.quantile(values.abs().numpy(), 0.99)
    return diverging(values, max(float(largest), 1e-12))


def _sheet(
    name: str, module: DetectionModule, seen: Seen, explained: Explained, maps: dict[str, Tensor]
) -> Image.Image:
    label = module.classes[explained.label]
    corners = tuple(map(float, seen.to_image(explained.box[None])[0]))
    marked = Box(corners, f"{label} {explained.score:.0%}", DETECTION)
    tiles, captions = [draw_boxes(seen.shown, [marked], seen.size)], [seen.name]
    pixels = seen.prepared.tiles[0].pixels
    for method, values in maps.items():
        shown = overlaid(pixels, values) if method == "occlusion" else coloured(values)
        large = resized(tensor_image(shown), SIDE)
        inside = share_inside(values, explained.box)
        tiles.append(draw_boxes(large, [Box(corners, "", DETECTION)], seen.size))
        captions.append(f"{method}\n{inside:.0%} of it inside the box")
    sheet = grid(tiles, captions, columns=min(4, len(tiles)), gap=8, below=True)
    line = "red: pixels that raise the score, blue: that lower it; occlusion: where a grey window lowers it most"
    return titled(sheet, f"{name} · why {label} ({explained.score:.0%})?", line, least_width=sheet.width)
