"""Samples of more than 8 bits, signed and floating-point ones are scaled by the range of the data."""

import io
import logging
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from raw_images import BLACK_IS_ZERO, GREY, GREY_ALPHA, RGB, RGB_TIFF, RGBA, WHITE_IS_ZERO, chunk, png, tiff

from cnnlab.data.decoding import decode, examine
from cnnlab.errors import DataError

RNG = np.random.default_rng(0)
GREYS = RNG.random((20, 30))
COLOURS = RNG.random((20, 30, 3))


def scaled(levels: np.ndarray, black: float, white: float) -> np.ndarray:
    """Linear scaling to 0 ... 255, rounded (PNG specification, sample depth scaling), in exact floats."""
    return np.rint(np.clip((levels.astype(float) - black) / (white - black), 0, 1) * 255)


def filling(kind: type, low: float, high: float, unit: np.ndarray = GREYS) -> np.ndarray:
    """Numbers of a type from `low` to `high`; both occur."""
    levels = low + unit * (high - low)
    levels.flat[0], levels.flat[-1] = low, high
    return levels.astype(kind)


def pixels(path: Path, contents: bytes, ranges=None, channels: int = 1) -> np.ndarray:
    path.write_bytes(contents)
    return np.asarray(decode(path, channels, ranges or {}))


TYPES = [
    ("int8", np.int8, -100, 100),
    ("uint16", np.uint16, 0, 1023),
    ("uint16", np.uint16, 0, 4095),
    ("uint16", np.uint16, 30_000, 34_000),
    ("int16", np.int16, -1000, 3000),
    ("uint32", np.uint32, 0, 3_000_000_000),
    ("int32", np.int32, -70_000, 70_000),
    ("float32", np.float32, -1.5, 2.5),
    ("float32", np.float32, 0, 255),
    ("float32", np.float64, 0, 1e-3),
]


@pytest.mark.parametrize(("name", "kind", "low", "high"), TYPES)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
def test_grey_tiff_is_scaled_by_the_range(tmp_path, name, kind, low, high, order, deflate):
    levels = filling(kind, low, high)
    for photometric in (BLACK_IS_ZERO, WHITE_IS_ZERO):
        if (name, photometric) == ("int8", WHITE_IS_ZERO):
            continue  # Pillow does not open it
        path = tmp_path / f"{photometric}.tif"
        found = pixels(
            path, tiff(levels, photometric, order, deflate), {"float" if name == "float32" else "integer": (low, high)}
        )
        extent = examine(path)
        held = levels.astype(np.float32) if name == "float32" else levels
        assert (extent.dtype, extent.low, extent.high) == (name, held.min(), held.max())
        expected = scaled(levels, low, high)
        assert np.abs(found - (expected if photometric == BLACK_IS_ZERO else 255 - expected)).max() <= 1
        assert {found.flat[0], found.flat[-1]} == {0, 255}


@pytest.mark.parametrize("file", ["png", "tiff <", "tiff >", "tiff < deflate", "tiff > deflate"])
def test_colours_of_16_bits_keep_all_of_them(tmp_path, file):
    """12 bits of content in 16: Pillow alone would give 0 to 15."""
    levels = filling(np.uint16, 0, 4095, COLOURS)
    kind, *how = file.split()
    contents = png(levels, RGB) if kind == "png" else tiff(levels, RGB_TIFF, how[0], "deflate" in how)
    found = pixels(tmp_path / "picture", contents, {"integer": (0, 4095)}, channels=3)
    assert np.array_equal(found, scaled(levels, 0, 4095))


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_in_full_need_no_range(tmp_path, channels):
    levels = filling(np.uint16, 0, 65535)
    expected = np.rint(levels / 257)
    for contents in (png(levels, GREY), tiff(levels, BLACK_IS_ZERO, ">")):
        found = pixels(tmp_path / "grey", contents, channels=channels).reshape(20, 30, channels)
        assert np.array_equal(found, np.repeat(expected[..., None], channels, axis=2))
    colours = filling(np.uint16, 0, 65535, COLOURS)
    assert np.array_equal(pixels(tmp_path / "colours", png(colours, RGB), channels=3), np.rint(colours / 257))


def test_opacity_of_16_bits_lies_on_white(tmp_path):
    alpha = RNG.choice([0, 65535], (20, 30)).astype(np.uint16)
    for levels, colour_type in (
        (filling(np.uint16, 0, 4095)[..., None], GREY_ALPHA),
        (filling(np.uint16, 0, 4095, COLOURS), RGBA),
    ):
        found = pixels(tmp_path / "a.png", png(np.dstack([levels, alpha]), colour_type), {"integer": (0, 4095)}, 3)
        expected = np.where(alpha[..., None] == 0, 255, scaled(levels, 0, 4095))
        assert np.array_equal(found, np.broadcast_to(expected, (20, 30, 3)))


def test_transparent_level_of_16_bits_lies_on_white(tmp_path):
    levels = filling(np.uint16, 0, 65535)
    key = int(levels[3, 4])
    found = pixels(tmp_path / "keyed.png", png(levels, GREY, chunk(b"tRNS", struct.pack(">H", key))))
    assert np.array_equal(found, np.where(levels == key, 255, np.rint(levels / 257)))
    colours = filling(np.uint16, 0, 65535, COLOURS)
    contents = png(colours, RGB, chunk(b"tRNS", struct.pack(">HHH", *colours[3, 4].tolist())))
    found = pixels(tmp_path / "keyed.png", contents, channels=3)
    assert found[3, 4].tolist() == [255, 255, 255]
    assert np.array_equal(found[5:], np.rint(colours[5:] / 257))


def test_pgm_is_scaled_to_the_white_in_its_header(tmp_path):
    """Here level 1023 is white, and becomes 255, also where all pixels are dark."""
    levels = np.arange(1024, dtype=">u2").reshape(32, 32)
    for shown in (levels, levels[:4]):
        header = b"P5\n32 %d\n1023\n" % len(shown)
        found = pixels(tmp_path / "grey.pgm", header + shown.tobytes())
        assert np.abs(found - shown / 1023 * 255).max() <= 1


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (filling(np.uint16, 0, 4095), "its uint16 values range from 0 to 4095, and nothing says which value is white"),
        (filling(np.int16, -1000, 1000), "its int16 values range from -1000 to 1000"),
        (filling(np.int32, 0, 255), "its int32 values range from 0 to 255"),
        (filling(np.float32, 0, 300), "its float32 values range from 0 to 300"),
        (np.full((4, 4), np.nan, np.float32), "some of its pixels are NaN or infinite"),
        (np.full((4, 4), np.inf, np.float32), "some of its pixels are NaN or infinite"),
    ],
)
def test_values_without_a_known_white_are_named(tmp_path, levels, message):
    with pytest.raises(DataError, match=rf"picture\.tif: {message}"):
        pixels(tmp_path / "picture.tif", tiff(levels, BLACK_IS_ZERO, "<"))


def test_floats_within_0_and_1_are_shares_of_white(tmp_path):
    levels = filling(np.float32, 0.2, 0.9)
    found = pixels(tmp_path / "picture.tif", tiff(levels, BLACK_IS_ZERO, "<"))
    assert np.abs(found - levels * 255).max() <= 0.51


def test_values_outside_the_range_are_clipped_which_is_said_once(tmp_path, caplog):
    levels = np.array([[-5000, -1001, 1, 1001, 30_000]], np.int16)
    with caplog.at_level(logging.WARNING, "cnnlab"):
        for _ in range(2):
            found = pixels(tmp_path / "picture.tif", tiff(levels, BLACK_IS_ZERO, "<"), {"integer": (-1001, 1001)})
            assert found.tolist() == [[0, 0, 128, 255, 255]]
    said = "Some values are outside -1001 to 1001, the range of the training images, and are clipped."
    assert caplog.messages == [said]


@pytest.mark.parametrize(
    ("levels", "photometric", "message"),
    [
        (np.zeros((4, 4, 5), np.uint16), BLACK_IS_ZERO, "a TIFF with 5 unsigned integer samples of 16 bits per pixel"),
        (np.zeros((4, 4), np.float16), BLACK_IS_ZERO, "a TIFF with 1 floating-point sample of 16 bits per pixel"),
        (np.zeros((4, 4, 3), np.float32), RGB_TIFF, "a TIFF with 3 floating-point samples of 32 bits per pixel"),
    ],
)
def test_tiff_that_pillow_cannot_read_is_described(tmp_path, levels, photometric, message):
    with pytest.raises(DataError, match=rf"picture\.tif: it is {message}, which Pillow cannot read; save it"):
        pixels(tmp_path / "picture.tif", tiff(levels, photometric, "<"))


def test_colours_of_16_bits_in_separate_planes_are_refused(tmp_path):
    levels = filling(np.uint16, 0, 65535, COLOURS)
    with pytest.raises(DataError, match=r"picture\.tif: its colours are in separate planes of 16 bits"):
        pixels(tmp_path / "picture.tif", tiff(levels, RGB_TIFF, "<", planar=2), channels=3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_tiff_is_turned_upright_once(tmp_path, orientation, kind):
    """As Pillow's exif_transpose turns the same pixels with the same tag in a PNG."""
    high = np.iinfo(kind).max
    for levels, photometric in ((filling(kind, 0, high), BLACK_IS_ZERO), (filling(kind, 0, high, COLOURS), RGB_TIFF)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = io.BytesIO()
        Image.fromarray(np.rint(levels / high * 255).astype(np.uint8)).save(file, "PNG", exif=exif)
        channels = 3 if photometric == RGB_TIFF else 1
        expected = pixels(tmp_path / "picture.png", file.getvalue(), channels=channels)
        found = pixels(
            tmp_path / "picture.tif", tiff(levels, photometric, "<", orientation=orientation), None, channels
        )
        assert np.array_equal(found, expected)
