"""Labelled images, in files and in arrays, keep each picture with its class, its name and its content."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnlab.data.images import ImageArray, ImageFiles, joined

LABELS = np.array([2, 0, 1, 0, 2, 1])
CLASSES = ["roses", "tulips", "daisies"]
WNIDS = ["n0", "n1", "n2"]


def files(root: Path) -> ImageFiles:
    """Six grey pictures whose level is ten times their number."""
    paths = [root / CLASSES[label] / f"{number}.png" for number, label in enumerate(LABELS)]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2), 10 * number).save(path)
    return ImageFiles(root, paths, LABELS, CLASSES, WNIDS)


def array(root: Path) -> ImageArray:
    levels = np.repeat(10 * np.arange(6, dtype=np.uint8), 4).reshape(6, 2, 2)
    return ImageArray(levels, LABELS, CLASSES, np.arange(6), WNIDS)


def numbers(images) -> list[int]:
    """Which of the six pictures these are, told by their pixels."""
    return [images.load(index, 1).getpixel((0, 0)) // 10 for index in range(len(images))]


@pytest.fixture(params=[files, array])
def images(request, tmp_path):
    return request.param(tmp_path / "flowers")


def test_subset_keeps_pictures_and_labels_together(images):
    chosen = images.subset([4, 0, 3])
    assert numbers(chosen) == [4, 0, 3]
    assert chosen.labels.tolist() == [2, 2, 0]
    assert chosen.classes == CLASSES
    assert [chosen.name(index) for index in range(3)] == [images.name(index) for index in (4, 0, 3)]
    assert len(images.subset([])) == 0


@pytest.mark.parametrize("kept", [[0, 2], [2, 0]])
def test_classes_are_renumbered_in_the_order_given(images, kept):
    chosen = images.subset([0, 1, 3, 4]).with_classes(kept)
    assert chosen.classes == [CLASSES[label] for label in kept]
    assert chosen.wnids == [WNIDS[label] for label in kept]
    assert [chosen.classes[label] for label in chosen.labels] == ["daisies", "roses", "roses", "daisies"]
    assert numbers(chosen) == [0, 1, 3, 4]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_picture_has_the_channels_asked_for(images, channels, mode):
    assert images.load(5, channels).mode == mode
    assert np.asarray(images.load(5, channels)).shape == ((2, 2) if channels == 1 else (2, 2, 3))


def test_digest_tells_contents_apart(images):
    digests = [images.digest(index) for index in range(6)]
    assert len(set(digests)) == 6
    assert images.subset([3]).digest(0) == digests[3]


def test_names_say_where_a_file_lies(tmp_path):
    assert files(tmp_path).name(1) == "roses/1.png"
    assert files(tmp_path).subset([4, 3]).name(0) == "daisies/4.png"


def test_colour_arrays_keep_their_colours():
    colours = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    images = ImageArray(colours, np.array([0, 1]), ["a", "b"], np.arange(2))
    assert np.array_equal(np.asarray(images.load(1, 3)), colours[1])
    grey = np.asarray(images.load(1, 1))
    assert np.abs(grey - colours[1] @ [0.299, 0.587, 0.114]).max() <= 1  # Rec. 601


def test_files_of_two_folders_are_joined_below_their_common_one(tmp_path):
    train, val = files(tmp_path / "train"), files(tmp_path / "val").subset([5, 0])
    both = joined(train, val)
    assert numbers(both) == [0, 1, 2, 3, 4, 5, 5, 0]
    assert both.labels.tolist() == [*LABELS, 1, 2]
    assert [both.name(index) for index in (0, 6)] == ["train/daisies/0.png", "val/tulips/5.png"]


def test_joined_arrays_have_names_of_their_own(tmp_path):
    both = joined(array(tmp_path), array(tmp_path).subset([5, 0]))
    assert numbers(both) == [0, 1, 2, 3, 4, 5, 5, 0]
    assert len({both.name(index) for index in range(8)}) == 8


def test_files_and_arrays_do_not_join(tmp_path):
    with pytest.raises(TypeError, match="ImageFiles and ImageArray"):
        joined(files(tmp_path), array(tmp_path))
