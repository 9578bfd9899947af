"""Pictures of lines with their texts: in files, or drawn when they are read."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from cnnlab.data.decoding import decode_pixels
from cnnlab.data.levels import NO_RANGES, Ranges
from cnnlab.system.files import printable
from cnnlab.tasks.recognition.charset import Charset


class Lines(Protocol):
    """A sequence of pictures, each of one line of text."""

    def __len__(self) -> int: ...

    def text(self, index: int, epoch: int = 0) -> str:
        """Return the normalized text of line `index` in an epoch."""
        ...

    def tensor(self, index: int, channels: int, epoch: int = 0) -> Tensor:
        """Return the picture of line `index` in an epoch, uint8 C x H x W of any size."""
        ...

    def aspect(self, index: int, epoch: int = 0) -> float:
        """Return about how many times as wide as high the picture is."""
        ...

    def name(self, index: int) -> str:
        """Return the picture's name in lists and reports, unique within the data set."""
        ...

    def digest(self, index: int) -> str:
        """Return a hash of the picture's content."""
        ...

    def subset(self, indices: Sequence[int] | np.ndarray) -> "Lines":
        """Return the lines at `indices`, in that order."""
        ...


@dataclass(frozen=True)
class LineFiles:
    """Pictures in files below `root`."""

    root: Path
    paths: list[Path]
    texts: list[str]
    sizes: list[tuple[int, int]]
    """Height and width of each upright picture."""
    ranges: Ranges | None = None
    """Range of each kind of sample that is not an unsigned 8-bit number; None before the files have been scanned."""
    digests: list[str] | None = None
    """Result of `digest` for each file; None before the files have been scanned."""

    def __len__(self) -> int:
        return len(self.paths)

    def text(self, index: int, epoch: int = 0) -> str:
        return self.texts[index]

    def tensor(self, index: int, channels: int, epoch: int = 0) -> Tensor:
        return decode_pixels(self.paths[index], channels, None, self.ranges or NO_RANGES)

    def aspect(self, index: int, epoch: int = 0) -> float:
        height, width = self.sizes[index]
        return width / height

    def name(self, index: int) -> str:
        return printable(self.paths[index].relative_to(self.root).as_posix())

    def digest(self, index: int) -> str:
        if self.digests is not None:
            return self.digests[index]
        return hashlib.blake2b(self.paths[index].read_bytes(), digest_size=16).hexdigest()

    def subset(self, indices: Sequence[int] | np.ndarray) -> "LineFiles":
        return replace(
            self,
            paths=[self.paths[index] for index in indices],
            texts=[self.texts[index] for index in indices],
            sizes=[self.sizes[index] for index in indices],
            digests=self.digests and [self.digests[index] for index in indices],
        )


@dataclass(frozen=True)
class LineSplits:
    """A data set split as published; `val` and `test` are None if it does not define them."""

    train: Lines
    val: Lines | None = None
    test: Lines | None = None
    charset: Charset = field(default_factory=lambda: Charset(()))
