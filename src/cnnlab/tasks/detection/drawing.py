"""Draw boxes with their labels, and masks with their outlines, on a picture."""

import colorsys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from cnnlab.drawing.sheets import shortened
from cnnlab.system.fonts import draw_text, text_width
from cnnlab.tasks.detection.truth import Rle, mask_at, mask_boxes

GOLDEN = 0.618033988749895
"""Steps of this part of the colour circle keep the colours of neighbouring classes apart."""
SOLID = 0.35
"""Opacity of masks."""
HALO = (20, 20, 20)
"""Colour around lines, which sets them off from pictures of any colour."""


class Box(NamedTuple):
    """A box in pixels of the picture that it belongs to."""

    corners: tuple[float, ...]
    """x1, y1, x2, y2"""
    text: str = ""
    colour: int | tuple[int, int, int] = 0
    """A colour, or the number of a class, which has its own colour."""
    mask: Rle | None = None
    """of the size of the picture that the box belongs to"""
    dashed: bool = False


def class_colour(number: int) -> tuple[int, int, int]:
    """Return a bright colour for a class."""
    red, green, blue = colorsys.hsv_to_rgb((0.58 + number * GOLDEN) % 1, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_boxes(image: Image.Image, boxes: Sequence[Box], size: tuple[int, int] | None = None) -> Image.Image:
    """Return the picture with the boxes drawn in order, masks below them.

    size: (width, height) of the picture that the boxes belong to, if `image` is a reduced or enlarged copy of it.
    """
    picture = image.convert("RGB")
    scale = (picture.width / size[0], picture.height / size[1]) if size else (1.0, 1.0)
    line = max(1, round(max(picture.size) / 320))
    for box in boxes:
        if box.mask is not None:
            _paint_mask(picture, box.mask, scale, _colour(box), line)
    pen = ImageDraw.Draw(picture)
    letters = max(9, min(18, round(max(picture.size) / 40)))
    for box in boxes:
        x1, y1, x2, y2 = (value * scale[axis % 2] for axis, value in enumerate(box.corners))
        corners = (x1, y1, max(x2 - 1, x1), max(y2 - 1, y1))
        if box.dashed:
            _dashed(pen, corners, _colour(box), line)
        else:
            around = (corners[0] - 1, corners[1] - 1, corners[2] + 1, corners[3] + 1)
            pen.rectangle(around, outline=HALO, width=line + 2)
            pen.rectangle(corners, outline=_colour(box), width=line)
    for box in boxes:
        if box.text:
            _label(pen, box, (box.corners[0] * scale[0], box.corners[1] * scale[1]), letters, picture.size)
    return picture


def _paint_mask(
    picture: Image.Image, mask: Rle, scale: tuple[float, float], colour: tuple[int, int, int], line: int
) -> None:
    """Shade the pixels of a mask and outline them; only the part of the picture around it is worked on."""
    x1, y1, x2, y2 = (int(value) for value in mask_boxes([mask])[0])
    if x2 <= x1 or y2 <= y1:
        return
    left, top = int(x1 * scale[0]), int(y1 * scale[1])
    width, height = (max(1, round((b - a) * s)) for a, b, s in ((x1, x2, scale[0]), (y1, y2, scale[1])))
    rows, columns = (
        start + ((np.arange(count) + 0.5) * (end - start) / count).astype(int)
        for start, end, count in ((y1, y2, height), (x1, x2, width))
    )
    filled = Image.fromarray(mask_at(mask, rows, columns).astype(np.uint8) * 255)
    picture.paste(colour, (left, top), filled.point(lambda level: round(SOLID * level)))
    framed = Image.new("L", (width + 2, height + 2))
    framed.paste(filled, (1, 1))
    inner = framed.filter(ImageFilter.MinFilter(2 * line + 1)).crop((1, 1, width + 1, height + 1))
    outline = Image.fromarray(np.asarray(filled) - np.asarray(inner))
    picture.paste(colour, (left, top), outline)


def _label(pen: ImageDraw.ImageDraw, box: Box, place: tuple[float, float], letters: int, size: tuple[int, int]) -> None:
    """Write the label above the box, or inside it where the picture ends."""
    text = shortened(box.text, letters, size[0] - 4)
    width, height = text_width(text, letters) + 4, round(1.25 * letters) + 2
    x = min(max(0.0, place[0]), max(0.0, size[0] - width))
    y = place[1] - height if place[1] >= height else min(place[1], max(0.0, size[1] - height))
    pen.rectangle((x, y, x + width, y + height), fill=_colour(box))
    red, green, blue = _colour(box)
    ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 140 else "white"
    draw_text(pen, (x + 2, y + 1), text, letters, ink)


def _dashed(
    pen: ImageDraw.ImageDraw, corners: tuple[float, ...], colour: tuple[int, int, int], width: int, dash: float = 6.0
) -> None:
    x1, y1, x2, y2 = corners
    for start, end in (((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x2, y2), (x1, y2)), ((x1, y2), (x1, y1))):
        length = max(abs(end[0] - start[0]), abs(end[1] - start[1]))
        for place in np.arange(0, length, 2 * dash):
            first, last = place / length, min(1.0, (place + dash) / length)
            points = [tuple(a + share * (b - a) for a, b in zip(start, end, strict=True)) for share in (first, last)]
            pen.line([*points[0], *points[1]], fill=HALO, width=width + 2)
            pen.line([*points[0], *points[1]], fill=colour, width=width)


def _colour(box: Box) -> tuple[int, int, int]:
    return class_colour(box.colour) if isinstance(box.colour, int) else box.colour
