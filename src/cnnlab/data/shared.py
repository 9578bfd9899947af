"""Pass batches from workers to the main process: in shared memory that is reused, or else as bytes.

It avoids /dev/shm, where torch would put every tensor: containers often have only 64 MiB there.
Allocating new memory costs more than preparing a small image, in the worker and again in the main process.
"""

import math
import mmap
import multiprocessing
import multiprocessing.queues
import os
import pickle
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple
from weakref import finalize

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data._utils.collate import collate, default_collate_fn_map

from cnnlab.errors import DataError
from cnnlab.system.processes import can_start_workers

FORKS = sys.platform == "linux"
"""Whether workers are forked, and so share the data set and the slots as they are."""
CONTEXT = multiprocessing.get_context("fork" if FORKS else None)
AHEAD = 4
"""Batches that each worker prepares in advance (`prefetch_factor`); with fewer, cores are idle at times."""
SLOTS = AHEAD + 2
"""Slots for each worker: the batches prepared in advance, the one being processed, and the one requested next."""


class Sent(NamedTuple):
    """A pickled batch."""

    contents: bytes


class Failed(NamedTuple):
    """Why a batch could not be sent."""

    reason: str


class Place(NamedTuple):
    """The worker and slot that hold a batch, and the labels of the batch."""

    worker: int
    slot: int
    labels: list[int]


class Transport:
    """Sends batches of any kind as bytes. A worker calls `pack`, the main process calls `unpack`.

    collate: makes a batch of a list of examples.
    """

    def __init__(self, collate: Callable[[list], Any]) -> None:
        self.collate = collate

    def pack(self, examples: list) -> Any:
        """Return the batch as it is sent to the main process; the batch itself if this is the main process."""
        batch = self.collate(examples)
        return batch if get_worker_info() is None else Sent(pickle.dumps(batch, pickle.HIGHEST_PROTOCOL))

    def unpack(self, packed: Any) -> Any:
        """Return the batch that `pack` was given; raise DataError if it could not be sent."""
        if isinstance(packed, Failed):
            raise DataError(f"A data loading process could not send a batch: {packed.reason}")
        return pickle.loads(packed.contents) if isinstance(packed, Sent) else packed


class Slots(Transport):
    """Shared memory for batches in transit: uint8, workers x SLOTS x N x H x W x C.

    Batches are lists of (uint8 C x H x W, number); those that do not fit are sent as bytes.
    """

    def __init__(self, num_workers: int, batch_size: int, image_size: int, channels: int) -> None:
        super().__init__(channels_last_batch)
        self.memory = shared_zeros((num_workers, SLOTS, batch_size, image_size, image_size, channels), torch.uint8)
        self.held = shared_zeros((num_workers, SLOTS), torch.bool)
        """Workers x SLOTS: True for slots whose batch the main process has taken and still uses."""
        self.recent: deque[int] = deque(maxlen=AHEAD)
        """Slots of this worker's last batches, which the main process may not have taken yet."""

    def pack(self, examples: list[tuple[Tensor, int]]) -> Any:
        """Write a batch to a free slot and return its place.

        Returns what Transport does if no slot is free or if it does not fit, because it is too large or not uint8.
        """
        worker = get_worker_info()
        if worker is None:
            return super().pack(examples)
        images, labels = zip(*examples, strict=True)
        rows = [image.permute(1, 2, 0) for image in images]
        slot = self._free_slot(worker.id)
        if slot is None or not self._fit(rows):
            return super().pack(examples)
        torch.stack(rows, out=self.memory[worker.id, slot, : len(rows)])
        self.recent.append(slot)
        return Place(worker.id, slot, list(labels))

    def _free_slot(self, worker: int) -> int | None:
        held = self.held[worker].tolist()
        return next((slot for slot in range(SLOTS) if not held[slot] and slot not in self.recent), None)

    def _fit(self, rows: list[Tensor]) -> bool:
        room = self.memory[0, 0]
        return len(rows) <= len(room) and all(row.shape == room.shape[1:] and row.dtype == room.dtype for row in rows)

    def unpack(self, packed: Any) -> Any:
        """Return the batch as `channels_last_batch` would; its slot is reused when nothing refers to it any more.

        On a machine with a GPU it is a copy in pinned memory. Call this before requesting the next batch.
        """
        if not isinstance(packed, Place):
            return super().unpack(packed)
        images = self.memory[packed.worker, packed.slot, : len(packed.labels)]
        if torch.cuda.is_available():
            images = torch.empty(images.shape, dtype=images.dtype, pin_memory=True).copy_(images)
        else:
            pixels = images.numpy()
            self.held[packed.worker, packed.slot] = True
            finalize(pixels, self._release, packed, os.getpid()).atexit = False
            images = torch.from_numpy(pixels)  # refers to `pixels` as long as anything refers to its memory
        return images.permute(0, 3, 1, 2), torch.tensor(packed.labels)

    def _release(self, place: Place, owner: int) -> None:
        if os.getpid() == owner:  # not in a worker forked later, which has copies of the main process's objects
            self.held[place.worker, place.slot] = False


class Loader(DataLoader):
    """A DataLoader that passes its batches through `transport`; where no worker can be started it works without."""

    def __init__(self, dataset: Dataset, batches: Iterable, transport: Transport, num_workers: int) -> None:
        super().__init__(
            dataset,
            batch_sampler=batches,
            collate_fn=transport.pack,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            prefetch_factor=AHEAD if num_workers else None,
            worker_init_fn=begin_worker,
            multiprocessing_context=CONTEXT if num_workers else None,
        )
        self.transport = transport
        self._started = False

    def close(self) -> None:
        """End the workers, which otherwise live as long as the loader."""
        if self.num_workers and self._iterator is not None:
            self._iterator._shutdown_workers()  # type: ignore[attr-defined]
            self._iterator = None

    def __iter__(self) -> Iterator[Any]:
        if self.num_workers and not self._started and not can_start_workers(self.num_workers):
            self.num_workers = 0
        self._started = True
        for packed in super().__iter__():
            yield pinned(self.transport.unpack(packed))  # without a name here: its slot is free when the caller is done


def pinned(batch: Any) -> Any:
    """Return the batch in pinned memory on a machine with a GPU."""
    return tree_map_only(Tensor, Tensor.pin_memory, batch) if torch.cuda.is_available() else batch


@torch.inference_mode(False)  # the tensor is also written to outside of the mode in which Lightning makes loaders
def shared_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return zeros in memory that workers share; pages that are never written to take none."""
    if not math.prod(shape):
        return torch.zeros(shape, dtype=dtype)
    if not FORKS:
        return torch.zeros(shape, dtype=dtype).share_memory_()
    return torch.frombuffer(mmap.mmap(-1, math.prod(shape) * dtype.itemsize), dtype=dtype).view(shape)


def begin_worker(worker: int) -> None:
    """Prepare a worker: one thread, and an answer to the main process for every batch."""
    torch.set_num_threads(1)
    # A hook of Python's own: by default the error is printed, and the main process waits for the batch forever.
    multiprocessing.queues.Queue._on_queue_feeder_error = report_unsent  # type: ignore[attr-defined]


def report_unsent(queue: Any, error: Exception, item: tuple[int, Any]) -> None:
    """Send the reason why a batch could not be sent; end the worker if even that is not possible."""
    number, contents = item
    if isinstance(contents, Failed):
        os._exit(1)
    lines = str(getattr(contents, "exc_msg", error)).strip().splitlines()  # of an error that cannot be pickled
    queue.put((number, Failed(lines[-1] if lines else type(error).__name__)))


def default_batch(examples: list) -> Any:
    """Return examples as a batch like torch's default_collate, but in memory of this process also in a worker."""
    return collate(examples, collate_fn_map={**default_collate_fn_map, Tensor: _stacked})


def _stacked(tensors: list[Tensor], *, collate_fn_map: Any = None) -> Tensor:
    return torch.stack(tensors)


def channels_last_batch(examples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Stack images C x H x W and labels into a channels-last N x C x H x W tensor and an int64 tensor N."""
    images, labels = zip(*examples, strict=True)
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2), torch.tensor(labels)
