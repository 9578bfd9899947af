"""Images kept in memory: the batches are those that are read and augmented one by one."""

import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from in_process import digits_with, parts_of_a_run
from PIL import Image
from program import draw_picture
from torchvision.transforms import v2

from cnnlab.data import in_memory
from cnnlab.data.augmentations import RandomAffine
from cnnlab.data.image_datamodule import ImageDataModule, build_data
from cnnlab.data.images import ImageArray, Splits
from cnnlab.data.in_memory import MemoryLoader, labels_of
from cnnlab.data.sources.image_folder import image_folder
from cnnlab.errors import InputError

COUNT = 23
LEVELS = np.random.default_rng(0).integers(0, 256, (COUNT, 12, 10, 3), dtype=np.uint8)
LABELS = np.arange(COUNT) % 3
MANY = (v2.RandomCrop(12, padding=3), v2.RandomHorizontalFlip(), RandomAffine(20, (0.2, 0.2), border="edge"))


def array(channels: int = 3, labels: np.ndarray = LABELS) -> ImageArray:
    levels = LEVELS if channels == 3 else LEVELS[..., 0]
    return ImageArray(levels, labels, ["a", "b", "c"], np.arange(COUNT))


def data_of(
    images: ImageArray, memory_gib: float, augmentations=MANY, batch_size: int = 4, **options
) -> ImageDataModule:
    arguments = {"channels": 3, "image_size": 12, "resize_size": 12, "num_workers": 0, "seed": 0} | options
    return ImageDataModule(
        Splits(images, images, images),
        skipped={},
        augmentations=augmentations,
        batch_size=batch_size,
        memory_gib=memory_gib,
        **arguments,
    )


def epoch(loader, number: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    loader.batch_sampler.sampler.set_epoch(number)
    return list(loader)


def assert_same(left, right) -> None:
    left, right = list(left), list(right)
    assert len(left) == len(right) > 0
    for (images, labels), (expected, classes) in zip(left, right, strict=True):
        assert torch.equal(images, expected)
        assert torch.equal(labels, classes)
        assert labels.dtype == classes.dtype
        assert images.is_contiguous(memory_format=torch.channels_last)


def both(images: ImageArray, **options) -> tuple[ImageDataModule, ImageDataModule]:
    return data_of(images, 1.0, **options), data_of(images, 0.0, **options)


@pytest.mark.parametrize("augmentations", [(), MANY, (v2.RandomResizedCrop(12),)], ids=len)
@pytest.mark.parametrize("batch_size", [1, 4, 23, 40])
def test_batches_are_those_of_images_read_one_by_one(batch_size, augmentations):
    kept, read = both(array(), batch_size=batch_size, augmentations=augmentations)
    assert isinstance(kept.train_dataloader(), MemoryLoader)
    assert not isinstance(read.train_dataloader(), MemoryLoader)
    for number in (0, 3):
        assert_same(epoch(kept.train_dataloader(), number), epoch(read.train_dataloader(), number))
    assert_same(kept.val_dataloader(), read.val_dataloader())
    assert_same(kept.test_dataloader(), read.test_dataloader())
    assert len(kept.train_dataloader()) == len(read.train_dataloader())


def test_batches_do_not_depend_on_how_many_are_made_at_once(monkeypatch):
    kept, read = both(array())
    for size in (1, 3 * 4 * 12 * 12 * 3, 1 << 20):
        monkeypatch.setattr(in_memory, "TOGETHER", size)
        assert_same(epoch(kept.train_dataloader()), epoch(read.train_dataloader()))


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_and_resumed_epochs_get_their_own_images(rank):
    kept, read = both(array())
    for data in (kept, read):
        strategy = SimpleNamespace(root_device=torch.device("cpu"))
        data.trainer = SimpleNamespace(world_size=2, global_rank=rank, training=False, strategy=strategy)
    loaders = [data.train_dataloader().loader for data in (kept, read)]
    for loader in loaders:
        loader.batch_sampler.first = 1
    assert_same(*(epoch(loader, 2) for loader in loaders))
    assert_same(kept.val_dataloader(), read.val_dataloader())


@pytest.mark.parametrize(("stored", "channels"), [(1, 1), (1, 3), (3, 1)])
def test_colours_are_converted_alike(stored, channels):
    kept, read = both(array(stored), channels=channels)
    assert_same(epoch(kept.train_dataloader()), epoch(read.train_dataloader()))
    assert all(map(torch.equal, kept.train_images(), read.train_images()))


def test_values_are_float32_as_they_are_one_by_one():
    kept, read = both(array(labels=LABELS / 7))
    assert labels_of(kept.parts.train).dtype == torch.float32
    assert_same(epoch(kept.train_dataloader()), epoch(read.train_dataloader()))


def test_what_is_yielded_may_be_changed():
    """By whoever works in place: the next epoch is made of the same prepared images."""
    data = data_of(array(), 1.0, augmentations=())
    first = [images.clone() for images, _ in epoch(data.train_dataloader())]
    for images, _ in epoch(data.train_dataloader()):
        images.zero_()
    assert all(map(torch.equal, first, (images for images, _ in epoch(data.train_dataloader()))))


def test_limit_is_in_gib_and_said(caplog):
    size = COUNT * 12 * 12 * 3 / 2**30
    with caplog.at_level(logging.INFO, "cnnlab"):
        below, exactly = (data_of(array(), limit, augmentations=()) for limit in (size * 0.999, size))
        assert not below.train_dataloader().in_memory
        assert exactly.train_dataloader().in_memory
    more, kept = caplog.messages
    assert more.startswith("Not in memory: 23 images of 3 x 12 x 12, 0.0 MiB, more than data.memory_gib=9.2")
    assert kept == "In memory: 23 images of 3 x 12 x 12, 0.0 MiB."
    assert_same(epoch(below.train_dataloader()), epoch(exactly.train_dataloader()))


def test_augmentation_that_does_not_work_on_batches_is_named(caplog):
    with caplog.at_level(logging.INFO, "cnnlab"):
        loader = data_of(array(), 1.0, (v2.TrivialAugmentWide(), v2.RandomHorizontalFlip())).train_dataloader()
    assert not isinstance(loader, MemoryLoader)
    assert caplog.messages == ["Images are augmented one by one: TrivialAugmentWide does not work on batches."]


def test_only_the_parts_of_a_run_are_kept():
    data = data_of(array(), 1.0)
    few = data.parts.val.subset([0, 3])
    assert not isinstance(data.eval_dataloader(few), MemoryLoader)
    assert isinstance(data.eval_dataloader(data.parts.val), MemoryLoader)


# --- Files ---


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes of six square pictures."""
    for label, shape in enumerate(("circle", "square")):
        for number in range(6):
            draw_picture(tmp_path / "pictures" / shape / f"{number}.png", shape, 100 * label + number, (24, 24))
    return tmp_path / "pictures"


def from_files(folder: Path, memory_gib: float, epochs: int = 2, augmentations=MANY, **options) -> ImageDataModule:
    arguments = {"channels": 3, "image_size": 12, "resize_size": 14, "num_workers": 0, "seed": 0, "batch_size": 3}
    data = build_data(
        lambda: image_folder(str(folder)),
        cache_dir=folder.parent / "cache",
        memory_gib=memory_gib,
        augmentations=augmentations,
        **arguments | options,
    )
    data.reading_epochs = epochs
    return data


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("augmentations", [(), MANY, (v2.RandomResizedCrop(12),)], ids=len)
def test_files_that_are_read_again_are_kept(folder, augmentations, workers):
    kept, read = (from_files(folder, gib, augmentations=augmentations, num_workers=workers) for gib in (1.0, 0.0))
    assert kept.train_dataloader().in_memory
    assert_same(epoch(kept.train_dataloader(), 1), epoch(read.train_dataloader(), 1))
    assert_same(kept.val_dataloader(), read.val_dataloader())
    for path in folder.rglob("*.png"):
        path.unlink()
    assert_same(epoch(kept.train_dataloader(), 1), epoch(kept.train_dataloader(), 1))


def test_files_that_are_read_once_are_not_kept(folder):
    assert not isinstance(from_files(folder, 1.0, epochs=1).train_dataloader(), MemoryLoader)


@pytest.mark.parametrize("position", [0, -1])
def test_images_of_different_sizes_are_read_one_by_one(folder, position, monkeypatch, caplog):
    """Even if the few that are tried are of one size."""
    monkeypatch.setattr(in_memory, "TRIED", 1)
    wide = sorted((folder / "circle").iterdir())[position]
    Image.open(wide).resize((40, 24)).save(wide)
    kept, read = (from_files(folder, gib, val_fraction=0.0) for gib in (1.0, 0.0))
    with caplog.at_level(logging.INFO, "cnnlab"):
        assert_same(epoch(kept.train_dataloader()), epoch(read.train_dataloader()))
    assert "Not in memory: 12 images of different sizes." in caplog.messages


@pytest.mark.parametrize("limit", [-1.0, float("nan")])
def test_impossible_limit_is_refused(folder, limit):
    with pytest.raises(InputError, match=r"data\.memory_gib=.*: use 0"):
        from_files(folder, limit)


# --- In a run ---


def test_network_learns_the_same_from_memory(tmp_path):
    """Weights after two epochs are the same bits, with and without."""
    short = (
        "trainer.max_epochs=2",
        "trainer.limit_train_batches=3",
        "trainer.limit_val_batches=2",
        "data.batch_size=8",
    )
    options = digits_with("augmentation=[random_crop,rotate]", *short)
    states = []
    for gib in (0, 1):
        trainer, module, data = parts_of_a_run(tmp_path / str(gib), *options, f"data.memory_gib={gib}")
        trainer.fit(module, datamodule=data)
        states.append(module.network.state_dict())
    assert [name for name, value in states[0].items() if not torch.equal(value, states[1][name])] == []
