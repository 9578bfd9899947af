"""Images in a folder of class folders, with or without train/, val/ and test/ above them."""

import logging
from pathlib import Path

import numpy as np

from cnnlab.data.decoding import EXTENSIONS
from cnnlab.data.images import ImageFiles, Splits
from cnnlab.errors import DataError, InputError

IGNORED = frozenset({"Thumbs.db", "desktop.ini"})
PARTS = ("train", "val", "test")

log = logging.getLogger(__name__)


def image_folder(root: str) -> Splits:
    """Return the images of `root/<class>/<any>` as one set, or of `root/{train,val,test}/<class>/<any>` as splits.

    A folder train counts as a class if it is among other folders and contains no folders.
    Raises DataError if `root` does not exist or its folders do not fit.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DataError(f"Folder {folder.absolute()} not found. Set data.root to a folder of class folders.")
    names = [entry.name for entry in _folders(folder)]
    others = [name for name in names if name not in PARTS]
    if "train" not in names or (others and not _folders(folder / "train")):
        if names and not others:
            raise DataError(f"{folder.absolute()} has {' and '.join(names)} but no train folder.")
        return Splits(class_folders(folder))
    if others:
        log.warning("Ignored %s in %s: only %s are used.", ", ".join(others), folder, ", ".join(PARTS))
    train = class_folders(folder / "train")
    return Splits(train, *(_part(folder / name, train.classes) for name in ("val", "test")))


def class_folders(root: Path) -> ImageFiles:
    """Return every file below `root/<class>/` as an image; the classes are the sorted folder names.

    Raises DataError that names the folder if it has no class folders or a class folder has no files.
    """
    folders = _folders(root)
    if not folders:
        raise DataError(f"{root.absolute()} has no class folders: each class needs a folder with its images.")
    files = [files_below(folder) for folder in folders]
    empty = [folder.name for folder, found in zip(folders, files, strict=True) if not found]
    if empty:
        raise DataError(f"{root.absolute()} has class folders without a file: {', '.join(empty)}. Fill or remove them.")
    labels = np.repeat(np.arange(len(folders)), [len(found) for found in files])
    return ImageFiles(root, [path for found in files for path in found], labels, [folder.name for folder in folders])


def files_below(folder: Path) -> list[Path]:
    """Return all files below `folder`, sorted, except hidden ones and those that file managers create.

    Files in hidden folders are left out too. Broken links are included, so that opening them reports an error.
    """
    return sorted(
        path
        for path in folder.rglob("*")
        if (path.is_file() or (path.is_symlink() and not path.exists()))
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.name not in IGNORED
    )


def find_pictures(images: Path) -> tuple[Path, list[Path]]:
    """Return the folder that names are relative to, and the image files: `images` itself, or every image below it.

    Raises InputError if there are none.
    """
    if images.is_file():
        return images.parent, [images]
    if not images.is_dir():
        raise InputError(f"images={images}: no such file or folder.")
    paths = [path for path in files_below(images) if path.suffix.lower() in EXTENSIONS]
    if not paths:
        raise InputError(f"images={images}: this folder contains no images ({', '.join(sorted(EXTENSIONS))}).")
    return images, paths


def _folders(root: Path) -> list[Path]:
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _part(folder: Path, classes: list[str]) -> ImageFiles | None:
    if not folder.is_dir():
        return None
    images = class_folders(folder)
    if images.classes != classes:
        different = sorted(set(images.classes) ^ set(classes))
        raise DataError(f"{folder.absolute()} and the train folder have different classes: {', '.join(different)}.")
    return images
