"""Labelled images in files or in one array: the interface between data sources and the DataModule."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cnnlab.data.decoding import decode, decode_pixels, to_pixels
from cnnlab.data.levels import NO_RANGES, Ranges
from cnnlab.system.files import printable


class LabelledImages(Protocol):
    """A sequence of images with one label each."""

    @property
    def classes(self) -> list[str]:
        """Human-readable class names, indexed by `labels`."""
        ...

    @property
    def wnids(self) -> list[str] | None:
        """The WordNet ids of the classes if the data set uses them (ImageNet), else None."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """The class index of each image, int64."""
        ...

    def __len__(self) -> int: ...

    def load(self, index: int, channels: int) -> Image.Image:
        """Return image `index` as an 8-bit PIL image with 1 or 3 channels."""
        ...

    def tensor(self, index: int, channels: int, side: int | None = None) -> Tensor:
        """Return the pixels of `load` as uint8 C x H x W.

        side: required pixels of the short side; a much larger file may be decoded at a reduced size.
        """
        ...

    def name(self, index: int) -> str:
        """Return the image's name in lists and reports, unique within the data set."""
        ...

    def digest(self, index: int) -> str:
        """Return a hash of the image's content."""
        ...

    def subset(self, indices: Sequence[int] | np.ndarray) -> LabelledImages:
        """Return the images at `indices`, in that order, with the same classes."""
        ...

    def with_classes(self, kept: Sequence[int]) -> LabelledImages:
        """Return the same images with only the classes `kept`, renumbered in that order.

        Every image must belong to one of these classes.
        """
        ...


@dataclass(frozen=True)
class ImageFiles:
    """Images in files below `root`."""

    root: Path
    paths: list[Path]
    labels: np.ndarray
    classes: list[str]
    wnids: list[str] | None = None
    digests: list[str] | None = None
    """Result of `digest` for each file; None before the files have been scanned."""
    ranges: Ranges | None = None
    """Kind of values -> the values of black and white (see `levels`); None until chosen or found by the scan."""
    groups: list[str] | None = None
    """Group of each file, such as its patient, if the data's table says it."""

    def __len__(self) -> int:
        return len(self.paths)

    def load(self, index: int, channels: int) -> Image.Image:
        return decode(self.paths[index], channels, self.ranges or NO_RANGES)

    def tensor(self, index: int, channels: int, side: int | None = None) -> Tensor:
        return decode_pixels(self.paths[index], channels, side, self.ranges or NO_RANGES)

    def name(self, index: int) -> str:
        return printable(self.paths[index].relative_to(self.root).as_posix())

    def digest(self, index: int) -> str:
        if self.digests is not None:
            return self.digests[index]
        return hashlib.blake2b(self.paths[index].read_bytes(), digest_size=16).hexdigest()

    def subset(self, indices: Sequence[int] | np.ndarray) -> ImageFiles:
        return replace(
            self,
            paths=[self.paths[i] for i in indices],
            labels=self.labels[np.asarray(indices, int)],
            digests=self.digests and [self.digests[i] for i in indices],
            groups=self.groups and [self.groups[i] for i in indices],
        )

    def with_classes(self, kept: Sequence[int]) -> ImageFiles:
        return replace(self, **_renumbered(self, kept))


@dataclass(frozen=True)
class ImageArray:
    """Small images in memory: uint8 N x H x W (grey) or N x H x W x 3 (RGB)."""

    pixels: np.ndarray
    labels: np.ndarray
    classes: list[str]
    numbers: np.ndarray
    """The position of each image in the published data set."""
    wnids: list[str] | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def load(self, index: int, channels: int) -> Image.Image:
        return Image.fromarray(self.pixels[index]).convert("L" if channels == 1 else "RGB")

    def tensor(self, index: int, channels: int, side: int | None = None) -> Tensor:
        return to_pixels(self.load(index, channels))

    def tensors(self, start: int, stop: int, channels: int) -> Tensor:
        """Return the pixels of images `start` to `stop` (exclusive) as uint8 N x C x H x W."""
        stored = self.pixels[start:stop]
        if channels == 1 and stored.ndim == 4:
            return torch.stack([self.tensor(index, channels) for index in range(start, start + len(stored))])
        pixels = torch.from_numpy(stored)
        return pixels.permute(0, 3, 1, 2) if stored.ndim == 4 else pixels[:, None].expand(-1, channels, -1, -1)

    def name(self, index: int) -> str:
        return f"{self.numbers[index]:05d}"

    def digest(self, index: int) -> str:
        return hashlib.blake2b(self.pixels[index].tobytes(), digest_size=16).hexdigest()

    def subset(self, indices: Sequence[int] | np.ndarray) -> ImageArray:
        chosen = np.asarray(indices, int)
        return replace(self, pixels=self.pixels[chosen], labels=self.labels[chosen], numbers=self.numbers[chosen])

    def with_classes(self, kept: Sequence[int]) -> ImageArray:
        return replace(self, **_renumbered(self, kept))


def _renumbered(images: ImageFiles | ImageArray, kept: Sequence[int]) -> dict[str, Any]:
    number = np.full(len(images.classes), -1)
    number[list(kept)] = np.arange(len(kept))
    return {
        "labels": number[images.labels],
        "classes": [images.classes[label] for label in kept],
        "wnids": [images.wnids[label] for label in kept] if images.wnids else None,
    }


def joined(first: LabelledImages, second: LabelledImages) -> LabelledImages:
    """Concatenate two sequences of images of the same type and with the same classes."""
    labels = np.concatenate([first.labels, second.labels])
    if isinstance(first, ImageFiles) and isinstance(second, ImageFiles):
        root = Path(os.path.commonpath([first.root, second.root]))
        digests = first.digests + second.digests if first.digests and second.digests else None
        groups = first.groups + second.groups if first.groups and second.groups else None
        return replace(
            first, root=root, paths=first.paths + second.paths, labels=labels, digests=digests, groups=groups
        )
    if isinstance(first, ImageArray) and isinstance(second, ImageArray):
        pixels = np.concatenate([first.pixels, second.pixels])
        numbers = np.concatenate([first.numbers, len(first) + second.numbers])
        return replace(first, pixels=pixels, labels=labels, numbers=numbers)
    raise TypeError(f"{type(first).__name__} and {type(second).__name__} cannot be joined")


@dataclass(frozen=True)
class Splits:
    """A data set split as published; `val` and `test` are None if it does not define them."""

    train: LabelledImages
    val: LabelledImages | None = None
    test: LabelledImages | None = None
