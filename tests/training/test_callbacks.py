"""What TensorBoard shows of a run, read back from its event file."""

import io
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from in_process import DIGITS, EVERY_EPOCH, digits_with, parts_of_a_run
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from cnnlab.training.callbacks.best_metric import BestMetric
from cnnlab.training.callbacks.histograms import Histograms, _add
from cnnlab.training.callbacks.pictures import add_picture
from cnnlab.training.callbacks.stage_table import stage_table

EPOCH = 39
"""Steps of an epoch of the quick run: 1,266 training images in whole batches of 32."""


def read_events(folder) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0, "histograms": 0})
    events.Reload()
    return events


@pytest.fixture(scope="module")
def events(quick_run) -> EventAccumulator:
    return read_events(quick_run)


@pytest.fixture(scope="module")
def record(quick_run) -> dict:
    return json.loads((quick_run / "run.json").read_text())


def steps(entries) -> list[int]:
    return [entry.step for entry in entries]


def picture(entry) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(entry.encoded_image_string)))


def test_scalars(events):
    expected = {f"{part}/{name}" for part in ("val", "test") for name in ("loss", "acc", "acc_top5", "f1")}
    expected |= {"train/loss", "train/acc", "train/lr", "best/val/acc"}
    assert expected <= set(events.Tags()["scalars"])
    assert "hp_metric" not in events.Tags()["scalars"]
    assert min(events.Tags()["scalars"]) == "best/val/acc"  # the HParams tab shows the first few by letter


def test_pictures(events):
    assert set(events.Tags()["images"]) == {
        *(f"features/features.{stage}/{image}" for stage in (0, 3, 5) for image in (0, 1)),
        "filters/features.0",
        "input/train",
        "confusion/val",
        "diagnostics/depth",
    }


def test_histograms(events):
    names = [f"features.{layer}.weight" for layer in (0, 3)] + [f"classifier.{layer}.weight" for layer in (1, 3, 5)]
    tags = events.Tags()["histograms"]
    assert set(tags) == {f"{kind}/{name}" for kind in ("weights", "gradients") for name in names}
    sizes = {"features.0.weight": 150, "classifier.5.weight": 840}
    for name, size in sizes.items():
        entries = events.Histograms(f"weights/{name}")
        assert [entry.histogram_value.num for entry in entries] == [size] * 3
        assert steps(entries) == [0, EPOCH, 2 * EPOCH]


def test_maps_and_filters_begin_before_training_and_follow_every_epoch(events):
    expected = [0, EPOCH, 2 * EPOCH, 3 * EPOCH]
    for tag in ("features/features.0/0", "features/features.5/1", "filters/features.0"):
        assert steps(events.Images(tag)) == expected
    assert steps(events.Images("input/train")) == [0]  # every tenth epoch
    assert len(steps(events.Images("confusion/val"))) == 3


def test_maps_change_while_the_network_learns(events):
    first, *_, last = (picture(entry) for entry in events.Images("features/features.0/0"))
    assert first.shape == last.shape
    assert not np.array_equal(first, last)


def test_grid_of_maps_is_as_large_as_its_channels(events):
    """features.0 gives six maps of 28 x 28, enlarged four times: three columns and two rows below their title."""
    height, width = picture(events.Images("features/features.0/0")[0]).shape[:2]
    assert 2 * 4 * 28 < height < 2 * 4 * 28 + 150
    assert width >= 3 * 4 * 28
    assert picture(events.Images("input/train")[0]).shape[:2] == (4 * 33 + 1, 4 * 33 + 1)


def test_best_accuracy_agrees_everywhere(quick_run, events, record):
    validated = [entry.value for entry in events.Scalars("val/acc")]
    best = [entry.value for entry in events.Scalars("best/val/acc")]
    assert len(validated) == 3
    assert best == [max(validated[: count + 1]) for count in range(3)]
    assert record["best"]["val/acc"] == pytest.approx(best[-1])
    assert record["best"]["epoch"] == validated.index(max(validated))
    checkpoint = torch.load(quick_run / "checkpoints" / "best.ckpt", weights_only=True)
    scores = [state["best_model_score"] for name, state in checkpoint["callbacks"].items() if "val/acc" in name]
    assert [float(score) for score in scores] == pytest.approx([best[-1]])


def test_test_scores_are_in_the_record(events, record):
    for name in ("test/acc", "test/loss", "test/f1", "test/acc_top5"):
        assert [entry.value for entry in events.Scalars(name)] == pytest.approx([record["test"][name]])


def test_learning_rate_is_the_cosine(events):
    entries = events.Scalars("train/lr")
    assert len(entries) > 5
    for entry in entries:
        expected = 0.002 * (1 + np.cos(np.pi * entry.step / (3 * EPOCH))) / 2
        assert entry.value == pytest.approx(expected, rel=1e-4)


def test_accuracy_rises_above_chance(record):
    low = 0.1 + 5 * (0.09 / record["images"]["test"]) ** 0.5
    assert record["test"]["test/acc"] > low


@pytest.mark.parametrize(
    ("values", "finite"),
    [([float("nan")] * 4, 0), ([1.0, float("inf"), float("-inf"), 2.0], 2), ([1.0, 2.0, 3.0], 3)],
)
def test_numbers_that_are_none_are_counted_and_left_out(tmp_path, values, finite):
    writer = SummaryWriter(str(tmp_path))
    _add(writer, "weights/w", torch.tensor(values).view(1, -1), 7)
    writer.close()
    events = read_events(tmp_path)
    histograms = events.Histograms("weights/w") if "weights/w" in events.Tags()["histograms"] else []
    assert [entry.histogram_value.num for entry in histograms] == ([finite] if finite else [])
    scalars = events.Tags()["scalars"]
    lost = len(values) - finite
    assert scalars == (["non_finite/weights/w"] if lost else [])
    if lost:
        assert [(e.step, e.value) for e in events.Scalars("non_finite/weights/w")] == [(7, lost)]


def test_pictures_change_nothing_of_the_training(tmp_path):
    """With and without every callback the weights after two epochs are the same bits."""
    short = (
        "trainer.max_epochs=2",
        "trainer.limit_train_batches=4",
        "trainer.limit_val_batches=2",
        "trainer.log_every_n_steps=1",
        "data.batch_size=8",
        "regularization=[dropout]",
        "augmentation=[noise]",
    )
    states = []
    for number, overrides in enumerate((["callbacks=none"], ["callbacks=default", "logger=tensorboard"])):
        options = [option for option in DIGITS if option not in ("callbacks=none", "logger=none")]
        extra = ["logger=none"] if number == 0 else ["callbacks.progress=null"]
        trainer, classifier, data = parts_of_a_run(tmp_path / str(number), *options, *short, *overrides, *extra)
        trainer.fit(classifier, datamodule=data)
        states.append(classifier.network.state_dict())
    assert [name for name, value in states[0].items() if not torch.equal(value, states[1][name])] == []


def test_pictures_of_frozen_stages_are_logged_once(tmp_path):
    """Until they train: the features are frozen in the first two epochs, and learn in the third."""
    frozen = ["freeze=schedule", "freeze.phases=[{epoch: 0, train: classifier}, {epoch: 2, train: all}]"]
    options = digits_with("callbacks=default", "callbacks.progress=null", "logger=tensorboard", *frozen)
    short = ("trainer.max_epochs=3", "trainer.limit_train_batches=2", "trainer.limit_val_batches=2", "freeze.cache=off")
    options += ["trainer.log_every_n_steps=1", *EVERY_EPOCH, "callbacks.histograms=null", "callbacks.diagnostics=null"]
    trainer, classifier, data = parts_of_a_run(tmp_path / "run", *options, *short)
    trainer.fit(classifier, datamodule=data)
    events = read_events(tmp_path / "run")
    for tag in ("features/features.0/0", "features/features.5/1", "filters/features.0"):
        assert steps(events.Images(tag)) == [0, 6]
    assert steps(events.Images("confusion/val")) == [2, 4, 6]


def test_picture_is_kept_to_the_bit(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    with SummaryWriter(str(tmp_path)) as writer:
        add_picture(writer, "noise", Image.fromarray(pixels), 3)
    (entry,) = read_events(tmp_path).Images("noise")
    assert (entry.step, entry.width, entry.height) == (3, 7, 5)
    assert np.array_equal(picture(entry), pixels)


def test_callbacks_without_tensorboard_do_nothing(tmp_path):
    options = [option for option in DIGITS if option != "callbacks=none"]
    trainer, classifier, data = parts_of_a_run(
        tmp_path / "run", *options, "callbacks=default", "callbacks.progress=null", "debug=smoke"
    )
    trainer.fit(classifier, datamodule=data)
    assert any(isinstance(callback, Histograms) for callback in trainer.callbacks)
    assert list((tmp_path / "run").rglob("events*")) == []


def test_best_metric_keeps_its_state():
    first, second = BestMetric(), BestMetric()
    first.value, first.epoch = 0.75, 3
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert (second.value, second.epoch) == (0.75, 3)


def test_best_metric_is_a_number():
    best, logged = BestMetric(), {}
    module = SimpleNamespace(log=logged.__setitem__)
    for epoch, value in enumerate([math.nan, 0.25, math.nan, 0.5, 0.5]):
        metrics = {"val/acc": torch.tensor(value)}
        trainer = SimpleNamespace(callback_metrics=metrics, sanity_checking=False, current_epoch=epoch)
        best.on_validation_epoch_end(trainer, module)
        assert ("best/val/acc" in logged) is (epoch > 0)
    assert (best.value, best.epoch, logged) == (0.5, 3, {"best/val/acc": 0.5})


def test_stage_table_counts_and_says_what_trains(tmp_path):
    _, classifier, _ = parts_of_a_run(tmp_path / "run", *DIGITS, "freeze=features")
    classifier.recipe.plan.apply(classifier.network, 0)
    groups = [{"params": list(classifier.network.parameters()), "lr": 0.25, "weight_decay": 0.125}]
    lines = stage_table(classifier.network, groups).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["features.0", "156", "frozen", "-", "-", "-"],
        ["features.3", "2,416", "frozen", "-", "-", "-"],
        ["classifier", "59,134", "yes", "-", "0.25", "0.125"],
        ["59,134", "of", "61,706", "parameters", "train"],
    ]
