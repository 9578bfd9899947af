"""Any picture file becomes an upright 8-bit image, grey or RGB."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from cnnlab.errors import DataError

try:
    import simplejpeg
except ImportError:  # an extra: pip install cnnlab[fast]
    simplejpeg = None

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
MAX_PIXELS = 100_000_000
"""A file that claims more pixels than this is refused as a decompression bomb."""

JPEG = b"\xff\xd8"
"""How every JPEG file begins."""
ORIENTATION = 0x0112
"""The EXIF tag of how a picture is turned; 1 is upright."""

ImageFile.LOAD_TRUNCATED_IMAGES = False


def decode(path: Path, channels: int) -> Image.Image:
    """The picture in `path` as mode "L" (`channels=1`) or "RGB" (`channels=3`), turned upright by its EXIF tag.

    16-bit pictures keep their upper 8 bits, CMYK becomes RGB, transparent pixels lie on white; of an animation the
    first frame counts. Raises DataError, naming the file, if it is truncated, too large or no picture.
    """
    return _named(path, lambda: _decode(path.read_bytes(), channels))


def decode_pixels(path: Path, channels: int, side: int | None = None) -> Tensor:
    """The pixels of `decode` as uint8 C x H x W, by simplejpeg where it is installed and gives the same.

    side: pixels of the short side that are needed; a JPEG at least twice as large is decoded at 1/2, 1/4 or 1/8.
    """
    return _named(path, lambda: _decode_pixels(path.read_bytes(), channels, side))


def to_pixels(image: Image.Image) -> Tensor:
    """uint8 C x H x W of an image of mode "L" or "RGB", with the channels of a pixel side by side in memory."""
    values = torch.from_numpy(np.array(image))
    return values[None] if values.ndim == 2 else values.permute(2, 0, 1)


T = TypeVar("T")


def _named(path: Path, read: Callable[[], T]) -> T:
    """What `read` gives; its errors become a DataError that names the file."""
    try:
        return read()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "no picture" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(f"{path}: {reason}") from error


def _decode_pixels(contents: bytes, channels: int, side: int | None) -> Tensor:
    if contents[:2] != JPEG:
        return to_pixels(_decode(contents, channels))
    header: Image.Image = Image.open(io.BytesIO(contents), formats=("JPEG",))
    short = min(header.size)
    factor = max((n for n in (1, 2, 4, 8) if side is not None and short // n >= side), default=1)
    plain = header.mode == ("L" if channels == 1 else "RGB") and header.getexif().get(ORIENTATION, 1) == 1
    if simplejpeg is not None and plain and header.width * header.height <= MAX_PIXELS:
        width, height = (-(-length // factor) for length in header.size)
        try:
            values = simplejpeg.decode_jpeg(
                contents, "GRAY" if channels == 1 else "RGB", min_height=height, min_width=width
            )
            return torch.from_numpy(values).permute(2, 0, 1)
        except ValueError:  # a file that it finds fault with: Pillow decides
            pass
    return to_pixels(_decode(contents, channels, factor))


def _decode(contents: bytes, channels: int, factor: int = 1) -> Image.Image:
    image: Image.Image = Image.open(io.BytesIO(contents), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS:,}")
    if factor > 1:
        image.draft(None, (image.width // factor, image.height // factor))
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        image = opaque
    return image.convert("L" if channels == 1 else "RGB")
