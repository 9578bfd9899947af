"""Pass batches from workers to the main process in shared memory that is reused, without copying or sending them.

Allocating new memory costs more than preparing a small image, in the worker and again in the main process.
"""

import logging
import math
import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple
from weakref import finalize

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

log = logging.getLogger(__name__)
SHARED_MEMORY = "/dev/shm"
MIB = 1 << 20
AHEAD = 4
"""Batches that each worker prepares in advance (`prefetch_factor`); with fewer, cores are idle at times."""
SLOTS = AHEAD + 2
"""Slots for each worker: the batches prepared in advance, the one being processed, and the one requested next."""


class Place(NamedTuple):
    """The worker and slot that hold a batch, and the labels of the batch."""

    worker: int
    slot: int
    labels: list[int]


class Slots:
    """Shared memory for batches in transit: uint8, of `shape` workers x SLOTS x N x H x W x C.

    The worker calls the object as DataLoader's collate_fn; the main process calls `batch`.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.memory = torch.empty(shape, dtype=torch.uint8).share_memory_()
        self.held = torch.zeros(shape[:2], dtype=torch.bool).share_memory_()
        """Workers x SLOTS: True for slots whose batch the main process has taken and still uses."""
        self.recent: deque[int] = deque(maxlen=AHEAD)
        """Slots of this worker's last batches, which the main process may not have taken yet."""

    def __call__(self, examples: list[tuple[Tensor, int]]) -> Place | tuple[Tensor, Tensor]:
        """Write a batch to a free slot and return its place.

        Returns the batch itself if no slot is free or if it does not fit, because it is too large or not uint8.
        """
        images, labels = zip(*examples, strict=True)
        worker = get_worker_info()
        assert worker is not None
        rows = [image.permute(1, 2, 0) for image in images]
        slot = self._free_slot(worker.id)
        if slot is None or not self._fit(rows):
            return channels_last_batch(examples)
        torch.stack(rows, out=self.memory[worker.id, slot, : len(rows)])
        self.recent.append(slot)
        return Place(worker.id, slot, list(labels))

    def _free_slot(self, worker: int) -> int | None:
        held = self.held[worker].tolist()
        return next((slot for slot in range(SLOTS) if not held[slot] and slot not in self.recent), None)

    def _fit(self, rows: list[Tensor]) -> bool:
        room = self.memory[0, 0]
        return len(rows) <= len(room) and all(row.shape == room.shape[1:] and row.dtype == room.dtype for row in rows)

    def batch(self, place: Place) -> tuple[Tensor, Tensor]:
        """Return the batch as `channels_last_batch` would; its slot is reused when nothing refers to it any more.

        On a machine with a GPU it is a copy in pinned memory. Call this before requesting the next batch.
        """
        images = self.memory[place.worker, place.slot, : len(place.labels)]
        if torch.cuda.is_available():
            images = torch.empty(images.shape, dtype=images.dtype, pin_memory=True).copy_(images)
        else:
            pixels = images.numpy()
            self.held[place.worker, place.slot] = True
            finalize(pixels, self._release, place, os.getpid()).atexit = False
            images = torch.from_numpy(pixels)  # refers to `pixels` as long as anything refers to its memory
        return images.permute(0, 3, 1, 2), torch.tensor(place.labels)

    def _release(self, place: Place, owner: int) -> None:
        if os.getpid() == owner:  # not in a worker forked later, which has copies of the main process's objects
            self.held[place.worker, place.slot] = False


class SharedLoader(DataLoader):
    """A DataLoader of (uint8 C x H x W, int) that passes its batches through `Slots`."""

    def __init__(self, dataset: Dataset, batches: Iterable, slots: Slots, **options: Any) -> None:
        super().__init__(dataset, batch_sampler=batches, collate_fn=slots, prefetch_factor=AHEAD, **options)
        self.slots = slots

    def __iter__(self) -> Iterator[Any]:
        for made in super().__iter__():
            yield self.slots.batch(made) if isinstance(made, Place) else made


def image_loader(
    dataset: Dataset, batches: Iterable, batch_size: int, image_size: int, channels: int, **options: Any
) -> DataLoader:
    """Return a loader of (uint8 C x H x W, int) that uses shared memory if it has workers and the memory suffices.

    options: DataLoader's arguments about its workers.
    """
    shape = (options["num_workers"], SLOTS, batch_size, image_size, image_size, channels)
    if options["num_workers"] and _has_room(math.prod(shape)):
        return SharedLoader(dataset, batches, Slots(shape), **options)
    return DataLoader(dataset, batch_sampler=batches, collate_fn=channels_last_batch, **options)


def _has_room(size: int) -> bool:
    """Return whether `size` bytes of shared memory are free; without them a worker would be killed.

    Containers often have only 64 MiB.
    """
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:  # macOS and Windows have it elsewhere
        return True
    if free <= size:
        log.info(
            "Batches are sent one by one: %s has %.0f MiB free, shared batches need %.0f (docker run --shm-size).",
            *(SHARED_MEMORY, free / MIB, size / MIB),
        )
    return free > size


def channels_last_batch(examples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Stack images C x H x W and labels into a channels-last N x C x H x W tensor and an int64 tensor N."""
    images, labels = zip(*examples, strict=True)
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2), torch.tensor(labels)
