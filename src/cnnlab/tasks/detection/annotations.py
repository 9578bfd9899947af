"""Collect annotated objects, check each, and name every bad one by file and line."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from cnnlab.errors import DataError, InputError
from cnnlab.tasks.detection.annotated import AnnotatedFiles
from cnnlab.tasks.detection.truth import Rle, Truth, mask_areas, mask_boxes, polygons_to_mask, truth

log = logging.getLogger(__name__)
MODES = ("error", "skip", "clip")
SHOWN = 10
SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""
TOLERANCE = 1.0
"""Pixels by which a box may reach over the edge of its image: formats differ in where they count from."""
LEAST = 1e-3
"""Smallest side of a box in pixels."""


class BadAnnotations:
    """The bad annotations of a data set: raised together ("error"), or reported and left out ("skip", "clip").

    "clip" cuts boxes and polygons at the edge of their image first, and leaves out what has no area then.
    """

    def __init__(self, mode: str) -> None:
        if mode not in MODES:
            raise InputError(f"data.bad_annotations={mode}: use {', '.join(MODES)}.")
        self.clips = mode == "clip"
        self.raises = mode == "error"
        self.found: list[str] = []
        self.clipped: list[str] = []

    def add(self, where: object, what: str) -> None:
        """Note what is wrong with an annotation, and where it is."""
        self.found.append(f"{where}: {what}")

    def finish(self) -> None:
        """Raise DataError that lists the bad annotations, or warn about them."""
        if self.found and self.raises:
            ways = "Correct them, or leave them out with data.bad_annotations=skip (clip: cut them at the edge)."
            raise DataError("\n".join([f"{_several(self.found)} bad:", *_first(self.found), ways]))
        if self.found:
            log.warning("\n".join([f"{_several(self.found)} bad and left out:", *_first(self.found)]))
        if self.clipped:
            log.warning("\n".join([f"{_several(self.clipped)} cut at the edge:", *_first(self.clipped)]))


@dataclass
class Draft:
    """The objects of one image while they are read."""

    path: Path
    size: tuple[int, int]
    """Height and width of the upright image."""
    bad: BadAnnotations
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    masks: list[Rle | None] = field(default_factory=list)
    areas: list[float | None] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)

    def add_box(
        self,
        where: object,
        label: int,
        box: Sequence[float],
        mask: Rle | None = None,
        area: float | None = None,
        crowd: bool = False,
    ) -> None:
        """Add an object with its box x1, y1, x2, y2, unless it is bad."""
        height, width = self.size
        if not all(math.isfinite(value) for value in box):
            return self.bad.add(where, f"the box {_text(box)} is not made of numbers")
        x1, y1, x2, y2 = box
        if x2 - x1 < LEAST or y2 - y1 < LEAST:
            return self.bad.add(where, f"the box {_text(box)} has no area")
        clipped = (min(max(x1, 0), width), min(max(y1, 0), height), min(max(x2, 0), width), min(max(y2, 0), height))
        over = max(abs(a - b) for a, b in zip(box, clipped, strict=True))
        if over > TOLERANCE:
            text = f"the box {_text(box)} reaches outside the image of {width} x {height} pixels"
            if not self.bad.clips:
                return self.bad.add(where, text)
            if clipped[2] - clipped[0] < LEAST or clipped[3] - clipped[1] < LEAST:
                return self.bad.add(where, f"the box {_text(box)} lies outside the image of {width} x {height} pixels")
            self.bad.clipped.append(f"{where}: {text}")
        if clipped[2] - clipped[0] < LEAST or clipped[3] - clipped[1] < LEAST:
            return self.bad.add(
                where, f"the box {_text(box)} has no area inside the image of {width} x {height} pixels"
            )
        self.boxes.append(clipped)
        self.labels.append(label)
        self.masks.append(mask)
        self.areas.append(area)
        self.crowd.append(crowd)
        return None

    def add_mask(
        self,
        where: object,
        label: int,
        mask: Rle,
        area: float | None = None,
        crowd: bool = False,
        box: Sequence | None = None,
    ) -> None:
        """Add an object with its mask; its box, if not given, is the smallest one around the mask."""
        if tuple(mask["size"]) != self.size:
            rows, columns = mask["size"]
            text = f"the mask has {columns} x {rows} pixels, the image {self.size[1]} x {self.size[0]}"
            return self.bad.add(where, text)
        if mask_areas([mask])[0] == 0:
            return self.bad.add(where, "the mask is empty")
        corners = mask_boxes([mask])[0].tolist() if box is None else box
        return self.add_box(where, label, corners, mask, area, crowd)

    def add_polygons(
        self,
        where: object,
        label: int,
        polygons: Sequence[Sequence[float]],
        area: float | None = None,
        crowd: bool = False,
        box: Sequence[float] | None = None,
    ) -> None:
        """Add an object outlined by polygons, each x1, y1, x2, y2, ..."""
        for polygon in polygons:
            if len(polygon) < 6 or len(polygon) % 2:
                count = f"{len(polygon)} numbers" if len(polygon) % 2 else f"{len(polygon) // 2} points"
                return self.bad.add(where, f"a polygon has {count}; at least 3 points (x, y) are needed")
            if not all(isinstance(value, int | float) and math.isfinite(value) for value in polygon):
                return self.bad.add(where, "a polygon is not made of numbers")
        if not polygons:
            return self.bad.add(where, "the list of polygons is empty")
        height, width = self.size
        xs = [value for polygon in polygons for value in polygon[0::2]]
        ys = [value for polygon in polygons for value in polygon[1::2]]
        around = (min(xs), min(ys), max(xs), max(ys))
        over = max(-around[0], -around[1], around[2] - width, around[3] - height)
        if over > TOLERANCE and not self.bad.clips:
            text = f"a polygon reaches to {_text(around)}, outside the image of {width} x {height} pixels"
            return self.bad.add(where, text)
        if over > TOLERANCE:
            self.bad.clipped.append(f"{where}: a polygon reaches to {_text(around)}, outside the image")
        mask = polygons_to_mask(polygons, self.size)
        return self.add_mask(where, label, mask, area, crowd, box)

    def truth(self, with_masks: bool) -> Truth:
        """Return the objects; with_masks: all objects of the data set have masks."""
        masks = [mask for mask in self.masks if mask is not None] if with_masks else None
        areas = [_area(*each) for each in zip(self.areas, self.masks, self.boxes, strict=True)]
        return truth(self.boxes, self.labels, masks, areas, self.crowd)


def open_draft(path: Path, bad: BadAnnotations, where: object, stated: tuple[int, int] | None = None) -> Draft | None:
    """Return an empty draft for an image file; None, and a bad annotation, if it is missing or of another size.

    stated: (height, width) in the annotations. An unreadable file passes here: it is a bad image, not annotation.
    """
    if not path.is_file():
        bad.add(where, f"the image {path} does not exist")
        return None
    size, turned = upright_size(path)
    if size is None:
        return Draft(path, stated or (1, 1), bad)
    if stated is not None and size != stated:
        rows, columns = stated
        text = f"the image {path.name} has {size[1]} x {size[0]} pixels, its annotation says {columns} x {rows}"
        if turned and size == (columns, rows):
            text += (
                ": the file is stored sideways (EXIF orientation) and its objects were marked without turning it. "
                "Save the image upright and mark it again"
            )
        bad.add(where, text)
        return None
    return Draft(path, size, bad)


def upright_size(path: Path) -> tuple[tuple[int, int] | None, bool]:
    """Return (height, width) of an image turned upright, and whether its file is stored sideways.

    The size is None if the file is not an image.
    """
    try:
        with Image.open(path) as image:
            sideways = image.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS
            width, height = image.size
    except Exception:  # reading the images, which comes later, says what is wrong
        return None, False
    return ((width, height) if sideways else (height, width)), sideways


def as_files(root: Path, drafts: Sequence[Draft], classes: list[str], outlined: bool) -> AnnotatedFiles:
    """Return the images of a part. outlined: whether every object of the data set has a mask."""
    return AnnotatedFiles(
        root,
        [draft.path for draft in drafts],
        [draft.truth(outlined) for draft in drafts],
        [draft.size for draft in drafts],
        classes,
        outlined,
    )


def outlined(drafts: Sequence[Draft]) -> bool:
    """Return whether there are objects, and all of them have masks."""
    masks = [mask for draft in drafts for mask in draft.masks]
    return bool(masks) and all(mask is not None for mask in masks)


def require_folder(root: str, what: str) -> Path:
    """Return the folder `root`; raise DataError if it does not exist."""
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DataError(f"Folder {folder.absolute()} not found. Set data.root to {what}.")
    return folder


def _area(area: float | None, mask: Rle | None, box: Sequence[float]) -> float:
    if area is not None:
        return area
    return float(mask_areas([mask])[0]) if mask is not None else (box[2] - box[0]) * (box[3] - box[1])


def _text(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in np.asarray(values, float)) + ")"


def _several(found: Sequence[str]) -> str:
    return f"{len(found)} annotation{'s are' if len(found) > 1 else ' is'}"


def _first(found: Sequence[str]) -> list[str]:
    listed = [f"  {text}" for text in found[:SHOWN]]
    return [*listed, f"  ... and {len(found) - SHOWN} more"] if len(found) > SHOWN else listed
