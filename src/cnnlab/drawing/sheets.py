"""Compose pictures for a slide: tiles with captions, a title above them, crosses over dead channels and filters."""

import io
import math
import unicodedata
from collections.abc import Collection, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

from cnnlab.system.fonts import draw_text, fonts_for, text_width

TITLE, TEXT, CAPTION = 18, 13, 11
"""Font sizes in pixels."""
MARGIN = 12


def png(image: Image.Image) -> bytes:
    """Return an image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def figure_image(figure: Figure, dpi: int = 100) -> Image.Image:
    """Render a figure as an RGB image."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    with fonts_for(figure):
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
            draw_text(pen, (left, y), line, CAPTION, "black")
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
        draw_text(pen, (MARGIN, y), row, size, "black" if size == large else (70, 70, 70))
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
    """Break `text` into lines at most `width` pixels wide in a font of `size` pixels.

    Lines end between words, and inside a word that is wider than a line or written without spaces, as Chinese is.
    """
    lines = [""]
    for word in text.split(" "):
        space = " " if lines[-1] else ""
        if text_width(lines[-1] + space + word, size) <= width:
            lines[-1] += space + word
            continue
        if text_width(word, size) <= width and not any(unicodedata.east_asian_width(letter) == "W" for letter in word):
            lines.append(word)
            continue
        for number, letter in enumerate(word):
            joint = letter if number else space + letter
            if lines[-1] and text_width(lines[-1] + joint, size) > width:
                lines.append(letter)
            else:
                lines[-1] += joint
    return lines


def shortened(text: str, size: int, width: int) -> str:
    """Return text that fits into `width` pixels in a font of `size` pixels; an ellipsis replaces the end if needed."""
    kept = len(text)
    while kept and text_width(text if kept == len(text) else f"{text[:kept]}…", size) > width:
        kept -= 1
    return text if kept == len(text) else f"{text[:kept]}…"


def captioned(images: Sequence[Image.Image], captions: Sequence[str], columns: int = 6, side: int = 180) -> Image.Image:
    """Return a page of pictures in rows, each above its caption of up to two lines, shortened to fit.

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
            draw_text(pen, (left, top + side + 2 + 16 * line), shortened(text, TEXT, side + 6), TEXT, "black")
    return page
