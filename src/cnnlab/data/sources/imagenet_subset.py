"""ImageNet or part of it, in any of its usual layouts, with human-readable class names."""

import re
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from cnnlab.data.images import ImageFiles, Splits
from cnnlab.data.sources.image_folder import image_folder
from cnnlab.errors import DataError

FLAT_NAME = re.compile(r"(n\d{8})_.+")


def imagenet_subset(root: str) -> Splits:
    """Return the images in `root/{train,val}/<wnid>/*`, `root/<wnid>/*`, or flat files `root/<wnid>_<any name>.JPEG`.

    Class names are human-readable ("tench" for n01440764), in the order of the WordNet ids.
    Raises DataError if `root` does not exist or the name of a class is not a WordNet id.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"ImageNet folder {folder.absolute()} not found. ImageNet has no free download: put a folder there with "
            "train/<wnid>/ and val/<wnid>/ (or flat files <wnid>_<name>.JPEG), or set data.root or paths.data_dir."
        )
    flat = sorted(path for path in folder.iterdir() if FLAT_NAME.fullmatch(path.name) and not path.is_dir())
    if flat:
        return Splits(_with_names(_flat(folder, flat)))
    splits = image_folder(root)
    return Splits(*(images and _with_names(images) for images in (splits.train, splits.val, splits.test)))  # type: ignore[arg-type]


@cache
def imagenet_classes() -> dict[str, str]:
    """Return WordNet id -> name of the 1,000 classes of ILSVRC 2012, in the order of a pretrained network's outputs."""
    lines = (files(__package__) / "imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines)


def _flat(root: Path, paths: list[Path]) -> ImageFiles:
    wnids = [path.name.split("_")[0] for path in paths]
    classes, labels = np.unique(wnids, return_inverse=True)
    return ImageFiles(root, paths, labels.astype(np.int64), classes.tolist())


def _with_names(images: ImageFiles) -> ImageFiles:
    unknown = [wnid for wnid in images.classes if wnid not in imagenet_classes()]
    if unknown:
        raise DataError(
            f"{images.root.absolute()} has classes whose names are not ImageNet WordNet ids: "
            f"{', '.join(unknown[:5])}. For class folders with other names, use data=image_folder."
        )
    names = [imagenet_classes()[wnid] for wnid in images.classes]
    return ImageFiles(images.root, images.paths, images.labels, names, wnids=images.classes)
