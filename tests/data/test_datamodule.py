"""Batches: what is in them, in which order, on which rank; and only the seed, the epoch and the index decide."""

import json
import logging
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import train_in_process
from PIL import Image
from program import draw_picture
from torchvision.transforms import v2

from cnnlab.data.datamodule import default_workers
from cnnlab.data.image_datamodule import ImageDataModule, build_data
from cnnlab.data.images import ImageArray, Splits
from cnnlab.data.sampling import EpochSampler
from cnnlab.data.sources.flowers import flowers
from cnnlab.data.sources.image_folder import image_folder
from cnnlab.errors import DataError, InputError

COUNT = 23
LEVELS = np.random.default_rng(0).integers(0, 256, (COUNT, 12, 10, 3), dtype=np.uint8)
LABELS = np.arange(COUNT) % 3
IMAGES = ImageArray(LEVELS, LABELS, ["a", "b", "c"], np.arange(COUNT))
RANDOM = (v2.RandomCrop(12, padding=3), v2.RandomHorizontalFlip(), v2.ColorJitter(0.5, 0.5))


def data_of(seed: int = 0, workers: int = 0, batch_size: int = 4, augmentations=(), **options) -> ImageDataModule:
    parts = Splits(IMAGES, options.pop("val", None), options.pop("test", None))
    sizes = {"channels": 3, "image_size": 12, "resize_size": 12} | options
    return ImageDataModule(
        parts, skipped={}, augmentations=augmentations, batch_size=batch_size, num_workers=workers, seed=seed, **sizes
    )


def on_rank(data: ImageDataModule, rank: int, world_size: int) -> ImageDataModule:
    data.trainer = SimpleNamespace(world_size=world_size, global_rank=rank, training=False)
    return data


def epochs(data: ImageDataModule, count: int) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
    """The batches of so many epochs, drawn from one loader as Lightning does."""
    loader = data.train_dataloader()
    found = []
    for epoch in range(count):
        loader.batch_sampler.sampler.set_epoch(epoch)
        found.append(list(loader))
    return found


def equal(left, right) -> bool:
    return all(torch.equal(a, b) for pair in zip(left, right, strict=True) for a, b in zip(*pair, strict=True))


# --- The order ---


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 200), world_size=st.integers(1, 7), seed=st.integers(0, 2**40), epoch=st.integers(0, 500))
def test_ranks_share_a_permutation_evenly(size, world_size, seed, epoch):
    samplers = [EpochSampler(size, seed, world_size, rank) for rank in range(world_size)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    drawn = [list(sampler) for sampler in samplers]
    assert {len(of_rank) for of_rank in drawn} == {len(sampler) for sampler in samplers} == {size // world_size}
    indices = [index for of_rank in drawn for _, index in of_rank]
    assert len(set(indices)) == len(indices) == size - size % world_size
    assert set(indices) <= set(range(size))
    assert {epoch for of_rank in drawn for epoch, _ in of_rank} <= {epoch}


def test_order_is_a_function_of_seed_and_epoch():
    def order(seed: int, epoch: int) -> list[tuple[int, int]]:
        sampler = EpochSampler(50, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    torch.manual_seed(1)
    first = order(3, 2)
    torch.manual_seed(2)
    sampler = EpochSampler(50, 3)
    for epoch in (7, 0, 2):  # whatever was drawn before
        sampler.set_epoch(epoch)
        last = list(sampler)
    assert first == last
    orders = {tuple(index for _, index in order(seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert all(sorted(each) == list(range(50)) for each in orders)


def test_every_place_sees_every_image():
    """Over many epochs each image comes first about as often as any other."""
    sampler = EpochSampler(8, 0)
    firsts = Counter()
    for epoch in range(800):
        sampler.set_epoch(epoch)
        firsts[next(iter(sampler))[1]] += 1
    assert sum((count - 100) ** 2 / 100 for count in firsts.values()) < 24.3  # chi-squared, 7 degrees: p = 0.001
    assert len(firsts) == 8


# --- The batches ---


@pytest.mark.parametrize(("channels", "size"), [(3, 12), (1, 12), (3, 8)])
def test_batches_are_uint8_and_labelled(channels, size):
    data = data_of(channels=channels, image_size=size, resize_size=size, val=IMAGES, test=IMAGES)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        images, labels = next(iter(loader))
        assert (images.dtype, images.shape) == (torch.uint8, (4, channels, size, size))
        assert (labels.dtype, labels.shape) == (torch.int64, (4,))


def test_batch_holds_the_pixels_of_its_images():
    """Pictures of just the size pass through untouched; each is found again by its pixels."""
    squares = ImageArray(LEVELS[:, :10], LABELS, IMAGES.classes, IMAGES.numbers)
    data = data_of(image_size=10, resize_size=10)
    data.parts = Splits(squares)
    place = {squares.pixels[index].tobytes(): index for index in range(COUNT)}
    first, second = epochs(data, 2)
    for batches in (first, second):
        seen = [
            (place[image.permute(1, 2, 0).contiguous().numpy().tobytes()], int(label))
            for images, labels in batches
            for image, label in zip(images, labels, strict=True)
        ]
        assert len(set(seen)) == len(seen) == 20  # five full batches of 23 images
        assert all(LABELS[index] == label for index, label in seen)
    assert not equal(first, second)


@pytest.mark.parametrize(("batch_size", "sizes"), [(4, [4] * 5), (23, [23]), (30, [23]), (1, [1] * 23)])
def test_short_last_batch_is_dropped_unless_it_is_the_only_one(batch_size, sizes):
    assert [len(labels) for _, labels in data_of(batch_size=batch_size).train_dataloader()] == sizes


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("part", ["val_dataloader", "test_dataloader"])
def test_evaluation_covers_every_image_once(world_size, part):
    data = data_of(val=IMAGES, test=IMAGES, image_size=10, resize_size=10)
    squares = ImageArray(LEVELS[:, :10], LABELS, IMAGES.classes, IMAGES.numbers)
    data.parts = Splits(squares, squares, squares)
    seen = [
        image.permute(1, 2, 0).contiguous().numpy().tobytes()
        for rank in range(world_size)
        for images, _ in getattr(on_rank(data, rank, world_size), part)()
        for image in images
    ]
    assert sorted(seen) == sorted(squares.pixels[index].tobytes() for index in range(COUNT))


def test_ranks_train_on_different_images():
    def labels_and_pixels(rank: int) -> list[bytes]:
        (batches,) = epochs(on_rank(data_of(batch_size=3), rank, 2), 1)
        return [image.numpy().tobytes() for images, _ in batches for image in images]

    left, right = labels_and_pixels(0), labels_and_pixels(1)
    assert len(left) == len(right) == 9  # three batches of eleven images each
    assert not set(left) & set(right)


def test_no_part_no_batches():
    data = data_of()
    assert data.val_dataloader() == data.test_dataloader() == []


def test_statistics_see_every_training_image_once_and_plain():
    data = data_of(augmentations=RANDOM, image_size=10, resize_size=10)
    batches = list(data.train_images())
    assert all(images.dtype == torch.float32 and images.min() >= 0 and images.max() <= 1 for images in batches)
    plain = torch.stack([data_of(image_size=10, resize_size=10).eval_dataset(IMAGES)[(0, i)][0] for i in range(COUNT)])
    assert torch.equal(torch.cat(batches), plain.float() / 255)


def test_sample_is_of_the_seed_and_without_repetition():
    first, again, other = data_of(seed=1).sample(9), data_of(seed=1).sample(9), data_of(seed=2).sample(9)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({image.numpy().tobytes() for image in first}) == 9
    assert len(data_of().sample(100)) == COUNT


# --- What augmentation depends on ---


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_workers_change_nothing():
    """Two epochs through 0, 1 and 3 workers, which live on from the first to the second."""
    none, one, three = (epochs(data_of(workers=workers, augmentations=RANDOM), 2) for workers in (0, 1, 3))
    for epoch in range(2):
        assert equal(none[epoch], one[epoch])
        assert equal(none[epoch], three[epoch])
    assert not equal(none[0], none[1])


def test_seed_and_epoch_and_index_change_the_augmentation():
    plain = data_of(augmentations=RANDOM)
    dataset, other = plain.train_dataloader().dataset, data_of(seed=1, augmentations=RANDOM).train_dataloader().dataset
    same_picture = ImageArray(LEVELS[[0, 0]], LABELS[:2], IMAGES.classes, np.arange(2))
    dataset.images = other.images = same_picture
    views = [dataset[(0, 0)][0], dataset[(1, 0)][0], dataset[(0, 1)][0], other[(0, 0)][0]]
    assert len({view.numpy().tobytes() for view in views}) == 4
    torch.manual_seed(5)
    assert torch.equal(dataset[(0, 0)][0], views[0])


def test_augmentation_leaves_the_random_state_alone():
    dataset = data_of(augmentations=RANDOM).train_dataloader().dataset
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    dataset[(0, 0)]
    assert torch.equal(torch.rand(4), expected)


def test_validation_and_test_images_are_never_augmented():
    augmented, plain = (data_of(val=IMAGES, test=IMAGES, augmentations=steps) for steps in (RANDOM, ()))
    for part in ("val_dataloader", "test_dataloader"):
        first, second = list(getattr(augmented, part)()), list(getattr(augmented, part)())
        assert equal(first, list(getattr(plain, part)()))
        assert equal(first, second)
    assert not equal(epochs(augmented, 1)[0], epochs(plain, 1)[0])


# --- From options to data ---


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes of twelve pictures."""
    for label, shape in enumerate(("circle", "square")):
        for number in range(12):
            draw_picture(tmp_path / "pictures" / shape / f"{number:02d}.png", shape, 100 * label + number)
    return tmp_path / "pictures"


def built(folder: Path, **options) -> ImageDataModule:
    sizes = {"channels": 3, "image_size": 16, "resize_size": 16, "num_workers": 0, "seed": 0}
    return build_data(lambda: image_folder(str(folder)), cache_dir=folder.parent / "cache", **sizes | options)


def names(part) -> set[str]:
    return {part.name(index) for index in range(len(part))}


def test_seed_never_moves_the_split(folder):
    splits = [built(folder, seed=seed) for seed in (0, 1, 2)]
    assert len({data.split_hash for data in splits}) == 1
    moved = built(folder, split_seed=1)
    assert moved.split_hash != splits[0].split_hash
    assert names(moved.parts.val) != names(splits[0].parts.val)
    orders = {tuple(data.train_dataloader().batch_sampler.sampler) for data in splits}
    assert len(orders) == 3


def test_flowers_are_split_alike_for_every_seed(shared_data, tmp_path):
    sizes = {"channels": 3, "image_size": 32, "resize_size": 32, "cache_dir": tmp_path, "images_per_class": 40}
    splits = [build_data(lambda: flowers(str(shared_data / "flower_photos")), seed=seed, **sizes) for seed in (0, 7)]
    assert splits[0].split_hash == splits[1].split_hash
    assert np.bincount(splits[0].parts.val.labels).tolist() == [4] * 5


def test_selection_comes_before_the_split(folder):
    data = built(folder, images_per_class=5, val_fraction=0.4, test_fraction=0.2)
    assert [np.bincount(part.labels).tolist() for part in (data.parts.train, data.parts.val, data.parts.test)] == [
        [2, 2],
        [2, 2],
        [1, 1],
    ]


def test_published_parts_follow_the_chosen_classes(tmp_path):
    for part in ("train", "val"):
        for label, shape in enumerate(("circle", "square", "oval")):
            for number in range(4):
                seed = 1000 * (part == "val") + 100 * label + number
                draw_picture(tmp_path / "pictures" / part / shape / f"{number}.png", shape, seed)
    data = built(tmp_path / "pictures", classes=["square", "circle"], images_per_class=3)
    assert data.classes == data.parts.val.classes == ["circle", "square"]
    assert (len(data.parts.train), len(data.parts.val)) == (6, 8)
    assert {name.split("/")[0] for name in names(data.parts.val)} == {"circle", "square"}


def test_copy_of_a_training_image_in_a_published_part_is_reported(tmp_path, caplog):
    for part, first in (("train", 0), ("val", 50)):
        for label, shape in enumerate(("circle", "square")):
            for number in range(3):
                path = tmp_path / "pictures" / part / shape / f"{number}.png"
                draw_picture(path, shape, first + 100 * label + number)
    root = tmp_path / "pictures"
    shutil.copy(root / "train" / "circle" / "1.png", root / "val" / "circle" / "copy.png")
    with caplog.at_level(logging.WARNING, "cnnlab"):
        built(root)
    assert [record.getMessage() for record in caplog.records] == [
        "1 of the 7 published val images are also in training, and count towards the score: "
        "circle/copy.png = circle/1.png."
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 48}, "takes 48 input channels"),
        ({"batch_size": 0}, r"data\.batch_size=0: use at least 1"),
        ({"num_workers": -1}, r"data\.num_workers=-1: use 0 to load in the main process"),
        ({"bad_images": "ignore"}, r"data\.bad_images=ignore"),
        ({"val_fraction": 1.5}, r"data\.val_fraction=1\.5"),
        ({"images_per_class": 0}, r"data\.images_per_class=0"),
        ({"classes": ["sqare", "circle"]}, r"unknown class sqare\. Did you mean square"),
    ],
)
def test_options_that_cannot_work_are_refused(folder, options, message):
    with pytest.raises(InputError, match=message):
        built(folder, **options)


def test_small_data_need_no_workers(monkeypatch):
    monkeypatch.setattr("cnnlab.data.datamodule.cores", lambda: 16)
    assert (default_workers(2500), default_workers(2501)) == (0, 8)
    monkeypatch.setattr("cnnlab.data.datamodule.cores", lambda: 2)
    assert default_workers(10_000) == 2


# --- In a run ---

RUN = (
    *("data=image_folder", "model=lenet5", "preprocessing=standardize", "augmentation=none", "callbacks=none"),
    *("logger=none", "trainer=cpu", "trainer.max_epochs=1", "data.num_workers=0"),
)


def test_run_lists_what_it_left_out(folder, tmp_path):
    (folder / "circle" / "notes.txt").write_text("three circles")
    whole = (folder / "square" / "03.png").read_bytes()
    (folder / "square" / "03.png").write_bytes(whole[:60])
    Image.new("F", (9, 9), float("nan")).save(folder / "square" / "floats.tiff")
    run = tmp_path / "run"
    record = train_in_process(run, *RUN, f"data.root={folder}", "data.bad_images=skip")
    assert record["images"] == {"train": 21, "val": 2}
    listed = (run / "skipped_images.txt").read_text().splitlines()
    assert [line.partition(": ")[0] for line in listed] == [
        f"{folder}/{name}" for name in ("circle/notes.txt", "square/03.png", "square/floats.tiff")
    ]
    kept = [name for part in ("train", "val") for name in (run / "splits" / f"{part}.txt").read_text().split()]
    assert len(kept) == 23
    assert not {"circle/notes.txt", "square/03.png", "square/floats.tiff"} & set(kept)
    assert json.loads((run / "class_indices.json").read_text()) == {"0": "circle", "1": "square"}


def test_bad_image_ends_the_run_before_the_first_epoch(folder, tmp_path):
    (folder / "circle" / "notes.png").write_text("three circles")
    with pytest.raises(DataError, match=r"1 of 25 files .*\n.*circle/notes\.png"):
        train_in_process(tmp_path / "run", *RUN, f"data.root={folder}")
    assert not (tmp_path / "run").exists()


def test_odd_pictures_train(folder, tmp_path):
    """Every kind that is read: one of each beside the others, through a whole epoch."""
    picture = Image.open(folder / "circle" / "00.png")
    odd = folder / "circle"
    picture.convert("CMYK").save(odd / "cmyk.jpg")
    picture.convert("P").save(odd / "palette.gif")
    picture.convert("RGBA").save(odd / "transparent.webp", lossless=True)
    picture.convert("1").save(odd / "one_bit.png")
    picture.save(odd / "animated.png", save_all=True, append_images=[picture.rotate(90)])
    Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257).save(odd / "deep.TIF")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.save(odd / "turned.jpg", exif=turned)
    record = train_in_process(tmp_path / "run", *RUN, f"data.root={folder}")
    assert record["images"]["train"] + record["images"]["val"] == 31
    assert not (tmp_path / "run" / "skipped_images.txt").exists()
