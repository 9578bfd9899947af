"""A run that was stopped and continued is, bit by bit, the run that was not."""

import csv
import json

import pytest
import torch
from in_process import DIGITS, KeptSignals, interrupt_at_epoch, train_in_process

RUN = (
    *DIGITS,
    "augmentation=[random_crop,rotate,noise]",
    "regularization=[batch_norm,dropout,weight_decay,label_smoothing,ema]",
    "scheduler=cosine",
    "scheduler.warmup_epochs=1",
    "trainer.max_epochs=4",
    "trainer.limit_train_batches=8",
    "logger=csv",
    "freeze=schedule",
    "freeze.phases=[{epoch: 0, train: classifier}, {epoch: 1, train: [classifier, last_2], lr_multiplier: 0.5},"
    "{epoch: 3, train: all, lr_multiplier: 0.5}]",
)
"""Everything random at once: crops, rotation, noise on the device, dropout; with phases, a warm-up and an average of
the weights."""


def tensors(value: object, path: str = "") -> dict[str, torch.Tensor]:
    """Every tensor in nested dictionaries and lists, by its path."""
    if isinstance(value, torch.Tensor):
        return {path: value}
    if isinstance(value, dict):
        return {k: v for key, entry in value.items() for k, v in tensors(entry, f"{path}/{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for key, entry in enumerate(value) for k, v in tensors(entry, f"{path}/{key}").items()}
    return {}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The folders of an uninterrupted run and of its twin, interrupted in epoch 2, amid a phase, and resumed."""
    folder = tmp_path_factory.mktemp("runs")
    whole, twin = folder / "whole", folder / "twin"
    train_in_process(whole, *RUN)
    with pytest.MonkeyPatch.context() as patched, KeptSignals():
        interrupt_at_epoch(patched, 2)
        with pytest.raises(KeyboardInterrupt):
            train_in_process(twin, *RUN)
    assert torch.load(twin / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 1
    train_in_process(twin, *RUN, resume=True)
    return whole, twin


def test_resumed_run_equals_the_uninterrupted_one(pair):
    whole, twin = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in pair)
    assert (whole["epoch"], whole["global_step"]) == (twin["epoch"], twin["global_step"]) == (3, 32)
    for part in ("state_dict", "current_model_state", "optimizer_states"):
        expected, found = tensors(whole[part]), tensors(twin[part])
        assert len(expected) > 10
        assert set(expected) == set(found)
        different = [name for name, value in expected.items() if not torch.equal(value, found[name])]
        assert different == []
    assert whole["lr_schedulers"] == twin["lr_schedulers"]


def test_table_of_metrics_of_the_resumed_run_is_whole(pair):
    tables = []
    for run in pair:
        with (run / "metrics.csv").open(newline="") as file:
            tables.append({row["step"]: row for row in csv.DictReader(file) if row.get("val/acc")})
    assert len(tables[0]) == 4
    assert tables[0] == tables[1]


def test_record_of_the_resumed_run_knows_the_best_epoch_of_both_halves(pair):
    whole, twin = (json.loads((run / "run.json").read_text()) for run in pair)
    assert twin["best"] == whole["best"]
    assert twin["last"] == whole["last"]
    assert twin["test"] == whole["test"]


def test_finished_run_that_is_resumed_keeps_its_record(pair):
    whole, _ = pair
    before = json.loads((whole / "run.json").read_text())
    after = train_in_process(whole, *RUN, resume=True)
    assert {key: after[key] for key in ("best", "last", "test", "started")} == {
        key: before[key] for key in ("best", "last", "test", "started")
    }
    assert after["wall_seconds"] >= before["wall_seconds"]
    assert len(after["resumed"]) == 1
