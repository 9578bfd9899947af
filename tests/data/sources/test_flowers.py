"""The flower photos: found, fetched from the official address, or missing with the ways on."""

import hashlib
import tarfile
from pathlib import Path

import numpy as np
import pytest
from program import draw_picture

from cnnlab.data.sources import flowers as module
from cnnlab.data.sources.flowers import CLASSES, flowers
from cnnlab.errors import DataError


@pytest.fixture
def archive(tmp_path, monkeypatch) -> Path:
    """A small flower_photos.tgz in place of the official one, fetched from a file: address."""
    for label, name in enumerate(CLASSES):
        for number in range(2):
            draw_picture(tmp_path / "server" / "flower_photos" / name / f"{number}.jpg", "circle", 10 * label + number)
    path = tmp_path / "server" / "flower_photos.tgz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tmp_path / "server" / "flower_photos", "flower_photos")
    monkeypatch.setattr(module, "URL", path.as_uri())
    monkeypatch.setattr(module, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_photos_are_counted_as_published(shared_data, no_network):
    images = flowers(str(shared_data / "flower_photos")).train
    counts = dict(zip(images.classes, np.bincount(images.labels).tolist(), strict=True))
    assert counts == {"daisy": 633, "dandelion": 898, "roses": 641, "sunflowers": 699, "tulips": 799}
    assert no_network == []


def test_missing_photos_without_a_network_say_the_three_ways_on(tmp_path, monkeypatch, no_network):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as error:
        flowers("data/flower_photos")
    assert no_network == ["https://storage.googleapis.com/download.tensorflow.org/example_images/flower_photos.tgz"]
    what, reason, *ways = str(error.value).splitlines()
    assert f"flower photos are not in {tmp_path}/data/flower_photos, and downloading them failed" in what
    assert no_network[0] in reason
    assert "Temporary failure in name resolution" in reason
    assert len(ways) == 4
    assert "put the folder flower_photos (with daisy, dandelion, roses, sunflowers, tulips) there" in ways[1]
    assert "paths.data_dir=FOLDER" in ways[2]
    assert "make quickstart" in ways[3]
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


@pytest.mark.parametrize("name", ["flower_photos", "my flowers"])
def test_photos_are_fetched_and_unpacked_once(tmp_path, archive, name):
    folder = tmp_path / "data" / name
    for _ in range(2):
        images = flowers(str(folder)).train
        assert images.classes == CLASSES
        assert len(images) == 10
        archive.unlink(missing_ok=True)  # the second time nothing may be asked for
    assert list((tmp_path / "data").iterdir()) == [folder]
    source = tmp_path / "server" / "flower_photos" / "roses" / "1.jpg"
    assert (folder / "roses" / "1.jpg").read_bytes() == source.read_bytes()


def test_archive_that_lies_there_is_used_and_kept(tmp_path, archive, no_network):
    (tmp_path / "data").mkdir()
    archive.rename(tmp_path / "data" / "flower_photos.tgz")
    assert len(flowers(str(tmp_path / "data" / "flower_photos")).train) == 10
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["flower_photos", "flower_photos.tgz"]
    assert no_network == []


def test_archive_with_another_checksum_is_refused(tmp_path, archive, monkeypatch):
    monkeypatch.setattr(module, "SHA256", "0" * 64)
    with pytest.raises(DataError, match=r"SHA-256 [0-9a-f]{64}, expected 0{64}(.|\n)*Alternatives"):
        flowers(str(tmp_path / "data" / "flower_photos"))
    assert list((tmp_path / "data").iterdir()) == []
    (tmp_path / "data" / "flower_photos.tgz").write_bytes(b"put there by hand")
    with pytest.raises(DataError, match=r"data/flower_photos\.tgz has SHA-256 .*Remove it to download it again"):
        flowers(str(tmp_path / "data" / "flower_photos"))


def test_archive_larger_than_published_is_refused(tmp_path, archive, monkeypatch):
    monkeypatch.setattr(module, "ARCHIVE_BYTES", archive.stat().st_size - 1)
    with pytest.raises(DataError, match="sends more than"):
        flowers(str(tmp_path / "data" / "flower_photos"))
    assert list((tmp_path / "data").iterdir()) == []


def test_archive_that_leaves_its_folder_is_refused(tmp_path, archive, monkeypatch):
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "server" / "flower_photos", "flower_photos")
        tar.add(tmp_path / "server" / "flower_photos" / "roses" / "1.jpg", "../evil.jpg")
    monkeypatch.setattr(module, "SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    with pytest.raises(DataError, match=r"path outside its folder \(\.\./evil\.jpg\)"):
        flowers(str(tmp_path / "data" / "flower_photos"))
    assert not list(tmp_path.glob("**/evil.jpg"))
    assert not (tmp_path / "data" / "flower_photos").exists()


def test_file_in_place_of_the_folder_is_named(tmp_path, archive):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "flower_photos").write_text("no folder")
    with pytest.raises(DataError, match=r"cannot be unpacked to .*data/flower_photos"):
        flowers(str(tmp_path / "data" / "flower_photos"))
