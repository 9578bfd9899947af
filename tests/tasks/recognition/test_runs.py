"""Readers through every verb, on drawn digits."""

import csv
import json

import numpy as np
import pytest
import torch
from in_process import KeptLogging, command_line
from PIL import Image

from cnnlab.api import load_run
from cnnlab.cli import evaluate, predict, visualize
from cnnlab.errors import InputError
from cnnlab.tasks.recognition.data import padded, targets_of
from cnnlab.tasks.recognition.evaluation import mistakes
from cnnlab.tasks.recognition.module import CharacterErrorRate, LineAccuracy, edit_distances
from cnnlab.tasks.recognition.networks import CRNN, ConvTransformer

RUN = (
    "data=text_lines",
    "model=crnn",
    "model.network.width=4",
    "model.network.hidden=8",
    "trainer=cpu",
    "data.lines=24",
    "data.val_lines=12",
    "data.test_lines=12",
    "data.batch_size=8",
    "data.num_workers=0",
    "logger=csv",
    "callbacks=none",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reading") / "run"
    with pytest.MonkeyPatch.context() as patch, KeptLogging():
        patch.chdir(folder.parent)
        assert command_line(patch, *RUN, "trainer.max_epochs=2", f"paths.output_dir={folder}") == 0
    return folder


def test_record_has_the_error_rate_and_the_lowest_is_the_best(run):
    record = json.loads((run / "run.json").read_text())
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    rates = [float(row["val/cer"]) for row in rows if row.get("val/cer")]
    assert (record["metric"], record["best"]["val/cer"]) == ("val/cer", pytest.approx(min(rates)))
    assert {"test/cer", "test/acc", "test/loss"} <= record["test"].keys()


def test_evaluation_gives_what_the_run_recorded(run):
    evaluate.main([f"run={run}", "split=test"])
    found = json.loads((run / "report/metrics.json").read_text())
    recorded = json.loads((run / "run.json").read_text())["test"]
    assert (found["cer"], found["acc"]) == pytest.approx((recorded["test/cer"], recorded["test/acc"]), abs=1e-7)
    low, high = found["cer_interval"]
    assert low <= found["cer"] <= high
    rows = list(csv.DictReader((run / "report/predictions.csv").open()))
    errors = sum(int(row["errors"]) for row in rows)
    assert found["cer"] == pytest.approx(errors / sum(len(row["true"]) for row in rows))


def test_predictions_are_texts(run, tmp_path):
    data_line = Image.fromarray(np.full((40, 200), 230, np.uint8))
    data_line.save(tmp_path / "line.png")
    predict.main([f"run={run}", f"images={tmp_path / 'line.png'}"])
    (row,) = csv.DictReader((run / "predictions/line.png/predictions.csv").open())
    assert set(row) == {"image", "text", "confidence"}
    loaded = load_run(run)
    alone = loaded.predictions(loaded.task.stack([loaded.prepare(data_line)]))
    wide = Image.fromarray(np.full((40, 500), 30, np.uint8))
    both = loaded.predictions(loaded.task.stack([loaded.prepare(data_line), loaded.prepare(wide)]))
    assert len(both) == 2
    assert isinstance(alone[0].text, str)


def test_alignment_is_drawn(run):
    paths = visualize.visualize([f"run={run}", "what=alignment", "index=3"])
    assert all(path.is_file() for path in paths)
    with pytest.raises(InputError, match="index=99"):
        visualize.visualize([f"run={run}", "what=alignment", "index=99"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("augmentation=flip", "augmentation=[flip] mirrors lines"),
        ("augmentation=mixup", "augmentation=mixup mixes classes"),
        ("loss=cross_entropy", "Use loss=ctc"),
        ("model.image_size=64", "readers take lines of 32 pixels' height"),
        ("regularization=[label_smoothing]", "a line has a text instead"),
        ("data.max_aspect=0.5", "lines are at least as wide as high"),
    ],
)
@pytest.mark.usefixtures("kept_logging")
def test_what_does_not_go_with_lines_is_refused(change, message, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert command_line(monkeypatch, *RUN, change, "trainer.max_epochs=1") == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("outputs/*/*"))


@pytest.mark.usefixtures("kept_logging")
def test_classifier_cannot_read(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    rest = [each for each in RUN if not each.startswith("model")]
    assert command_line(monkeypatch, *rest, "model=lenet5", "trainer.max_epochs=1") == 2
    assert "model=lenet5 classifies images" in capsys.readouterr().err


# --- Parts ---


@pytest.mark.parametrize("network", [CRNN(7, width=4, hidden=8), ConvTransformer(7, width=4, layers=1)])
@pytest.mark.parametrize("width", [4, 5, 31, 96])
def test_readers_give_a_column_for_every_four_pixels(network, width):
    assert network.eval()(torch.zeros(2, 1, 32, width)).shape == (2, -(-width // 4), 8)


def levenshtein(first, second):
    """The distance by its recursive definition."""
    if not first or not second:
        return len(first) + len(second)
    return min(
        levenshtein(first[1:], second[1:]) + (first[0] != second[0]),
        levenshtein(first[1:], second) + 1,
        levenshtein(first, second[1:]) + 1,
    )


@pytest.mark.parametrize(
    ("found", "truth"), [("abc", "abd"), ("", "ab"), ("kitten", "sitting"), ("ba", "ab"), ("x", "")]
)
def test_changes_are_as_many_as_the_distance_and_make_one_text_the_other(found, truth):
    distance = levenshtein(found, truth)
    assert len(mistakes(truth, found)) == distance
    assert edit_distances([list(map(ord, found))], [list(map(ord, truth))]) == [distance]
    missed = [a for a, b in mistakes(truth, found) if a]
    added = [b for a, b in mistakes(truth, found) if b]
    assert len(found) - len(added) == len(truth) - len(missed)  # what is left of both is the same


def test_metrics_count_characters_and_lines():
    path = torch.tensor([[1, 1, 0, 2, 0], [0, 3, 0, 3, 0], [2, 0, 0, 0, 0]])  # reads "ab", "cc", "b"
    outputs = 9.0 * torch.nn.functional.one_hot(path, 4)
    targets = targets_of([20, 20, 20], [[0, 1], [2], [1]])
    rate, accuracy = CharacterErrorRate(), LineAccuracy()
    for part in (slice(0, 1), slice(1, 3)):
        rate.update(outputs[part], targets[part])
        accuracy.update(outputs[part], targets[part])
    assert float(rate.compute()) == pytest.approx(1 / 4)
    assert float(accuracy.compute()) == pytest.approx(2 / 3)


def test_batches_are_continued_at_the_right_edge():
    batch = padded([torch.tensor([[[1, 2], [3, 4]]]), torch.tensor([[[5, 6, 7], [8, 9, 10]]])])
    assert batch.tolist() == [[[[1, 2, 2], [3, 4, 4]]], [[[5, 6, 7], [8, 9, 10]]]]
    assert targets_of([2, 3], [[7], [8, 9]]).tolist() == [[2, 7, -1], [3, 8, 9]]
