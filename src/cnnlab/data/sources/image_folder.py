"""Images in a folder of class folders, with or without train/, val/ and test/ above them."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cnnlab.data.decoding import SUFFIXES, is_picture
from cnnlab.data.images import ImageFiles, Splits
from cnnlab.data.levels import KINDS, Ranges
from cnnlab.data.sources.layouts import (
    find_parts,
    folders_in,
    has_pictures,
    is_unlabelled,
    require_classes,
    unwrapped,
)
from cnnlab.errors import DataError, InputError
from cnnlab.system.files import files_below, printable

IGNORED = frozenset({"Thumbs.db", "desktop.ini"})
NAMED = 10
"""Number of files that are named when they are left out."""

log = logging.getLogger(__name__)


def image_folder(root: str, value_range: Sequence[float] | None = None) -> Splits:
    """Return the images of `root/<class>/<any>` as one set, or of `root/{train,val,test}/<class>/<any>` as splits.

    Other usual names of the parts are recognised too (see `layouts.find_parts`).
    value_range: the values that become black and white, for samples of more than 8 bits and signed or floating-point
    ones; None: the smallest and the largest value in the images.
    Raises DataError if `root` does not exist or its folders do not fit.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DataError(f"Folder {folder.absolute()} not found. Set data.root to a folder of class folders.")
    ranges = _chosen_ranges(value_range)
    place, parts = find_parts(folder)
    train = class_folders(unwrapped(parts["train"]) if parts else place)
    others = [_part(parts[name], train.classes) if name in parts else None for name in ("val", "test")]
    return Splits(*(images and replace(images, ranges=ranges) for images in (train, *others)))  # type: ignore[arg-type]


def class_folders(root: Path) -> ImageFiles:
    """Return every file below `root/<class>/` as an image; the classes are the sorted names of folders with pictures.

    Raises DataError that names the folder if it has no class folders, a class folder has no files, or the folders look
    like parts of a data set.
    """
    files = {folder: pictures_below(folder) for folder in folders_in(root)}
    empty = [folder.name for folder, found in files.items() if not found]
    if empty:
        raise DataError(f"{root.absolute()} has class folders without a file: {', '.join(empty)}. Fill or remove them.")
    others = [folder for folder, found in files.items() if not has_pictures(found)]
    for folder in others:
        log.warning("%s is not a class: none of its %d files is a picture.", folder, len(files.pop(folder)))
    if not files:
        raise DataError(f"{root.absolute()} has no class folders: each class needs a folder with its images.")
    require_classes(root)
    labels = np.repeat(np.arange(len(files)), [len(found) for found in files.values()])
    paths = [path for found in files.values() for path in found]
    return ImageFiles(root, paths, labels, [printable(folder.name) for folder in files])


def pictures_below(folder: Path) -> list[Path]:
    """Return the files below `folder`, sorted, except hidden ones and those that file managers create."""
    return [path for path in files_below(folder) if path.name not in IGNORED]


def find_pictures(images: Path) -> tuple[Path, list[Path]]:
    """Return the folder that names are relative to, and the image files: `images` itself, or every image below it.

    Files that are not pictures by their content are left out; the log names them. Raises InputError if none is left.
    """
    if images.is_file():
        return images.parent, [images]
    if not images.is_dir():
        raise InputError(f"images={images}: no such file or folder.")
    paths = pictures_below(images)
    others = {path for path in paths if not is_picture(path)}
    if others:
        names = [printable(path.relative_to(images).as_posix()) for path in paths if path in others]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        left_out = f"{len(names)} of {len(paths)} files, not pictures: {', '.join(names[:NAMED])}{more}"
        if len(others) == len(paths):
            raise InputError(f"images={images}: this folder contains no pictures ({left_out}).")
        log.warning("Left out %s.", left_out)
    if not paths:
        raise InputError(f"images={images}: this folder contains no pictures.")
    return images, [path for path in paths if path not in others]


def _part(folder: Path, classes: list[str]) -> ImageFiles | None:
    """Return the images of a part other than train; None, with a warning, if they are not in class folders."""
    folder = unwrapped(folder)
    if is_unlabelled(folder, classes):
        found = sum(path.suffix.lower() in SUFFIXES for path in pictures_below(folder))
        log.warning("%s is not used: its %d pictures are not in class folders.", folder, found)
        return None
    images = class_folders(folder)
    if images.classes != classes:
        different = sorted(set(images.classes) ^ set(classes))
        raise DataError(f"{folder.absolute()} and the train folder have different classes: {', '.join(different)}.")
    return images


def _chosen_ranges(value_range: Sequence[float] | None) -> Ranges | None:
    if value_range is None:
        return None
    if len(value_range) != 2 or not all(map(math.isfinite, value_range)) or value_range[0] >= value_range[1]:
        raise InputError(
            f"data.dataset.value_range={list(value_range)}: use two numbers, the values of black and white ([0,4095])."
        )
    return dict.fromkeys(KINDS, (float(value_range[0]), float(value_range[1])))
