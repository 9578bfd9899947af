"""Any picture file becomes an upright 8-bit PIL image, grey or RGB."""

import io
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from cnnlab.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
MAX_PIXELS = 89_478_485
"""A file that claims more pixels than this (Pillow's own bound) is refused as a decompression bomb."""
MAX_RATIO = 1000
"""A picture whose long side is more than so many times the short one is refused: scaled up, it would be a bomb too."""
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what undoes it. Pillow's exif_transpose also rewrites the EXIF block, and fails on odd ones."""

ImageFile.LOAD_TRUNCATED_IMAGES = False


def decode(path: Path, channels: int) -> Image.Image:
    """The picture in `path` as mode "L" (`channels=1`) or "RGB" (`channels=3`), turned upright by its EXIF tag.

    16-bit pictures keep their upper 8 bits, CMYK becomes RGB, transparent pixels lie on white; of an animation the
    first frame counts. Raises DataError, naming the file, if it is truncated, too large or no picture.
    """
    try:
        return _decode(path.read_bytes(), channels)
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: no picture in one of the formats {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: its pixels are more than {MAX_PIXELS:,}") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # Pillow promises no narrower set for damaged bytes; struct.error is one
        raise DataError(f"{path}: {error or type(error).__name__}") from error


def _decode(contents: bytes, channels: int) -> Image.Image:
    if not contents:
        raise ValueError("the file is empty")
    image: Image.Image = Image.open(io.BytesIO(contents), formats=FORMATS)
    short, long = sorted(image.size)
    if short * long > MAX_PIXELS:
        raise Image.DecompressionBombError
    if not 0 < long <= MAX_RATIO * short:
        raise ValueError(f"{image.width} x {image.height} pixels are no picture: too narrow")
    image.load()
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    if orientation in UPRIGHT:
        image = image.transpose(UPRIGHT[orientation])
    if image.mode.startswith("I"):
        image = Image.fromarray(_upper_bits(np.asarray(image)))
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, of which none is known to be white; save 8 or 16 bits")
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        image = opaque
    return image.convert("L" if channels == 1 else "RGB")


def _upper_bits(levels: np.ndarray) -> np.ndarray:
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError(f"its grey levels run from {levels.min()} to {levels.max()}; save 8 or 16 bits")
    return (levels >> 8).astype(np.uint8)
