"""Cache decoded and resized images as records, so that training does so only once (`data.record_cache`).

A record is uint8 H x W x C: each row of a crop is contiguous in the file, in the layout that torch resizes fastest.
The first epoch makes the records, each in the worker that needs it; later epochs and runs read them.
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
FORMAT = 3
"""Format version; increase it when the same key would give different records."""
TRIED = 16
"""Number of images from which the total size of the records is estimated."""
PORTION = 16 << 20
"""Bytes of new records that a process collects before it writes them."""


class Records:
    """The images of one part as `transform` prepares them, read from `entry` or else made and added to it.

    An image whose short side is longer than `transform.needed_side()` is resized to that; others are stored exactly.
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
        """Digest -> record that this process has made but not written yet."""
        self._writer: int | None = None
        """Id of the process that has registered to write the rest of `_made` when it exits; None before that."""

    def __getitem__(self, index: int) -> Tensor:
        """Return image `index` as uint8 C x H x W; it must not be written to."""
        digest = self.images.digest(index)
        row = self._found(digest)
        if row is None:
            row = record(self.images, index, self.transform, self.channels)
            self._keep(digest, row)
        return row.permute(2, 0, 1)

    def missing(self) -> list[str]:
        """Return the digests of the images that are not stored yet."""
        return self.entry.missing(self.images.digest(index) for index in range(len(self.images)))

    def write(self) -> None:
        """Add the records that this process has made to the entry; if that fails, stop storing records."""
        if not self._made:
            return
        try:
            self.entry.add(self._made)
        except OSError as error:
            log.warning("Cannot store images in %s (%s): they are decoded every time.", self.entry.path, error)
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
    """Add the remaining records of a worker at its exit; errors are ignored, since nothing could handle them there."""
    with suppress(OSError):
        entry.add(made)


Transform = EvalTransform | TrainTransform
Recordable = Mapping[str, tuple[LabelledImages, Transform]]
"""Part of the data -> its images and the transform that prepares them; "train" is always present."""


def open_records(setting: str, parts: Recordable, channels: int, store: Store, epochs: int) -> dict[str, Records]:
    """Return the records of the training and validation images; empty if records are off or not possible.

    setting: data.record_cache, "auto", "on" or "off". epochs: how often training reads the images.
    Raises InputError for an unknown setting, and for "on" if records are not possible.
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
    """Return whether `data.record_cache` asks for records; raise InputError for an unknown setting."""
    if setting not in ("auto", "on", "off"):
        raise InputError(f"data.record_cache={setting}: use auto, on or off.")
    return setting != "off"


def records_of(parts: Recordable, channels: int, entry: Callable[[str, dict[str, Any]], Entry]) -> dict[str, Records]:
    """Return part -> its records.

    entry: function of kind and parts that returns the store's entry: `Store.entry`, or `Store.look` to read only.
    """
    return {
        name: Records(images, transform, channels, entry("records", record_parts(transform, channels)))
        for name, (images, transform) in parts.items()
    }


def record_parts(transform: EvalTransform | TrainTransform, channels: int) -> dict[str, Any]:
    """Return everything that records depend on besides the image."""
    return {
        "channels": channels,
        "short_side": transform.needed_side(),
        **transform.prepared_as(),
        "format": FORMAT,
    }


def record(images: LabelledImages, index: int, transform: EvalTransform | TrainTransform, channels: int) -> Tensor:
    """Return image `index` as `transform` prepares it, uint8 contiguous H x W x C; see `Records`."""
    side = transform.needed_side()
    pixels = transform.prepare(images.tensor(index, channels, side))
    if side is not None and min(pixels.shape[-2:]) > side:
        pixels = v2.functional.resize(pixels, [side], antialias=True)
    return pixels.permute(1, 2, 0).contiguous()


def require_use(setting: str, parts: Recordable, channels: int, store: Store, epochs: int) -> float:
    """Return the mean size of a record in bytes, estimated from a few images.

    Raises InputError that says why if records are useless or not possible.
    """
    if setting == "auto" and epochs < 2:
        raise InputError(f"training reads each image {'once' if epochs else 'never'}.")
    train, transform = parts["train"]
    if not isinstance(train, ImageFiles):
        raise InputError("the images are in memory.")
    tried = range(0, len(train), -(-len(train) // TRIED))
    mean = sum(record(train, index, transform, channels).numel() for index in tried) / len(tried)
    store.require_room(mean * sum(len(images) for images, _ in parts.values()), "Resized images")
    return mean
