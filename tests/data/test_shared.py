"""Batches that come through shared memory are those of a plain loop over the data set, and stay what they are."""

import os
import time
from itertools import islice

import pytest
import torch
from torch.utils.data import BatchSampler, Dataset

from cnnlab.data.shared import SLOTS, Place, SharedLoader, Slots, channels_last_batch

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


def loader_of(dataset: Dataset, workers: int = 2, batch_size: int = 3) -> SharedLoader:
    slots = Slots((workers, SLOTS, batch_size, SIZE, SIZE, 3))
    batches = BatchSampler(range(100), batch_size, drop_last=False)
    return SharedLoader(dataset, batches, slots, num_workers=workers, persistent_workers=True)


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
    taken = Slots.batch

    def slowly(slots: Slots, place: Place) -> tuple[torch.Tensor, torch.Tensor]:
        time.sleep(0.02)
        return taken(slots, place)

    monkeypatch.setattr(Slots, "batch", slowly)
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
    taken, places = Slots.batch, []

    def noted(slots: Slots, place: Place) -> tuple[torch.Tensor, torch.Tensor]:
        places.append(place)
        return taken(slots, place)

    monkeypatch.setattr(Slots, "batch", noted)
    loader = loader_of(Counted(), workers=1)
    current = None
    for following in loader:  # as Lightning does, which has one batch more than the one it works on
        current = following
    assert len(places) == 34
    assert {place.slot for place in places} <= set(range(SLOTS))
    del current, following
    assert not loader.slots.held.any()


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
    assert loader.slots.held.sum() == 1
    del images
    assert not loader.slots.held.any()
