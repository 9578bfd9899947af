"""Draw boxes with their labels, and masks, on a picture."""

import colorsys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from cnnlab.system.fonts import draw_text, text_width

GOLDEN = 0.618033988749895
"""Steps of this part of the colour circle keep the colours of neighbouring classes apart."""
SOLID = 0.4
"""Opacity of masks."""


class Box(NamedTuple):
    """A box in pixels of the picture that it belongs to."""

    corners: tuple[float, ...]
    """x1, y1, x2, y2"""
    text: str = ""
    colour: int | tuple[int, int, int] = 0
    """A colour, or the number of a class, which has its own colour."""
    mask: np.ndarray | None = None
    """bool, of the size of the picture that the box belongs to"""
    dashed: bool = False


def class_colour(number: int) -> tuple[int, int, int]:
    """Return a bright colour for a class."""
    red, green, blue = colorsys.hsv_to_rgb((0.58 + number * GOLDEN) % 1, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_boxes(image: Image.Image, boxes: Sequence[Box], size: tuple[int, int] | None = None) -> Image.Image:
    """Return the picture with the boxes drawn in order, masks below them.

    size: (width, height) of the picture that the boxes belong to, if `image` is a reduced copy of it.
    """
    picture = image.convert("RGB")
    scale_x, scale_y = (picture.width / size[0], picture.height / size[1]) if size else (1.0, 1.0)
    for box in boxes:
        if box.mask is not None:
            shade = Image.fromarray((box.mask * round(255 * SOLID)).astype(np.uint8)).resize(picture.size)
            picture.paste(_colour(box), mask=shade)
    pen = ImageDraw.Draw(picture)
    line = max(1, round(max(picture.size) / 320))
    letters = max(9, min(18, round(max(picture.size) / 40)))
    for box in boxes:
        x1, y1, x2, y2 = box.corners
        corners = (x1 * scale_x, y1 * scale_y, max(x2 * scale_x - 1, x1 * scale_x), max(y2 * scale_y - 1, y1 * scale_y))
        if box.dashed:
            _dashed(pen, corners, _colour(box), line)
        else:
            pen.rectangle(corners, outline=_colour(box), width=line)
    for box in boxes:
        if box.text:
            _label(pen, box, (box.corners[0] * scale_x, box.corners[1] * scale_y), letters, picture.size)
    return picture


def _label(pen: ImageDraw.ImageDraw, box: Box, place: tuple[float, float], letters: int, size: tuple[int, int]) -> None:
    """Write the label above the box, or inside it where the picture ends."""
    width, height = text_width(box.text, letters) + 4, round(1.25 * letters) + 2
    x = min(max(0.0, place[0]), max(0.0, size[0] - width))
    y = place[1] - height if place[1] >= height else place[1]
    pen.rectangle((x, y, x + width, y + height), fill=_colour(box))
    red, green, blue = _colour(box)
    ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 140 else "white"
    draw_text(pen, (x + 2, y + 1), box.text, letters, ink)


def _dashed(
    pen: ImageDraw.ImageDraw, corners: tuple[float, ...], colour: tuple[int, int, int], width: int, dash: float = 6.0
) -> None:
    x1, y1, x2, y2 = corners
    for start, end in (((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x2, y2), (x1, y2)), ((x1, y2), (x1, y1))):
        length = max(abs(end[0] - start[0]), abs(end[1] - start[1]))
        for place in np.arange(0, length, 2 * dash):
            first, last = place / length, min(1.0, (place + dash) / length)
            points = [tuple(a + share * (b - a) for a, b in zip(start, end, strict=True)) for share in (first, last)]
            pen.line([*points[0], *points[1]], fill=colour, width=width)


def _colour(box: Box) -> tuple[int, int, int]:
    return class_colour(box.colour) if isinstance(box.colour, int) else box.colour
