"""Decode image files into upright 8-bit images, grey or RGB."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from torch import Tensor

from cnnlab.errors import DataError

try:
    import simplejpeg
except ImportError:  # an extra: pip install cnnlab[fast]
    simplejpeg = None

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
MAX_PIXELS = 89_478_485
"""Largest number of pixels (Pillow's own limit); a file that claims more is refused as a decompression bomb."""
MAX_RATIO = 1000
"""Largest ratio of the long side to the short side; scaled up, a narrower image would be a decompression bomb too."""
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> transposition that undoes it.

Pillow's exif_transpose also rewrites the EXIF block, and fails on unusual ones."""

JPEG = b"\xff\xd8"
"""First bytes of every JPEG file."""

ImageFile.LOAD_TRUNCATED_IMAGES = False


def decode(path: Path, channels: int) -> Image.Image:
    """Return the image in `path` in mode "L" (`channels=1`) or "RGB" (`channels=3`), rotated upright by its EXIF tag.

    16-bit images keep their upper 8 bits, CMYK becomes RGB, transparent pixels are put on white, and the first frame of
    an animation is used. Raises DataError that names the file if it is truncated, too large or not an image.
    """
    return _named(path, lambda: _decode(path.read_bytes(), channels))


def decode_pixels(path: Path, channels: int, side: int | None = None) -> Tensor:
    """Return the pixels of `decode` as uint8 C x H x W, using simplejpeg if it is installed and gives the same result.

    side: required pixels of the short side; a JPEG that has at least twice as many is decoded at 1/2, 1/4 or 1/8.
    """
    return _named(path, lambda: _decode_pixels(path.read_bytes(), channels, side))


def to_pixels(image: Image.Image) -> Tensor:
    """Return an image of mode "L" or "RGB" as uint8 C x H x W in channels-last memory layout."""
    values = torch.from_numpy(np.array(image))
    return values[None] if values.ndim == 2 else values.permute(2, 0, 1)


T = TypeVar("T")


def _named(path: Path, read: Callable[[], T]) -> T:
    """Return the result of `read`; turn its errors into a DataError that names the file."""
    try:
        return read()
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: not an image in one of the formats {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: it has more than {MAX_PIXELS:,} pixels") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # Pillow documents no narrower set for damaged files; struct.error is one of them
        raise DataError(f"{path}: {error or type(error).__name__}") from error


def _decode_pixels(contents: bytes, channels: int, side: int | None) -> Tensor:
    if contents[:2] != JPEG:
        return to_pixels(_decode(contents, channels))
    header: Image.Image = Image.open(io.BytesIO(contents), formats=("JPEG",))
    _require_size(header)
    short = min(header.size)
    factor = max((n for n in (1, 2, 4, 8) if side is not None and short // n >= side), default=1)
    plain = (
        header.mode == ("L" if channels == 1 else "RGB")
        and header.getexif().get(ExifTags.Base.Orientation) not in UPRIGHT
    )
    if simplejpeg is not None and plain:
        width, height = (-(-length // factor) for length in header.size)
        try:
            values = simplejpeg.decode_jpeg(
                contents, "GRAY" if channels == 1 else "RGB", min_height=height, min_width=width
            )
            return torch.from_numpy(values).permute(2, 0, 1)
        except ValueError:  # simplejpeg rejects the file; Pillow decides
            pass
    return to_pixels(_decode(contents, channels, factor))


def _decode(contents: bytes, channels: int, factor: int = 1) -> Image.Image:
    if not contents:
        raise ValueError("the file is empty")
    image: Image.Image = Image.open(io.BytesIO(contents), formats=FORMATS)
    _require_size(image)
    if factor > 1:
        image.draft(None, (image.width // factor, image.height // factor))
    image.load()
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    if orientation in UPRIGHT:
        image = image.transpose(UPRIGHT[orientation])
    if image.mode.startswith("I"):
        image = Image.fromarray(_upper_bits(np.asarray(image)))
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers without a defined white; save it with 8 or 16 bits")
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        image = opaque
    return image.convert("L" if channels == 1 else "RGB")


def _require_size(image: Image.Image) -> None:
    """Raise an error for an image that is too large, or so narrow that scaling it up would make it too large."""
    short, long = sorted(image.size)
    if short * long > MAX_PIXELS:
        raise Image.DecompressionBombError
    if not 0 < long <= MAX_RATIO * short:
        raise ValueError(f"its shape of {image.width} x {image.height} pixels is too narrow")


def _upper_bits(levels: np.ndarray) -> np.ndarray:
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError(f"its grey levels range from {levels.min()} to {levels.max()}; save it with 8 or 16 bits")
    return (levels >> 8).astype(np.uint8)
