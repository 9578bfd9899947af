"""Images with their objects: in files, or drawn when they are read."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from cnnlab.data.decoding import decode, decode_pixels
from cnnlab.data.levels import NO_RANGES, Ranges
from cnnlab.tasks.detection.truth import Truth


class AnnotatedImages(Protocol):
    """A sequence of images and the objects in each."""

    @property
    def classes(self) -> list[str]:
        """The class names, in the order of the labels."""
        ...

    @property
    def has_masks(self) -> bool:
        """Whether every object has a mask."""
        ...

    def __len__(self) -> int: ...

    def load(self, index: int, channels: int) -> Image.Image:
        """Return image `index` as an 8-bit PIL image with 1 or 3 channels."""
        ...

    def tensor(self, index: int, channels: int) -> Tensor:
        """Return the pixels of `load` as uint8 C x H x W."""
        ...

    def truth(self, index: int) -> Truth:
        """Return the objects of image `index`, in pixels of `load`."""
        ...

    def size(self, index: int) -> tuple[int, int]:
        """Return the height and width of image `index`."""
        ...

    def name(self, index: int) -> str:
        """Return the image's name in lists and reports, unique within the data set."""
        ...

    def digest(self, index: int) -> str:
        """Return a hash of the image's content."""
        ...

    def subset(self, indices: Sequence[int] | np.ndarray) -> "AnnotatedImages":
        """Return the images at `indices`, in that order, with the same classes."""
        ...


@dataclass(frozen=True)
class AnnotatedFiles:
    """Images in files below `root`."""

    root: Path
    paths: list[Path]
    truths: list[Truth]
    sizes: list[tuple[int, int]]
    """Height and width of each upright image."""
    classes: list[str]
    has_masks: bool
    ranges: Ranges | None = None
    """Range of each kind of sample that is not an unsigned 8-bit number; None before the files have been scanned."""
    digests: list[str] | None = None
    """Result of `digest` for each file; None before the files have been scanned."""

    def __len__(self) -> int:
        return len(self.paths)

    def load(self, index: int, channels: int) -> Image.Image:
        return decode(self.paths[index], channels, self.ranges or NO_RANGES)

    def tensor(self, index: int, channels: int) -> Tensor:
        return decode_pixels(self.paths[index], channels, None, self.ranges or NO_RANGES)

    def truth(self, index: int) -> Truth:
        return self.truths[index]

    def size(self, index: int) -> tuple[int, int]:
        return self.sizes[index]

    def name(self, index: int) -> str:
        return self.paths[index].relative_to(self.root).as_posix()

    def digest(self, index: int) -> str:
        if self.digests is not None:
            return self.digests[index]
        return hashlib.blake2b(self.paths[index].read_bytes(), digest_size=16).hexdigest()

    def subset(self, indices: Sequence[int] | np.ndarray) -> "AnnotatedFiles":
        return replace(
            self,
            paths=[self.paths[index] for index in indices],
            truths=[self.truths[index] for index in indices],
            sizes=[self.sizes[index] for index in indices],
            digests=self.digests and [self.digests[index] for index in indices],
        )


@dataclass(frozen=True)
class AnnotatedSplits:
    """A data set split as published; `val` and `test` are None if it does not define them."""

    train: AnnotatedImages
    val: AnnotatedImages | None = None
    test: AnnotatedImages | None = None


def joined(splits: AnnotatedSplits) -> AnnotatedImages:
    """Return the images of all parts, which come from files if there are several."""
    images = splits.train
    for part in (splits.val, splits.test):
        if isinstance(part, AnnotatedFiles) and isinstance(images, AnnotatedFiles):
            digests = images.digests + part.digests if images.digests and part.digests else None
            images = replace(
                images,
                paths=images.paths + part.paths,
                truths=images.truths + part.truths,
                sizes=images.sizes + part.sizes,
                has_masks=images.has_masks and part.has_masks,
                digests=digests,
            )
    return images
