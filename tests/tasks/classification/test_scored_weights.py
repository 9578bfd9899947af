"""The test metrics of a run are those that `cnnlab evaluate` finds for the weights that it saved."""

import csv
import json

import numpy as np
import pytest
import torch
from in_process import config, digits_with, train_in_process

from cnnlab.api import evaluate, load_run
from cnnlab.config import CONFIG_DIR
from cnnlab.errors import InputError
from cnnlab.experiment import build
from cnnlab.tasks.classification.report import Scored

TINY = digits_with(
    "data.images_per_class=8",
    "data.batch_size=16",
    "data.test_fraction=0.4",
    "trainer.max_epochs=2",
    "optimizer=sgd",
    "optimizer.lr=0.05",
)
NAMES = {path.stem for path in (CONFIG_DIR / "regularization").glob("*.yaml")} - {"none", "stochastic_depth"}
"""All regularizers but that of networks with residual branches."""
TOGETHER = (
    ["adversarial", "regularization.adversarial.steps=1"],
    ["dropout", "batch_norm", "label_smoothing", "weight_decay"],
    ["elastic_net", "max_norm", "early_stopping"],
    ["ema", "l2"],
    ["l1", "regularization.l1.mode=proximal", "regularization.l1.lambd=0.01"],
)
REGULARIZERS = {
    "+".join(names): [f"regularization=[{','.join(names)}]", *(each for each in group if "=" in each)]
    for group in TOGETHER
    for names in [[each for each in group if "=" not in each]]
}
AVERAGE = "{_target_: lightning.pytorch.callbacks.EMAWeightAveraging, decay: 0.5}"
OTHERS = {
    "average that has hardly begun": ["regularization=[ema]", "regularization.ema.decay=0.99999"],
    "average in the callbacks": [f"+callbacks.average={AVERAGE}"],
    "two validations in an epoch": ["+trainer.val_check_interval=0.5", "metric=loss"],
    "epochs without validation": ["trainer.check_val_every_n_epoch=2", "trainer.max_epochs=3"],
    "no best checkpoint": ["checkpoint.best=null"],
    "no last checkpoint": ["checkpoint.last=null"],
    "no validation": ["data.val_fraction=0"],
    "precision of autocast": ["speed=fast"],
    "precision of weights": ["speed.precision=bf16-true"],
    "rolled back": ["divergence=rollback", "optimizer.lr=30"],
    "cached features": ["freeze=features", "freeze.cache=on", "regularization=[ema,label_smoothing]"],
    "another checkpoint": [
        "+checkpoint.top={_target_: lightning.pytorch.callbacks.ModelCheckpoint, monitor: val/loss, save_top_k: 2}"
    ],
}


def assert_scores_are_those_of_the_saved_weights(folder, record, monkeypatch):
    monkeypatch.setattr(Scored, "write", lambda *_: None)
    found = evaluate(folder, part="test").metrics
    for name in ("acc", "acc_top5"):
        assert np.float32(record["test"][f"test/{name}"]) == np.float32(found[name])
    assert record["test"]["test/balanced_acc"] == pytest.approx(found["balanced_acc"], rel=1e-6)
    assert record["test"]["test/loss"] == pytest.approx(found["loss"], rel=1e-5)
    saved = torch.load(folder / "best_weights.pth", weights_only=True)
    loaded = load_run(folder).network.network.state_dict()
    assert all(torch.equal(saved[name].float(), loaded[name]) for name in saved if saved[name].is_floating_point())


def test_every_regularizer_is_tried():
    assert set("+".join(REGULARIZERS).split("+")) == NAMES


@pytest.mark.parametrize("kind", [*REGULARIZERS, *OTHERS])
def test_recorded_test_metrics_are_those_of_the_saved_weights(kind, tmp_path, monkeypatch):
    overrides = (REGULARIZERS | OTHERS)[kind]
    record = train_in_process(tmp_path / "run", *TINY, *overrides)
    assert_scores_are_those_of_the_saved_weights(tmp_path / "run", record, monkeypatch)


def test_callbacks_change_no_score(quick_run, monkeypatch):
    record = json.loads((quick_run / "run.json").read_text())
    assert_scores_are_those_of_the_saved_weights(quick_run, record, monkeypatch)


@pytest.mark.parametrize(
    ("callback", "instead"),
    [
        ("BackboneFinetuning", "freeze="),
        ("BatchSizeFinder", "data.batch_size"),
        ("LearningRateFinder", "optimizer.lr"),
        ("StochasticWeightAveraging, swa_lrs: 0.1", r"regularization=\[ema\]"),
    ],
)
def test_callback_that_would_train_what_is_not_saved_or_recorded_is_refused(callback, instead, tmp_path):
    name = callback.split(",")[0]
    with pytest.raises(InputError, match=f"{name} does not work in a run: .*{instead}"):
        build(config(tmp_path / "run", *TINY, f"+callbacks.one={{_target_: lightning.pytorch.callbacks.{callback}}}"))


def test_mean_loss_is_exact_in_half_precision(tmp_path):
    """Added up in bfloat16, a count of images would stay at 256."""
    few = digits_with("data.batch_size=16", "trainer.max_epochs=1", "logger=csv", "speed.precision=bf16-true")
    short = (
        "trainer.log_every_n_steps=1",
        "trainer.limit_train_batches=30",
        "optimizer=sgd",
        "trainer.limit_test_batches=1",
    )
    train_in_process(tmp_path / "run", *few, *short)
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    steps = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    (mean,) = [float(row["train/loss_epoch"]) for row in rows if row["train/loss_epoch"]]
    assert len(steps) == 30
    assert mean == pytest.approx(np.mean(steps), rel=1e-6)
