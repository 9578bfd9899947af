"""Cut pictures into overlapping tiles, and merge what is found in them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms
from torchvision.transforms.v2 import functional

from cnnlab.errors import InputError
from cnnlab.tasks.detection.augmenting import Fit
from cnnlab.tasks.detection.samples import fitted_size
from cnnlab.tasks.detection.scores import Found
from cnnlab.tasks.detection.truth import decode_masks, moved_mask

MERGED = 0.5
"""IoU from which on two boxes of one class, from two tiles, are the same object."""


class Tile(NamedTuple):
    """A part of a picture at the size that the network takes."""

    pixels: Tensor
    """uint8 C x h x w"""
    corner: tuple[int, int]
    """Top and left of the part in the picture."""
    size: tuple[int, int]
    """Height and width of the part in the picture."""


class Prepared(NamedTuple):
    """A picture as `DetectionModule.predict` takes it."""

    tiles: list[Tile]
    size: tuple[int, int]
    """Height and width of the picture."""


def prepare(pixels: Tensor, fit: Fit, tile: int | None = None, overlap: float = 0.2) -> Prepared:
    """Return a picture, uint8 C x H x W, as one tile or cut into tiles of `tile` pixels, each resized by `fit`.

    overlap: share of a tile that the next one covers too. Raises InputError for values that cannot be.
    """
    size = (pixels.shape[-2], pixels.shape[-1])
    if tile is not None and tile < 32:
        raise InputError(f"tile={tile}: at least 32 pixels are needed, or null to take pictures as a whole.")
    if not 0 <= overlap < 0.9:
        raise InputError(f"overlap={overlap}: use a share from 0 to below 0.9.")
    rows = starts(size[0], tile or size[0], overlap)
    columns = starts(size[1], tile or size[1], overlap)
    parts = [
        (pixels[:, top : top + (tile or size[0]), left : left + (tile or size[1])], (top, left))
        for top in rows
        for left in columns
    ]
    return Prepared([_fitted(part, corner, fit) for part, corner in parts], size)


def starts(length: int, tile: int, overlap: float) -> list[int]:
    """Return where the tiles along one side begin: evenly spaced, the last one ending where the side ends."""
    if length <= tile:
        return [0]
    count = int(np.ceil((length - tile) / (tile * (1 - overlap)))) + 1
    return np.linspace(0, length - tile, count).round().astype(int).tolist()


def _fitted(part: Tensor, corner: tuple[int, int], fit: Fit) -> Tile:
    size = (part.shape[-2], part.shape[-1])
    # A copy, because a tile that keeps its size would hold on to the whole picture.
    pixels = functional.resize(part.clone(), list(fitted_size(size, fit.short, fit.long)), antialias=True)
    return Tile(pixels, corner, size)


def merged(found: Sequence[Found], tiles: Sequence[Tile], size: tuple[int, int]) -> Found:
    """Return the detections of all tiles in pixels of the picture, without those that several tiles found."""
    if len(tiles) == 1:
        return found[0]
    moved = [
        each.boxes + np.array([tile.corner[1], tile.corner[0]] * 2, np.float32)
        for each, tile in zip(found, tiles, strict=True)
    ]
    boxes = np.concatenate(moved)
    scores, labels = (np.concatenate([getattr(each, name) for each in found]) for name in ("scores", "labels"))
    kept = batched_nms(torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(labels), MERGED).numpy()
    masks = None
    if all(each.masks is not None for each in found):
        owner = np.repeat(np.arange(len(found)), [len(each.labels) for each in found])
        place = np.concatenate([np.arange(len(each.labels)) for each in found])
        masks = [_moved(found[owner[index]].masks[place[index]], tiles[owner[index]], size) for index in kept]
    return Found(boxes[kept], scores[kept], labels[kept], masks)


def _moved(mask: dict, tile: Tile, size: tuple[int, int]) -> dict:
    """Return the mask of a tile as one of the whole picture."""
    return moved_mask(decode_masks([mask], tile.size)[0], tile.corner, size)
