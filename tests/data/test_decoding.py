"""Picture files: the pixels that were put in come out, or the file is named; damage never gives another error."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from raw_images import GREY, GREY_ALPHA, PALETTE, RGB, RGBA, chunk, png

from cnnlab.data import decoding
from cnnlab.data.decoding import decode
from cnnlab.errors import DataError

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
WIDE = RNG.integers(0, 65536, (20, 30, 3), dtype=np.uint16)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(folder: Path, contents: bytes, name: str = "picture.jpg", channels: int = 3) -> np.ndarray:
    (folder / name).write_bytes(contents)
    image = decode(folder / name, channels)
    assert image.mode == ("RGB" if channels == 3 else "L")
    return np.asarray(image)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *((kind, {}) for kind in ("PNG", "BMP", "TIFF", "PPM")),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
    ],
)
@pytest.mark.parametrize("name", ["photo.PNG", "photo.jpg", "photo"])
def test_lossless_formats_give_the_pixels_whatever_the_name(tmp_path, kind, options, name):
    assert np.array_equal(pixels(tmp_path, encoded(Image.fromarray(COLOURS), kind, **options), name), COLOURS)


def test_grey_is_the_luma_of_rec_601(tmp_path):
    grey = pixels(tmp_path, png(COLOURS, RGB), channels=1)
    assert np.abs(grey - COLOURS @ [0.299, 0.587, 0.114]).max() <= 1


def test_grey_file_gives_three_equal_channels(tmp_path):
    found = pixels(tmp_path, png(COLOURS[..., 0], GREY))
    assert np.array_equal(found, np.repeat(COLOURS[..., :1], 3, axis=2))


@pytest.mark.parametrize(("kind", "tolerance"), [("TIFF", 1), ("JPEG", 12)])
def test_cmyk_is_ink_on_white(tmp_path, kind, tolerance):
    """(1 - ink)(1 - black) of white; smooth inks, so that JPEG keeps them."""
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    inks = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], ramp[::-1, None], ramp[None] // 3), axis=-1)
    ink = inks / 255
    expected = 255 * (1 - ink[..., :3]) * (1 - ink[..., 3:])
    found = pixels(tmp_path, encoded(Image.fromarray(np.ascontiguousarray(inks), "CMYK"), kind))
    assert np.abs(found - expected).max() <= tolerance


def test_palette_gives_its_colours(tmp_path):
    palette = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    indices = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
    found = pixels(tmp_path, png(indices, PALETTE, chunk(b"PLTE", palette.tobytes())))
    assert np.array_equal(found, palette[indices])


def test_one_bit_picture_is_black_and_white(tmp_path):
    bits = RNG.integers(0, 2, (20, 32), dtype=np.uint8)
    file = b"P4\n32 20\n" + np.packbits(bits, axis=1).tobytes()  # portable bitmap: 1 is black
    assert np.array_equal(pixels(tmp_path, file, channels=1), 255 * (1 - bits))


def on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Porter and Duff's "over" on a white ground."""
    share = alpha[..., None] / 255
    return colours * share + 255 * (1 - share)


def test_transparent_pixels_lie_on_white(tmp_path):
    alpha = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
    alpha[0], alpha[1] = 0, 255
    for file in (png(np.dstack([COLOURS, alpha]), RGBA), encoded(Image.fromarray(np.dstack([COLOURS, alpha])), "TIFF")):
        found = pixels(tmp_path, file)
        assert (found[0] == 255).all()
        assert np.array_equal(found[1], COLOURS[1])
        assert np.abs(found - on_white(COLOURS, alpha)).max() <= 1
    grey = COLOURS[..., 0]
    found = pixels(tmp_path, png(np.dstack([grey, alpha]), GREY_ALPHA), channels=1)
    assert np.abs(found - on_white(grey[..., None], alpha)[..., 0]).max() <= 1


def test_transparent_colours_of_a_palette_or_a_key_lie_on_white(tmp_path):
    palette = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    indices = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
    alphas = RNG.integers(0, 256, 256, dtype=np.uint8)
    chunks = chunk(b"PLTE", palette.tobytes()) + chunk(b"tRNS", alphas.tobytes())
    found = pixels(tmp_path, png(indices, PALETTE, chunks))
    assert np.abs(found - on_white(palette[indices], alphas[indices])).max() <= 1
    keyed = COLOURS.copy()
    keyed[5, 7] = (1, 2, 3)
    found = pixels(tmp_path, png(keyed, RGB, chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))))
    assert found[5, 7].tolist() == [255, 255, 255]
    assert np.array_equal(np.delete(found.reshape(-1, 3), 157, axis=0), np.delete(keyed.reshape(-1, 3), 157, axis=0))


# What the first row and the first column of the stored picture are, seen upright (EXIF 2.3, tag 0x0112).
ORIENTATIONS = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def as_seen(stored: np.ndarray, first_row: str, first_column: str) -> np.ndarray:
    """Every pixel put where the specification says it is seen, one by one."""
    rows, columns = stored.shape[:2]
    upright = first_row in ("top", "bottom")
    seen = np.zeros((rows, columns, 3) if upright else (columns, rows, 3), np.uint8)
    height, width = seen.shape[:2]
    for row in range(rows):
        for column in range(columns):
            place = {first_row: row, first_column: column}
            y = place["top"] if "top" in place else height - 1 - place["bottom"]
            x = place["left"] if "left" in place else width - 1 - place["right"]
            seen[y, x] = stored[row, column]
    return seen


def exif(orientation: int, *others: bytes) -> bytes:
    """An EXIF block, little endian, with the orientation and the directory entries given."""
    entries = [struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0), *others]
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_picture_is_turned_upright(tmp_path, orientation):
    found = pixels(tmp_path, encoded(Image.fromarray(COLOURS), "PNG", exif=exif(orientation)))
    assert np.array_equal(found, as_seen(COLOURS, *ORIENTATIONS[orientation]))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_unknown_orientation_turns_nothing(tmp_path, orientation):
    found = pixels(tmp_path, encoded(Image.fromarray(COLOURS), "PNG", exif=exif(orientation)))
    assert np.array_equal(found, COLOURS)


@pytest.mark.parametrize("odd", [(0x0100, 2), (0x0131, 11), (0x011A, 2), (0x0213, 7)])
def test_odd_exif_entries_do_not_spoil_the_picture(tmp_path, odd):
    """Values of a type that their tag does not have, as some cameras write: Pillow cannot write them again."""
    block = exif(6, struct.pack("<HHI", *odd, 1) + b"abcd")
    jpeg = encoded(Image.fromarray(COLOURS), "JPEG", exif=block)
    stored = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
    assert np.array_equal(pixels(tmp_path, jpeg), as_seen(stored, *ORIENTATIONS[6]))


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_first_frame_of_an_animation_counts(tmp_path, kind, options):
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "lime", "blue")]
    file = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(file)).n_frames == 3
    assert np.array_equal(pixels(tmp_path, file), np.broadcast_to([255, 0, 0], (20, 30, 3)))


def test_empty_frames_at_the_start_of_an_animation_are_passed_over(tmp_path):
    empty, shown = Image.new("RGBA", (30, 20)), Image.fromarray(COLOURS).convert("RGBA")
    file = encoded(empty, "PNG", save_all=True, append_images=[empty, shown], duration=[100, 110, 120], blend=0)
    assert np.array_equal(pixels(tmp_path, file), COLOURS)
    assert (pixels(tmp_path, encoded(empty, "GIF", save_all=True, append_images=[empty], duration=[1, 2])) == 255).all()


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("JPEG", "CMYK"), ("GIF", "P"), *((kind, "RGB") for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM"))],
)
@pytest.mark.parametrize("kept", [0.03, 0.5, 0.9])
def test_truncated_file_is_named(tmp_path, kind, mode, kept):
    noise = Image.fromarray(RNG.integers(0, 256, (60, 60, 3), dtype=np.uint8)).convert(mode)
    file = encoded(noise, kind)
    with pytest.raises(DataError, match=rf"{tmp_path}/picture\.jpg: .{{5}}"):
        pixels(tmp_path, file[: int(len(file) * kept)])


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "the file is empty"),
        (b"daisy,1\n", r"not an image in one of the formats JPEG, PNG, .*PPM"),
        (b"\x89PNG\r\n\x1a\n", "not an image"),
        (b"GIF89a" + bytes(30), "not an image"),
        (b"%PDF-1.7", "not an image"),
        (b"P6\n0 0\n255\n", "its shape of 0 x 0|not an image"),
    ],
)
def test_file_that_is_no_picture_is_named(tmp_path, contents, message):
    with pytest.raises(DataError, match=rf"{tmp_path}/picture\.jpg: {message}"):
        pixels(tmp_path, contents)


def test_missing_file_and_folder_are_named(tmp_path):
    for path in (tmp_path / "nothing.png", tmp_path):
        with pytest.raises(DataError, match=rf"{path}: (No such file|Is a directory)"):
            decode(path, 3)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bomb_is_refused_unread(tmp_path):
    """A few bytes that claim a gigabyte: there is nothing behind the header that could be read."""
    for side in (9_460, 20_000):  # 89.5 and 400 million pixels
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, RGB, 0, 0, 0))
        with pytest.raises(DataError, match=r"picture\.jpg: it has more than 89,478,485 pixels"):
            pixels(tmp_path, b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))


def test_bound_of_the_pixels_is_exact(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "MAX_PIXELS", 600)
    assert pixels(tmp_path, png(COLOURS, RGB)).shape == (20, 30, 3)
    with pytest.raises(DataError, match="more than 600"):
        pixels(tmp_path, png(np.zeros((20, 31), np.uint8), GREY))


def test_larger_pictures_are_read_where_they_are_cut_into_tiles(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "MAX_PIXELS", 600)
    (tmp_path / "a.png").write_bytes(png(np.zeros((20, 40), np.uint8), GREY))
    with decoding.allowing(800):
        assert decoding.read_image(tmp_path / "a.png", 3).shape == (3, 20, 40)
    with decoding.allowing(799), pytest.raises(DataError, match=r"more than 799 pixels\. Reduce it, or cut it"):
        decoding.read_image(tmp_path / "a.png", 3)
    with pytest.raises(DataError, match="more than 600"):
        decoding.read_image(tmp_path / "a.png", 3)


@pytest.mark.parametrize("shape", [(1, 1001), (1001, 1)])
def test_picture_that_scaling_would_blow_up_is_refused(tmp_path, shape):
    with pytest.raises(DataError, match=r"shape of (1001 x 1|1 x 1001) pixels is too narrow"):
        pixels(tmp_path, png(np.zeros(shape, np.uint8), GREY))
    assert pixels(tmp_path, png(np.zeros((1, 1000), np.uint8), GREY)).shape == (1, 1000, 3)


SMALL = Image.fromarray(COLOURS[:8, :9])
FILES = [
    encoded(SMALL, "JPEG", exif=exif(6)),
    encoded(SMALL.convert("CMYK"), "JPEG"),
    encoded(SMALL, "PNG", exif=exif(6)),
    encoded(SMALL.convert("P"), "PNG", transparency=3),
    png(WIDE[:8, :9, 0], GREY),
    encoded(SMALL, "GIF", save_all=True, append_images=[SMALL.rotate(180)]),
    encoded(SMALL, "BMP"),
    encoded(SMALL, "WEBP"),
    encoded(SMALL, "TIFF"),
    encoded(SMALL, "PPM"),
]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=300, deadline=None)
@given(
    file=st.sampled_from(FILES),
    damage=st.lists(st.tuples(st.integers(0, 2000), st.sampled_from([0, 1, 127, 128, 255])), max_size=6),
    kept=st.integers(1, 2000),
)
def test_damaged_file_gives_a_picture_or_is_named(tmp_path_factory, file, damage, kept):
    contents = bytearray(file[:kept])
    for place, value in damage:
        contents[place % len(contents)] = value
    path = tmp_path_factory.getbasetemp() / "damaged.img"
    path.write_bytes(contents)
    message, image = "", None
    try:
        image = decode(path, 3)
    except DataError as error:
        message = str(error)
    if image is None:
        assert message.removeprefix(f"{path}: ") not in ("", message)
    else:
        assert image.mode == "RGB"
        assert 0 < image.width * image.height <= decoding.MAX_PIXELS
