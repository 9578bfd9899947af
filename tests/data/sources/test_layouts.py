"""Folder layouts as data sets have them: the parts are found, or what they look like is said."""

import logging
from pathlib import Path

import pytest

from cnnlab.data.sources.image_folder import image_folder
from cnnlab.errors import DataError

CLASSES = ("cat/1.jpg", "cat/2.jpg", "dog/3.jpg")


def put(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(root: Path) -> dict[str, int]:
    """Part -> number of its images; all parts have the classes cat and dog."""
    parts = {name: part for name, part in vars(image_folder(str(root))).items() if part is not None}
    assert all(part.classes == ["cat", "dog"] for part in parts.values())
    return {name: len(part) for name, part in parts.items()}


@pytest.mark.parametrize(
    ("folders", "parts"),
    [
        ("Training Testing", "train test"),
        ("train_data holdout", "train test"),
        ("Train Val", "train val"),
        ("TRAIN VALID TEST", "train val test"),
        ("train valid test", "train val test"),
        ("train dev", "train val"),
        ("train validation test", "train val test"),
        ("train_set val_set test_set", "train val test"),
        ("TrainSet TestSet", "train test"),
        ("training-data test-data", "train test"),
        ("train2017 val2017", "train val"),
        ("imgs_train imgs_val", "train val"),
        ("images/train images/val", "train val"),
        ("data/Images/Train data/Images/Test", "train test"),
        ("seg_train/seg_train seg_test/seg_test", "train test"),
        ("flowers-train flowers-valid", "train val"),
        ("trainval test", "train test"),
        ("训练集 验证集 测试集", "train val test"),
        (". ", "train"),
        ("dataset", "train"),
        ("outer/inner", "train"),
    ],
)
def test_usual_names_of_the_parts_are_recognised(tmp_path, folders, parts):
    put(tmp_path, *(f"{folder}/{name}" for folder in folders.split() for name in CLASSES), "labels.csv")
    assert found(tmp_path) == dict.fromkeys(parts.split(), 3)


def test_folders_without_pictures_are_neither_parts_nor_classes(tmp_path, caplog):
    put(tmp_path, *CLASSES, "metadata/labels.csv", "metadata/deep/notes.txt", "__MACOSX/cat/._1.jpg")
    with caplog.at_level(logging.WARNING, "cnnlab"):
        assert found(tmp_path) == {"train": 3}
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/metadata is not a class: none of its 2 files is a picture."
    ]


def test_annotations_beside_the_parts_are_named(tmp_path, caplog):
    put(tmp_path, *(f"Train/{name}" for name in CLASSES), *(f"Test/{name}" for name in CLASSES), "labels/Train/1.txt")
    with caplog.at_level(logging.WARNING, "cnnlab"):
        assert found(tmp_path) == {"train": 3, "test": 3}
    assert caplog.messages == [f"Ignored labels in {tmp_path}: only Train and Test are used."]


@pytest.mark.parametrize("inside", ["", "unknown/", "test/", "images/"])
def test_unlabelled_test_pictures_are_no_error(tmp_path, caplog, inside):
    put(tmp_path, *(f"train/{name}" for name in CLASSES), *(f"test/{inside}{number}.jpg" for number in range(5)))
    with caplog.at_level(logging.WARNING, "cnnlab"):
        assert found(tmp_path) == {"train": 3}
    assert caplog.messages == [f"{tmp_path}/test is not used: its 5 pictures are not in class folders."]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            [f"{part}/{name}" for part in ("learn", "exam") for name in CLASSES],
            r"exam and learn in ROOT contain the same folders \(cat and dog\), so they look like parts of the data",
        ),
        (
            [f"fold{number}/{name}" for number in range(5) for name in CLASSES],
            r"fold0 and fold1 in ROOT contain the same folders \(cat and dog\).*rename them train, val or test",
        ),
        (
            [f"{name}/{kind}/1.png" for name in ("covid", "normal") for kind in ("images", "masks")],
            r"covid and normal in ROOT contain the same folders \(images and masks\)",
        ),
        (
            [f"{name}/{part}/1.png" for name in ("bottle", "cable") for part in ("test", "train")],
            r"look like classes that contain the parts\. Turn them around: test/bottle, test/cable",
        ),
        (
            [f"train/{part}/{name}" for part in ("one", "two") for name in CLASSES],
            r"one and two in ROOT/train contain the same folders",
        ),
        (
            [*(f"learn/{name}" for name in CLASSES), "test/1.jpg"],
            r"ROOT/test looks like the test part of the data, but no folder beside it like the training part: learn",
        ),
        (
            [*(f"Testing/{name}" for name in CLASSES), "cat/1.jpg", "dog/1.jpg"],
            r"ROOT/Testing looks like the test part .*: cat, dog\. Rename that one train",
        ),
        (
            [f"{part}/{name}" for part in ("train", "Training", "val") for name in CLASSES],
            r"Training and train in ROOT both look like the train part: join or rename them",
        ),
        (
            [f"{part}/{name}" for part in ("Validation", "Test") for name in CLASSES],
            "ROOT has Validation and Test but",
        ),
    ],
)
def test_what_looks_like_parts_is_not_taken_for_classes(tmp_path, files, message):
    put(tmp_path, *files)
    with pytest.raises(DataError, match=message.replace("ROOT", str(tmp_path))):
        image_folder(str(tmp_path))


@pytest.mark.parametrize(
    "files",
    [
        ["control/1.jpg", "test/2.jpg"],
        ["bus/1.jpg", "train/2.jpg", "valid/3.jpg"],
        ["train_station/a/1.jpg", "train_station/b/1.jpg", "bus_station/1.jpg"],
        ["bird/owl/1.jpg", "bird/tit/1.jpg", "mammal/cat/1.jpg", "mammal/dog/1.jpg"],
        ["n01443537/images/1.JPEG", "n01629819/images/1.JPEG"],
        ["cat/images/1.jpg", "cat/annotations/1.xml", "dog/images/1.jpg", "dog/annotations/1.xml"],
    ],
)
def test_classes_with_odd_names_or_folders_stay_classes(tmp_path, files):
    put(tmp_path, *files)
    splits = image_folder(str(tmp_path))
    assert splits.train.classes == sorted({name.split("/")[0] for name in files})
    assert (splits.val, splits.test) == (None, None)


def test_links_are_followed_but_not_in_circles(tmp_path, caplog):
    put(tmp_path / "elsewhere", "more/1.jpg", "more/deep/2.jpg")
    put(tmp_path / "data", "cat/0.jpg", "dog/0.jpg")
    (tmp_path / "data" / "cat" / "linked").symlink_to(tmp_path / "elsewhere" / "more")
    (tmp_path / "elsewhere" / "more" / "deep" / "back").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "dog" / "all").symlink_to(tmp_path / "data")
    with caplog.at_level(logging.WARNING, "cnnlab"):
        images = image_folder(str(tmp_path / "data")).train
    assert [images.name(index) for index in range(len(images))] == [
        "cat/0.jpg",
        "cat/linked/1.jpg",
        "cat/linked/deep/2.jpg",
        "dog/0.jpg",
    ]
    assert caplog.messages == [
        f"{tmp_path}/data/cat/linked/deep/back/more leads back to a folder above it and is not followed.",
        f"{tmp_path}/data/dog/all leads back to a folder above it and is not followed.",
    ]
