"""MNIST from its idx files, without a download; damage and absence are named."""

import struct
from pathlib import Path

import numpy as np
import pytest

from cnnlab.data.sources.mnist import fashion_mnist, mnist
from cnnlab.errors import DataError

NAMES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def idx(array: np.ndarray) -> bytes:
    """An idx file of bytes (LeCun's description of the format)."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def raw(tmp_path) -> Path:
    """A small MNIST: five and three pictures of noise."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, count in zip(NAMES, (5, 5, 3, 3), strict=True):
        shape = (count, 28, 28) if "images" in name else (count,)
        (folder / name).write_bytes(idx(rng.integers(0, 10, shape)))
    return folder


def test_published_digits_are_read_without_a_download(shared_data, no_network):
    splits = mnist(str(shared_data))
    counts = [np.bincount(part.labels).tolist() for part in (splits.train, splits.test)]
    assert counts == [
        [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
        [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    ]
    assert splits.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert splits.val is None
    bytes_of_images = (shared_data / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()[16:]
    assert splits.test.pixels.tobytes() == bytes_of_images
    assert abs(splits.train.pixels.mean() / 255 - 0.1307) < 1e-4  # the mean that every tutorial subtracts
    assert no_network == []


def test_files_that_lie_there_are_enough(raw, no_network):
    splits = mnist(str(raw.parents[1]))
    assert (len(splits.train), len(splits.test)) == (5, 3)
    assert splits.train.classes == [str(digit) for digit in range(10)]
    assert no_network == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kept", [0, 3, 0.8])
def test_damaged_file_is_named_as_such(raw, no_network, name, kept):
    contents = (raw / name).read_bytes()
    (raw / name).write_bytes(contents[: kept if isinstance(kept, int) else int(kept * len(contents))])
    with pytest.raises(DataError, match=rf"MNIST in {raw} is damaged: .+ Remove it to download it again"):
        mnist(str(raw.parents[1]))
    assert no_network == []


@pytest.mark.parametrize(("dataset", "name"), [(mnist, "MNIST"), (fashion_mnist, "FashionMNIST")])
def test_missing_files_without_a_network_say_what_to_do(tmp_path, monkeypatch, no_network, dataset, name, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as error:
        dataset("data")
    text = str(error.value)
    assert text.startswith(f"{name} is not in {tmp_path}/data/{name}/raw, and downloading it failed:")
    assert "Temporary failure in name resolution" in text
    assert "train-images-idx3-ubyte" in text
    assert "paths.data_dir" in text
    assert "data=digits" in text
    assert no_network


def test_clothes_have_names(tmp_path, raw, no_network):
    raw.parent.rename(tmp_path / "FashionMNIST")
    assert fashion_mnist(str(tmp_path)).train.classes[:3] == ["T-shirt/top", "Trouser", "Pullover"]
