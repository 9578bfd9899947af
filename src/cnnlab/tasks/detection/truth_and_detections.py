"""Draw the objects of an image beside what a detector finds."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from cnnlab.drawing.sheets import grid, titled
from cnnlab.tasks.detection.drawing import Box, draw_boxes
from cnnlab.tasks.detection.matching import match
from cnnlab.tasks.detection.predictions import boxes_of_found
from cnnlab.tasks.detection.scores import Found, Scored
from cnnlab.tasks.detection.truth import Truth


def truth_and_detections(
    image: Image.Image, size: tuple[int, int], truth: Truth | None, found: Found, classes: Sequence[str], title: str
) -> Image.Image:
    """Draw the objects on the left, if they are known, and the detections on the right, with their number in words.

    image: as it is drawn on, perhaps reduced or enlarged. size: (height, width) that boxes refer to. found: the
    detections that are drawn.
    """
    whole = (size[1], size[0])
    right = draw_boxes(image, boxes_of_found(found, list(classes)), whole)
    if truth is None:
        return titled(right, title, f"{_several(len(found.labels), 'detection')}", least_width=right.width)
    left = draw_boxes(image, boxes_of_truth(truth, classes), whole)
    matched = match(Scored(0, size, found, truth))
    counted = ~truth.crowd
    line = f"{int(matched.found[counted].sum())} of {_several(int(counted.sum()), 'object')} found"
    wrong = int((~matched.right & ~matched.ignored).sum())
    pair = grid([left, right], ["objects", f"detections: {line}, {wrong} wrong (IoU .50)"], columns=2, gap=6)
    return titled(pair, title, least_width=pair.width)


def boxes_of_truth(truth: Truth, classes: Sequence[str]) -> list[Box]:
    """Return what is drawn of the objects of an image; groups of objects (crowds) are dashed."""
    order = np.argsort(-truth.areas, kind="stable")  # the small ones on top
    return [
        Box(
            tuple(map(float, truth.boxes[place])),
            classes[truth.labels[place]],
            int(truth.labels[place]),
            truth.masks[place] if truth.masks is not None else None,
            bool(truth.crowd[place]),
        )
        for place in order
    ]


def _several(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
