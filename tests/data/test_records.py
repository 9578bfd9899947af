"""Records hold what training makes of an image each time: to the bit, unless the file is larger than training needs."""

import errno
import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from in_process import train_in_process
from PIL import Image
from program import draw_picture
from safetensors import safe_open
from torchvision.transforms import v2

from cnnlab.data.image_datamodule import ImageDataModule, build_data
from cnnlab.data.records import open_records
from cnnlab.data.sampling import Draw
from cnnlab.data.sources.digits import digits
from cnnlab.data.sources.image_folder import image_folder
from cnnlab.data.store import Store
from cnnlab.errors import InputError

AUGMENTATIONS = {
    "crops": lambda: [v2.RandomResizedCrop(32, scale=(0.5, 1.0), antialias=True), v2.RandomHorizontalFlip()],
    "window": lambda: [v2.RandomCrop(32, padding=4)],
    "flips": lambda: [v2.RandomHorizontalFlip()],
    "none": list,
}


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """Twelve small pictures, and six of 400 x 300 pixels."""
    for label, shape in enumerate(("circle", "square")):
        for number in range(6):
            draw_picture(tmp_path / "pictures" / shape / f"{number}.png", shape, 100 * label + number)
        for number in range(3):
            draw_picture(tmp_path / "pictures" / shape / f"large{number}.jpg", shape, 50 + label + number, (400, 300))
    return tmp_path / "pictures"


def data_of(drawn: Path, augmentation: str, workers: int = 0) -> ImageDataModule:
    return build_data(
        lambda: image_folder(drawn),
        augmentations=AUGMENTATIONS[augmentation](),
        cache_dir=drawn.parent / "cache",
        seed=0,
        channels=3,
        image_size=32,
        resize_size=36,
        batch_size=4,
        num_workers=workers,
    )


def epoch_of(data: ImageDataModule, epoch: int = 3) -> list[torch.Tensor]:
    loader = data.train_dataloader()
    loader.batch_sampler.sampler.set_epoch(epoch)
    return [tensor for batch in loader for tensor in batch]


def batches_of(data: ImageDataModule) -> list[Draw]:
    """What the first epoch trains on."""
    return [draw for batch in data.train_dataloader().batch_sampler for draw in batch]


def keep_records(setting: str, data: ImageDataModule, store: Store, epochs: int) -> None:
    data.records = open_records(setting, data.recordable, data.channels, store, epochs)


def filled(data: ImageDataModule, store: Store) -> ImageDataModule:
    """`data` with records of all its images in `store`, written by an epoch of each part."""
    keep_records("on", data, store, epochs=2)
    epoch_of(data)
    list(data.val_dataloader())
    for records in data.records.values():
        records.write()
    return data


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_batches_are_the_same_with_and_without_records(tmp_path, drawn, augmentation):
    """The same order, labels and, of files that need not be reduced, bits; of the others nearly the same pixels."""
    plain, recorded = data_of(drawn, augmentation), data_of(drawn, augmentation)
    keep_records("on", recorded, Store(tmp_path / "cache"), epochs=2)
    assert set(recorded.records) == {"train", "val"}
    expected, making, found = epoch_of(plain), epoch_of(recorded), epoch_of(recorded)
    assert all(torch.equal(first, second) for first, second in zip(making, found, strict=True))
    assert len(expected) == len(found)
    reduced = 0
    for first, second in zip(expected, found, strict=True):
        if torch.equal(first, second):
            continue
        reduced += 1
        assert augmentation == "crops"
        assert (first.float() - second.float()).abs().mean() < 4
    assert (reduced > 0) == (augmentation == "crops")
    for (first, labels), (second, same) in zip(plain.val_dataloader(), recorded.val_dataloader(), strict=True):
        assert torch.equal(first, second)
        assert torch.equal(labels, same)


def test_records_are_as_large_as_training_needs(tmp_path, drawn):
    """32 pixels cut from half of the area: 32 / sqrt(0.5) = 45.3 pixels on the short side."""
    data = filled(data_of(drawn, "crops"), Store(tmp_path / "cache"))
    train, records = data.parts.train, data.records["train"]
    assert records.missing() == []
    for index in range(len(train)):
        width, height = train.load(index, 3).size
        shape = tuple(records.entry[train.digest(index)].shape)
        assert shape == ((46, 61, 3) if (width, height) == (400, 300) else (height, width, 3))


def test_files_are_not_read_again(tmp_path, drawn, monkeypatch):
    filled(data_of(drawn, "crops"), Store(tmp_path / "cache"))
    data = data_of(drawn, "crops")

    def refuses(*_: object) -> None:
        raise AssertionError("a file is decoded")

    monkeypatch.setattr("cnnlab.data.images.decode_pixels", refuses)
    monkeypatch.setattr("cnnlab.data.images.decode", refuses)
    data.records = {}
    with pytest.raises(AssertionError, match="a file is decoded"):
        epoch_of(data)
    monkeypatch.setattr("cnnlab.data.records.require_use", lambda *_: 0.0)
    keep_records("on", data, Store(tmp_path / "cache"), epochs=2)
    assert len(epoch_of(data)) == 8
    list(data.val_dataloader())


def test_changed_file_has_a_new_record(tmp_path, drawn):
    before = filled(data_of(drawn, "flips"), Store(tmp_path / "cache"))
    path = before.parts.train.paths[0]
    pixels = 255 - np.asarray(Image.open(path))
    Image.fromarray(pixels).save(path)
    after = filled(data_of(drawn, "flips"), Store(tmp_path / "cache"))
    index = next(index for index, other in enumerate(after.parts.train.paths) if other == path)
    expected = after.eval_transform(Image.fromarray(pixels))
    assert torch.equal(after.records["train"][index], expected)
    assert not torch.equal(before.records["train"][0], expected)


def test_unaugmented_parts_share_their_records(tmp_path, drawn):
    data = data_of(drawn, "flips")
    keep_records("on", data, Store(tmp_path / "cache"), epochs=2)
    assert len(Store(tmp_path / "cache").infos()) == 1
    other = data_of(drawn, "crops")
    keep_records("on", other, Store(tmp_path / "cache"), epochs=2)
    assert len(Store(tmp_path / "cache").infos()) == 2


def test_reasons_against_records(tmp_path, drawn, caplog):
    data = data_of(drawn, "crops")
    with caplog.at_level("INFO"):
        keep_records("auto", data, Store(tmp_path / "cache"), epochs=1)
        keep_records("auto", data, Store(tmp_path / "cache", limit_gib=1e-9), epochs=5)
        keep_records("off", data, Store(tmp_path / "cache"), epochs=5)
    assert data.records == {}
    assert "Record cache off: training reads each image once." in caplog.text
    assert "Record cache off: Resized images need 0.0 GiB" in caplog.text
    with pytest.raises(InputError, match=r"data\.record_cache=on is not possible: Resized images need"):
        keep_records("on", data, Store(tmp_path / "cache", limit_gib=1e-9), epochs=5)
    with pytest.raises(InputError, match=r"data\.record_cache=yes: use auto, on or off"):
        keep_records("yes", data, Store(tmp_path / "cache"), epochs=5)


def test_images_in_memory_need_no_records(tmp_path):
    small = build_data(digits, cache_dir=tmp_path, seed=0, channels=1, image_size=32, resize_size=32, num_workers=0)
    with pytest.raises(InputError, match="the images are in memory"):
        keep_records("on", small, Store(tmp_path / "cache"), epochs=5)


def test_run_with_records_is_the_run_without(tmp_path, drawn):
    """Files of twice the needed size and more are left out, so that the runs are equal to the bit."""
    for large in drawn.rglob("large*"):
        large.unlink()
    states = []
    for setting in ("on", "off"):
        folder = tmp_path / setting
        train_in_process(
            folder,
            "model=lenet5",
            "model.network.in_channels=3",
            "model.in_channels=3",
            "preprocessing=standardize",
            "data=image_folder",
            f"data.root={drawn}",
            "data.batch_size=4",
            "data.num_workers=0",
            f"data.record_cache={setting}",
            "augmentation=[random_resized_crop,flip]",
            "trainer=cpu",
            "trainer.max_epochs=2",
            "callbacks=none",
            "logger=none",
        )
        states.append(torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    assert Store(tmp_path / "cache").infos()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_workers_share_what_they_make(tmp_path, drawn):
    """Two workers decode in the first epoch and write what is left when they end: the next run decodes none of that."""
    store = Store(tmp_path / "cache")
    data = data_of(drawn, "crops", workers=2)
    keep_records("on", data, store, epochs=2)
    expected = epoch_of(data_of(drawn, "crops"), 0)
    found = epoch_of(data, 0)
    assert [tensor.shape for tensor in found] == [tensor.shape for tensor in expected]
    gc.collect()  # the loader and its workers end
    read = data_of(drawn, "crops")
    keep_records("on", read, store, epochs=2)
    seen = {read.parts.train.digest(index) for _, index in batches_of(read)}
    assert not seen & set(read.records["train"].missing())
    assert all(torch.equal(first, second) for first, second in zip(found, epoch_of(read, 0), strict=True))


def test_each_image_is_written_once_by_processes_that_meet(tmp_path, drawn):
    """Of two that made the same images, the second adds only what the first has not."""
    store = Store(tmp_path / "cache")
    first, second = data_of(drawn, "flips"), data_of(drawn, "flips")
    for data in (first, second):
        keep_records("on", data, store, epochs=2)
    epoch_of(first)
    list(second.val_dataloader())
    epoch_of(second)
    first.records["train"].write()
    for records in second.records.values():
        records.write()
    entry = second.records["train"].entry
    held = [image for file in entry.path.glob("*.safetensors") for image in safe_open(file, "pt").keys()]  # noqa: SIM118
    assert len(held) == len(set(held)) == 18


def test_full_disk_ends_the_keeping_not_the_training(tmp_path, drawn, caplog, monkeypatch):
    data = data_of(drawn, "flips")
    keep_records("on", data, Store(tmp_path / "cache"), epochs=2)
    expected = epoch_of(data_of(drawn, "flips"))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cnnlab.data.store.write_atomically", full)
    monkeypatch.setattr("cnnlab.data.records.PORTION", 3 * 32 * 32 * 5)
    found = epoch_of(data)
    assert all(torch.equal(first, second) for first, second in zip(expected, found, strict=True))
    said = [record for record in caplog.records if "No space left on device" in record.getMessage()]
    assert len(said) == 1
    assert "they are decoded every time" in said[0].getMessage()
