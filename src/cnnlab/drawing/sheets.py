"""Compose pictures for a slide: tiles with captions, a title above them, crosses over dead channels and filters."""

import io
import math
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

TITLE, TEXT, CAPTION = 18, 13, 11
"""Font sizes in pixels."""
MARGIN = 12


@cache
def font(size: float) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which comes with matplotlib; Pillow's default font is hard to read at small sizes.

    size: in pixels.
    """
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def png(image: Image.Image) -> bytes:
    """Return an image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def figure_image(figure: Figure, dpi: int = 100) -> Image.Image:
    """Render a figure as an RGB image."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def tensor_image(pixels_CHW: Tensor) -> Image.Image:
    """Convert a uint8 tensor C x H x W with one or three channels to an image."""
    pixels = pixels_CHW.numpy()
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def resized(image: Image.Image, side: int) -> Image.Image:
    """Resize an image so that its longer side is `side`; small images are enlarged without interpolation."""
    factor = side / max(image.size)
    how = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS
    return image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))), how)


def enlarged(image: Image.Image, side: int) -> Image.Image:
    """Enlarge an image by the largest whole factor that keeps its longer side <= `side`; never reduce it."""
    factor = max(1, side // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def crossed(image: Image.Image) -> Image.Image:
    """Cross out an image, to mark a channel or filter as dead."""
    marked = image.convert("RGB")
    pen = ImageDraw.Draw(marked)
    right, bottom = marked.width - 1, marked.height - 1
    for line in ((0, 0, right, bottom), (0, bottom, right, 0)):
        pen.line(line, fill=(220, 40, 40), width=max(1, marked.width // 40))
    return marked


def grid(
    tiles: Sequence[Image.Image],
    captions: Sequence[str] = (),
    dead: Collection[int] = (),
    columns: int | None = None,
    gap: int = 1,
    below: bool = False,
    line: str = "white",
) -> Image.Image:
    """Arrange tiles in rows, near-square unless `columns` is given.

    captions: one per tile, above it or, with `below`, below it; wrapped to the tile's width. dead: numbers of the
    tiles to cross out. gap: pixels between tiles. line: colour of the gaps.
    """
    columns = columns or math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    width, height = max(tile.width for tile in tiles), max(tile.height for tile in tiles)
    texts = [[row for line in text.split("\n") for row in wrapped(line, CAPTION, width)] for text in captions]
    lines = max((len(text) for text in texts), default=0)
    space = lines * (CAPTION + 2) + (3 if lines else 0)
    page = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + space + gap) + gap), line)
    pen = ImageDraw.Draw(page)
    for number, tile in enumerate(tiles):
        left = gap + number % columns * (width + gap)
        top = gap + number // columns * (height + space + gap)
        page.paste(crossed(tile) if number in dead else tile, (left, top if below else top + space))
        for row, line in enumerate(texts[number] if texts else ()):
            y = top + row * (CAPTION + 2) + (height + 2 if below else space - 2 - len(texts[number]) * (CAPTION + 2))
            pen.text((left, y), line, fill="black", font=font(CAPTION))
    return page


def titled(picture: Image.Image, title: str, *lines: str, least_width: int = 560) -> Image.Image:
    """Put a title and lines of text above a picture, wrapped to its width; the font grows with the width."""
    width = max(picture.width, least_width)
    large, small = (round(size * max(1, width / 1200)) for size in (TITLE, TEXT))
    rows = [(row, large) for row in wrapped(title, large, width)]
    rows += [(row, small) for line in lines for row in wrapped(line, small, width)]
    heights = [round(1.35 * size) for _, size in rows]
    top = MARGIN + sum(heights) + 6
    page = Image.new("RGB", (width + 2 * MARGIN, top + picture.height + MARGIN), "white")
    pen = ImageDraw.Draw(page)
    y = MARGIN
    for (row, size), height in zip(rows, heights, strict=True):
        pen.text((MARGIN, y), row, fill="black" if size == large else (70, 70, 70), font=font(size))
        y += height
    page.paste(picture, (MARGIN, top))
    return page


def side_by_side(pictures: Sequence[Image.Image], gap: int = 16) -> Image.Image:
    """Arrange pictures in one row, aligned at the top."""
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    page = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    left = 0
    for picture in pictures:
        page.paste(picture, (left, 0))
        left += picture.width + gap
    return page


def stacked(pictures: Sequence[Image.Image], gap: int = 12) -> Image.Image:
    """Arrange pictures in one column, aligned at the left."""
    height = sum(picture.height for picture in pictures) + gap * (len(pictures) - 1)
    page = Image.new("RGB", (max(picture.width for picture in pictures), height), "white")
    top = 0
    for picture in pictures:
        page.paste(picture, (0, top))
        top += picture.height + gap
    return page


def wrapped(text: str, size: int, width: int) -> list[str]:
    """Break `text` between words into lines at most `width` pixels wide in a font of `size` pixels.

    A single longer word keeps a line to itself.
    """
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".lstrip()
        if lines[-1] and font(size).getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def captioned(images: Sequence[Image.Image], captions: Sequence[str], columns: int = 6, side: int = 180) -> Image.Image:
    """Return a page of pictures in rows, each above its caption of up to two lines of 30 characters.

    side: the longer side of each picture, in pixels.
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    step_x, step_y = side + 10, side + 44
    page = Image.new("RGB", (columns * step_x + 10, rows * step_y + 10), "white")
    pen = ImageDraw.Draw(page)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = 10 + number % columns * step_x, 10 + number // columns * step_y
        small = image.convert("RGB")
        scale = side / max(small.size)
        small = small.resize((max(1, round(small.width * scale)), max(1, round(small.height * scale))))
        page.paste(small, (left + (side - small.width) // 2, top + (side - small.height) // 2))
        for line, text in enumerate(caption.split("\n")[:2]):
            pen.text((left, top + side + 2 + 16 * line), text[:30], fill="black", font_size=13)
    return page
