"""Decode image files into upright 8-bit images, grey or RGB."""

import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin, UnidentifiedImageError, features
from torch import Tensor

from cnnlab.data.levels import NO_RANGES, Extent, Ranges, describe_tiff, eight_bit_image, levels_of
from cnnlab.errors import DataError, InputError

try:
    import simplejpeg
except ImportError:  # an extra: pip install cnnlab[fast]
    simplejpeg = None

FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000"]
"""The formats that are read, by Pillow's names."""
if features.check("avif"):
    FORMATS.append("AVIF")
try:
    from pillow_heif import register_heif_opener
except ImportError:  # an extra: pip install cnnlab[heif]
    pass
else:
    register_heif_opener()
    FORMATS.append("HEIF")

SUFFIXES = frozenset(
    f".{name}"
    for names in (
        ("jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "bmp", "dib", "gif", "tif", "tiff"),
        ("ppm", "pgm", "pbm", "pnm", "pfm", "jp2", "j2k", "jpx", "jpf", "avif", "heic", "heif", "hif"),
    )
    for name in names
)
"""Suffixes of file names that claim to be a picture: such a file is not left out but named if it cannot be read."""
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
AVIF_BRANDS = (b"avif", b"avis")
"""Bytes 8 to 11 of HEIF and AVIF files (ISO/IEC 23008-12, annex B; AV1 Image File Format)."""
MAX_PIXELS = 89_478_485
"""Largest number of pixels (Pillow's own limit); a file that claims more is refused as a decompression bomb."""
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS takes its place, by an error
_allowed: ContextVar[int | None] = ContextVar("allowed", default=None)
FRAMES = 100
"""Number of frames of an animation that are looked at for one that is not wholly transparent."""
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


ImageLike = str | os.PathLike[str] | bytes | io.BufferedIOBase | Image.Image | np.ndarray | Tensor
"""One picture; see `read_image`."""


def is_picture(path: Path) -> bool:
    """Return whether a file is a picture: by its content or, so that damaged files are reported, by its suffix."""
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            start = file.read(16)
            if _brand(start) or start.startswith(tuple(TiffImagePlugin.PREFIXES)):
                return True
            file.seek(0)
            Image.open(file, formats=FORMATS)
            return True
    except Image.DecompressionBombError:
        return True
    except OSError as error:
        return error.errno is not None  # the file cannot be read; errors of Pillow have no number
    except Exception:  # Pillow documents no narrower set for what only resembles a picture
        return False


@contextmanager
def allowing(pixels: int | None) -> Iterator[None]:
    """Read images of up to `pixels` pixels inside the block, for what cuts them into tiles; None: the usual limit."""
    token = _allowed.set(pixels)
    try:
        yield
    finally:
        _allowed.reset(token)


def decode(path: Path, channels: int, ranges: Ranges = NO_RANGES) -> Image.Image:
    """Return the image in `path` in mode "L" (`channels=1`) or "RGB" (`channels=3`), rotated upright by its EXIF tag.

    CMYK, CIELAB and palettes become RGB, transparent pixels are put on white, and of an animation the first frame is
    used that is not wholly transparent. Samples of more than 8 bits and signed or floating-point ones are scaled by the
    range of their kind in `ranges` (see `levels`). Raises DataError that names the file if it is truncated, too large
    or not an image.
    """
    return _named(path, lambda: _decode(path.read_bytes(), channels, ranges))


def decode_pixels(path: Path, channels: int, side: int | None = None, ranges: Ranges = NO_RANGES) -> Tensor:
    """Return the pixels of `decode` as uint8 C x H x W, using simplejpeg if it is installed and gives the same result.

    side: required pixels of the short side; a JPEG that has at least twice as many is decoded at 1/2, 1/4 or 1/8.
    """
    return _named(path, lambda: _decode_pixels(path.read_bytes(), channels, ranges, side))


def examine(path: Path) -> Extent | None:
    """Read an image as `decode` does, but unscaled; return which values it has, None if they are unsigned 8-bit."""
    return _named(path, lambda: _examine(path.read_bytes()))


def read_image(source: ImageLike, channels: int, ranges: Ranges = NO_RANGES) -> Tensor:
    """Return one picture as uint8 C x H x W, the same for a file, its contents, and the arrays of its pixels.

    source: path of a file; the bytes of one; an open one; a PIL image, turned upright by its EXIF tag; a NumPy array
    H x W or H x W x C; or a tensor C x H x W. Arrays and tensors have 1 (grey), 2 (grey, opacity), 3 (RGB) or 4
    channels (RGB, opacity). Their values are uint8, bool, or of a kind that is scaled as in a file: uint16, int16,
    float, ...; floats of a kind that has no range in `ranges` are in [0, 1].
    Raises DataError for a file that cannot be read, and InputError for another picture that cannot be.
    """
    if isinstance(source, str | os.PathLike):
        return decode_pixels(Path(source), channels, ranges=ranges)
    try:
        if isinstance(source, io.BufferedIOBase):
            source = source.read()
        if isinstance(source, bytes | bytearray | memoryview):
            return _decode_pixels(bytes(source), channels, ranges)
        if isinstance(source, Image.Image):
            return _pixels_of_image(source, channels, ranges)
        return to_pixels(_flattened(_image_of_array(source, ranges), channels))
    except InputError:
        raise
    except Exception as error:  # what Pillow raises for damaged contents
        raise InputError(f"The picture given as {type(source).__name__} cannot be read: {_reason(error)}.") from error


def separate(images: ImageLike | Iterable[ImageLike]) -> list[ImageLike]:
    """Return one picture or several as a list; arrays and tensors of four dimensions hold several."""
    one = isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | io.BufferedIOBase | Image.Image)
    if one or (isinstance(images, np.ndarray | Tensor) and images.ndim < 4):
        return [images]  # type: ignore[list-item]
    if not isinstance(images, Iterable):
        raise InputError(f"Pictures cannot be read from a {type(images).__name__}; see LoadedRun.predict.")
    return list(images)


def to_pixels(image: Image.Image) -> Tensor:
    """Return an image of mode "L" or "RGB" as uint8 C x H x W in channels-last memory layout."""
    values = torch.from_numpy(np.array(image))
    return values[None] if values.ndim == 2 else values.permute(2, 0, 1)


T = TypeVar("T")


def _named(path: Path, read: Callable[[], T]) -> T:
    """Return the result of `read`; turn its errors into a DataError that names the file."""
    try:
        return read()
    except Exception as error:  # Pillow documents no narrower set for damaged files; struct.error is one of them
        raise DataError(f"{path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {_allowed.get() or MAX_PIXELS:,} pixels. Reduce it, or cut it into parts"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error) or type(error).__name__


def _decode_pixels(contents: bytes, channels: int, ranges: Ranges, side: int | None = None) -> Tensor:
    if contents[:2] != JPEG:
        return to_pixels(_decode(contents, channels, ranges))
    header = _open(contents)
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
    return to_pixels(_decode(contents, channels, ranges, factor))


def _decode(contents: bytes, channels: int, ranges: Ranges, factor: int = 1) -> Image.Image:
    image = _open(contents)
    if factor > 1:
        image.draft(None, (image.width // factor, image.height // factor))
    return _upright(image, channels, ranges, lambda: _open(contents))


def _examine(contents: bytes) -> Extent | None:
    if contents[:2] == JPEG:
        _decode_pixels(contents, channels=3, ranges=NO_RANGES)
        return None
    image = _open(contents)
    if levels := levels_of(image, lambda: _open(contents)):
        return levels.extent()
    _flattened(image, channels=1)
    return None


def _open(contents: bytes) -> Image.Image:
    """Open an image without loading its pixels; raise an error that says why if it is none or its size is wrong."""
    if not contents:
        raise ValueError("the file is empty")
    try:
        image: Image.Image = Image.open(io.BytesIO(contents), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(_unidentified(contents)) from None
    _require_size(image)
    _skip_empty_frames(image)
    return image


def _skip_empty_frames(image: Image.Image) -> None:
    """Go to the first frame of an animation that is not wholly transparent; stay at the first if all are."""
    if not (getattr(image, "is_animated", False) and image.has_transparency_data):
        return
    for frame in range(FRAMES):
        try:
            image.seek(frame)
        except EOFError:
            break
        if image.convert("RGBA").getchannel("A").getextrema() != (0, 0):
            return
    image.seek(0)


def _unidentified(contents: bytes) -> str:
    """Return why Pillow does not know the contents of a file."""
    brand = _brand(contents)
    if brand == "HEIF" and brand not in FORMATS:
        return "it is a HEIF (HEIC) picture; to read it, pip install 'cnnlab[heif]'"
    if brand == "AVIF" and brand not in FORMATS:
        return "it is an AVIF picture, which this build of Pillow cannot read"
    if brand:
        return f"it begins like a picture in {brand} but is damaged"
    if contents.startswith(tuple(TiffImagePlugin.PREFIXES)):
        return describe_tiff(contents)
    return f"not an image in one of the formats {', '.join(FORMATS)}"


def _brand(contents: bytes) -> str | None:
    """Return the format of a file of the HEIF family: HEIF (HEIC) or AVIF."""
    if contents[4:8] != b"ftyp":
        return None
    return "HEIF" if contents[8:12] in HEIF_BRANDS else "AVIF" if contents[8:12] in AVIF_BRANDS else None


def _upright(
    image: Image.Image, channels: int, ranges: Ranges, reopen: Callable[[], Image.Image] | None = None
) -> Image.Image:
    """Return an opened image scaled to 8 bits, turned upright, on white, and in mode "L" or "RGB"."""
    levels = levels_of(image, reopen)
    image.load()
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    scaled = levels.image(ranges) if levels else image
    if orientation in UPRIGHT:
        scaled = scaled.transpose(UPRIGHT[orientation])
    return _flattened(scaled, channels)


def _flattened(image: Image.Image, channels: int) -> Image.Image:
    """Put transparent pixels on white, and convert to mode "L" or "RGB"."""
    if image.mode == "La":  # grey multiplied by its opacity; Pillow converts it to LA only
        image = image.convert("LA")
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        image = opaque
    if image.mode == "LAB":  # which Pillow cannot convert to L
        image = image.convert("RGB")
    return image.convert("L" if channels == 1 else "RGB")


def _pixels_of_image(image: Image.Image, channels: int, ranges: Ranges) -> Tensor:
    """Return the pixels of a PIL image; if it has not been loaded, those of its file, without loading it."""
    file = getattr(image, "fp", None)
    if getattr(image, "tile", None) and file is not None and image.tell() == 0:
        place = file.tell()
        file.seek(0)
        contents = file.read()
        file.seek(place)
        return _decode_pixels(contents, channels, ranges)
    return to_pixels(_upright(image, channels, ranges))


def _image_of_array(source: np.ndarray | Tensor, ranges: Ranges) -> Image.Image:
    """Return an array or tensor of pixels as an 8-bit image, with or without opacity."""
    if isinstance(source, Tensor):
        values, form = source.detach().cpu().numpy(), "C x H x W"
        values = values.transpose(1, 2, 0) if values.ndim == 3 else values
    elif isinstance(source, np.ndarray):
        values, form = source, "H x W x C or H x W"
    else:
        raise InputError(
            f"A picture cannot be read from a {type(source).__name__}: use a path, the bytes of a file, a PIL image, a "
            "NumPy array or a tensor."
        )
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[2] not in (1, 2, 3, 4) or not values.size:
        shape = " x ".join(map(str, source.shape))
        raise InputError(f"A picture as {type(source).__name__} is {form} with 1 to 4 channels; this one is {shape}.")
    return eight_bit_image(values, ranges)


def _require_size(image: Image.Image) -> None:
    """Raise an error for an image that is too large, or so narrow that scaling it up would make it too large."""
    short, long = sorted(image.size)
    if short * long > (_allowed.get() or MAX_PIXELS):
        raise Image.DecompressionBombError
    if not 0 < long <= MAX_RATIO * short:
        raise ValueError(f"its shape of {image.width} x {image.height} pixels is too narrow")
