"""CIFAR-10 in its binary version: records of bytes, and nothing is ever unpickled."""

import hashlib
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from cnnlab.data.sources import cifar10 as module
from cnnlab.data.sources.cifar10 import cifar10
from cnnlab.errors import DataError

FILES = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 10, 12, dtype=np.uint8)


def record(number: int) -> bytes:
    """The label, then 1024 bytes of red, of green and of blue, each row by row (the data set's own description)."""
    planes = [COLOURS[number, :, :, channel].tobytes() for channel in range(3)]
    return bytes([LABELS[number]]) + b"".join(planes)


@pytest.fixture
def server(tmp_path, monkeypatch) -> Path:
    """A small archive in place of the official one, two pictures a file, fetched from a file: address."""
    folder = tmp_path / "server" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for place, name in enumerate(FILES):
        (folder / name).write_bytes(record(2 * place) + record(2 * place + 1))
    archive = tmp_path / "server" / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    monkeypatch.setattr(module, "URL", archive.as_uri())
    monkeypatch.setattr(module, "SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    return tmp_path / "server"


def test_pictures_are_fetched_once_and_read_without_pickle(tmp_path, server, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    for _ in range(2):
        splits = cifar10(str(tmp_path / "data"))
        (server / "cifar-10-binary.tar.gz").unlink(missing_ok=True)
    assert np.array_equal(splits.train.pixels, COLOURS[:10])
    assert np.array_equal(splits.test.pixels, COLOURS[10:])
    assert splits.train.labels.tolist() == LABELS[:10].tolist()
    assert splits.train.classes[:3] == ["airplane", "automobile", "bird"]
    assert np.array_equal(np.asarray(splits.test.load(1, 3)), COLOURS[11])
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["cifar-10-batches-bin"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "cannot be read"),
        (lambda path: path.write_bytes(b"\x0a" + path.read_bytes()[1:]), "label"),
        (lambda path: path.unlink(), r"test_batch\.bin"),
        (lambda path: path.write_bytes(b""), "label"),
    ],
)
def test_damaged_files_are_named(server, damage, message):
    damage(server / "cifar-10-batches-bin" / "test_batch.bin")
    with pytest.raises(DataError, match=rf"{message}.* Remove {server}/cifar-10-batches-bin to download it again"):
        cifar10(str(server))


def test_missing_pictures_without_a_network_say_what_to_do(tmp_path, monkeypatch, no_network):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as error:
        cifar10("data")
    assert no_network == ["https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"]
    assert f"CIFAR-10 is not in {tmp_path}/data/cifar-10-batches-bin" in str(error.value)
    assert "Temporary failure in name resolution" in str(error.value)
    assert "paths.data_dir" in str(error.value)


def test_wrong_archive_is_refused_and_leaves_nothing(tmp_path, server, monkeypatch):
    monkeypatch.setattr(module, "SHA256", "f" * 64)
    with pytest.raises(DataError, match=r"expected f{64}"):
        cifar10(str(tmp_path / "data"))
    assert list((tmp_path / "data").iterdir()) == []
