"""COCO average precision: collect detections and truth image by image, and score them with a COCO evaluator."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric

from cnnlab.tasks.detection.truth import Rle, Truth, mask_areas

try:
    from faster_coco_eval.core import COCO, COCOeval_faster
    from faster_coco_eval.faster_eval_api_cpp import COCOevalAccumulate
except ImportError:  # the extra `detection`
    COCO = COCOeval_faster = COCOevalAccumulate = None

MOST = 100
"""Most detections of an image that count, the best ones."""
SUMMARY = {
    "map": 0,
    "map_50": 1,
    "map_75": 2,
    "map_small": 3,
    "map_medium": 4,
    "map_large": 5,
    "mar_1": 6,
    "mar_10": 7,
    "mar_100": 8,
    "mar_small": 9,
    "mar_medium": 10,
    "mar_large": 11,
}
"""Name -> place of a value in COCO's summary."""
KINDS = {"": "bbox", "mask_": "segm"}
"""Prefix of a metric's name -> what COCO calls the overlap that it is measured by."""


@dataclass(frozen=True)
class Found:
    """The detections in one image, best first, in its own pixels."""

    boxes: np.ndarray
    """float32 D x 4: x1, y1, x2, y2"""
    scores: np.ndarray
    """float32 D"""
    labels: np.ndarray
    """int64 D, from 0"""
    masks: list[Rle] | None = None


@dataclass(frozen=True)
class Scored:
    """One image with its detections and its objects."""

    index: int
    size: tuple[int, int]
    """Height and width of the image."""
    found: Found
    truth: Truth


class Scores:
    """Collects images and computes COCO's metrics, under DDP over the images of all processes."""

    def __init__(self, num_classes: int, with_masks: bool) -> None:
        self.num_classes = num_classes
        self.with_masks = with_masks
        self.images: list[Scored] = []
        self._values: dict[str, float] | None = None

    def reset(self) -> None:
        self.images = []
        self._values = None

    def update(self, images: Sequence[Scored]) -> None:
        self.images += images
        self._values = None

    def compute(self) -> dict[str, float]:
        """Return name -> value; NaN where there is nothing to measure, such as no small object."""
        if self._values is None:
            evaluations = evaluate(gathered(self.images), self.num_classes, self.with_masks)
            self._values = {name: value for each in evaluations.values() for name, value in each.summary.items()}
        return self._values


class Score(Metric):
    """One value of `Scores` as a metric.

    leads: whether this metric passes its updates on; the others of the same scores only read.
    """

    full_state_update = False

    def __init__(self, scores: Scores, name: str, leads: bool) -> None:
        super().__init__()
        self.scores = scores
        self.name = name
        self.leads = leads

    def update(self, found: Sequence[Scored], targets: Any) -> None:
        if self.leads:
            self.scores.update(found)

    def compute(self) -> Tensor:
        return torch.tensor(self.scores.compute()[self.name], dtype=torch.float64)  # as in the report, digit by digit

    def reset(self) -> None:
        super().reset()
        self.scores.reset()


def gathered(images: list[Scored]) -> list[Scored]:
    """Return the images of all processes in the order of the data set, so that ties do not depend on their number."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, images)
        images = [image for part in parts for image in part]
    return sorted(images, key=lambda image: image.index)


# --- COCO's evaluation ---


@dataclass
class Evaluation:
    """COCO's evaluation of one kind of overlap.

    prefix: of the metrics' names. precision: float T x R x K x A x M, as in pycocotools, -1 where undefined, over
    thresholds of the IoU, recalls, classes, areas and numbers of detections. per_image: the evaluator's matches.
    """

    prefix: str
    evaluator: Any
    precision: np.ndarray = field(init=False)
    scores: np.ndarray = field(init=False)
    recall: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self.evaluator.evaluate()
            self.evaluator.accumulate()
            self.evaluator.summarize()
        self.precision = np.asarray(self.evaluator.eval["precision"])
        self.recall = np.asarray(self.evaluator.eval["recall"])
        self.scores = np.asarray(self.evaluator.eval["scores"])

    @cached_property
    def summary(self) -> dict[str, float]:
        """Metric -> value; NaN without objects of the kind."""
        values = {name: float(self.evaluator.stats[place]) for name, place in SUMMARY.items()}
        return {f"{self.prefix}{name}": value if value >= 0 else float("nan") for name, value in values.items()}

    def per_class(self) -> list[dict[str, float]]:
        """Return map, map_50, map_75 and mar_100 of each class; NaN for one without objects."""
        found = []
        for label in range(self.precision.shape[2]):
            ap = self.precision[:, :, label, 0, -1]
            found.append(
                {
                    "map": _mean(ap),
                    "map_50": _mean(ap[0]),
                    "map_75": _mean(ap[5]),
                    "mar_100": _mean(self.recall[:, label, 0, -1]),
                }
            )
        return found

    def intervals(self, draws: int, seed: int) -> dict[str, tuple[float, float]]:
        """Return 95 % percentile bootstrap intervals of map and map_50 over images."""
        per_image, params = self.evaluator._evalImgs_cpp, self.evaluator._paramsEval
        count = len(params.imgIds)
        blocks = np.arange(len(per_image)).reshape(len(params.catIds), len(params.areaRng), count)
        random = np.random.default_rng(seed)
        values: dict[str, list[float]] = {"map": [], "map_50": []}
        for _ in range(draws):
            chosen = random.integers(count, size=count)
            again = COCOevalAccumulate(params, [per_image[place] for place in blocks[:, :, chosen].ravel()])
            precision = np.asarray(again["precision"])[:, :, :, 0, -1]
            values["map"].append(_mean(precision))
            values["map_50"].append(_mean(precision[0]))
        return {
            f"{self.prefix}{name}": tuple(np.nanpercentile(drawn, [2.5, 97.5]).tolist())
            for name, drawn in values.items()
        }


def evaluate(images: Sequence[Scored], num_classes: int, with_masks: bool) -> dict[str, Evaluation]:
    """Return COCO's evaluation of the boxes, as "", and of the masks, as "mask_"."""
    found = {}
    for prefix, kind in KINDS.items():
        if kind == "segm" and not with_masks:
            continue
        truth, detected = _data_sets(images, num_classes, kind)
        evaluator = COCOeval_faster(truth, detected, iouType=kind, print_function=_silent, separate_eval=True)
        found[prefix] = Evaluation(prefix, evaluator)
    return found


def _data_sets(images: Sequence[Scored], num_classes: int, kind: str) -> tuple[Any, Any]:
    """Return truth and detections as the evaluator's data sets; its categories and images are numbered from 1."""
    entries = [
        {"id": number, "height": each.size[0], "width": each.size[1]} for number, each in enumerate(images, start=1)
    ]
    categories = [{"id": label + 1, "name": str(label)} for label in range(num_classes)]
    truth = [entry for number, each in enumerate(images, start=1) for entry in _objects(each, number, kind)]
    found = [entry for number, each in enumerate(images, start=1) for entry in _detections(each, number, kind)]
    first, second = (
        _data_set({"images": entries, "categories": categories, "annotations": list(_numbered(part))})
        for part in (truth, found)
    )
    return first, second


def _objects(image: Scored, number: int, kind: str) -> list[dict[str, Any]]:
    objects = image.truth
    return [
        {
            "image_id": number,
            "category_id": int(objects.labels[place]) + 1,
            "bbox": _xywh(objects.boxes[place]),
            "area": float(objects.areas[place]),
            "iscrowd": int(objects.crowd[place]),
        }
        | ({"segmentation": objects.masks[place]} if kind == "segm" and objects.masks else {})
        for place in range(len(objects.labels))
    ]


def _detections(image: Scored, number: int, kind: str) -> list[dict[str, Any]]:
    found = image.found
    entries = []
    for place in range(len(found.labels)):
        box = _xywh(found.boxes[place])
        entry = {
            "image_id": number,
            "category_id": int(found.labels[place]) + 1,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
            "score": float(found.scores[place]),
        }
        if kind == "segm":
            assert found.masks is not None
            entry |= {"segmentation": found.masks[place], "area": float(mask_areas([found.masks[place]])[0])}
        entries.append(entry)
    return entries


def _numbered(annotations: list[dict[str, Any]]) -> Any:
    return ({**each, "id": number} for number, each in enumerate(annotations, start=1))


def _data_set(contents: dict[str, Any]) -> Any:
    data = COCO(print_function=_silent)
    data.dataset = contents
    data.createIndex()
    return data


def _xywh(box: np.ndarray) -> list[float]:
    x1, y1, x2, y2 = (float(value) for value in box)
    return [x1, y1, x2 - x1, y2 - y1]


def _mean(values: np.ndarray) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")


def _silent(*arguments: object) -> None:
    """Takes the place of the evaluator's messages."""
