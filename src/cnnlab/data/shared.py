"""Batches in memory that the workers write and the main process reads: nothing is allocated, copied or sent for each.

New memory costs the operating system more than a small picture costs to prepare, in the worker and again in the main
process; so the pages of a few batches are used over and over.
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
"""Batches that each worker prepares in advance (`prefetch_factor`); with fewer, cores that it shares with the main
process stand still for a twentieth of the time."""
SLOTS = AHEAD + 2
"""Beside those, one that the main process works on, and one that it has asked for meanwhile."""


class Place(NamedTuple):
    """Where a batch lies, and its labels."""

    worker: int
    slot: int
    labels: list[int]


class Slots:
    """Room for the batches under way, of `shape` workers x SLOTS x N x H x W x C, uint8, shared by all processes.

    Called by the worker, as DataLoader's collate_fn; `batch` is for the main process.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.memory = torch.empty(shape, dtype=torch.uint8).share_memory_()
        self.held = torch.zeros(shape[:2], dtype=torch.bool).share_memory_()
        """Where a batch lies that the main process has taken and still refers to."""
        self.recent: deque[int] = deque(maxlen=AHEAD)
        """The worker's own: where its last batches lie, which the main process may not have taken yet."""

    def __call__(self, examples: list[tuple[Tensor, int]]) -> Place | tuple[Tensor, Tensor]:
        """Put a batch where none lies; one that does not fit, of floats for instance, or too many, is sent as it is."""
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
        """The batch as `channels_last_batch` makes it; its memory is used again once nothing refers to it any more.

        Where there is a GPU it is a copy in pinned memory. To be taken before the next one is asked for.
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
        if os.getpid() == owner:  # not a worker that was forked meanwhile, and has the main process's objects too
            self.held[place.worker, place.slot] = False


class SharedLoader(DataLoader):
    """A DataLoader of (uint8 C x H x W, int) whose batches of at most `batch_size` come through `Slots`."""

    def __init__(self, dataset: Dataset, batches: Iterable, slots: Slots, **options: Any) -> None:
        super().__init__(dataset, batch_sampler=batches, collate_fn=slots, prefetch_factor=AHEAD, **options)
        self.slots = slots

    def __iter__(self) -> Iterator[Any]:
        for made in super().__iter__():
            yield self.slots.batch(made) if isinstance(made, Place) else made


def image_loader(
    dataset: Dataset, batches: Iterable, batch_size: int, image_size: int, channels: int, **options: Any
) -> DataLoader:
    """The batches of a data set of (uint8 C x H x W, int), shared where workers prepare them and there is room.

    options: what DataLoader is told about its workers.
    """
    shape = (options["num_workers"], SLOTS, batch_size, image_size, image_size, channels)
    if options["num_workers"] and _has_room(math.prod(shape)):
        return SharedLoader(dataset, batches, Slots(shape), **options)
    return DataLoader(dataset, batch_sampler=batches, collate_fn=channels_last_batch, **options)


def _has_room(size: int) -> bool:
    """Whether shared memory, of which containers often have 64 MiB, has `size` bytes left: else a worker would die."""
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:  # macOS and Windows keep it elsewhere
        return True
    if free <= size:
        log.info(
            "Batches are sent one by one: %s has %.0f MiB, shared ones need %.0f (docker run --shm-size).",
            *(SHARED_MEMORY, free / MIB, size / MIB),
        )
    return free > size


def channels_last_batch(examples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Images C x H x W and their labels -> N x C x H x W, with the channels of a pixel side by side, and int64 N."""
    images, labels = zip(*examples, strict=True)
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2), torch.tensor(labels)
