"""The detections in a picture: as rows, as COCO's JSON, and drawn."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from cnnlab.drawing.sheets import enlarged, resized
from cnnlab.reports.pages import write_csv
from cnnlab.system.files import write_json
from cnnlab.tasks.detection.drawing import Box, draw_boxes
from cnnlab.tasks.detection.scores import Found

LEAST = 480
"""Length of the longer side, in pixels, up to which small pictures are enlarged by whole factors to be drawn on."""
SMALL = 180
"""Length of the longer side of a picture on a sheet of many, in pixels."""
HEAD = ["image", "class", "score", "x1", "y1", "x2", "y2"]


@dataclass(frozen=True)
class Objects:
    """The detections in a picture of `size` (height, width), in its pixels."""

    found: Found
    size: tuple[int, int]
    classes: list[str]

    @property
    def counts(self) -> dict[str, int]:
        """Class -> number of detections, in the order of the classes."""
        counts = Counter(self.found.labels.tolist())
        return {name: counts[label] for label, name in enumerate(self.classes)}

    def row(self) -> dict[str, str]:
        return {name: str(count) for name, count in self.counts.items()}

    @property
    def caption(self) -> str:
        """The number of detections of each class that occurs."""
        return ", ".join(f"{count} {name}" for name, count in self.counts.items() if count) or "nothing found"

    def rows(self) -> list[list[str]]:
        """Return class, score and box of each detection."""
        found = self.found
        return [
            [self.classes[label], f"{score:.6f}", *(f"{value:.2f}" for value in box)]
            for label, score, box in zip(found.labels, found.scores, found.boxes, strict=True)
        ]

    def draw(self, image: Image.Image) -> Image.Image:
        """Draw the detections on the picture, which may have been reduced; a small one is enlarged."""
        large = enlarged(image, LEAST)
        return draw_boxes(large, boxes_of_found(self.found, self.classes), (self.size[1], self.size[0]))

    def draw_small(self, image: Image.Image) -> Image.Image:
        """Draw boxes and masks without text on the picture at the size of a sheet of many."""
        boxes = [box._replace(text="") for box in boxes_of_found(self.found, self.classes)]
        return draw_boxes(resized(image, SMALL), boxes, (self.size[1], self.size[0]))


def boxes_of_found(found: Found, classes: list[str], with_score: bool = True) -> list[Box]:
    """Return what is drawn of each detection, the best on top."""
    boxes = []
    for place in reversed(range(len(found.labels))):
        label = int(found.labels[place])
        text = f"{classes[label]} {found.scores[place]:.0%}" if with_score else classes[label]
        mask = found.masks[place] if found.masks is not None else None
        boxes.append(Box(tuple(float(value) for value in found.boxes[place]), text, label, mask))
    return boxes


def write_predictions(folder: Path, predictions: Mapping[str, Objects]) -> None:
    """Write predictions.csv with a row for each detection, counts.csv and predictions.json in COCO's format."""
    rows = [[name, *row] for name, each in predictions.items() for row in each.rows()]
    write_csv(folder / "predictions.csv", HEAD, rows)
    classes = next(iter(predictions.values())).classes
    write_csv(
        folder / "counts.csv", ["image", *classes], [[n, *each.row().values()] for n, each in predictions.items()]
    )
    write_json(folder / "predictions.json", coco_json(predictions, classes))


def coco_json(predictions: Mapping[str, Objects], classes: list[str]) -> dict[str, Any]:
    """Return the detections as COCO's data set: annotations with `score`, and `segmentation` as run lengths."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, each) in enumerate(predictions.items(), start=1):
        images.append({"id": number, "file_name": name, "height": each.size[0], "width": each.size[1]})
        for place, label in enumerate(each.found.labels.tolist()):
            x1, y1, x2, y2 = (float(value) for value in each.found.boxes[place])
            entry = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": label + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
                "score": float(each.found.scores[place]),
            }
            if each.found.masks is not None:
                mask = each.found.masks[place]
                entry["segmentation"] = {"size": list(mask["size"]), "counts": _text(mask["counts"])}
            annotations.append(entry)
    categories = [{"id": label, "name": name} for label, name in enumerate(classes, start=1)]
    return {"images": images, "categories": categories, "annotations": annotations}


def _text(counts: bytes | str) -> str:
    return counts.decode("ascii") if isinstance(counts, bytes) else counts
