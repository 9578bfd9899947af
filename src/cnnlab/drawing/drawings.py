"""Measure the style of a data set of drawings, so that strokes on the page of what=explore can imitate it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

SAMPLE = 200
"""Number of images that the style is measured on."""
LARGEST = 64
"""Side, in pixels, up to which images may be drawings."""


@dataclass(frozen=True)
class DrawingStyle:
    """The size, grey levels and placement of the drawings in a data set.

    side: pixels of a square image as the data set publishes it. background, ink: grey levels in [0, 1].
    extent: longer side of the drawing's bounding box, as a fraction of `side`; None if the style is guessed.
    centre: "mass" or "box", whichever varies less over the images; `at` is its mean position (row, column) as a
        fraction of `side`: MNIST's digits are centred by mass, scikit-learn's fill the frame.
    """

    side: int
    background: float
    ink: float
    extent: float | None = None
    centre: str = "box"
    at: tuple[float, float] = (0.5, 0.5)


def drawing_style(pictures: Sequence[Image.Image]) -> DrawingStyle | None:
    """Return the common style of grey pictures; None unless all are square, of one size, and on a plain background."""
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
    """Return ((top, left), (bottom, right)) of the True pixels; bottom and right are exclusive."""
    rows, columns = np.nonzero(mask)
    return (rows.min(), columns.min()), (rows.max() + 1, columns.max() + 1)


def _centre_of_mass(weights: np.ndarray) -> Any:
    """Return (row, column) in pixels; the centre of the first pixel is at 0.5."""
    rows, columns = np.mgrid[: weights.shape[0], : weights.shape[1]] + 0.5
    return (weights * rows).sum() / weights.sum(), (weights * columns).sum() / weights.sum()
