"""Batches of workers are those of a plain loop over the data set, however small /dev/shm is, and stay what they are."""

import logging
import multiprocessing
import os
import time
from itertools import islice

import pytest
import torch
from container import in_container
from torch.utils._pytree import tree_leaves
from torch.utils.data import BatchSampler, Dataset, default_collate

from cnnlab.data.shared import (
    SLOTS,
    Loader,
    Place,
    Slots,
    Transport,
    channels_last_batch,
    default_batch,
)
from cnnlab.errors import DataError
from cnnlab.system import processes
from cnnlab.system.faults import translate_error

SIZE = 6


class Counted(Dataset):
    """Image `index` holds that number everywhere but in its corner, and is labelled with it."""

    def __init__(self, dtype: torch.dtype = torch.uint8, side: int = SIZE) -> None:
        self.dtype = dtype
        self.side = side

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = torch.full((3, self.side, self.side), index, dtype=self.dtype)
        image[1, 0, 2] = 200
        return image, index


def loader_of(dataset: Dataset, workers: int = 2, batch_size: int = 3) -> Loader:
    batches = BatchSampler(range(100), batch_size, drop_last=False)
    return Loader(dataset, batches, Slots(workers, batch_size, SIZE, 3), workers)


def check(batches: list, dtype: torch.dtype = torch.uint8, side: int = SIZE) -> None:
    for number, (images, labels) in enumerate(batches):
        expected = [Counted(dtype, side)[index] for index in range(3 * number, min(100, 3 * number + 3))]
        assert torch.equal(images, torch.stack([image for image, _ in expected]))
        assert images.dtype == dtype
        assert labels.tolist() == [label for _, label in expected]
        assert labels.dtype == torch.int64
        assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_of_several_epochs_stay_what_they_were(workers):
    """There are more batches than slots; one epoch is broken off while the workers are ahead."""
    loader = loader_of(Counted(), workers)
    first = list(loader)
    broken = list(islice(loader, 5))
    second = list(loader)
    assert len(first) == len(second) == 34 > workers * SLOTS
    check(first)
    check(broken)
    check(second)


@pytest.mark.parametrize(("dtype", "side"), [(torch.float32, SIZE), (torch.uint8, SIZE + 1)])
def test_batches_that_do_not_fit_are_sent_as_they_are(dtype, side):
    batches = list(loader_of(Counted(dtype, side), workers=1))
    assert len(batches) == 34
    check(batches, dtype, side)


def test_worker_leaves_alone_what_has_not_been_taken_yet(monkeypatch):
    """A main process that is slow to take its batches gives the worker time to be as far ahead as it may."""
    taken = Slots.unpack

    def slowly(slots: Slots, place: Place) -> tuple[torch.Tensor, torch.Tensor]:
        time.sleep(0.02)
        return taken(slots, place)

    monkeypatch.setattr(Slots, "unpack", slowly)
    check(list(loader_of(Counted(), workers=1)))


@pytest.mark.parametrize("workers", [1, 2])
def test_views_of_a_batch_keep_its_memory(workers):
    """A part of every other batch is kept, in another layout, and nothing else of any."""
    kept = []
    for number, (images, _) in enumerate(loader_of(Counted(), workers)):
        if number % 2 == 0:
            kept.append((number, images[1:2].permute(0, 2, 3, 1)[..., 0]))
    assert len(kept) == 17 > workers * SLOTS
    for number, part in kept:
        assert part.unique().tolist() == [3 * number + 1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="batches are copied to pinned memory")
def test_memory_of_batches_that_nothing_refers_to_is_used_again(monkeypatch):
    """34 batches that are used one by one, of which the main process may hold two, all lie in the shared memory."""
    taken, places = Slots.unpack, []

    def noted(slots: Slots, place: Place) -> tuple[torch.Tensor, torch.Tensor]:
        places.append(place)
        return taken(slots, place)

    monkeypatch.setattr(Slots, "unpack", noted)
    loader = loader_of(Counted(), workers=1)
    current = None
    for following in loader:  # as Lightning does, which has one batch more than the one it works on
        current = following
    assert len(places) == 34
    assert {place.slot for place in places} <= set(range(SLOTS))
    del current, following
    assert not loader.transport.held.any()


def test_closed_loader_has_no_workers_and_works_again():
    loader = loader_of(Counted(), workers=1)
    before = multiprocessing.active_children()
    check(list(loader))
    (worker,) = set(multiprocessing.active_children()) - set(before)
    loader.close()
    assert not worker.is_alive()
    check(list(loader))


def test_plain_batch_has_the_same_layout():
    images, labels = channels_last_batch([Counted()[index] for index in range(4)])
    assert torch.equal(images, torch.stack([Counted()[index][0] for index in range(4)]))
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.tolist() == [0, 1, 2, 3]


@pytest.mark.skipif(torch.cuda.is_available(), reason="batches are copied to pinned memory")
def test_forked_process_releases_nothing_of_its_parent():
    loader = loader_of(Counted(), workers=1)
    batches = iter(loader)
    images, _ = next(batches)
    child = os.fork()
    if not child:
        del images
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert loader.transport.held.sum() == 1
    del images
    assert not loader.transport.held.any()


def test_slots_made_in_inference_mode_are_released_outside():
    """As Lightning's evaluation makes its loaders, whose batches a gradient step may outlive."""
    with torch.inference_mode():
        loader = loader_of(Counted(), workers=1)
        images, _ = next(iter(loader))
    del images
    assert not loader.transport.held.any()


# --- With little shared memory, as in a container ---


class Mixed(Dataset):
    """A float tensor, one of another dtype, and numbers and names; 64 KiB for each example."""

    def __getitem__(self, index: int) -> dict:
        image = torch.full((4, 64, 64), index / 7)
        return {"image": image, "half": image[0].bfloat16(), "target": (index, index / 3), "name": str(index)}


def mixed_loader(workers: int) -> Loader:
    return Loader(Mixed(), BatchSampler(range(20), 3, drop_last=False), Transport(default_batch), workers)


def same(left, right) -> bool:
    """Whether two batches hold the same tensors, of the same types, and names."""
    pairs = zip(tree_leaves(left), tree_leaves(right), strict=True)
    return all(a == b if isinstance(a, str) else torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)


def test_loaders_of_a_run_work_together_where_shared_memory_holds_less_than_a_batch():
    """Two loaders of images at once, and one of other batches, in 512 KiB: torch's own way needs 768 KiB a batch."""

    def run() -> None:
        size, pixels = 256, torch.arange(256, dtype=torch.uint8).expand(3, 256, 256)
        images = [(pixels.roll(number, 2), number) for number in range(20)]
        batches = BatchSampler(range(20), 4, drop_last=False)
        train, val = (Loader(images, batches, Slots(2, 4, size, 3), num_workers=2) for _ in range(2))
        for first, second in zip(train, val, strict=True):
            expected = [images[number][0] for number in first[1].tolist()]
            assert same(first, second)
            assert torch.equal(first[0], torch.stack(expected))
        found = list(mixed_loader(workers=2))
        alone = [
            default_collate([Mixed()[index] for index in range(start, min(20, start + 3))]) for start in range(0, 20, 3)
        ]
        assert all(same(one, other) for one, other in zip(found, alone, strict=True))

    in_container("size=512k", run)


@pytest.mark.parametrize("shared_memory", ["ro", "nr_inodes=4"])
def test_without_semaphores_the_main_process_loads(shared_memory, caplog):
    """Read-only, and without room for a file: nothing can be sent to a worker, so that none is started."""

    def run() -> tuple[int, list[str]]:
        processes._warn_of_missing_workers.cache_clear()
        for _ in range(2):
            loader = loader_of(Counted())
            check(list(loader))
            check(list(loader))
        return loader.num_workers, [record.getMessage() for record in caplog.records]

    with caplog.at_level(logging.WARNING):
        workers, messages = in_container(shared_memory, run)
    assert workers == 0
    (message,) = messages
    assert "docker run --shm-size" in message


def test_shared_memory_of_torch_that_is_used_up_is_trouble_with_the_machine():
    def run() -> str:
        try:
            torch.zeros(1 << 20).share_memory_()
        except RuntimeError as error:
            return str(translate_error(error))
        return ""

    assert "/dev/shm is too small" in in_container("size=1m", run)


class Unsendable(Transport):
    def pack(self, examples):
        return lambda: examples


class Locally(Dataset):
    """Its error is of a class that the main process cannot know."""

    def __getitem__(self, index: int) -> int:
        class OddError(Exception):
            pass

        raise OddError("no such example")


@pytest.mark.parametrize(
    ("dataset", "transport", "reason"),
    [(Counted(), Unsendable(list), "<lambda>|local object"), (Locally(), Transport(list), "OddError: no such example")],
)
def test_what_cannot_be_sent_ends_the_loader_with_an_error(dataset, transport, reason):
    """By default Python prints the error of the thread that sends, and the main process waits for ever."""
    loader = Loader(dataset, BatchSampler(range(9), 3, drop_last=False), transport, num_workers=1)
    with pytest.raises(DataError, match=f"could not send a batch: .*({reason})"):
        next(iter(loader))
