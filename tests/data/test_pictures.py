"""What a picture is: the same files for training and prediction, by their content."""

import io
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features
from raw_images import BLACK_IS_ZERO, GREY, RGB, WHITE_IS_ZERO, png, tiff

from cnnlab.data.decoding import decode, read_image, separate
from cnnlab.data.scanning import scan
from cnnlab.data.sources.image_folder import class_folders, find_pictures
from cnnlab.errors import DataError, InputError

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((48, 36))


def encoded_as(picture: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def encoded(kind: str, **options) -> bytes:
    return encoded_as(PICTURE, kind, **options)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Pictures with unusual names or none, files that are no pictures, and one that only claims to be one."""
    contents = {
        "a.jfif": encoded("JPEG"),
        "b.JPE": encoded("JPEG"),
        "c": encoded("PNG"),
        "d.txt": encoded("WEBP"),
        "e.jp2": encoded("JPEG2000"),
        "f.dat": encoded("TIFF"),
        "g.mpo": encoded("MPO", save_all=True, append_images=[PICTURE.rotate(180)]),
        "notes.txt": b"BMW and P6 are no pictures",
        "empty": b"",
        "icon.svg": b"<svg/>",
        "broken.jpg": b"<html>404</html>",
    }
    contents |= {"h.avif": encoded("AVIF", quality=100)} if features.check("avif") else {}
    (tmp_path / "all" / "one").mkdir(parents=True)
    for name, data in contents.items():
        (tmp_path / "all" / "one" / name).write_bytes(data)
    return tmp_path / "all"


def test_training_and_prediction_agree_on_what_a_picture_is(folder, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "cnnlab"):
        _, paths = find_pictures(folder)
    assert caplog.messages == ["Left out 3 of 12 files, not pictures: one/empty, one/icon.svg, one/notes.txt."]
    caplog.clear()
    with caplog.at_level(logging.WARNING, "cnnlab"):
        found = scan(class_folders(folder), "skip", tmp_path / "cache")
    assert "Left out 3 files that are not pictures:\n  one/empty\n  one/icon.svg\n  one/notes.txt" in caplog.text
    broken = folder / "one" / "broken.jpg"
    assert found.images.paths == [path for path in paths if path != broken]
    assert broken in paths
    for path in found.images.paths:
        assert np.abs(np.asarray(decode(path, 3)).astype(int) - np.asarray(PICTURE)).mean() < 12


def test_folder_without_pictures_names_what_is_there(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(InputError, match=r"contains no pictures \(1 of 1 files, not pictures: notes\.txt\)"):
        find_pictures(tmp_path)


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    path = tmp_path / "photo.heic"
    pillow_heif.from_pillow(PICTURE).save(path, quality=-1)  # lossless but for the conversion to YCbCr
    assert np.abs(np.asarray(decode(path, 3)).astype(int) - np.asarray(PICTURE)).mean() < 12
    assert find_pictures(tmp_path)[1] == [path]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="begins like a picture in HEIF but is damaged"):
        decode(path, 3)


@pytest.mark.parametrize(("brand", "message"), [(b"heic", "HEIF.*cnnlab\\[heif\\]"), (b"avif", "AVIF picture, which")])
def test_missing_decoder_is_named(tmp_path, monkeypatch, brand, message):
    monkeypatch.setattr("cnnlab.data.decoding.FORMATS", ["JPEG", "PNG"])
    (tmp_path / "photo").write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(50))
    with pytest.raises(DataError, match=message):
        decode(tmp_path / "photo", 3)
    assert find_pictures(tmp_path)[1] == [tmp_path / "photo"]


# --- One picture in many forms ---

RANGES = {"integer": (0, 4095)}
LEVELS = np.random.default_rng(1).integers(0, 256, (12, 16, 4), dtype=np.uint8)
DEEP = np.random.default_rng(2).integers(0, 4096, (12, 16), dtype=np.uint16)
TURNED = Image.Exif()
TURNED[0x0112] = 6
FILES = {
    "transparent.png": encoded_as(Image.fromarray(LEVELS), "PNG"),
    "transparent.tif": encoded_as(Image.fromarray(LEVELS), "TIFF"),
    "grey and opacity.png": encoded_as(Image.fromarray(LEVELS[..., :2]), "PNG"),
    "palette.png": encoded_as(PICTURE.quantize(16), "PNG", transparency=3),
    "turned.jpg": encoded_as(PICTURE, "JPEG", exif=TURNED),
    "turned.png": encoded_as(Image.fromarray(LEVELS), "PNG", exif=TURNED),
    "cmyk.jpg": encoded_as(PICTURE.convert("CMYK"), "JPEG"),
    "deep.png": png(DEEP, GREY),
    "deep.tif": tiff(DEEP, WHITE_IS_ZERO, ">"),
    "deep colours.png": png(np.dstack([DEEP, DEEP[::-1], DEEP[:, ::-1]]), RGB),
    "signed.tif": tiff(DEEP.astype(np.int16) - 5, BLACK_IS_ZERO, "<", deflate=True),
    "moving.gif": encoded_as(PICTURE, "GIF", save_all=True, append_images=[PICTURE.rotate(90)]),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("channels", [1, 3])
def test_file_gives_the_same_pixels_in_every_form(tmp_path, name, channels):
    path = tmp_path / name
    path.write_bytes(FILES[name])
    expected = np.atleast_3d(np.asarray(decode(path, channels, RANGES))).transpose(2, 0, 1)
    opened, loaded = Image.open(path), Image.open(path)
    forms = [path, str(path), FILES[name], bytearray(FILES[name]), io.BytesIO(FILES[name]), opened]
    if name != "deep colours.png":  # Pillow has dropped the lower bits of these when it has loaded them
        loaded.load()
        forms.append(loaded)
    for form in forms:
        assert np.array_equal(read_image(form, channels, RANGES), expected)
    opened.load()  # reading it has left it as it was
    assert opened.size == Image.open(path).size


def on_white(levels: np.ndarray) -> np.ndarray:
    """The colours of H x W x 2 or 4 over white, H x W x 1 or 3 (Porter and Duff 1984)."""
    share = levels[..., -1:] / 255
    return levels[..., :-1] * share + 255 * (1 - share)


ARRAYS = {
    "grey": (LEVELS[..., 0], LEVELS[..., :1]),
    "grey with an axis": (LEVELS[..., :1], LEVELS[..., :1]),
    "grey and opacity": (LEVELS[..., :2], on_white(LEVELS[..., :2])),
    "colours": (LEVELS[..., :3], LEVELS[..., :3]),
    "colours and opacity": (LEVELS, on_white(LEVELS)),
    "16 bits": (DEEP, DEEP[..., None] / 4095 * 255),
    "16 bits as Pillow gives them": (DEEP.astype(np.int32), DEEP[..., None] / 4095 * 255),
    "floats": (LEVELS[..., :3].astype(np.float32) / 255, LEVELS[..., :3]),
    "doubles": (LEVELS[..., 0] / 255, LEVELS[..., :1]),
    "bits": (LEVELS[..., 0] > 99, 255 * (LEVELS[..., :1] > 99)),
    "not contiguous": (LEVELS[::-1, ::2, :3], LEVELS[::-1, ::2, :3]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_array_and_tensor_give_the_pixels(name):
    levels, expected = ARRAYS[name]
    channels = expected.shape[2]
    axes_first = np.ascontiguousarray(np.atleast_3d(levels).transpose(2, 0, 1))
    for form in (levels, torch.from_numpy(axes_first)):
        found = read_image(form, channels, RANGES)
        assert found.dtype == torch.uint8
        assert np.abs(found.permute(1, 2, 0).numpy() - expected).max() <= 1


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (
            np.zeros((3, 20, 20), np.uint8),
            "H x W x C or H x W with 1 to 4 channels; this one is 3 x 20 x 20",
        ),
        (
            torch.zeros(20, 20, 3, dtype=torch.uint8),
            "is C x H x W with 1 to 4 channels; this one is 20 x 20 x 3",
        ),
        (np.zeros((0, 4, 3), np.uint8), "this one is 0 x 4 x 3"),
        (np.zeros((4, 4), np.complex64), "its values are complex64"),
        (
            np.full((4, 4), 200, np.int64),
            "its int64 values range from 200 to 200, and nothing says",
        ),
        (np.full((4, 4), 200.0), "its float64 values range from 200 to 200"),
        (np.full((4, 4), np.nan), "NaN or infinite"),
        (b"GIF89a", "given as bytes cannot be read: not an image"),
        (b"", "the file is empty"),
        (7, "cannot be read from a int"),
        ([1, 2], "cannot be read from a list"),
        (Image.new("I", (4, 4), 70_000), "its int32 values range from 70000 to 70000"),
    ],
)
def test_what_is_no_picture_is_named(form, message):
    with pytest.raises(InputError, match=message):
        read_image(form, 3)


def test_one_picture_or_several_are_told_apart(tmp_path):
    for one in ("a.png", tmp_path, b"GIF", PICTURE, LEVELS, DEEP, torch.zeros(3, 4, 4)):
        (only,) = separate(one)
        assert only is one
    assert len(separate(["a.png", PICTURE])) == len(separate(iter([LEVELS, LEVELS]))) == 2
    assert [each.shape for each in separate(np.zeros((5, 4, 6, 3)))] == [(4, 6, 3)] * 5
    assert [each.shape for each in separate(torch.zeros(2, 3, 4, 6))] == [(3, 4, 6)] * 2
    with pytest.raises(InputError, match="from a int"):
        separate(7)
