"""The objects in one image, in the one form that every annotation format is read into."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cnnlab.errors import InputError

try:
    from faster_coco_eval.core import mask as codec
except ImportError:  # the extra `detection`
    codec = None

Rle = dict[str, Any]
"""A mask in COCO's run-length encoding: `size` (height, width) and `counts`."""


class Truth(NamedTuple):
    """The annotated objects of an image, N of them; N = 0 for an image without objects."""

    boxes: np.ndarray
    """float32 N x 4: x1, y1, x2, y2 in pixels of the image; x1 < x2, y1 < y2."""
    labels: np.ndarray
    """int64 N, from 0."""
    areas: np.ndarray
    """float64 N, pixels; by them COCO tells small, medium and large objects."""
    crowd: np.ndarray
    """bool N: groups of objects that are not outlined one by one. They are not trained on; a detection inside one
    counts neither as right nor as wrong."""
    masks: list[Rle] | None = None
    """One mask per object; None if the data have only boxes."""


def truth(
    boxes: Sequence | np.ndarray,
    labels: Sequence[int] | np.ndarray,
    masks: list[Rle] | None = None,
    areas: Sequence[float] | np.ndarray | None = None,
    crowd: Sequence[bool] | np.ndarray | None = None,
) -> Truth:
    """Return a `Truth`; areas default to those of the masks, or else of the boxes."""
    corners = np.asarray(boxes, np.float32).reshape(-1, 4)
    if areas is None and masks is not None:
        areas = mask_areas(masks)
    elif areas is None:
        areas = (corners[:, 2] - corners[:, 0]).astype(float) * (corners[:, 3] - corners[:, 1])
    is_crowd = np.zeros(len(corners), bool) if crowd is None else np.asarray(crowd, bool)
    return Truth(corners, np.asarray(labels, np.int64).reshape(-1), np.asarray(areas, float), is_crowd, masks)


def chosen(objects: Truth, keep: np.ndarray) -> Truth:
    """Return the objects that `keep` (bool N, or indices) selects."""
    indices = np.flatnonzero(keep) if keep.dtype == bool else keep
    masks = None if objects.masks is None else [objects.masks[index] for index in indices]
    return Truth(objects.boxes[indices], objects.labels[indices], objects.areas[indices], objects.crowd[indices], masks)


# --- Masks ---


def require_codec() -> None:
    """Raise InputError if the package that reads and scores masks and boxes is not installed."""
    if codec is None:
        raise InputError("Detection needs the extra `detection`: pip install 'cnnlab[detection]'.")


def encode_masks(masks: np.ndarray) -> list[Rle]:
    """Return masks, uint8 or bool N x H x W, in run-length encoding."""
    require_codec()
    return codec.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8))) if len(masks) else []


def decode_masks(masks: Sequence[Rle], size: tuple[int, int]) -> np.ndarray:
    """Return masks as uint8 N x H x W with values 0 and 1; size: (H, W)."""
    require_codec()
    if not len(masks):
        return np.zeros((0, *size), np.uint8)
    return np.ascontiguousarray(codec.decode(list(masks)).transpose(2, 0, 1))


def mask_at(mask: Rle, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the values of a mask at some rows and columns, bool rows x columns, without decoding all of it."""
    ends = np.cumsum(run_lengths(mask))
    places = columns[None, :].astype(np.int64) * mask["size"][0] + rows[:, None]
    return np.searchsorted(ends, places, side="right") % 2 == 1


def run_lengths(mask: Rle) -> np.ndarray:
    """Return the lengths of the runs of zeros and ones, down the columns, int64; pycocotools' rleFrString does this.

    Each number is written in digits of five bits, the lowest first, and counts from the run before the last.
    """
    text = mask["counts"]
    digits = np.frombuffer(text.encode() if isinstance(text, str) else text, np.uint8).astype(np.int64) - 48
    lasts = np.flatnonzero((digits & 0x20) == 0)
    firsts = np.append(0, lasts[:-1] + 1)
    lengths = lasts - firsts + 1
    places = np.arange(len(digits)) - np.repeat(firsts, lengths)
    values = np.add.reduceat((digits & 0x1F) << (5 * places), firsts)
    values -= ((digits[lasts] & 0x10) > 0).astype(np.int64) << (5 * lengths)  # negative
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def is_rle(mask: Rle) -> bool:
    """Return whether a compressed run-length encoding can be read, and has as many pixels as its size says."""
    digits = np.frombuffer(mask["counts"], np.uint8).astype(np.int64) - 48
    if not len(digits) or digits.min() < 0 or digits.max() > 63 or digits[-1] & 0x20:
        return False
    lengths = run_lengths(mask)
    return bool((lengths >= 0).all()) and int(lengths.sum()) == mask["size"][0] * mask["size"][1]


def moved_mask(part: np.ndarray, corner: tuple[int, int], size: tuple[int, int]) -> Rle:
    """Return the mask of a part of an image, uint8 or bool h x w, as one of the whole image, which is never built.

    corner: top and left of the part. size: (height, width) of the image, which has all of the part.
    """
    require_codec()
    columns = np.pad(part.astype(np.int8).T, ((0, 0), (1, 1)))  # COCO counts down the columns
    steps = np.diff(columns, axis=1)
    (column, first), (_, last) = np.nonzero(steps == 1), np.nonzero(steps == -1)
    at = (column + corner[1]) * size[0] + corner[0]
    begins, ends = at + first, at + last
    apart = begins[1:] > ends[:-1]  # a column that is filled to its end may go on in the next one
    begins, ends = begins[np.append(True, apart)[: len(begins)]], ends[np.append(apart, True)[: len(ends)]]
    bounds = np.column_stack([begins, ends]).ravel()
    whole = size[0] * size[1]
    bounds = bounds if len(bounds) and bounds[-1] == whole else np.append(bounds, whole)
    counts = np.diff(bounds, prepend=0).tolist()
    return codec.frPyObjects([{"counts": counts, "size": list(size)}], *size)[0]


def mask_areas(masks: Sequence[Rle]) -> np.ndarray:
    """Return the number of pixels of each mask, float64 N."""
    require_codec()
    return np.asarray(codec.area(list(masks)), float) if len(masks) else np.zeros(0)


def mask_boxes(masks: Sequence[Rle]) -> np.ndarray:
    """Return the smallest box around each mask, float32 N x 4 (x1, y1, x2, y2); zeros for an empty mask."""
    require_codec()
    if not len(masks):
        return np.zeros((0, 4), np.float32)
    boxes = np.asarray(codec.toBbox(list(masks)), np.float32)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def polygons_to_mask(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> Rle:
    """Return the union of polygons, each x1, y1, x2, y2, ..., as one mask; size: (height, width)."""
    require_codec()
    return codec.merge(codec.frPyObjects([list(map(float, each)) for each in polygons], *size))


def uncompressed_to_mask(rle: Rle) -> Rle:
    """Return an uncompressed run-length encoding (a list of counts) in the compressed form."""
    require_codec()
    return codec.frPyObjects([rle], *rle["size"])[0]
