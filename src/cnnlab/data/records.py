"""Images as training needs them, decoded and brought to size once (`data.record_cache`).

A record is uint8 H x W x C: the rows of a window are stretches of the file, in the layout that torch resizes fastest.
"""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import joblib
from torch import Tensor
from torchvision.transforms import v2

from cnnlab.data.datamodule import ImageDataModule
from cnnlab.data.images import ImageFiles, LabelledImages
from cnnlab.data.store import Entry, Store
from cnnlab.data.transforms import EvalTransform, TrainTransform
from cnnlab.errors import InputError

log = logging.getLogger(__name__)
FORMAT = 2
"""Counts up when the same key gives other records than before."""
TRIED = 16
"""Images from whose sizes the room for all of them is estimated."""
BATCH = 16
"""Images that a thread prepares at a time."""


def keep_records(setting: str, data: ImageDataModule, store: Store, epochs: int, show: bool = True) -> None:
    """Give `data` records of its training and validation images, if `data.record_cache` and the machine allow it.

    epochs: how often training reads the images. show: a progress bar, where it takes a while.
    Raises InputError for a setting that there is not, and for "on" where records cannot be.
    """
    if not wanted(setting):
        return
    try:
        require_use(setting, data, store, epochs)
        data.records = {
            part: records_of(images, transform, data.channels, store, show)
            for part, images, transform in (
                ("train", data.parts.train, data.train_transform),
                ("val", data.parts.val, data.eval_transform),
            )
            if images is not None
        }
    except (InputError, OSError) as error:
        if setting == "on":
            raise InputError(f"data.record_cache=on cannot be: {error}") from error
        log.info("Record cache off: %s", error)


def wanted(setting: str) -> bool:
    """Whether `data.record_cache` asks for records; raises InputError for a setting that there is not."""
    if setting not in ("auto", "on", "off"):
        raise InputError(f"data.record_cache={setting}: use auto, on or off.")
    return setting != "off"


def records_of(
    images: LabelledImages, transform: EvalTransform | TrainTransform, channels: int, store: Store, show: bool = True
) -> Entry:
    """The entry that holds every image as `transform` prepares it, uint8 H x W x C.

    A picture whose short side has more than `transform.needed_side()` pixels is reduced to that; others keep every bit.
    Raises OSError if the disk is full or cannot be written.
    """
    entry = store.entry("records", record_parts(transform, channels))
    digests = [images.digest(index) for index in range(len(images))]
    index_of = {digest: index for index, digest in enumerate(digests)}

    def prepare(batch: Sequence[str]) -> list[Tensor]:
        return [record(images, index_of[digest], transform, channels) for digest in batch]

    def produce(batches: Iterator[Sequence[str]]) -> Iterator[list[Tensor]]:
        threads = joblib.cpu_count()
        with ThreadPoolExecutor(threads) as pool:
            begun: deque[Future[list[Tensor]]] = deque()
            for batch in batches:
                begun.append(pool.submit(prepare, batch))
                if len(begun) == 2 * threads:  # they go on while what is done is written
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()

    if entry.missing(digests):
        entry.fill(digests, produce, BATCH, "Resizing images", show)
        store.shrink()
    return entry


def record_parts(transform: EvalTransform | TrainTransform, channels: int) -> dict[str, Any]:
    """What records depend on, beside the image."""
    return {
        "channels": channels,
        "short_side": transform.needed_side(),
        **transform.prepared_as(),
        "format": FORMAT,
    }


def record(images: LabelledImages, index: int, transform: EvalTransform | TrainTransform, channels: int) -> Tensor:
    """Image `index` as `transform` prepares it, contiguous H x W x C; see `records_of`."""
    side = transform.needed_side()
    pixels = transform.prepare(images.tensor(index, channels, side))
    if side is not None and min(pixels.shape[-2:]) > side:
        pixels = v2.functional.resize(pixels, [side], antialias=True)
    return pixels.permute(1, 2, 0).contiguous()


def require_use(setting: str, data: ImageDataModule, store: Store, epochs: int) -> None:
    """Raises InputError, saying why, if records would be of no use or cannot be; see `keep_records`."""
    if setting == "auto" and epochs < 2:
        raise InputError(f"training reads each image {'once' if epochs else 'never'}.")
    train = data.parts.train
    if not isinstance(train, ImageFiles):
        raise InputError("the images are in memory.")
    tried = range(0, len(train), -(-len(train) // TRIED))
    mean = sum(record(train, index, data.train_transform, data.channels).numel() for index in tried) / len(tried)
    store.require_room(mean * (len(train) + len(data.parts.val or ())), "Resized images")
