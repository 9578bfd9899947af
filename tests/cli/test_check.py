"""The verb `check`: what it weighs is what theory says, what it tries is what train does, and it leaves nothing."""

import re
import sys
from pathlib import Path

import pytest
import torch
from in_process import digits_with, train_in_process
from torch import nn

from cnnlab.cli import main as cli
from cnnlab.cli.check import config_of, duration, report
from cnnlab.cli.dry_run import DryRun
from cnnlab.data.store import Store
from cnnlab.errors import DivergedError, InputError
from cnnlab.training.step_probe import SavedTensors, StepProbe, loader_seconds

FLOAT = 4
LENET5 = 61_706


def dry_run(folder: Path, *overrides: str, seconds: float = 0.01) -> DryRun:
    paths = [f"paths.root='{folder / 'outputs'}'", f"paths.cache_dir='{folder / 'cache'}'"]
    return DryRun(config_of([*digits_with(*overrides), *paths]), seconds)


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory) -> DryRun:
    """Three epochs of LeNet-5 on digits in batches of 32, without anything special."""
    folder = tmp_path_factory.mktemp("plain")
    run = dry_run(folder, "optimizer=adamw", "trainer.max_epochs=3", "data.batch_size=32")
    assert not (folder / "outputs").exists()
    return run


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.devices=x", "should be an int > 0"),
        ("trainer.limit_val_batches=0.01", "this share of 6 batches is less than one"),
        ("trainer.max_steps=0", "trainer.max_steps=0: must be at least 1"),
    ],
)
def test_trainer_that_the_run_could_not_have_is_refused(tmp_path, override, message):
    """The dry run has a trainer of its own, with one process and one validation batch."""
    with pytest.raises(InputError, match=message):
        dry_run(tmp_path, "data.batch_size=32", override)


def test_memory_of_a_step_is_that_of_its_tensors(plain_run):
    run = plain_run
    trial = run.phases[0].together
    tensors = len(list(run.module.network.parameters()))
    assert trial.trained == LENET5
    assert trial.memory.gradients == LENET5 * FLOAT
    assert trial.memory.optimizer == (2 * LENET5 + tensors) * FLOAT  # two moments, and a step count for each tensor
    assert trial.loss == pytest.approx(2.3, abs=0.3)  # ln 10


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_state_of_sgd_is_its_momentum(tmp_path, momentum):
    run = dry_run(tmp_path, "optimizer=sgd", f"optimizer.momentum={momentum}", "optimizer.nesterov=false")
    assert run.phases[0].together.memory.optimizer == (LENET5 * FLOAT if momentum else 0)


def test_saved_tensors_are_counted_once_and_without_parameters():
    layer = nn.Linear(8, 8)
    images = torch.zeros(4, 8)
    with SavedTensors(layer) as saved:
        first = layer(images)
        (first.sigmoid() + first.exp()).sum()
    assert saved.bytes == 3 * images.numel() * FLOAT  # the input, the sigmoid's and the exponential's output
    with torch.no_grad(), SavedTensors(layer) as saved:
        layer(images).exp()
    assert saved.bytes == 0


def test_activations_grow_with_the_batch(plain_run, tmp_path):
    large = dry_run(tmp_path, "data.batch_size=128").phases[0].together.memory.activations
    assert large == pytest.approx(4 * plain_run.phases[0].together.memory.activations, rel=0.02)


def test_epochs_and_batches_are_those_of_the_run(plain_run, tmp_path):
    run = plain_run
    assert (run.batches, run.validation_batches(), run.epochs) == (1266 // 32, -(-176 // 32), 3)
    part = dry_run(tmp_path, "trainer.limit_train_batches=5", "trainer.limit_val_batches=2", "trainer.max_steps=12")
    assert (part.batches, part.validation_batches()) == (5, 2)
    assert part.epochs == -(-12 // 5)
    assert dry_run(tmp_path, "trainer.max_epochs=-1", "scheduler=plateau").epochs is None


def test_phases_are_tried_as_they_will_train(tmp_path):
    run = dry_run(tmp_path, "freeze=fine_tune", "trainer.max_epochs=5")
    head = sum(parameter.numel() for parameter in run.module.network.classifier.parameters())
    assert [(phase.first, phase.epochs) for phase in run.phases] == [(0, 1), (1, 4)]
    assert [phase.together.trained for phase in run.phases] == [head, LENET5]
    assert [phase.kept for phase in run.phases] == [True, False]
    assert run.phases[0].missing == 1266 + 176
    assert [phase.first for phase in dry_run(tmp_path, "freeze=fine_tune", "trainer.max_epochs=1").phases] == [0]


def test_features_that_a_run_has_kept_are_not_to_be_computed(tmp_path):
    frozen = ("freeze=features", "trainer.max_epochs=2", "seed=3", "data.train_fraction=0.1")
    before = dry_run(tmp_path, *frozen)
    assert before.filling(before.phases[0]) > 0
    assert not (tmp_path / "cache" / "features").exists()
    train_in_process(tmp_path / "run", *digits_with(*frozen))
    kept = files_below(tmp_path / "cache")
    after = dry_run(tmp_path, *frozen)
    assert (after.phases[0].kept, after.phases[0].missing, after.filling(after.phases[0])) == (True, 0, 0)
    assert files_below(tmp_path / "cache") == kept
    assert len(Store(tmp_path / "cache").infos()) == 1
    assert dry_run(tmp_path, *frozen, "freeze.cache=off").phases[0].kept is False


def test_reason_that_features_are_not_kept_is_found(tmp_path):
    run = dry_run(tmp_path, "freeze=features", "augmentation=[mixup]")
    assert run.obstacle == "MixUp mixes images differently in every batch"
    assert "MixUp mixes images differently" in " ".join(report(run).split())


def test_report_says_what_there_is(plain_run):
    text = report(plain_run)
    assert "1,266 train, 176 val, 355 test; 10 classes" in text
    assert f"{LENET5:,} parameters, {LENET5:,} of them train" in text
    assert re.search(r"optimizer state +482\.1 KiB", text)
    assert re.search(r"an epoch of 39 batches, with validation +[\d.]+ s", text)
    assert "the run of 3 epochs" in text
    assert len(re.findall(r"bottleneck|equally\s+fast", text)) >= 1
    assert "Go" not in text


def test_what_training_would_say_is_said(tmp_path):
    with pytest.raises(DivergedError, match="The loss is"):
        dry_run(tmp_path, "optimizer.lr=1e38", seconds=1)
    with pytest.raises(InputError, match="follows val/acc, but nothing is validated"):
        dry_run(tmp_path, "scheduler=plateau", "data.val_fraction=0")
    with pytest.raises(InputError, match=r"freeze.cache=maybe: use auto, on or off"):
        dry_run(tmp_path, "freeze=features", "freeze.cache=maybe")
    with pytest.raises(InputError, match=r"data.record_cache=on is not possible: the images are in memory"):
        dry_run(tmp_path, "data.record_cache=on")
    with pytest.raises(InputError, match=r"data.record_cache=maybe: use auto, on or off"):
        dry_run(tmp_path, "data.record_cache=maybe")
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "seed=0,1"], "tries one run: leave out -m"),
        (["resume=outputs/x"], "leave out resume=outputs/x"),
        (["modle=vgg16", "seed=x"], "unknown key modle. Did you mean model?"),
        (["--config-dir", "absent"], "folder absent not found"),
    ],
)
def test_mistake_ends_with_2_and_one_message(monkeypatch, tmp_path, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["cnnlab", "check", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    shown = capsys.readouterr()
    assert (exit_.value.code, shown.out) == (2, "")
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert list(tmp_path.iterdir()) == []


def test_pictures_are_read_without_building_records(tmp_path, pictures):
    overrides = (
        "data=image_folder",
        f"data.root='{pictures}'",
        "preprocessing=none",
        "data.val_fraction=0.25",
        "data.batch_size=4",
        "trainer.max_epochs=3",
    )
    run = dry_run(tmp_path, *overrides)
    assert run.records == "to be made"
    assert not (tmp_path / "cache" / "records").exists()
    train_in_process(tmp_path / "run", *digits_with(*overrides))
    assert dry_run(tmp_path, *overrides).records == "kept"


class Slow:
    """A loader whose batches take `lengths` seconds by a clock of the test's own."""

    num_workers = 0

    def __init__(self, clock: list[float], lengths: list[float]) -> None:
        self.clock = clock
        self.lengths = lengths

    def __iter__(self):
        for length in self.lengths:
            self.clock[0] += length
            yield None


@pytest.mark.parametrize(
    ("lengths", "seconds", "expected"),
    [([7, 1, 1, 1], 2, 1.0), ([3, 1, 2, 9], 0.9, 1.0), ([90, 1], 2, 90.0), ([5], 2, 5.0)],
)
def test_loader_is_timed_without_its_start(monkeypatch, lengths, seconds, expected):
    clock = [0.0]
    monkeypatch.setattr("cnnlab.training.step_probe.time.perf_counter", lambda: clock[0])
    assert loader_seconds(Slow(clock, lengths), seconds) == expected


def test_step_that_pays_for_the_start_does_not_count():
    trial = StepProbe(seconds=1)
    trial._waits, trial._steps = [9.0], [8.0]
    assert (trial.steady, trial.wait, trial.step) == (False, 9.0, 8.0)
    trial._waits, trial._steps = [9.0, 1.0, 3.0], [8.0, 2.0, 2.0]
    assert (trial.steady, trial.wait, trial.step) == (True, 2.0, 2.0)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.1234, "0.12 s"), (119, "119 s"), (120, "2 min"), (3000, "50 min"), (9000, "2.5 h")]
)
def test_duration_has_a_fitting_unit(seconds, shown):
    assert duration(seconds) == shown
