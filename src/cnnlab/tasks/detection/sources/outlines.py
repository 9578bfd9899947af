"""Images with one PNG of outlines each, in which every object has its own value."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnnlab.data.decoding import is_picture
from cnnlab.data.sources.image_folder import files_below
from cnnlab.errors import DataError
from cnnlab.system.files import read_json
from cnnlab.tasks.detection.annotated import AnnotatedSplits
from cnnlab.tasks.detection.annotations import BadAnnotations, Draft, as_files, open_draft, require_folder
from cnnlab.tasks.detection.truth import encode_masks

FOLDERS = {"images": ("images", "PNGImages", "JPEGImages"), "masks": ("masks", "PedMasks", "SegmentationObject")}
"""What a folder holds -> its possible names."""
ENDINGS = ("", "_mask")
"""What the name of an image's mask has after that of the image."""
IGNORED = 255
"""The value of pixels that belong to no object, and are not background either (Pascal VOC)."""


def outlines(
    root: str, name: str, bad_annotations: str, parts: Mapping[str, Sequence[str]] | None = None
) -> AnnotatedSplits:
    """Return the images below `root` with the objects of one class, `name`, in PNGs of the same names.

    A PNG is 0 on the background and has one value for each object. split.json lists the images of the parts:
    {"train": [...], "val": [...], "test": [...]}; images that it does not list are in training. `parts` takes its place
    if there is none.
    Raises DataError if files are missing or damaged, or have bad annotations.
    """
    folder = require_folder(root, "a folder with images and masks")
    images, masks = (_folder(folder, kind) for kind in FOLDERS)
    bad = BadAnnotations(bad_annotations)
    drafts: dict[str, Draft] = {}
    for path in files_below(images):
        if is_picture(path) and path.stem in drafts:
            bad.add(str(path), "another image has the same name, and one mask is for both")
        elif is_picture(path) and (draft := _draft(path, masks, bad)) is not None:
            drafts[path.stem] = draft
    chosen = _parts(folder, list(drafts), bad, parts)
    bad.finish()
    found = {part: as_files(folder, [drafts[stem] for stem in stems], [name], True) for part, stems in chosen.items()}
    if not len(found["train"]):
        raise DataError(f"{images.absolute()} has no images to train on.")
    return AnnotatedSplits(found["train"], found.get("val"), found.get("test"))


def _folder(folder: Path, kind: str) -> Path:
    names = FOLDERS[kind]
    found = next((folder / name for name in names if (folder / name).is_dir()), None)
    if found is None:
        raise DataError(f"{folder.absolute()} has no folder of {kind}: {', '.join(names)}.")
    return found


def _draft(path: Path, masks: Path, bad: BadAnnotations) -> Draft | None:
    draft = open_draft(path, bad, str(path))
    if draft is None:
        return None
    file = next((each for ending in ENDINGS if (each := masks / f"{path.stem}{ending}.png").is_file()), None)
    if file is None:
        bad.add(str(path), f"its mask {masks.name}/{path.stem}.png is missing")
        return None
    values = _values(file, bad)
    if values is None:
        return None
    if values.shape != draft.size:
        text = f"the mask has {values.shape[1]} x {values.shape[0]} pixels, the image {draft.size[1]} x {draft.size[0]}"
        bad.add(str(file), text)
        return None
    numbers = [number for number in np.unique(values).tolist() if number not in (0, IGNORED)]
    for number, mask in zip(
        numbers, encode_masks(np.stack([values == n for n in numbers])) if numbers else [], strict=True
    ):
        draft.add_mask(f"{file}, value {number}", 0, mask)
    return draft


def _values(file: Path, bad: BadAnnotations) -> np.ndarray | None:
    """Return the values of a PNG, H x W; None, and a bad annotation, if it is not a grey or indexed image."""
    try:
        with Image.open(file) as image:
            values = np.asarray(image)
    except (OSError, ValueError, SyntaxError) as error:
        bad.add(str(file), f"it cannot be read: {error}")
        return None
    if values.ndim != 2:
        bad.add(str(file), "it has several channels; one value for each object is needed")
        return None
    return values


def _parts(
    folder: Path, names: list[str], bad: BadAnnotations, otherwise: Mapping[str, Sequence[str]] | None
) -> dict[str, list[str]]:
    """Return part -> names of its images, as split.json lists them, or else `otherwise`."""
    path = folder / "split.json"
    if not path.is_file() and otherwise is None:
        return {"train": names}
    lists: Any = otherwise
    if path.is_file():
        lists = read_json(path)
    else:
        path = folder
    known = ("train", "val", "test")
    if not isinstance(lists, Mapping) or not any(isinstance(lists.get(part), list) for part in known):
        raise DataError(f"{path}: a list of names is needed for {', '.join(known[:-1])} or {known[-1]}.")
    for part in known:
        for name in lists.get(part, []):
            if Path(str(name)).stem not in names and not bad.found:
                bad.add(str(path), f"{part} lists {name}, which is not among the images")
    parts = {part: [name for name in names if name in set(lists.get(part, []))] for part in known[1:]}
    others = {name for part in parts.values() for name in part}
    found = {"train": [name for name in names if name not in others], **parts}
    return {part: listed for part, listed in found.items() if listed or part == "train"}
