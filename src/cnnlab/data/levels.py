"""Samples that are not unsigned 8-bit numbers: read them in the file's own units, and scale them to 8 bits.

Which value is black and which is white follows from the data set: files with 10, 12 or 14 bits of content in 16-bit
samples, and signed or floating-point samples, do not say it themselves. The scan finds the range of the values, and
everything that reads these images later uses the same range.
"""

import io
import logging
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing import parent_process
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

log = logging.getLogger(__name__)
Range = tuple[float, float]
"""The values that become black (0) and white (255); values outside are clipped."""
Ranges = Mapping[str, Sequence[float]]
"""Kind of values ("integer", "float") -> their range, two numbers."""
NO_RANGES: Ranges = {}
KINDS = ("integer", "float")

BITS, PHOTOMETRIC, SAMPLES, PLANAR, SAMPLE_FORMAT = 258, 262, 277, 284, 339
"""Tags of a TIFF file (TIFF 6.0, sections 8 and 19)."""
WHITE_IS_ZERO = 0
"""Value of PHOTOMETRIC if the smallest sample is white."""
SEPARATE = 2
"""Value of PLANAR if each colour is stored on its own."""
SIGNED = 2
"""Value of SAMPLE_FORMAT for signed integers."""
WIDE_COLOURS = ("RGB;16", "RGBA;16", "RGBX;16", "LA;16")
"""Prefixes of Pillow's raw modes for 16-bit colours; Pillow loads only the upper 8 bits."""

_RAW = {
    (1, 16): ("I;16", "I;16", "I;16B"),
    (2, 16): ("I", "I;16S", "I;16BS"),
    (1, 32): ("I", "I;32", "I;32B"),
    (2, 32): ("I", "I;32S", "I;32BS"),
    (3, 32): ("F", "F;32F", "F;32BF"),
    (3, 64): ("F", "F;64F", "F;64BF"),
}
"""Sample format and bits of a grey TIFF -> Pillow's mode, and its raw mode in little- and in big-endian files."""
_NATIVE = {"I;16BS": "I;16NS", "I;32B": "I;32N", "I;32BS": "I;32NS", "F;32BF": "F;32NF", "F;64BF": "F;64NF"}
"""Raw mode of big-endian samples -> that of samples in the byte order of this machine."""

# Pillow can unpack all of these but lists only some, most of them without WhiteIsZero.
for (_format, _bits), (_mode, _little, _big) in _RAW.items():
    for _photometric in (WHITE_IS_ZERO, 1):
        for _order, _raw in ((b"II", _little), (b"MM", _big)):
            _key = (_order, _photometric, (_format,), 1, (_bits,), ())
            TiffImagePlugin.OPEN_INFO.setdefault(_key, ("I;16B" if _raw == "I;16B" else _mode, _raw))


@dataclass(frozen=True)
class Extent:
    """Which values the samples of an image have."""

    dtype: str
    """Their NumPy type: uint16, int16, float32, ..."""
    low: float
    high: float
    bulk: Range
    """The range without the 0.1 % smallest and the 0.1 % largest values."""
    declared: Range | None = None
    """The range that the file's header declares; None if it declares none."""

    @property
    def kind(self) -> str:
        return "float" if self.dtype.startswith("float") else "integer"

    def range_in(self, ranges: Ranges) -> Range:
        """Return the range of its kind; without one, the range that the file or its type tells.

        That is the declared range; all of an unsigned type if the values use its upper three quarters; or [0, 1] for
        floating-point values within it. Raises ValueError for others: nothing says which value is white.
        """
        if self.kind in ranges:
            black, white = ranges[self.kind]
            return black, white
        if self.declared:
            return self.declared
        if self.kind == "float" and 0 <= self.low <= self.high <= 1:
            return 0, 1
        full = {"uint16": 2**16 - 1, "uint32": 2**32 - 1}.get(self.dtype, 0)
        if full and self.high > full / 4:
            return 0, full
        raise ValueError(
            f"its {self.dtype} values range from {self.low:g} to {self.high:g}, and nothing says which value is white; "
            "save it with 8 bits"
        )


@dataclass(frozen=True)
class Levels:
    """The samples of an image in the file's own units."""

    values: np.ndarray
    """H x W for grey images, H x W x 3 for RGB."""
    alpha: np.ndarray | None = None
    """Opacity, uint8 H x W; None for an opaque image."""
    white_is_zero: bool = False
    declared: Range | None = None

    def extent(self) -> Extent:
        """Return which values occur; raise ValueError if one is NaN or infinite."""
        if self.values.dtype.kind == "f" and not np.isfinite(self.values).all():
            raise ValueError("some of its pixels are NaN or infinite; replace them by numbers")
        left_out = self.values.size // 1000
        places = (0, left_out, self.values.size - 1 - left_out, self.values.size - 1)
        low, *bulk, high = np.partition(self.values, sorted(set(places)), axis=None)[list(places)].tolist()
        return Extent(self.values.dtype.name, low, high, (bulk[0], bulk[1]), self.declared)

    def image(self, ranges: Ranges) -> Image.Image:
        """Return the image scaled to 8 bits, in mode L, LA, RGB or RGBA.

        Raises ValueError if its range is unknown; see `Extent.range_in`.
        """
        extent = self.extent()
        black, white = extent.range_in(ranges)
        if (extent.low < black or extent.high > white) and parent_process() is None:  # workers would repeat it
            _warn_of_clipping(black, white)
        scale = 255 / (white - black) if white > black else 0.0
        scaled = np.clip((self.values.astype(np.float64) - black) * scale, 0, 255)
        pixels = np.floor(scaled + 0.5).astype(np.uint8)
        if self.white_is_zero:
            pixels = 255 - pixels
        if self.alpha is not None:
            pixels = np.dstack([pixels, self.alpha])
        return Image.fromarray(pixels)


@cache
def _warn_of_clipping(black: float, white: float) -> None:
    """Say it once for each range: a picture of another range than the training images may be all white."""
    log.warning("Some values are outside %g to %g, the range of the training images, and are clipped.", black, white)


def eight_bit_image(values: np.ndarray, ranges: Ranges) -> Image.Image:
    """Return an array H x W x C of 1 to 4 channels (grey, grey and opacity, RGB, RGB and opacity) as an 8-bit image.

    Raises ValueError for a type that pictures do not have, or whose range is unknown.
    """
    channels = values.shape[2]
    if values.dtype in (np.bool_, np.uint8):
        pixels = values.astype(np.uint8) * (255 if values.dtype == np.bool_ else 1)
        return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if channels == 1 else pixels))
    if values.dtype.kind not in "iuf":
        raise ValueError(f"its values are {values.dtype}; use uint8")
    colours, alpha = values[..., : channels - 1 + channels % 2], None
    if channels in (2, 4):
        white = {"uint16": 65535.0, "float32": 1.0, "float64": 1.0}.get(values.dtype.name)
        if white is None:
            raise ValueError(f"its opacity is {values.dtype}; use uint8")
        alpha = np.clip(values[..., -1] * (255 / white), 0, 255).round().astype(np.uint8)
    return Levels(colours[..., 0] if channels < 3 else colours, alpha).image(ranges)


def levels_of(image: Image.Image, reopen: Callable[[], Image.Image] | None = None) -> Levels | None:
    """Return the samples of an image that are not unsigned 8-bit numbers; None if they are.

    Loads the image. reopen: opens it again; without it, or if the image is loaded already, only the upper 8 bits of
    colours with 16 are there.
    """
    if _tag(image, PLANAR, 1) == SEPARATE and _tag(image, BITS, 8) > 8:
        raise ValueError(
            f"its colours are in separate planes of {_tag(image, BITS, 8)} bits, which Pillow scrambles; save it with "
            "interleaved colours (planar configuration 1)"
        )
    dtype, raw = _dtype(image), _raw_mode(image)
    if dtype is None:
        return _wide_colours(image, raw, reopen) if reopen and raw.startswith(WIDE_COLOURS) else None
    if raw in _NATIVE and image.tile[0][0] == "libtiff":  # type: ignore[attr-defined]
        _set_raw_mode(image, _NATIVE[raw])  # libtiff has swapped the bytes, which Pillow overlooks
    values = np.asarray(image)
    values = values.view(dtype) if dtype in ("int8", "uint32") else values.astype(dtype)  # Pillow has uint8 and int32
    return Levels(
        values,
        alpha=_keyed(image, values[..., None]),
        white_is_zero=_tag(image, PHOTOMETRIC, 1) == WHITE_IS_ZERO,
        declared=_declared(image),
    )


def _wide_colours(image: Image.Image, raw: str, reopen: Callable[[], Image.Image]) -> Levels:
    """Return colours with 16 bits: Pillow loads the upper half of each sample, and the other byte order the lower."""
    if raw == "LA;16B":  # two samples of a PNG, read as the four bytes that they are
        _set_raw_mode(image, "RGBA")
        samples = np.asarray(image).copy().view(">u2")
        return Levels(samples[..., 0], (samples[..., 1] >> 8).astype(np.uint8))
    again = reopen()
    is_little = raw[-1] == "L" or (raw[-1] == "N" and sys.byteorder == "little")
    _set_raw_mode(again, raw[:-1] + ("B" if is_little else "L"))
    upper, lower = np.asarray(image), np.asarray(again)
    samples = upper.astype(np.uint16) << 8 | lower
    alpha = upper[..., 3] if image.mode == "RGBA" else _keyed(image, samples)
    return Levels(samples[..., :3], alpha)


def _keyed(image: Image.Image, samples: np.ndarray) -> np.ndarray | None:
    """Return the opacity of a PNG in which one value or colour is transparent; None for others. samples: H x W x C."""
    key = image.info.get("transparency")
    if not isinstance(key, int | tuple):
        return None
    return np.where((samples == key).all(axis=-1), 0, 255).astype(np.uint8)


def _dtype(image: Image.Image) -> str | None:
    """Return the type of the samples that Pillow loads in full; None if they are unsigned with at most 8 bits."""
    if image.mode == "F":
        return "float32"
    signed = _tag(image, SAMPLE_FORMAT, 1) == SIGNED
    if image.mode == "L":
        return "int8" if signed else None
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM", "JPEG2000")):
        return "uint16"
    if image.mode != "I":
        return None
    return f"{'int' if signed or image.format != 'TIFF' else 'uint'}{_tag(image, BITS, 32)}"


def _declared(image: Image.Image) -> Range | None:
    if image.format in ("PPM", "JPEG2000") and image.mode != "F":
        return 0, 2**16 - 1  # Pillow scales to this
    return (0, 2**12 - 1) if _tag(image, BITS, 0) == 12 else None


def _tag(image: Image.Image, tag: int, default: int) -> int:
    """Return the first value of a TIFF tag; `default` if it is not set or the image is not from a TIFF file."""
    return _first(getattr(image, "tag_v2", {}), tag, default)


def _first(tags: Mapping[int, Any], tag: int, default: int) -> int:
    value = tags.get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _raw_mode(image: Image.Image) -> str:
    """Return how Pillow will unpack the samples of an image; "" if it is loaded or unpacks them otherwise."""
    arguments = next((tile[3] for tile in getattr(image, "tile", ())), "")
    name = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return name if isinstance(name, str) else ""


def _set_raw_mode(image: Image.Image, name: str) -> None:
    image.tile = [  # type: ignore[attr-defined]
        tile._replace(args=name if isinstance(tile.args, str) else (name, *tile.args[1:]))
        for tile in image.tile  # type: ignore[attr-defined]
    ]


def describe_tiff(contents: bytes) -> str:
    """Return why Pillow cannot open a TIFF file: it says what its samples are."""
    try:
        is_big = contents[2:4] in (b"+\0", b"\0+")
        directory = TiffImagePlugin.ImageFileDirectory_v2(contents[: 16 if is_big else 8])
        file = io.BytesIO(contents)
        file.seek(directory.next)
        directory.load(file)
    except (SyntaxError, struct.error, OSError, ValueError):
        return "it begins like a TIFF file but is damaged"
    form = {1: "unsigned integer", 2: "signed integer", 3: "floating-point"}.get(_first(directory, SAMPLE_FORMAT, 1))
    samples, bits = _first(directory, SAMPLES, 1), _first(directory, BITS, 1)
    return (
        f"it is a TIFF with {samples} {form or 'unusual'} sample{'s' if samples > 1 else ''} of {bits} bits per pixel, "
        f"which Pillow cannot read; save it with 8- or 16-bit integers or 32-bit floats, grey or RGB"
    )
