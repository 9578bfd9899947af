"""The range of values is that of the data set: found in the scan, and the same in training and prediction."""

import logging
import re
import shutil

import numpy as np
import pytest
from in_process import train_in_process
from raw_images import BLACK_IS_ZERO, tiff

from cnnlab.api import apply_changes, data_of_run, load_run
from cnnlab.data.scanning import scan
from cnnlab.data.sources.image_folder import image_folder
from cnnlab.errors import DataError, InputError
from cnnlab.runs.folder import read_config

RUN = (
    *("data=image_folder", "model=lenet5", "preprocessing=standardize", "augmentation=none", "callbacks=none"),
    *("logger=none", "trainer=cpu", "trainer.max_epochs=1", "data.num_workers=0"),
)


def test_run_keeps_the_range_of_its_images(tmp_path, caplog):
    """12 bits of content in 16-bit files: training, evaluation and prediction see the same pixels, as NumPy scales."""
    rng = np.random.default_rng(0)
    for name, mean in (("dark", 1000), ("light", 3000)):
        for number in range(8):
            levels = np.clip(rng.normal(mean, 400, (32, 32)), 200, 3900).astype(np.uint16)
            levels[0, :2] = 200, 3900
            path = tmp_path / "images" / name / f"{number}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tiff(levels, BLACK_IS_ZERO, "<"))
    with caplog.at_level(logging.INFO, "cnnlab"):
        record = train_in_process(tmp_path / "run", *RUN, f"data.root={tmp_path / 'images'}", "data.channels=1")
    assert record["value_ranges"] == {"integer": [200, 3900]}
    assert (
        "16 of 16 images have integer values (uint16), from 200 to 3900: 200 becomes black and 3900 white"
        in caplog.text
    )
    loaded = load_run(tmp_path / "run")
    expected = np.rint((levels.astype(float) - 200) / 3700 * 255)
    assert np.abs(loaded.prepare(path)[0].numpy() - expected).max() <= 1
    single = tmp_path / "other" / "light" / "0.tif"  # of a narrower range, which must not be stretched
    single.parent.mkdir(parents=True)
    shutil.copytree(tmp_path / "images" / "dark", tmp_path / "other" / "dark")
    single.write_bytes(tiff(np.linspace(1000, 2000, 32 * 32).reshape(32, 32).astype(np.uint16), BLACK_IS_ZERO, "<"))
    cfg = read_config(tmp_path / "run")
    apply_changes(cfg, {"data.root": str(tmp_path / "other"), "data.val_fraction": "0"})
    data = data_of_run(cfg, loaded.spec)
    assert np.array_equal(data.eval_dataset(data.parts.train)[(0, 8)][0], loaded.prepare(single))
    assert abs(float(loaded.prepare(single).max()) - 1800 / 3700 * 255) <= 1


def test_caches_tell_ranges_apart(tmp_path):
    """The same file has other pixels in a data set of another range, so its records have another name."""
    for name, top in (("low", 1000), ("high", 4000)):
        for label in ("a", "b"):
            folder = tmp_path / name / label
            folder.mkdir(parents=True)
            for number in range(2):
                levels = np.full((8, 8), 500 + number, np.uint16)
                levels[0, 0] = top if (label, number) == ("b", 1) else 0
                (folder / f"{number}.tif").write_bytes(tiff(levels, BLACK_IS_ZERO, "<"))
    scans = {
        name: scan(image_folder(str(tmp_path / name)).train, "error", tmp_path / "cache") for name in ("low", "high")
    }
    assert scans["low"].ranges == {"integer": (0, 1000)}
    assert scans["low"].images.load(0, 1).getpixel((5, 5)) == 128
    assert scans["high"].images.load(0, 1).getpixel((5, 5)) == 32
    assert not set(scans["low"].digests) & set(scans["high"].digests)
    chosen = image_folder(str(tmp_path / "low"), value_range=[0, 500]).train
    assert scan(chosen, "error", tmp_path / "cache").images.load(0, 1).getpixel((5, 5)) == 255


def test_outliers_that_decide_the_range_are_reported(tmp_path, caplog):
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        levels = np.random.default_rng(0).integers(0, 4096, (64, 64)).astype(np.uint16)
        levels[3, 3] = 65535
        (tmp_path / label / "0.tif").write_bytes(tiff(levels, BLACK_IS_ZERO, "<"))
    with caplog.at_level(logging.WARNING, "cnnlab"):
        scan(image_folder(str(tmp_path)).train, "error", tmp_path / "cache")
    assert re.search(r"All but 0\.2 % .* between \d and 409\d, .*data\.dataset\.value_range=\[\d,409\d\]", caplog.text)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "cnnlab"):
        scan(image_folder(str(tmp_path), value_range=[0, 4095]).train, "error", tmp_path / "cache")
    assert "Integer values below 0 or above 4095 are clipped" in caplog.text


@pytest.mark.parametrize("value_range", [[1], [4, 4], [5, 0], [0, float("inf")], [1, 2, 3]])
def test_value_range_that_is_none_is_refused(tmp_path, value_range):
    with pytest.raises(InputError, match=r"data\.dataset\.value_range=.*use two numbers"):
        image_folder(str(tmp_path), value_range=value_range)


def test_published_parts_are_scaled_by_the_range_of_training(tmp_path):
    """And a file whose kind of values training does not have is named before the first epoch."""
    put = {"train/a/0": (0, 4000), "train/b/0": (100, 2000), "val/a/0": (0, 9000), "val/b/0": (0, 1000)}
    for name, (low, high) in put.items():
        path = tmp_path / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiff(np.array([[low, high]], np.int32), BLACK_IS_ZERO, "<"))
    splits = image_folder(str(tmp_path))
    train = scan(splits.train, "error", tmp_path / "cache")
    val = scan(splits.val, "error", tmp_path / "cache", train.ranges).images
    assert [np.asarray(val.load(index, 1)).tolist() for index in (0, 1)] == [[[0, 255]], [[0, 64]]]
    path.write_bytes(tiff(np.array([[-1, 2]], np.float32), BLACK_IS_ZERO, "<"))
    with pytest.raises(DataError, match=r"val/b/0\.tif: its float32 values range from -1 to 2, and nothing says which"):
        scan(splits.val, "error", tmp_path / "cache", train.ranges)
