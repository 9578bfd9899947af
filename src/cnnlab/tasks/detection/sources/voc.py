"""Data sets in the format of Pascal VOC: one XML file for each image."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any
from xml.parsers import expat

from cnnlab.data.decoding import SUFFIXES
from cnnlab.errors import DataError
from cnnlab.tasks.detection.annotated import AnnotatedSplits
from cnnlab.tasks.detection.annotations import BadAnnotations, Draft, as_files, open_draft, require_folder

PARTS = ("train", "val", "test")
SIDES = ("xmin", "ymin", "xmax", "ymax")


def voc_folder(root: str, bad_annotations: str) -> AnnotatedSplits:
    """Return the images of `root/JPEGImages` with the objects of `root/Annotations/*.xml`.

    The parts are those that `root/ImageSets/Main/{train,val,test}.txt` list; without such files, everything is divided
    by data.val_fraction and data.test_fraction. Coordinates count pixels from 1, both ends included.
    Raises DataError if files are missing or damaged, or have bad annotations.
    """
    folder = require_folder(root, "a folder with Annotations and JPEGImages")
    annotations = folder / "Annotations"
    files = {path.stem: path for path in sorted(annotations.glob("*.xml"))}
    if not files:
        raise DataError(f"{annotations.absolute()} has no .xml files, one for each image.")
    bad = BadAnnotations(bad_annotations)
    read = {name: VocFile(path) for name, path in files.items()}
    classes = sorted({name for file in read.values() for name in file.names})
    if not classes:
        raise DataError(f"{annotations.absolute()}: no file names an object.")
    drafts = {name: draft for name, file in read.items() if (draft := file.draft(folder, classes, bad)) is not None}
    lists = listed(folder, files, bad)
    bad.finish()
    parts = {
        part: as_files(folder, [drafts[name] for name in names if name in drafts], classes, False)
        for part, names in lists.items()
    }
    return AnnotatedSplits(parts["train"], parts.get("val"), parts.get("test"))


def listed(folder: Path, files: dict[str, Path], bad: BadAnnotations) -> dict[str, list[str]]:
    """Return part -> names of its images; all as "train" without lists."""
    lists = {part: folder / "ImageSets" / "Main" / f"{part}.txt" for part in PARTS}
    found: dict[str, list[str]] = {}
    for part, path in lists.items():
        if not path.is_file():
            continue
        names = []
        for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            words = text.split()
            if words and words[0] not in files:
                bad.add(f"{path}, line {line}", f"{words[0]} has no file in Annotations")
            elif words:
                names.append(words[0])
        if names:
            found[part] = list(dict.fromkeys(names))
    if not found:
        return {"train": list(files)}
    if "train" not in found:
        raise DataError(f"{lists['train']} is missing or empty, but there is a list of {' and '.join(found)}.")
    return found


class VocFile:
    """One XML file; `lines` has the line of every element."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[Any, int] = {}
        try:
            self.tree = self._parse(path.read_bytes())
        except (expat.ExpatError, ElementTree.ParseError, ValueError) as error:
            raise DataError(f"{path}: not an XML file: {error}.") from error
        self.objects = self.tree.findall("object")

    @property
    def names(self) -> list[str]:
        """The classes of the objects."""
        return [name for each in self.objects if (name := (each.findtext("name") or "").strip())]

    def draft(self, folder: Path, classes: list[str], bad: BadAnnotations) -> Draft | None:
        """Return the image with its objects; None if the image is bad."""
        draft = open_draft(self._picture(folder), bad, f"{self.path}, line 1", self._size())
        if draft is None:
            return None
        for each in self.objects:
            where = f"{self.path}, line {self.lines[each]}"
            name = (each.findtext("name") or "").strip()
            if not name:
                bad.add(where, "the object has no name")
                continue
            try:
                x1, y1, x2, y2 = (float(each.findtext(f"bndbox/{side}") or "") for side in SIDES)
            except ValueError:
                bad.add(where, f"{name}: bndbox needs the numbers {', '.join(SIDES)}")
                continue
            if x2 <= x1 or y2 <= y1:
                bad.add(where, f"{name}: the box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) has no area")
                continue
            draft.add_box(where, classes.index(name), (x1 - 1, y1 - 1, x2, y2))
        return draft

    def _parse(self, contents: bytes) -> ElementTree.Element:
        builder = ElementTree.TreeBuilder()
        parser = expat.ParserCreate()
        parser.buffer_text = True

        def start(tag: str, attributes: dict[str, str]) -> None:
            self.lines[builder.start(tag, attributes)] = parser.CurrentLineNumber

        def entity(*arguments: object) -> None:
            raise ValueError("it declares entities, which annotations do not need")

        parser.StartElementHandler = start
        parser.EndElementHandler = builder.end
        parser.CharacterDataHandler = builder.data
        parser.EntityDeclHandler = entity
        parser.Parse(contents, True)
        return builder.close()

    def _size(self) -> tuple[int, int] | None:
        try:
            height, width = (int(self.tree.findtext(f"size/{side}") or 0) for side in ("height", "width"))
        except ValueError:
            return None
        return (height, width) if height > 0 and width > 0 else None

    def _picture(self, folder: Path) -> Path:
        """Return the picture of the same name as the XML file, or else the one that it names."""
        images = folder / "JPEGImages"
        same = [images / f"{self.path.stem}{ending}" for ending in sorted(SUFFIXES)]
        found = next((path for path in same if path.is_file()), None)
        return found or images / Path((self.tree.findtext("filename") or f"{self.path.stem}.jpg").strip()).name
