"""Everything that follows the run's metric agrees on it, also where less is better."""

import csv
import json
import math
from types import SimpleNamespace

import pytest
import torch
from in_process import digits_with, train_in_process
from torch import nn

from cnnlab.tasks.classification.module import Classifier

LOSSES = [2.0, 1.0, 3.0, 0.5, 0.9, 0.8, 0.7, 0.1]
"""Of the epochs' validations. With a patience of 3 the run ends before the last of them."""


class Scripted(nn.Module):
    """A loss that is told its value."""

    value = 0.0

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.tensor(self.value)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with metric=loss, whose validation losses are LOSSES: its folder and its checkpoints."""
    folder = tmp_path_factory.mktemp("loss") / "run"
    original = Classifier.on_validation_epoch_start

    def start(self: Classifier) -> None:
        original(self)
        self.loss = Scripted()
        self.loss.value = LOSSES[self.current_epoch]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Classifier, "on_validation_epoch_start", start)
        train_in_process(
            folder,
            *digits_with("logger=csv", "metric=loss", "optimizer.lr=0.01"),
            *("scheduler=plateau", "scheduler.patience=0", "scheduler.factor=0.5"),
            *("regularization=[early_stopping]", "regularization.early_stopping.patience=3"),
            *("trainer.max_epochs=8", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1"),
            "trainer.log_every_n_steps=1",
            "data.test_fraction=0",
        )
    best, last = (torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("best", "last"))
    return SimpleNamespace(folder=folder, best=best, last=last)


def callback(checkpoint: dict, name: str) -> dict:
    """The state of the callback whose key contains `name`."""
    (state,) = [state for key, state in checkpoint["callbacks"].items() if name in key]
    return state


def test_record_names_the_metric_and_its_smallest_value(run):
    record = json.loads((run.folder / "run.json").read_text())
    assert record["metric"] == "val/loss"
    assert record["modes"]["loss"] == "min"
    assert record["best"] == {"val/loss": 0.5, "epoch": 3}
    assert record["last"]["val/loss"] == pytest.approx(0.7)


def test_best_value_so_far_is_logged(run):
    with (run.folder / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val/loss"]]
    assert [float(row["val/loss"]) for row in rows] == pytest.approx(LOSSES[:7])
    assert [float(row["best/val/loss"]) for row in rows] == pytest.approx([2.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5])


def test_best_checkpoint_is_of_that_epoch(run):
    assert run.best["epoch"] == 3
    (saved,) = [state for key, state in run.last["callbacks"].items() if "ModelCheckpoint" in key and "val/loss" in key]
    assert float(saved["best_model_score"]) == 0.5
    assert saved["best_model_path"].endswith("/best.ckpt")


def test_all_callbacks_have_the_same_best_value(run):
    assert callback(run.last, "BestMetric") == {"value": 0.5, "epoch": 3}
    stopping = callback(run.last, "EarlyStopping")
    assert float(stopping["best_score"]) == 0.5
    assert (stopping["wait_count"], stopping["stopped_epoch"]) == (3, 6)


def test_training_stops_when_patience_is_over(run):
    assert run.last["epoch"] == 6


def test_plateau_lowers_the_rate_where_the_loss_is_not_less(run):
    """After epochs 2, 4 and 5, when the last checkpoint is written; were more better, after 1, 3, 4 and 5."""
    (schedule,) = run.last["lr_schedulers"]
    assert (schedule["mode"], schedule["best"]) == ("min", 0.5)
    assert schedule["_last_lr"] == [pytest.approx(0.01 * 0.5**3)]
    assert math.isclose(run.best["lr_schedulers"][0]["_last_lr"][0], 0.01 * 0.5)
