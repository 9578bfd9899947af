"""Data sets in COCO's JSON: boxes, polygons, run-length masks and crowds."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cnnlab.errors import DataError, nearest
from cnnlab.system.files import read_json
from cnnlab.tasks.detection.annotated import AnnotatedSplits
from cnnlab.tasks.detection.annotations import BadAnnotations, Draft, as_files, open_draft, outlined, require_folder
from cnnlab.tasks.detection.truth import is_rle, uncompressed_to_mask

PARTS = ("train", "val", "test")
WORDS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Words in the names of files and folders -> the part that they say."""


def coco_folder(root: str, annotations: str, bad_annotations: str) -> AnnotatedSplits:
    """Return the images that the JSON files below `root` list.

    annotations: pattern of the files' paths below `root`. A file with train, val or test in its name, or in that of its
    folder, is that part; a single file without is divided by data.val_fraction and data.test_fraction. Pictures are
    looked for next to the file, in `root`, and in folders images or named like the part there.
    Raises DataError if files are missing, ambiguous or damaged, or have bad annotations.
    """
    folder = require_folder(root, "a folder with annotations in COCO's JSON and pictures")
    bad = BadAnnotations(bad_annotations)
    files = annotation_files(folder, annotations)
    read = {part: CocoFile(path, folder, part, bad) for part, path in files.items()}
    first = next(iter(read.values()))
    for other in read.values():
        if other.classes != first.classes:
            raise DataError(f"{other.path} and {first.path} have different categories. Every part needs the same ones.")
    drafts = {part: file.drafts() for part, file in read.items()}
    bad.finish()
    masks = outlined([draft for part in drafts.values() for draft in part])
    for part, found in drafts.items():
        if not found:
            raise DataError(f"{files[part]} has no image left.")
    parts = {part: as_files(folder, found, first.classes, masks) for part, found in drafts.items()}
    return AnnotatedSplits(parts["train"], parts.get("val"), parts.get("test"))


def annotation_files(folder: Path, pattern: str) -> dict[str, Path]:
    """Return part -> its JSON file; raise DataError that lists them if there is none, or more than one for a part."""
    found = sorted(path for path in folder.glob(f"**/{pattern}") if path.is_file() and path.suffix == ".json")
    if not found:
        raise DataError(f"{folder.absolute()} has no file {pattern}. Set data.annotations to a name or pattern.")
    parts: dict[str, list[Path]] = {}
    for path in found:
        parts.setdefault(part_of(path, folder) or "train", []).append(path)
    if several := [paths for paths in parts.values() if len(paths) > 1]:
        names = ", ".join(path.relative_to(folder).as_posix() for path in several[0])
        raise DataError(
            f"{folder.absolute()} has several annotations of one part: {names}. Choose with data.annotations."
        )
    if "train" not in parts:
        (only,) = found[:1]
        if len(found) > 1:
            raise DataError(f"{folder.absolute()} has annotations of {' and '.join(parts)} but none of train.")
        return {"train": only}
    return {part: parts[part][0] for part in PARTS if part in parts}


def part_of(path: Path, folder: Path) -> str | None:
    """Return the part that the name of a file, or of its folder, says; None if neither does."""
    for name in (path.stem, *(parent.name for parent in path.parents if parent != folder and folder in parent.parents)):
        for word in re.findall("[a-z]+", name.lower()):
            if word in WORDS:
                return WORDS[word]
    return None


class CocoFile:
    """One JSON file of a data set in `root`."""

    def __init__(self, path: Path, root: Path, part: str, bad: BadAnnotations) -> None:
        self.path, self.root, self.part, self.bad = path, root, part, bad
        contents = read_json(path)
        lists = ("images", "annotations", "categories")
        if not isinstance(contents, dict) or any(not isinstance(contents.get(key), list) for key in lists):
            raise DataError(f"{path} is not in COCO's format: it needs the lists {', '.join(lists)}.")
        self.contents: dict[str, list] = contents
        try:
            categories = {entry["id"]: str(entry["name"]) for entry in contents["categories"]}
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}: a category has no id or no name: {error}.") from error
        if not categories or len(set(categories.values())) != len(contents["categories"]):
            raise DataError(f"{path}: categories are missing, or two have the same name or id.")
        self.classes = list(categories.values())
        self.labels = {number: label for label, number in enumerate(categories)}
        self._lines: dict[str, list[int]] = {}

    def drafts(self) -> list[Draft]:
        """Return the images in the order of the file, with their objects."""
        drafts: dict[Any, Draft] = {}
        seen: set[Any] = set()
        names: set[str] = set()
        for place, entry in enumerate(self.contents["images"]):
            if (
                not isinstance(entry, dict)
                or not isinstance(entry.get("file_name"), str)
                or not _is_id(entry.get("id"))
            ):
                self._add("images", place, "an image needs an id and a file_name")
                continue
            if entry["id"] in seen or entry["file_name"] in names:
                self._add("images", place, f"the image {entry['file_name']} or its id {entry['id']} occurs twice")
                continue
            seen.add(entry["id"])
            names.add(entry["file_name"])
            size = (entry.get("height"), entry.get("width"))
            stated = size if all(isinstance(side, int) and side > 0 for side in size) else None
            if stated is None and size != (None, None):
                self._add("images", place, f"height and width are {size[0]!r} and {size[1]!r}; leave unknown ones out")
                continue
            picture = self._picture(entry["file_name"])
            draft = open_draft(picture, self.bad, self._where("images", place), stated)  # type: ignore[arg-type]
            if draft is not None:
                drafts[entry["id"]] = draft
        numbers: set[Any] = set()
        for place, entry in enumerate(self.contents["annotations"]):
            self._add_object(place, entry, drafts, seen, numbers)
        return list(drafts.values())

    def _add_object(self, place: int, entry: Any, drafts: dict, seen: set, numbers: set) -> None:
        if not isinstance(entry, dict) or not all(_is_id(entry.get(key)) for key in ("image_id", "category_id")):
            return self._add("annotations", place, "an annotation needs image_id and category_id")
        if "id" in entry and not _is_id(entry["id"]):
            return self._add("annotations", place, f"the id is {str(entry['id'])[:60]}; a number is needed")
        if "id" in entry and entry["id"] in numbers:
            return self._add("annotations", place, f"the id {entry['id']} occurs twice")
        numbers.add(entry.get("id"))
        if entry["image_id"] not in seen:
            return self._add("annotations", place, f"no image has the id {entry['image_id']}")
        draft = drafts.get(entry["image_id"])
        if draft is None:  # an image that is left out
            return None
        if entry["category_id"] not in self.labels:
            near = nearest([str(entry["category_id"])], [str(number) for number in self.labels])
            return self._add("annotations", place, f"unknown category {entry['category_id']!r}. {near}".rstrip())
        label = self.labels[entry["category_id"]]
        where = self._where("annotations", place)
        box, area = entry.get("bbox"), entry.get("area")
        corners = None
        if box is not None:
            if not isinstance(box, list) or len(box) != 4 or not all(isinstance(side, int | float) for side in box):
                return self.bad.add(where, f"bbox is {str(box)[:60]}; x, y, width and height are needed")
            corners = (box[0], box[1], box[0] + box[2], box[1] + box[3])
        if area is not None and not (isinstance(area, int | float) and area >= 0):
            return self.bad.add(where, f"area is {str(area)[:60]}; a number of pixels is needed")
        if entry.get("iscrowd") not in (None, 0, 1):
            return self.bad.add(where, f"iscrowd is {str(entry['iscrowd'])[:60]}; 0 or 1 is needed")
        known = None if area is None else float(area)
        shape, crowd = entry.get("segmentation"), bool(entry.get("iscrowd"))
        if isinstance(shape, dict):
            mask = self._mask(shape)
            if mask is None:
                return self.bad.add(where, "segmentation is not a run-length encoding with size and counts")
            return draft.add_mask(where, label, mask, known, crowd, corners)
        if isinstance(shape, list) and shape:
            if not all(isinstance(polygon, list) for polygon in shape):
                return self.bad.add(where, "segmentation is not a list of polygons, each a list of numbers")
            return draft.add_polygons(where, label, shape, known, crowd, corners)
        if corners is None:
            return self.bad.add(where, "there is neither a bbox nor a segmentation")
        return draft.add_box(where, label, corners, None, known, crowd)

    def _mask(self, shape: dict) -> Any:
        """Return a run-length encoding as the codec takes it; None if it is not one."""
        size, counts = shape.get("size"), shape.get("counts")
        if not isinstance(size, list) or len(size) != 2 or not all(isinstance(side, int) for side in size):
            return None
        try:
            if isinstance(counts, list):
                filled = all(isinstance(count, int) and count >= 0 for count in counts)
                return uncompressed_to_mask(shape) if filled and sum(counts) == size[0] * size[1] else None
            mask = {"size": tuple(size), "counts": str(counts).encode("ascii")}
        except (TypeError, ValueError):
            return None
        return mask if isinstance(counts, str) and is_rle(mask) else None

    def _picture(self, name: str) -> Path:
        """Return where a picture is; the place next to the file if it is nowhere."""
        around = [self.path.parent, self.root]
        stem = self.path.stem.rpartition("_")[2]  # train2017 of instances_train2017
        below = ["", "images", stem, self.part, f"images/{stem}", f"images/{self.part}"]
        places = [base / folder / name for base in around for folder in below]
        return next((place for place in places if place.is_file()), places[0])

    # --- Where an entry is in the file ---

    def _add(self, key: str, place: int, what: str) -> None:
        self.bad.add(self._where(key, place), what)

    def _where(self, key: str, place: int) -> "Where":
        entry = self.contents[key][place]
        number = f", id {entry['id']}" if isinstance(entry, dict) and "id" in entry else ""
        return Where(self, key, place, number)

    def line(self, key: str, place: int) -> int:
        """Return the line of entry `place` of the list `key`, from 1."""
        if key not in self._lines:
            text = self.path.read_text(encoding="utf-8")
            self._lines[key] = list(lines_of_list(text, key))
        lines = self._lines[key]
        return lines[place] if place < len(lines) else 1


def _is_id(value: Any) -> bool:
    """Return whether a value can be an id: COCO's are numbers, those of other programs also texts."""
    return isinstance(value, int | float | str) and not isinstance(value, bool)


class Where:
    """The place of an entry; its line is looked for only when it is shown."""

    def __init__(self, file: CocoFile, key: str, place: int, number: str) -> None:
        self.file, self.key, self.place, self.number = file, key, place, number

    def __str__(self) -> str:
        line = self.file.line(self.key, self.place)
        return f"{self.file.path}, line {line} ({self.key}[{self.place}]{self.number})"


def lines_of_list(text: str, key: str) -> Iterator[int]:
    """Yield the line at which each entry of the list `key` at the top of a JSON text begins."""
    decoder = json.JSONDecoder()
    place = text.index("{") + 1
    while True:
        place = _skip(text, place, " \t\r\n,")
        name, place = decoder.raw_decode(text, place)
        place = _skip(text, place, " \t\r\n:")
        if name == key:
            break
        _, place = decoder.raw_decode(text, place)
    place += 1  # [
    line, last = 1, 0
    while True:
        place = _skip(text, place, " \t\r\n,")
        if text[place] == "]":
            return
        line += text.count("\n", last, place)
        last = place
        yield line
        _, place = decoder.raw_decode(text, place)


def _skip(text: str, place: int, characters: str) -> int:
    while text[place] in characters:
        place += 1
    return place
