"""Both decoders give Pillow's pixels, and Pillow decides on whatever the fast one refuses."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnnlab.data import decoding
from cnnlab.data.decoding import decode, decode_pixels
from cnnlab.errors import DataError


def photo(width: int = 97, height: int = 61) -> Image.Image:
    """A smooth coloured picture with some noise: what JPEG is made for."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.linspace(0, 6, width), np.linspace(0, 4, height))
    waves = np.stack([np.sin(x + y), np.cos(x * y), np.sin(x - 2 * y)], axis=-1)
    return Image.fromarray((127 + 90 * waves + rng.normal(0, 9, waves.shape)).clip(0, 255).astype(np.uint8))


def reference(path: Path, channels: int) -> torch.Tensor:
    """Pillow's pixels, upright, by hand."""
    image = Image.open(path)
    turned = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90}
    orientation = image.getexif().get(0x0112, 1)
    image = image.transpose(turned[orientation]) if orientation in turned else image
    values = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return torch.from_numpy(values.copy().reshape(*values.shape[:2], channels).transpose(2, 0, 1))


@pytest.fixture(params=["simplejpeg", "Pillow"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "Pillow":
        monkeypatch.setattr(decoding, "simplejpeg", None)
    elif decoding.simplejpeg is None:
        pytest.skip("simplejpeg is not installed")
    return request.param


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["rgb", "grey", "turned", "progressive", "444", "png"])
def test_pixels_are_pillows(tmp_path, decoder, kind, channels):
    image, path = photo(), tmp_path / ("picture.png" if kind == "png" else "picture.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {
        "turned": {"exif": exif},
        "progressive": {"progressive": True},
        "444": {"subsampling": 0, "quality": 95},
    }.get(kind, {})
    (image.convert("L") if kind == "grey" else image).save(path, **options)
    found = decode_pixels(path, channels)
    assert found.dtype == torch.uint8
    assert torch.equal(found, reference(path, channels))
    assert torch.equal(
        found, torch.from_numpy(np.array(decode(path, channels)).reshape(*found.shape[1:], channels)).permute(2, 0, 1)
    )


@pytest.mark.parametrize(
    ("side", "shape"), [(None, (3, 410, 640)), (206, (3, 410, 640)), (205, (3, 205, 320)), (60, (3, 103, 160))]
)
def test_files_far_larger_than_needed_are_decoded_smaller(tmp_path, decoder, side, shape):
    photo(640, 410).save(tmp_path / "large.jpg", quality=95)
    found = decode_pixels(tmp_path / "large.jpg", 3, side)
    assert tuple(found.shape) == shape
    whole = Image.open(tmp_path / "large.jpg").resize((shape[2], shape[1]), Image.Resampling.BOX)
    difference = np.abs(np.asarray(whole).astype(int).transpose(2, 0, 1) - found.numpy().astype(int))
    assert difference.mean() < 3


def test_truncated_file_is_named(tmp_path, decoder):
    buffer = io.BytesIO()
    photo().save(buffer, "JPEG")
    path = tmp_path / "cut.jpg"
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(DataError, match=r"cut\.jpg: "):
        decode_pixels(path, 3)


def test_cmyk_becomes_rgb(tmp_path, decoder):
    path = tmp_path / "print.jpg"
    photo().convert("CMYK").save(path)
    assert torch.equal(decode_pixels(path, 3), reference(path, 3))


def test_no_more_pixels_than_a_bomb_has(tmp_path, decoder, monkeypatch):
    photo().save(tmp_path / "bomb.jpg")
    monkeypatch.setattr(decoding, "MAX_PIXELS", 1000)
    with pytest.raises(DataError, match="more than 1,000"):
        decode_pixels(tmp_path / "bomb.jpg", 3)
