"""Batches in memory that the workers write and the main process reads: nothing is allocated, or sent, for each batch.

New memory costs the operating system more than a small picture costs to prepare, in the worker and again in the main
process; so the pages of a few batches are used over and over.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

AHEAD = 2
"""Batches that each worker prepares in advance (`prefetch_factor`)."""
SLOTS = AHEAD + 1
"""The worker may be at its k + AHEAD-th batch while the main process copies its k-th, but not further."""


class Place(NamedTuple):
    """Where a batch lies, and its labels."""

    worker: int
    slot: int
    labels: list[int]


class Slots:
    """Room for the batches under way: uint8 workers x SLOTS x N x H x W x C, shared by all processes.

    Called by the worker, as DataLoader's collate_fn; `batch` is for the main process.
    """

    def __init__(self, workers: int, batch_size: int, image_size: int, channels: int) -> None:
        shape = (workers, SLOTS, batch_size, image_size, image_size, channels)
        self.memory = torch.empty(shape, dtype=torch.uint8).share_memory_()
        self.next = 0
        """The worker's own: which of its slots comes next."""

    def __call__(self, examples: list[tuple[Tensor, int]]) -> Place | tuple[Tensor, Tensor]:
        """Put a batch where it belongs; one that does not fit there, of floats for instance, is sent as it is."""
        images, labels = zip(*examples, strict=True)
        worker = get_worker_info()
        assert worker is not None
        room = self.memory[worker.id, self.next]
        rows = [image.permute(1, 2, 0) for image in images]
        if len(rows) > len(room) or any(row.shape != room.shape[1:] or row.dtype != room.dtype for row in rows):
            return channels_last_batch(examples)
        torch.stack(rows, out=room[: len(rows)])
        place = Place(worker.id, self.next, list(labels))
        self.next = (self.next + 1) % SLOTS
        return place

    def batch(self, place: Place) -> tuple[Tensor, Tensor]:
        """A copy of the batch, as `channels_last_batch` makes it; to be taken before the next one is asked for."""
        images = self.memory[place.worker, place.slot, : len(place.labels)]
        copy = torch.empty(images.shape, dtype=images.dtype, pin_memory=torch.cuda.is_available()).copy_(images)
        return copy.permute(0, 3, 1, 2), torch.tensor(place.labels)


class SharedLoader(DataLoader):
    """A DataLoader of (uint8 C x H x W, int) whose batches of at most `batch_size` come through `Slots`."""

    def __init__(self, dataset: Dataset, batches: Iterable, slots: Slots, **options: Any) -> None:
        super().__init__(dataset, batch_sampler=batches, collate_fn=slots, prefetch_factor=AHEAD, **options)
        self.slots = slots

    def __iter__(self) -> Iterator[Any]:
        for made in super().__iter__():
            yield self.slots.batch(made) if isinstance(made, Place) else made


def channels_last_batch(examples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Images C x H x W and their labels -> N x C x H x W, with the channels of a pixel side by side, and int64 N."""
    images, labels = zip(*examples, strict=True)
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2), torch.tensor(labels)
