"""A run that was stopped and continued is, bit by bit, the run that was not."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from in_process import DIGITS, KeptSignals, fork, interrupt_at_epoch, parts_of_a_run, train_in_process
from PIL import Image
from program import REPOSITORY, draw_picture, run_program
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

from cnnlab.runs.events import END, START
from cnnlab.training.checkpoints import Resumable

RUN = (
    *(override for override in DIGITS if override not in ("callbacks=none", "logger=none", "augmentation=none")),
    "speed=exact",
    "speed.num_threads=1",
    "augmentation=[random_crop,rotate,noise]",
    "regularization=[batch_norm,dropout,weight_decay,label_smoothing,ema]",
    "scheduler=cosine",
    "scheduler.warmup_epochs=1",
    "trainer.max_epochs=4",
    "trainer.limit_train_batches=8",
    "data.batch_size=8",
    "trainer.limit_val_batches=2",
    "trainer.limit_test_batches=2",
    "trainer.log_every_n_steps=2",
    "logger=[tensorboard,csv]",
    "callbacks.feature_maps=null",
    "callbacks.filters=null",
    "callbacks.confusion_matrix=null",
    "callbacks.progress=null",
    "callbacks.histograms.every_n_epochs=1",
    "callbacks.diagnostics.every_n_epochs=1",
    "freeze=schedule",
    "freeze.phases=[{epoch: 0, train: classifier}, {epoch: 1, train: [classifier, last_2], lr_multiplier: 0.5},"
    "{epoch: 3, train: all, lr_multiplier: 0.5}]",
    "checkpoint.every_n_steps=3",
)
"""Everything random at once: crops, rotation, noise on the device, dropout; with phases, a warm-up and an average of
the weights; and what draws at the first step of an epoch or after it."""
HARM = "trusted_packages=[harm]"


def tensors(value: object, path: str = "") -> dict[str, torch.Tensor]:
    """Every tensor in nested dictionaries and lists, by its path."""
    if isinstance(value, torch.Tensor):
        return {path: value}
    if isinstance(value, dict):
        return {k: v for key, entry in value.items() for k, v in tensors(entry, f"{path}/{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for key, entry in enumerate(value) for k, v in tensors(entry, f"{path}/{key}").items()}
    return {}


def events(run):
    """(tag, step) of everything in a run's event files -> how often it is there, with the value of scalars."""
    files = [path for path in run.glob("events.out.tfevents.*") if path.name not in (START, END)]
    found = [
        (value.tag, event.step, value.simple_value)
        for path in files
        for event in LegacyEventFileLoader(str(path)).Load()
        for value in event.summary.value
        if not value.tag.startswith("custom_scalars")  # the layout of the page
    ]
    return Counter(found)


def assert_equal_to_the_bit(whole, twin):
    """Weights, averages, optimizer, schedule, metrics.csv and event files of two runs."""
    first, second = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (whole, twin))
    assert (first["epoch"], first["global_step"]) == (second["epoch"], second["global_step"])
    for part in ("state_dict", "current_model_state", "optimizer_states"):
        expected, found = tensors(first[part]), tensors(second[part])
        assert len(expected) > 10
        assert set(expected) == set(found)
        different = [name for name, value in expected.items() if not torch.equal(value, found[name])]
        assert different == []
    assert first["lr_schedulers"] == second["lr_schedulers"]
    assert (twin / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    assert events(twin) == events(whole)


@pytest.fixture(scope="module", autouse=True)
def small_pictures():
    """Matplotlib takes longer for the picture of an epoch than everything else of it; what it shows is not tested."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("cnnlab.training.callbacks.diagnostics.figure_image", lambda _: Image.new("RGB", (2, 2)))
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train_in_process(folder, *RUN)
    return folder


@pytest.fixture(scope="module", params=["interrupted", "killed"])
def pair(request, whole, tmp_path_factory):
    """The folders of that run and of its twin: interrupted after epoch 1, or killed amid epoch 2, and resumed.

    The batches of the one that is killed come from two workers.
    """
    twin = tmp_path_factory.mktemp("twin") / "run"
    options = (*RUN, "data.num_workers=2") if request.param == "killed" else RUN
    if request.param == "interrupted":
        with pytest.MonkeyPatch.context() as patched, KeptSignals():
            interrupt_at_epoch(patched, 2)
            with pytest.raises(KeyboardInterrupt):
                train_in_process(twin, *options)
    else:
        kill = ("+callbacks.kill={_target_: harm.Kill, step: 20}", HARM)
        assert fork(train_in_process, twin, *options, *kill) == -signal.SIGKILL
    last = torch.load(twin / "checkpoints" / "last.ckpt", weights_only=True)
    assert (last["epoch"], last["global_step"]) == {"interrupted": (1, 16), "killed": (2, 18)}[request.param]
    train_in_process(twin, *options, resume=True)
    return whole, twin


def test_resumed_run_equals_the_uninterrupted_one(pair):
    assert_equal_to_the_bit(*pair)


def test_nothing_is_logged_twice_and_no_step_is_missing(pair):
    for run in pair:
        logged = Counter((tag, step) for tag, step, _ in events(run).elements())
        assert set(logged.values()) == {1}
        assert [step for tag, step in sorted(logged) if tag == "train/loss"] == list(range(1, 32, 2))
        assert [step for tag, step in sorted(logged) if tag == "epoch/train/acc"] == [0, 1, 2, 3]
        rows = (run / "metrics.csv").read_text().splitlines()[1:]
        assert [int(row.split(",")[0]) for row in rows] == [*range(1, 32, 2), 32]  # 32: the test images


def test_record_of_the_resumed_run_knows_the_best_epoch_of_both_halves(pair):
    whole, twin = (json.loads((run / "run.json").read_text()) for run in pair)
    assert twin["best"] == whole["best"]
    assert twin["last"] == whole["last"]
    assert twin["test"] == whole["test"]


def test_finished_run_that_is_resumed_keeps_its_record(pair):
    whole, twin = pair
    before = json.loads((twin / "run.json").read_text())
    after = train_in_process(twin, *RUN, resume=True)
    assert {key: after[key] for key in ("best", "last", "test", "started")} == {
        key: before[key] for key in ("best", "last", "test", "started")
    }
    assert after["wall_seconds"] >= before["wall_seconds"]
    assert len(after["resumed"]) == 2
    assert events(twin) == events(whole)


def test_run_on_kept_features_is_resumed_within_an_epoch(tmp_path):
    options = (
        *DIGITS,
        "augmentation=[rotate]",
        "regularization=[dropout]",
        "freeze=features",
        "freeze.cache=on",
        "freeze.cache_views=2",
        "data.images_per_class=20",
        "data.batch_size=16",
        "trainer.max_epochs=3",
        "trainer.log_every_n_steps=3",
        "logger=csv",
        "checkpoint.every_n_steps=7",
        "data.test_fraction=0",
    )
    train_in_process(tmp_path / "whole", *options)
    with pytest.raises(RuntimeError, match="harm done"):
        train_in_process(tmp_path / "twin", *options, "+callbacks.fail={_target_: harm.Fail, step: 16}", HARM)
    stopped = torch.load(tmp_path / "twin" / "checkpoints" / "last.ckpt", weights_only=True)
    assert (stopped["epoch"], stopped["global_step"]) == (1, 14)
    assert 0 < stopped["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["completed"] < 7
    train_in_process(tmp_path / "twin", *options, resume=True)
    first, second = (
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True) for run in ("whole", "twin")
    )
    for part in ("state_dict", "optimizer_states"):
        expected, found = tensors(first[part]), tensors(second[part])
        assert [name for name, value in expected.items() if not torch.equal(value, found[name])] == []
    tables = [(tmp_path / run / "metrics.csv").read_text() for run in ("whole", "twin")]
    assert tables[0] == tables[1]


def test_sums_of_two_processes_go_on_in_one(tmp_path):
    """As after trainer.devices=1: 30 of 40 right in one process, 10 of 20 in the other."""
    _, classifier, _ = parts_of_a_run(tmp_path / "run", *DIGITS)
    states = []
    for right, count in ((30, 40), (10, 20)):
        classifier.train_metrics["acc"].update(torch.zeros(count), torch.tensor([0] * right + [1] * (count - right)))
        classifier.train_loss_epoch.update(torch.tensor(right / 10), count)
        parts = classifier.epoch_sums()
        states.append({name: dict(metric.metric_state) for name, metric in parts.items()})
        for metric in parts.values():
            metric.reset()
    trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"), world_size=1, global_rank=0)
    progress = {"current": {"ready": 5}, "is_last_batch": False}
    checkpoint = {"epoch_sums": states, "global_step": 5}
    checkpoint["loops"] = {"fit_loop": {"epoch_loop.batch_progress": progress}}
    Resumable().on_load_checkpoint(trainer, classifier, checkpoint)
    assert progress["current"]["ready"] == 10
    classifier.train_metrics["acc"].update(torch.zeros(20), torch.zeros(20))
    classifier.train_loss_epoch.update(torch.tensor(2.0), 20)
    assert classifier.train_metrics["acc"].compute().item() == pytest.approx(60 / 80)
    assert classifier.train_loss_epoch.compute().item() == pytest.approx((3.0 * 40 + 1.0 * 20 + 2.0 * 20) / 80)


@pytest.mark.slow
def test_run_that_is_killed_at_ten_random_moments_equals_the_uninterrupted_one(tmp_path):
    options = (*RUN, "trainer.max_epochs=80", "data.num_workers=2", "callbacks.diagnostics=null")
    done = run_program(*options, f"paths.output_dir={tmp_path / 'whole'}", cwd=tmp_path, timeout=900)
    assert done.returncode == 0, done.stderr
    twin, moments, kills = tmp_path / "twin", random.Random(7), 0
    last = twin / "checkpoints" / "last.ckpt"
    arguments = [*options, f"paths.output_dir={twin}"]
    while True:
        before = last.stat().st_mtime_ns if last.is_file() else 0
        command = [sys.executable, str(REPOSITORY / "train.py"), *arguments]
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while kills < 10 and process.poll() is None and (last.stat().st_mtime_ns if last.is_file() else 0) == before:
            time.sleep(0.02)
        if kills < 10:
            time.sleep(moments.uniform(0, 1.5))
            process.kill()
            kills += 1
        _, errors = process.communicate(timeout=900)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, errors
        arguments = [f"resume={twin}"]
    assert kills == 10
    assert len(json.loads((twin / "run.json").read_text())["resumed"]) == 10
    assert_equal_to_the_bit(tmp_path / "whole", twin)


@pytest.mark.slow
def test_two_processes_are_resumed_within_an_epoch(tmp_path):
    for label, shape in enumerate(("circle", "square")):
        for number in range(20):
            draw_picture(tmp_path / "pictures" / shape / f"{number}.png", shape, 100 * label + number)
    options = (
        *("trainer=ddp_cpu", "model=lenet5", "data=image_folder", f"data.root={tmp_path / 'pictures'}"),
        *("data.batch_size=2", "data.num_workers=1", "speed=exact", "augmentation=[flip,noise]", "callbacks=none"),
        *("regularization=[batch_norm,dropout,ema]", "trainer.max_epochs=3", "trainer.log_every_n_steps=1"),
        *("freeze=schedule", "freeze.phases=[{epoch: 0, train: classifier}, {epoch: 1, train: all}]"),
        "checkpoint.every_n_steps=4",
    )
    whole, twin = tmp_path / "whole", tmp_path / "twin"
    assert run_program(*options, f"paths.output_dir={whole}", cwd=tmp_path).returncode == 0
    kill = ("+callbacks.kill={_target_: harm.Kill, step: 14}", HARM)
    assert run_program(*options, *kill, f"paths.output_dir={twin}", cwd=tmp_path).returncode == -signal.SIGKILL
    stored = twin / "overrides.yaml"
    stored.write_text("".join(line for line in stored.read_text().splitlines(True) if "harm" not in line))
    shutil.copy(whole / "config.yaml", twin / "config.yaml")
    done = run_program(f"resume={twin}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert torch.load(twin / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 27
    assert_equal_to_the_bit(whole, twin)
