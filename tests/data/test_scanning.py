"""The scan: what cannot be read is named or left out, and only what changed is read again."""

import json
import logging
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from program import draw_picture

from cnnlab.data import scanning
from cnnlab.data.images import ImageArray
from cnnlab.data.scanning import scan
from cnnlab.data.sources.image_folder import class_folders
from cnnlab.errors import DataError, InputError


@pytest.fixture
def reads(monkeypatch) -> Counter:
    """How often each file has been decoded, by name."""
    counts: Counter = Counter()

    def examine(path):
        counts[path.name] += 1
        return original(path)

    original = scanning.examine
    monkeypatch.setattr(scanning, "examine", examine)
    return counts


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes of three pictures."""
    for number in range(6):
        shape = "circle" if number < 3 else "square"
        draw_picture(tmp_path / "pictures" / shape / f"{number}.png", shape, number)
    return tmp_path / "pictures"


def names(images) -> list[str]:
    return [images.name(index) for index in range(len(images))]


def test_equal_contents_and_only_they_have_equal_digests(folder, tmp_path):
    shutil.copy(folder / "circle" / "1.png", folder / "square" / "copy.png")
    found = scan(class_folders(folder), "error", tmp_path / "cache")
    by_name = dict(zip(names(found.images), found.digests, strict=True))
    assert by_name["circle/1.png"] == by_name["square/copy.png"]
    assert len(set(found.digests)) == 6
    assert found.skipped == {}


def spoil(folder: Path) -> None:
    """A file that is no picture, an empty one that claims to be one, and one that is cut off."""
    (folder / "circle" / "notes.txt").write_text("three circles")
    (folder / "square" / "empty.png").touch()
    whole = (folder / "square" / "3.png").read_bytes()
    (folder / "square" / "3.png").write_bytes(whole[: len(whole) // 2])


def test_every_bad_file_is_named_at_once(folder, tmp_path):
    spoil(folder)
    with pytest.raises(DataError) as error:
        scan(class_folders(folder), "error", tmp_path / "cache")
    first, *listed, last = str(error.value).splitlines()
    assert first == "2 of 7 files cannot be read as images:"
    assert [line.split(": ")[0] for line in listed] == [
        f"  {folder}/{name}" for name in ("square/3.png", "square/empty.png")
    ]
    assert "data.bad_images=skip" in last


def test_bad_files_are_left_out_on_demand(folder, tmp_path, caplog):
    spoil(folder)
    with caplog.at_level(logging.WARNING, "cnnlab"):
        found = scan(class_folders(folder), "skip", tmp_path / "cache")
    assert names(found.images) == ["circle/0.png", "circle/1.png", "circle/2.png", "square/4.png", "square/5.png"]
    assert found.images.labels.tolist() == [0, 0, 0, 1, 1]
    assert len(found.digests) == 5
    assert list(found.skipped) == ["circle/notes.txt", "square/3.png", "square/empty.png"]
    assert all(reason.startswith(f"{folder}/{name}: ") for name, reason in found.skipped.items())
    bad, others = [record.getMessage().splitlines() for record in caplog.records]
    assert bad[1:] == [f"  {reason}" for reason in list(found.skipped.values())[1:]]
    assert others == ["Left out 1 file that is not a picture:", "  circle/notes.txt"]


@pytest.mark.parametrize("bad_images", ["error", "skip"])
def test_long_lists_are_cut(folder, tmp_path, caplog, bad_images):
    for number in range(25):
        (folder / "circle" / f"{number:03d}.png").touch()
    if bad_images == "error":
        with pytest.raises(DataError) as error:
            scan(class_folders(folder), "error", tmp_path / "cache")
        message = str(error.value)
    else:
        assert len(scan(class_folders(folder), "skip", tmp_path / "cache").skipped) == 25
        message = caplog.records[0].getMessage()
    assert message.startswith("25 of 31 files cannot be read")
    assert message.count("the file is empty") == 10
    assert "... and 15 more" in message


@pytest.mark.parametrize("bad_images", ["error", "skip"])
def test_files_that_are_not_pictures_are_counted_and_named(folder, tmp_path, caplog, bad_images):
    """By their content: a picture without a suffix counts."""
    for number in range(12):
        (folder / "circle" / f"{number:02d}.xml").write_text("<annotation/>")
    (folder / "square" / "5.png").rename(folder / "square" / "five")
    with caplog.at_level(logging.WARNING, "cnnlab"):
        found = scan(class_folders(folder), bad_images, tmp_path / "cache")
    assert names(found.images)[3:] == ["square/3.png", "square/4.png", "square/five"]
    assert len(found.skipped) == 12
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("Left out 12 files that are not pictures:\n  circle/00.xml\n")
    assert message.endswith("  ... and 2 more")


def test_class_without_a_readable_image_is_named(folder, tmp_path):
    for path in (folder / "square").iterdir():
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=rf"Class square of {folder} has no readable image"):
        scan(class_folders(folder), "skip", tmp_path / "cache")


def test_link_to_nowhere_is_named(folder, tmp_path):
    (folder / "circle" / "link.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"circle/link\.png: No such file"):
        scan(class_folders(folder), "error", tmp_path / "cache")


def test_name_that_is_not_utf_8_is_named(folder, tmp_path):
    """It could not be listed in the run folder."""
    shutil.copy(folder / "circle" / "0.png", os.fsencode(folder / "circle") + b"/r\xf6se.png")
    found = scan(class_folders(folder), "skip", tmp_path / "cache")
    (reason,) = found.skipped.values()
    assert reason == f"{folder}/circle/r\\udcf6se.png: the name is not valid UTF-8"
    assert len(found.images) == 6


def test_unknown_choice_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match=r"data\.bad_images=ignore: use error or skip"):
        scan(class_folders(folder), "ignore", tmp_path / "cache")


def test_arrays_need_no_reading(tmp_path):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    images = ImageArray(pixels[[0, 1, 0]], np.array([0, 1, 0]), ["a", "b"], np.arange(3))
    found = scan(images, "error", tmp_path / "cache")
    assert found.images is images
    assert found.digests[0] == found.digests[2] != found.digests[1]
    assert not (tmp_path / "cache").exists()


# --- The cache ---


def test_second_scan_reads_nothing(folder, tmp_path, reads):
    first = scan(class_folders(folder), "error", tmp_path / "cache")
    assert sum(reads.values()) == 6
    reads.clear()
    second = scan(class_folders(folder), "error", tmp_path / "cache")
    assert second.digests == first.digests
    assert not reads


def test_part_of_the_classes_does_not_forget_the_rest(folder, tmp_path, reads):
    images = class_folders(folder)
    scan(images, "error", tmp_path / "cache")
    (folder / "circle" / "0.png").write_bytes((folder / "circle" / "1.png").read_bytes())
    scan(images.subset([0, 1, 3]), "error", tmp_path / "cache")
    reads.clear()
    scan(images, "error", tmp_path / "cache")
    assert not reads


def replace_keeping_time(path: Path, contents: bytes) -> None:
    status = path.stat()
    path.write_bytes(contents)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_file_of_another_size_is_read_again(folder, tmp_path, reads):
    before = scan(class_folders(folder), "error", tmp_path / "cache")
    reads.clear()
    path = folder / "circle" / "1.png"
    replace_keeping_time(path, path.read_bytes() + b"more")
    after = scan(class_folders(folder), "error", tmp_path / "cache")
    assert reads == {"1.png": 1}
    assert [a == b for a, b in zip(before.digests, after.digests, strict=True)] == [True, False, True, True, True, True]


def test_file_of_another_time_is_read_again(folder, tmp_path, reads):
    scan(class_folders(folder), "error", tmp_path / "cache")
    reads.clear()
    path = folder / "circle" / "1.png"
    size = path.stat().st_size
    path.write_bytes(bytes(size))
    os.utime(path, ns=(0, 1_000_000_007))
    with pytest.raises(DataError, match=r"1 of 6.*\n.*circle/1\.png"):
        scan(class_folders(folder), "error", tmp_path / "cache")
    assert reads == {"1.png": 1}


def test_file_that_could_not_be_read_is_tried_again(folder, tmp_path, monkeypatch):
    """Its size and time do not tell that a permission or a connection has come back."""

    def fail(path):
        raise DataError(f"{path}: Permission denied")

    with monkeypatch.context() as broken:
        broken.setattr(scanning, "examine", fail)
        with pytest.raises(DataError, match="6 of 6"):
            scan(class_folders(folder), "error", tmp_path / "cache")
    assert len(scan(class_folders(folder), "error", tmp_path / "cache").images) == 6


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[1, 2]",
        lambda text: "null",
        lambda text: json.dumps(dict.fromkeys(json.loads(text), 7)),
        lambda text: json.dumps(dict.fromkeys(json.loads(text), "abc")),
        lambda text: json.dumps({name: [*entry[:2], ""] for name, entry in json.loads(text).items()}),
        lambda text: json.dumps({name: [*entry[:2], None] for name, entry in json.loads(text).items()}),
        lambda text: json.dumps({name: entry[:2] for name, entry in json.loads(text).items()}),
        lambda text: json.dumps({name: ["x", float("inf"), *entry[2:]] for name, entry in json.loads(text).items()}),
        lambda text: json.dumps({name: [*entry[:3], ["int16", 0]] for name, entry in json.loads(text).items()}),
        lambda text: json.dumps({name: [*entry[:3], "int16"] for name, entry in json.loads(text).items()}),
    ],
)
def test_damaged_cache_is_read_anew(folder, tmp_path, reads, damage):
    first = scan(class_folders(folder), "error", tmp_path / "cache")
    (cache_file,) = (tmp_path / "cache").rglob("*.json")
    cache_file.write_text(damage(cache_file.read_text()))
    reads.clear()
    assert scan(class_folders(folder), "error", tmp_path / "cache").digests == first.digests
    assert sum(reads.values()) == 6
    reads.clear()
    scan(class_folders(folder), "error", tmp_path / "cache")
    assert not reads


def test_binary_rubbish_in_the_cache_is_read_anew(folder, tmp_path):
    first = scan(class_folders(folder), "error", tmp_path / "cache")
    (cache_file,) = (tmp_path / "cache").rglob("*.json")
    cache_file.write_bytes(bytes(range(256)))
    assert scan(class_folders(folder), "error", tmp_path / "cache").digests == first.digests


def test_cache_that_cannot_be_written_is_done_without(folder, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert len(scan(class_folders(folder), "error", tmp_path / "cache").images) == 6
    assert "Cannot store the list of checked images in" in caplog.text


def test_folders_do_not_share_their_cache(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "others")
    (tmp_path / "others" / "circle" / "1.png").write_bytes((folder / "square" / "3.png").read_bytes())
    first = scan(class_folders(folder), "error", tmp_path / "cache")
    other = scan(class_folders(tmp_path / "others"), "error", tmp_path / "cache")
    assert first.digests[1] != other.digests[1] == first.digests[3]
