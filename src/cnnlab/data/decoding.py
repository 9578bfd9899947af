"""Any picture file becomes an upright 8-bit PIL image, grey or RGB."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from cnnlab.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
MAX_PIXELS = 100_000_000
"""A file that claims more pixels than this is refused as a decompression bomb."""

ImageFile.LOAD_TRUNCATED_IMAGES = False


def decode(path: Path, channels: int) -> Image.Image:
    """The picture in `path` as mode "L" (`channels=1`) or "RGB" (`channels=3`), turned upright by its EXIF tag.

    16-bit pictures keep their upper 8 bits, CMYK becomes RGB, transparent pixels lie on white; of an animation the
    first frame counts. Raises DataError, naming the file, if it is truncated, too large or no picture.
    """
    try:
        return _decode(path.read_bytes(), channels)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "no picture" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(f"{path}: {reason}") from error


def _decode(contents: bytes, channels: int) -> Image.Image:
    image: Image.Image = Image.open(io.BytesIO(contents), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS:,}")
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        image = opaque
    return image.convert("L" if channels == 1 else "RGB")
