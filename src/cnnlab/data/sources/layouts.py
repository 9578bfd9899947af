"""Recognise how a folder holds its images: in class folders, or in class folders below train, val and test."""

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from itertools import combinations, islice
from pathlib import Path

from cnnlab.data.decoding import SUFFIXES, is_picture
from cnnlab.errors import DataError
from cnnlab.system.files import printable, walk

log = logging.getLogger(__name__)
PARTS = {
    "train": ("train", "training", "trainval", "trn", "训练"),
    "val": ("val", "valid", "validation", "validate", "validating", "dev", "验证"),
    "test": ("test", "testing", "tst", "holdout", "测试"),
}
"""Part -> words in folder names that mean it."""
NEUTRAL = ("set", "data", "dataset", "split", "images", "image", "imgs", "img", "pictures", "photos", "集", "数据")
"""Words in folder names that say nothing about the part."""
UNLABELLED = ("unknown", "unlabeled", "unlabelled")
ARCHIVERS_OWN = "__MACOSX"
EXAMINED = 100
"""Number of files without a picture's suffix that are opened to find out whether any is a picture."""

_PART_OF = {word: part for part, words in PARTS.items() for word in words}
_KNOWN = "|".join(sorted((*_PART_OF, *NEUTRAL), key=len, reverse=True))
_TOKEN = re.compile(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![^\W\d_A-Z])")
"""A word of a folder's name: trainSet_2 has train and Set."""


def find_parts(folder: Path) -> tuple[Path, dict[str, Path]]:
    """Return the folder that holds the data, below folders that only wrap it, and its folder of each part.

    Folders are taken for parts by their names, in any case: Train, training_set, seg_train; val, Valid, dev; Testing.
    The dictionary is empty if it holds class folders. A folder "train" is a class if it is among other folders and
    contains no folders. Raises DataError if a part is there twice, or folders look like parts but none like the
    training part.
    """
    while True:
        folders = folders_in(folder)
        parts = _parts_among(folder, folders)
        inner = [] if parts else list(islice((each for each in folders if has_pictures(walk(each))), 2))
        if len(inner) != 1 or not folders_in(inner[0]):
            return folder, parts
        log.info("The images are taken from %s, the only folder with pictures in %s.", inner[0], folder)
        folder = inner[0]


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in `folder`, sorted, except hidden ones and those that archivers create."""
    with os.scandir(folder) as entries:  # faster than Path.iterdir for folders of many files
        names = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    return [folder / name for name in sorted(names) if name != ARCHIVERS_OWN]


def has_pictures(paths: Iterable[Path]) -> bool:
    """Return whether a file is a picture; of those without a picture's suffix, only the first few are opened."""
    others: list[Path] = []
    for path in paths:
        if path.suffix.lower() in SUFFIXES:
            return True
        others += [path] if len(others) < EXAMINED else []
    return any(is_picture(path) for path in others)


def unwrapped(folder: Path) -> Path:
    """Return the folder, or the only folder in it if that one contains folders: seg_train/seg_train/<class>."""
    inner = folders_in(folder)
    return unwrapped(inner[0]) if len(inner) == 1 and folders_in(inner[0]) else folder


def is_unlabelled(folder: Path, classes: list[str]) -> bool:
    """Return whether a part has no class folders: at most one folder with a name that says nothing, test/unknown."""
    names = [each.name for each in folders_in(folder)]
    if len(names) != 1 or printable(names[0]) in classes:
        return not names
    return names[0].lower() in UNLABELLED or not _meaning(names[0])[1]


def require_classes(folder: Path) -> None:
    """Raise DataError if folders taken for classes contain the same folders, as parts of a data set do."""
    nested = {each: folders for each in folders_in(folder) if len(folders := folders_in(each)) > 1}
    inner = {each: {entry.name for entry in folders if has_pictures(walk(entry))} for each, folders in nested.items()}
    for (one, names), (other, others) in combinations(inner.items(), 2):
        if len(same := sorted(names & others)) < 2:
            continue
        found = f"{one.name} and {other.name} in {folder.absolute()} contain the same folders ({_listed(same)})"
        if all(_meaning(name)[0] for name in same):
            first = _meaning(same[0])[0]
            raise DataError(
                f"{found}: they look like classes that contain the parts. Turn them around: "
                f"{first}/{one.name}, {first}/{other.name}, ..."
            )
        raise DataError(
            f"{found}, so they look like parts of the data, not like classes. If they are parts, rename them train, "
            "val or test; if they are classes, put the pictures of each directly into its folder."
        )


def _parts_among(folder: Path, folders: list[Path]) -> dict[str, Path]:
    """Return part -> its folder; empty if the folders are classes."""
    parts = _named(folder, folders)
    others = [each for each in folders if each not in parts.values()]
    if not parts:
        return {}
    if "train" in parts and (not others or folders_in(parts["train"])):
        if others:
            names = ", ".join(each.name for each in others)
            used = [path.name for path in parts.values()]
            log.warning(
                "Ignored %s in %s: only %s %s used.", names, folder, _listed(used), "is" if len(used) == 1 else "are"
            )
        return parts
    if not others:
        raise DataError(f"{folder.absolute()} has {_listed([p.name for p in parts.values()])} but no train folder.")
    if any(folders_in(path) for part, path in parts.items() if part != "train") or (
        "train" not in parts and any(folders_in(each) for each in others)
    ):
        part, path = next((part, path) for part, path in parts.items() if part != "train")
        names = ", ".join(each.name for each in others)
        raise DataError(
            f"{path.absolute()} looks like the {part} part of the data, but no folder beside it like the training "
            f"part: {names}. Rename that one train; if all of them are classes, rename {path.name}."
        )
    return {}


def _named(folder: Path, folders: list[Path]) -> dict[str, Path]:
    """Return part -> the folder whose name means it, in the order of PARTS.

    Names may share other words, as in seg_train and seg_test, if they mean at least two parts.
    """
    groups: dict[tuple[str, ...], dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for each in folders:
        part, rest = _meaning(each.name)
        if part:
            groups[rest][part].append(each)
    found = groups.get(()) or next((group for group in groups.values() if len(group) > 1), {})
    for part, paths in found.items():
        if len(paths) > 1:
            names = " and ".join(path.name for path in paths)
            raise DataError(f"{names} in {folder.absolute()} both look like the {part} part: join or rename them.")
    return {part: found[part][0] for part in PARTS if part in found}


def _meaning(name: str) -> tuple[str | None, tuple[str, ...]]:
    """Return the part that the name of a folder means, and its other words; None if it means none or several."""
    parts, rest = set(), []
    for token in (token.lower() for token in _TOKEN.findall(name)):
        words = re.findall(_KNOWN, token) if re.fullmatch(f"(?:{_KNOWN})+", token) else [token]
        parts |= {_PART_OF[word] for word in words if word in _PART_OF}
        rest += [word for word in words if word not in _PART_OF and word not in NEUTRAL]
    return (parts.pop() if len(parts) == 1 else None), tuple(rest)


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
