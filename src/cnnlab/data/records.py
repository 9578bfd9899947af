"""Images as training needs them, decoded and brought to size once (`data.record_cache`).

A record is uint8 H x W x C: the rows of a window are stretches of the file, in the layout that torch resizes fastest.
The first epoch makes the records, each in the worker that needs it, and later epochs and runs read them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.util import Finalize
from typing import Any

from torch import Tensor
from torchvision.transforms import v2

from cnnlab.data.images import ImageFiles, LabelledImages
from cnnlab.data.store import Entry, Store
from cnnlab.data.transforms import EvalTransform, TrainTransform
from cnnlab.errors import InputError

log = logging.getLogger(__name__)
FORMAT = 2
"""Counts up when the same key gives other records than before."""
TRIED = 16
"""Images from whose sizes the room for all of them is estimated."""
PORTION = 16 << 20
"""Bytes of records that a process collects before it writes them."""


class Records:
    """The images of one part as `transform` prepares them, read from `entry`, or made and added to it.

    A picture whose short side has more than `transform.needed_side()` pixels is reduced to that; others keep every bit.
    """

    def __init__(
        self, images: LabelledImages, transform: EvalTransform | TrainTransform, channels: int, entry: Entry
    ) -> None:
        self.images = images
        self.transform = transform
        self.channels = channels
        self.entry = entry
        self.writes = True
        self._made: dict[str, Tensor] = {}
        """What this process has made and not written yet."""
        self._writer: int | None = None
        """The process that writes what is left in `_made` when it ends, or is done with these records."""

    def __getitem__(self, index: int) -> Tensor:
        """Image `index`: uint8 C x H x W, not to be written to."""
        digest = self.images.digest(index)
        row = self._found(digest)
        if row is None:
            row = record(self.images, index, self.transform, self.channels)
            self._keep(digest, row)
        return row.permute(2, 0, 1)

    def missing(self) -> list[str]:
        """The digests of the images that are not kept yet."""
        return self.entry.missing(self.images.digest(index) for index in range(len(self.images)))

    def write(self) -> None:
        """Add what this process has made to the entry; if the disk refuses, nothing more is kept."""
        if not self._made:
            return
        try:
            self.entry.add(self._made)
        except OSError as error:
            log.warning("Images are no longer kept in %s (%s): they are decoded every time.", self.entry.path, error)
            self.writes = False
        self._made.clear()

    def _found(self, digest: str) -> Tensor | None:
        if digest in self._made:
            return self._made[digest]
        if digest not in self.entry:
            self.entry.refresh_if_changed()
            if digest not in self.entry:
                return None
        return self.entry[digest]

    def _keep(self, digest: str, row: Tensor) -> None:
        if not self.writes:
            return
        if self._writer != os.getpid():
            Finalize(self, write_rest, (self.entry, self._made), exitpriority=0)
            self._writer = os.getpid()
        self._made[digest] = row
        if sum(made.numel() for made in self._made.values()) >= PORTION:
            self.write()


def write_rest(entry: Entry, made: dict[str, Tensor]) -> None:
    """Add what a worker that ends has made; it has nobody to tell if the disk refuses."""
    with suppress(OSError):
        entry.add(made)


Transform = EvalTransform | TrainTransform
Recordable = Mapping[str, tuple[LabelledImages, Transform]]
"""Part of the data -> its images and the transform that prepares them; "train" is always there."""


def open_records(setting: str, parts: Recordable, channels: int, store: Store, epochs: int) -> dict[str, Records]:
    """Return the records of the training and validation images, if `data.record_cache` and the machine allow it.

    epochs: how often training reads the images.
    Raises InputError for an unknown setting, and for "on" where records are not possible.
    """
    if not wanted(setting):
        return {}
    try:
        size = require_use(setting, parts, channels, store, epochs)
        records = records_of(parts, channels, store.entry)
        store.shrink(size * sum(len(each.missing()) for each in records.values()))
    except (InputError, OSError) as error:
        if setting == "on":
            raise InputError(f"data.record_cache=on is not possible: {error}") from error
        log.info("Record cache off: %s", error)
        return {}
    return records


def wanted(setting: str) -> bool:
    """Whether `data.record_cache` asks for records; raises InputError for a setting that there is not."""
    if setting not in ("auto", "on", "off"):
        raise InputError(f"data.record_cache={setting}: use auto, on or off.")
    return setting != "off"


def records_of(parts: Recordable, channels: int, entry: Callable[[str, dict[str, Any]], Entry]) -> dict[str, Records]:
    """Return part -> its records, in what `entry` gives for kind and parts: `Store.entry`, or `Store.look`."""
    return {
        name: Records(images, transform, channels, entry("records", record_parts(transform, channels)))
        for name, (images, transform) in parts.items()
    }


def record_parts(transform: EvalTransform | TrainTransform, channels: int) -> dict[str, Any]:
    """What records depend on, beside the image."""
    return {
        "channels": channels,
        "short_side": transform.needed_side(),
        **transform.prepared_as(),
        "format": FORMAT,
    }


def record(images: LabelledImages, index: int, transform: EvalTransform | TrainTransform, channels: int) -> Tensor:
    """Image `index` as `transform` prepares it, contiguous H x W x C; see `Records`."""
    side = transform.needed_side()
    pixels = transform.prepare(images.tensor(index, channels, side))
    if side is not None and min(pixels.shape[-2:]) > side:
        pixels = v2.functional.resize(pixels, [side], antialias=True)
    return pixels.permute(1, 2, 0).contiguous()


def require_use(setting: str, parts: Recordable, channels: int, store: Store, epochs: int) -> float:
    """Return the bytes of a record, about; raise InputError, saying why, if records are of no use or not possible."""
    if setting == "auto" and epochs < 2:
        raise InputError(f"training reads each image {'once' if epochs else 'never'}.")
    train, transform = parts["train"]
    if not isinstance(train, ImageFiles):
        raise InputError("the images are in memory.")
    tried = range(0, len(train), -(-len(train) // TRIED))
    mean = sum(record(train, index, transform, channels).numel() for index in tried) / len(tried)
    store.require_room(mean * sum(len(images) for images, _ in parts.values()), "Resized images")
    return mean
