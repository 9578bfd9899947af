"""Folders of class folders: what is found, in which order, and what is no class."""

import logging
from pathlib import Path

import pytest

from cnnlab.data.sources.image_folder import class_folders, files_below, image_folder
from cnnlab.errors import DataError


def put(root: Path, *names: str) -> Path:
    """Files (or, with a slash at the end, folders) of these names below `root`."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(name.encode())
    return root


def names(images) -> list[str]:
    return [images.name(index) for index in range(len(images))]


def test_class_folders_are_the_classes_in_sorted_order(tmp_path):
    put(tmp_path, "tulip/b.jpg", "tulip/a.jpg", "daisy/z.png", "Rose/x.JPEG")
    splits = image_folder(str(tmp_path))
    assert splits.train.classes == ["Rose", "daisy", "tulip"]
    assert names(splits.train) == ["Rose/x.JPEG", "daisy/z.png", "tulip/a.jpg", "tulip/b.jpg"]
    assert splits.train.labels.tolist() == [0, 1, 2, 2]
    assert (splits.val, splits.test) == (None, None)


def test_images_may_lie_deeper_and_be_called_anything(tmp_path):
    put(tmp_path, "daisy/2023/may/A B.JPG", "daisy/ü, x.TIFF", "daisy/no_extension", "tulip/a.jpg", "tulip/deep/a.jpg")
    images = class_folders(tmp_path)
    assert names(images) == [
        "daisy/2023/may/A B.JPG",
        "daisy/no_extension",
        "daisy/ü, x.TIFF",
        "tulip/a.jpg",
        "tulip/deep/a.jpg",
    ]
    assert images.labels.tolist() == [0, 0, 0, 1, 1]


def test_hidden_files_and_what_file_managers_leave_are_no_images(tmp_path):
    put(tmp_path, "daisy/a.jpg", "daisy/.DS_Store", "daisy/Thumbs.db", "daisy/deep/desktop.ini", "daisy/._a.jpg")
    put(tmp_path, "daisy/.ipynb_checkpoints/a.jpg", "daisy/.cache/deep/a.jpg", ".git/x", "tulip/b.jpg", "README.txt")
    images = class_folders(tmp_path)
    assert images.classes == ["daisy", "tulip"]
    assert names(images) == ["daisy/a.jpg", "tulip/b.jpg"]


def test_hidden_folder_above_the_data_hides_nothing(tmp_path):
    put(tmp_path / ".data", "daisy/a.jpg", "tulip/b.jpg")
    assert names(class_folders(tmp_path / ".data")) == ["daisy/a.jpg", "tulip/b.jpg"]


def test_linked_class_folders_and_files_count(tmp_path):
    put(tmp_path / "elsewhere", "one/a.jpg", "b.jpg")
    put(tmp_path / "data", "tulip/c.jpg")
    (tmp_path / "data" / "daisy").symlink_to(tmp_path / "elsewhere" / "one")
    (tmp_path / "data" / "tulip" / "b.jpg").symlink_to(tmp_path / "elsewhere" / "b.jpg")
    assert names(class_folders(tmp_path / "data")) == ["daisy/a.jpg", "tulip/b.jpg", "tulip/c.jpg"]


def test_link_to_nowhere_is_not_passed_over(tmp_path):
    put(tmp_path, "daisy/a.jpg")
    (tmp_path / "daisy" / "b.jpg").symlink_to(tmp_path / "gone.jpg")
    assert [path.name for path in files_below(tmp_path)] == ["a.jpg", "b.jpg"]


def test_published_parts_are_kept(tmp_path):
    put(tmp_path, *(f"{part}/{name}" for part in ("train", "val", "test") for name in ("a/1.jpg", "b/2.jpg")))
    put(tmp_path, "train/b/3.jpg", "README.md")
    splits = image_folder(str(tmp_path))
    assert names(splits.train) == ["a/1.jpg", "b/2.jpg", "b/3.jpg"]
    assert names(splits.val) == names(splits.test) == ["a/1.jpg", "b/2.jpg"]
    assert [part.root.name for part in (splits.train, splits.val, splits.test)] == ["train", "val", "test"]


@pytest.mark.parametrize("part", ["val", "test"])
def test_only_one_part_may_be_published(tmp_path, part):
    put(tmp_path, "train/a/1.jpg", "train/b/2.jpg", f"{part}/a/3.jpg", f"{part}/b/4.jpg")
    splits = image_folder(str(tmp_path))
    assert names(getattr(splits, part)) == ["a/3.jpg", "b/4.jpg"]
    assert getattr(splits, {"val": "test", "test": "val"}[part]) is None


def test_folder_beside_the_parts_is_reported(tmp_path, caplog):
    put(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "spare/a/3.jpg", "spare/b/4.jpg")
    with caplog.at_level(logging.WARNING, "cnnlab"):
        splits = image_folder(str(tmp_path))
    assert (splits.val, splits.test) == (None, None)
    assert [record.getMessage() for record in caplog.records] == [f"Ignored spare in {tmp_path}: only train is used."]


def test_class_may_be_called_train(tmp_path):
    put(tmp_path, "bus/1.jpg", "car/2.jpg", "train/3.jpg", "test/4.jpg")
    splits = image_folder(str(tmp_path))
    assert splits.train.classes == ["bus", "car", "test", "train"]
    assert splits.val is None


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], r"ROOT has no class folders"),
        (["a.jpg"], r"ROOT has no class folders"),
        ([".hidden/a.jpg"], r"ROOT has no class folders"),
        (["a/1.jpg", "b/", "c/.hidden"], r"ROOT has class folders without a file: b, c\. Fill or remove them"),
        (["train/1.jpg"], r"ROOT/train has no class folders"),
        (["train/1.jpg", "val/2.jpg"], r"ROOT/train has no class folders"),
        (["val/a/1.jpg", "test/a/1.jpg"], r"ROOT has val and test but no train folder"),
        (["train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg"], r"ROOT/val and the train folder have different classes: b"),
        (["train/a/1.jpg", "val/a/1.jpg", "val/c/1.jpg"], r"ROOT/val and the train folder have different classes: c"),
        (["train/a/1.jpg", "test/a/"], r"ROOT/test has class folders without a file: a"),
    ],
)
def test_folders_that_hold_no_classes_are_named(tmp_path, files, message):
    put(tmp_path, *files)
    with pytest.raises(DataError, match=message.replace("ROOT", str(tmp_path))):
        image_folder(str(tmp_path))


def test_missing_folder_is_named_with_its_full_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("nothing", "file"):
        put(tmp_path, "file")
        with pytest.raises(DataError, match=rf"Folder {tmp_path}/{name} not found\. Set data\.root"):
            image_folder(name)


def test_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    put(tmp_path / "photos", "a/1.jpg", "b/2.jpg")
    assert names(image_folder("~/photos").train) == ["a/1.jpg", "b/2.jpg"]


def test_names_that_would_break_lists_are_written_as_escapes(tmp_path):
    """A list of names, one a line, has as many lines as images, and CSV, TSV and HTML get one line a name."""
    put(tmp_path, "猫\n犬/a\nb.png", "猫\n犬/a\\nb.png", "two\twords/c.png", "two\twords/猫.png")
    images = image_folder(str(tmp_path)).train
    assert images.classes == [r"two\twords", r"猫\n犬"]
    assert names(images) == [r"two\twords/c.png", r"two\twords/猫.png", r"猫\n犬/a\nb.png", r"猫\n犬/a\\nb.png"]
    assert [path.is_file() for path in images.paths] == [True] * 4


def test_parts_with_such_classes_are_recognised(tmp_path):
    put(tmp_path, "train/a\nb/1.png", "train/c/1.png", "val/a\nb/2.png", "val/c/2.png")
    splits = image_folder(str(tmp_path))
    assert splits.train.classes == splits.val.classes == [r"a\nb", "c"]
