"""Data sets in the format of YOLO: one text file for each image, a line for each object."""

import math
from pathlib import Path
from typing import Any

from cnnlab.data.decoding import is_picture
from cnnlab.data.sources.image_folder import files_below
from cnnlab.errors import DataError
from cnnlab.system.files import read_yaml
from cnnlab.tasks.detection.annotated import AnnotatedSplits
from cnnlab.tasks.detection.annotations import BadAnnotations, Draft, as_files, open_draft, outlined, require_folder

PARTS = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}
"""Part -> names of its folder."""


def yolo_folder(root: str, bad_annotations: str) -> AnnotatedSplits:
    """Return the images below `root/images` with the objects in text files of the same names below `root/labels`.

    A line is `class x y width height`, or `class x1 y1 x2 y2 ...` for a polygon, in shares of the image's width and
    height; an image without a file has no objects. Class names are in data.yaml (names) or classes.txt. The parts are
    the folders train, val and test, below or above images and labels; without them, everything is divided.
    Raises DataError if files are missing or damaged, or have bad annotations.
    """
    folder = require_folder(root, "a folder with images and labels")
    classes = class_names(folder)
    bad = BadAnnotations(bad_annotations)
    places = part_folders(folder)
    drafts = {part: _drafts(folder, images, labels, classes, bad) for part, (images, labels) in places.items()}
    bad.finish()
    if empty := [part for part, found in drafts.items() if not found]:
        raise DataError(f"{places[empty[0]][0]} has no images.")
    masks = outlined([draft for part in drafts.values() for draft in part])
    parts = {part: as_files(folder, found, classes, masks) for part, found in drafts.items()}
    return AnnotatedSplits(parts["train"], parts.get("val"), parts.get("test"))


def class_names(folder: Path) -> list[str]:
    """Return the class names of data.yaml or classes.txt; raise DataError if there are none."""
    for name in ("data.yaml", "dataset.yaml", "data.yml"):
        if (folder / name).is_file():
            contents = read_yaml(folder / name)
            names = contents.get("names") if isinstance(contents, dict) else None
            if isinstance(names, dict) and sorted(names) == list(range(len(names))):
                names = [names[number] for number in range(len(names))]
            if isinstance(names, list) and names:
                return [str(each) for each in names]
            raise DataError(f"{folder / name}: names must be a list of class names, or numbers from 0 with names.")
    path = folder / "classes.txt"
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    names = [name for name in names if name]
    if not names:
        raise DataError(f"{folder.absolute()} names no classes: it needs data.yaml (names) or classes.txt.")
    return names


def part_folders(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Return part -> its folders of images and labels; everything as "train" without folders for the parts."""
    found: dict[str, tuple[Path, Path]] = {}
    for part, names in PARTS.items():
        for name in names:
            for images, labels in (
                (folder / "images" / name, folder / "labels" / name),
                (folder / name / "images", folder / name / "labels"),
            ):
                if images.is_dir():
                    found.setdefault(part, (images, labels))
    if not found and (folder / "images").is_dir():
        return {"train": (folder / "images", folder / "labels")}
    if "train" not in found:
        raise DataError(f"{folder.absolute()} has no images for training: images/train, train/images or images.")
    return found


def _drafts(folder: Path, images: Path, labels: Path, classes: list[str], bad: BadAnnotations) -> list[Draft]:
    drafts = []
    pictures = [path for path in files_below(images) if is_picture(path)]
    texts = {path.relative_to(labels).with_suffix(""): path for path in files_below(labels) if path.suffix == ".txt"}
    taken: set[Path] = set()
    for picture in pictures:
        name = picture.relative_to(images).with_suffix("")
        if name in taken:
            bad.add(str(picture), "another image has the same name but for its ending, and one text file is for both")
            continue
        taken.add(name)
        text = texts.pop(name, None)
        draft = open_draft(picture, bad, str(picture))
        if draft is not None:
            drafts.append(draft)
            if text is not None:
                _read(text, draft, classes, bad)
    for path in texts.values():
        bad.add(f"{path}, line 1", f"no image in {images} has this name")
    return drafts


def _read(path: Path, draft: Draft, classes: list[str], bad: BadAnnotations) -> None:
    """Add the objects of a text file to the draft."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        bad.add(f"{path}, line 1", "not a text file")
        return
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        where = f"{path}, line {number}"
        values = _numbers(words)
        if values is None or len(words) < 5:
            bad.add(where, f"{line.strip()[:60]!r} is neither `class x y width height` nor `class x1 y1 x2 y2 ...`")
        elif values[0] != int(values[0]) or not 0 <= values[0] < len(classes):
            bad.add(where, f"unknown class {words[0]}: there are {len(classes)}, from 0")
        else:
            _add(where, draft, int(values[0]), values[1:])


def _add(where: str, draft: Draft, label: int, values: list[float]) -> None:
    height, width = draft.size
    if len(values) == 4:
        x, y, w, h = (value * side for value, side in zip(values, (width, height, width, height), strict=True))
        draft.add_box(where, label, (x - w / 2, y - h / 2, x + w / 2, y + h / 2))
    else:
        draft.add_polygons(where, label, [[v * (height if i % 2 else width) for i, v in enumerate(values)]])


def _numbers(words: list[str]) -> Any:
    try:
        values = [float(word) for word in words]
    except ValueError:
        return None
    return values if all(math.isfinite(value) for value in values) else None
