"""How the images of a data set are drawn: what a pad must do with a stroke to make it look like one of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

SAMPLE = 200
LARGEST = 64
"""Pixels of a side up to which images are taken for drawings."""


@dataclass(frozen=True)
class DrawingStyle:
    """side: pixels of a square image as the data set publishes it. background, ink: grey levels in [0, 1].

    extent: length of the longer side of what is drawn, in sides of the image; None if the images are no drawings on an
        even ground. centre: "mass" or "box", whichever varies less over the images, and `at` is where it is (row,
        column, in sides of the image): MNIST's digits are centred by mass, scikit-learn's fill the frame.
    """

    side: int
    background: float
    ink: float
    extent: float | None = None
    centre: str = "box"
    at: tuple[float, float] = (0.5, 0.5)


def drawing_style(pictures: Sequence[Image.Image]) -> DrawingStyle | None:
    """The common style of grey pictures; None if they are no square drawings of one size on an even ground."""
    sizes = {picture.size for picture in pictures}
    if len(sizes) != 1 or any(picture.mode != "L" for picture in pictures):
        return None
    width, height = sizes.pop()
    if width != height or width > LARGEST:
        return None
    pixels = np.stack([np.asarray(picture, np.float64) for picture in pictures]) / 255
    corners = pixels[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    background = float(np.median(corners))
    if (abs(corners - background) < 0.1).mean() < 0.8:
        return None
    ink = 1.0 if background < 0.5 else 0.0
    weights = np.clip((pixels - background) / (ink - background), 0, None)
    weights = weights[(weights > 0.25).any((1, 2))]
    if not len(weights):
        return None
    boxes = np.array([_box(drawing > 0.25) for drawing in weights])
    centres = {"box": boxes.mean(1), "mass": np.array([_centre_of_mass(drawing) for drawing in weights])}
    best = min(centres, key=lambda name: float(centres[name].std(0).sum()))
    row, column = centres[best].mean(0) / width
    extent = float(np.median((boxes[:, 1] - boxes[:, 0]).max(1))) / width
    return DrawingStyle(width, background, ink, extent, best, (float(row), float(column)))


def _box(mask: np.ndarray) -> Any:
    """((top, left), (bottom, right)) of what is set, in pixels; bottom and right lie behind the last one."""
    rows, columns = np.nonzero(mask)
    return (rows.min(), columns.min()), (rows.max() + 1, columns.max() + 1)


def _centre_of_mass(weights: np.ndarray) -> Any:
    rows, columns = np.mgrid[: weights.shape[0], : weights.shape[1]] + 0.5
    return (weights * rows).sum() / weights.sum(), (weights * columns).sum() / weights.sum()
