"""The settings of speed: which may win where, what is recorded of them, and how a run comes to its own."""

import json
import logging
import math
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from in_process import config, digits_with, interrupt_at_epoch, train_in_process
from torch import nn

from cnnlab import experiment
from cnnlab.config import Config
from cnnlab.errors import InputError
from cnnlab.system.devices import device_of, has_bfloat16
from cnnlab.training import speed_choice
from cnnlab.training.race import FEWEST, Timing
from cnnlab.training.speed import CHOSEN, Memory, Speed, candidates, recorded, untimed
from cnnlab.training.speed_choice import operations
from cnnlab.training.trial_steps import TrialSteps

CPU = torch.device("cpu")
FAST = {"precision": "auto", "channels_last": "auto", "compile": "auto", "num_threads": "auto"}
DEFAULT = {"precision": "32-true", "channels_last": True, "compile": False, "num_threads": "auto"}
CHOICE = Speed("bf16-mixed", channels_last=False, compile=False, num_threads=1)
START = Speed("32-true", channels_last=True, compile=False, num_threads=2)
OPTIONS = {
    "precision": ["32-true", "bf16-mixed"],
    "channels_last": [True, False],
    "compile": [False],
    "num_threads": [2, 1],
}


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


# --- Which may win ---


@pytest.mark.usefixtures("two_threads")
def test_candidates_are_those_that_the_processor_has():
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    assert has_bfloat16(CPU) == bool({"avx512_bf16", "amx_bf16"} & set(flags))
    precisions = ["32-true", "bf16-mixed"] if has_bfloat16(CPU) else ["32-true"]
    assert candidates(FAST, CPU) == OPTIONS | {"precision": precisions}
    assert candidates(DEFAULT, CPU)["num_threads"] == [2, 1]
    exact = candidates(DEFAULT | {"num_threads": None}, CPU)
    assert exact == {"precision": ["32-true"], "channels_last": [True], "compile": [False], "num_threads": [2]}
    chosen = candidates(FAST | {"num_threads": 7, "precision": "64-true"}, CPU)
    assert chosen == OPTIONS | {"precision": ["64-true"], "num_threads": [7]}


def test_gpus_have_more_candidates(monkeypatch):
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert candidates(FAST, gpu)["precision"] == ["32-true", "16-mixed"]
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    found = candidates(FAST, gpu)
    assert (found["precision"], found["compile"]) == (["32-true", "bf16-mixed"], [False, True])
    assert len(found["num_threads"]) == 1


@pytest.mark.parametrize(
    ("accelerator", "devices", "gpu", "expected"),
    [
        ("cpu", 1, True, "cpu"),
        ("auto", "auto", False, "cpu"),
        ("auto", "auto", True, "cuda:0"),
        ("gpu", [2], True, "cuda:2"),
        ("tpu", 1, False, "meta"),
    ],
)
def test_device_is_the_first_that_is_trained_on(monkeypatch, accelerator, devices, gpu, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert str(device_of(accelerator, devices)) == expected


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("speed.channels_last=maybe", "speed.channels_last=maybe: use true, false or auto"),
        ("speed.compile=soon", "speed.compile=soon: use true, false or auto"),
        ("speed.num_threads=many", "speed.num_threads=many: use a number or auto"),
        ("speed.num_threads=0", "speed.num_threads=0: use at least 1"),
    ],
)
def test_unknown_value_is_refused(tmp_path, override, message):
    with pytest.raises(InputError, match=message):
        experiment.build(config(tmp_path / "run", *digits_with(override)))


def test_operations_are_those_of_the_layers():
    """A convolution of 3 x 3 x 2 x 5 weights at 6 x 6 places and 180 x 4 weights; two operations each, three passes."""
    network = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.Flatten(), nn.Linear(180, 4), nn.BatchNorm1d(4))

    class Data:
        channels, image_size, batch_size = 2, 6, 8

    assert operations(network, Data()) == 3 * 8 * 2 * (36 * 9 * 2 * 5 + 180 * 4)
    assert all(module.training for module in network.modules())
    assert operations(nn.Linear(7, 1), Data()) == float("inf")


# --- What is recorded ---


@pytest.mark.parametrize(
    ("record", "found"),
    [
        (asdict(CHOICE), CHOICE),
        (asdict(CHOICE) | {"num_threads": 64}, replace(CHOICE, num_threads=2)),  # of a larger machine
        (asdict(CHOICE) | {"precision": "16-mixed"}, replace(CHOICE, precision="16-mixed")),  # of one with a GPU
        (asdict(CHOICE) | {"precision": "os.system"}, None),
        (asdict(CHOICE) | {"channels_last": "yes"}, None),
        (asdict(CHOICE) | {"num_threads": 0}, None),
        ({"precision": "32-true"}, None),
        (None, None),
        (["32-true"], None),
    ],
)
def test_record_is_followed_if_it_is_valid(record, found):
    assert recorded(record, OPTIONS) == found


def test_settings_of_the_config_go_before_those_of_a_record():
    fixed = OPTIONS | {"precision": ["32-true"], "num_threads": [2]}
    assert recorded(asdict(CHOICE), fixed) == Speed("32-true", channels_last=False, compile=False, num_threads=2)


def test_choice_is_kept_for_the_same_things_only(tmp_path):
    memory = Memory(tmp_path, ["Xeon", 32])
    assert memory.recall(OPTIONS) is None
    memory.keep(CHOICE, {CHOICE: 0.5})
    assert Memory(tmp_path, ["Xeon", 32]).recall(OPTIONS) == CHOICE
    assert Memory(tmp_path, ["Xeon", 64]).recall(OPTIONS) is None
    assert memory.recall(OPTIONS | {"num_threads": [4, 2]}) is None
    memory.path.write_text("{")
    assert memory.recall(OPTIONS) is None


def test_choice_that_cannot_be_kept_costs_nothing_else(tmp_path, caplog):
    (tmp_path / "file").touch()
    with caplog.at_level(logging.INFO):
        Memory(tmp_path / "file", []).keep(CHOICE, {})
    assert "Could not keep the choice of speed" in caplog.text


# --- Steps on trial ---


def test_trial_leaves_the_network_as_it_was(tmp_path):
    built = experiment.build(
        config(tmp_path / "run", *digits_with("regularization=[dropout,batch_norm]", "freeze=none"))
    )
    network = built.module.network
    network.features.eval()
    next(network.parameters()).requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    strides = [weight.stride() for weight in network.parameters()]
    modes = [module.training for module in network.modules()]
    random = torch.get_rng_state()

    def build_module(channels_last):
        recipe = replace(built.recipe, channels_last=channels_last)
        return built.task.build_module(built.module.preprocessing, network, built.data.classes, {}, recipe)

    with TrialSteps(build_module, built.data.probe_batch(6), CPU, 0) as steps:
        for choice in (Speed("32-true", True, False, 1), CHOICE):
            steps.switch(choice)
            steps.take()
            convolution = next(weight for weight in network.parameters() if weight.ndim == 4 and weight.shape[1] > 1)
            assert convolution.is_contiguous(memory_format=torch.channels_last) == choice.channels_last
        assert any(not torch.equal(before[name], value) for name, value in network.state_dict().items())  # statistics
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert [weight.stride() for weight in network.parameters()] == strides
    assert [module.training for module in network.modules()] == modes
    assert [weight.requires_grad for weight in network.parameters()].count(False) == 1
    assert all(weight.grad is None for weight in network.parameters())
    assert torch.equal(torch.get_rng_state(), random)


# --- In a run ---


@pytest.fixture
def timed(monkeypatch, caplog) -> list[float]:
    """In place of timing the last candidates win, CHOICE; gives the steps of each run for which something is timed."""
    counts: list[float] = []

    def choose(options, steps, count):
        counts.append(count)
        best = Speed(**{name: values[-1] for name, values in options.items()})
        steps.switch(best)
        steps.take()
        return Timing(best, {best: 0.01})

    monkeypatch.setattr(speed_choice, "choose", choose)
    monkeypatch.setattr("cnnlab.training.speed.has_bfloat16", lambda device: True)
    caplog.set_level(logging.INFO)
    return counts


STEPS = 39
"""In an epoch of digits."""
LONG = math.ceil(FEWEST / STEPS)
"""Epochs from which on there is time for timing."""


def run_of(folder: Path, *overrides: str) -> Config:
    return config(folder, *digits_with("speed=fast", f"trainer.max_epochs={LONG}", *overrides))


def said(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("Speed")]


@pytest.mark.usefixtures("two_threads")
def test_run_is_built_with_the_choice_which_the_next_one_finds(tmp_path, timed, caplog):
    built = experiment.build(run_of(tmp_path / "run"))
    assert timed == [LONG * STEPS]
    assert built.speed == asdict(CHOICE) | {"engine": "torch"}
    assert (built.trainer.precision, built.recipe.channels_last, torch.get_num_threads()) == ("bf16-mixed", False, 1)
    assert said(caplog) == ["Speed: bf16-mixed, contiguous, 1 thread (timed here: 10 ms a step)"]
    torch.set_num_threads(2)
    assert experiment.build(run_of(tmp_path / "other", "seed=4")).speed == asdict(CHOICE) | {"engine": "torch"}
    assert len(timed) == 1
    assert "timed before" in said(caplog)[1]
    torch.set_num_threads(2)
    experiment.build(run_of(tmp_path / "larger", "data.batch_size=64", f"trainer.max_epochs={2 * LONG}"))
    assert len(timed) == 2


@pytest.mark.usefixtures("two_threads")
def test_dry_run_keeps_no_choice(tmp_path, timed):
    for _ in range(2):
        torch.set_num_threads(2)
        experiment.build(run_of(tmp_path / "run"), keeps=False)
    assert len(timed) == 2
    assert not (tmp_path / "cache" / "speed").exists()


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        ([f"trainer.max_epochs={LONG - 1}"], None),
        ([f"trainer.max_steps={LONG * STEPS - 1}", "trainer.max_epochs=-1"], LONG * STEPS - 1),
        (["trainer.max_steps=99"], None),
        (["trainer.limit_train_batches=0.5", f"trainer.max_epochs={2 * LONG}"], 2 * LONG * (STEPS // 2)),
        (["speed.precision=64-true"], None),  # cannot be timed
        (["freeze=features", "freeze.cache_views=2", "data.batch_size=3"], math.ceil((1266 + 176) / 3)),
        (["freeze=features", "freeze.cache=off"], LONG * STEPS),
    ],
)
def test_run_is_timed_if_it_has_steps_enough(tmp_path, timed, overrides, count):
    """Of cached features those steps count that compute them: one view of each image, since nothing augments."""
    built = experiment.build(run_of(tmp_path / "run", *overrides))
    assert timed == ([] if count is None else [count])
    assert built.speed["num_threads"] == (2 if count is None else 1)


def test_resumed_run_keeps_to_its_record(tmp_path, timed, monkeypatch):
    """Without timing anything, and without what other runs have found."""
    monkeypatch.setattr(speed_choice, "FEWEST", 1)
    overrides = digits_with(
        "speed=fast", "trainer.max_epochs=2", "trainer.limit_train_batches=3", "trainer.limit_val_batches=1"
    )
    with monkeypatch.context() as patch:
        interrupt_at_epoch(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            train_in_process(tmp_path / "run", *overrides)
    assert timed == [6]
    shutil.rmtree(tmp_path / "cache" / "speed")
    record = train_in_process(tmp_path / "run", *overrides, resume=True)
    assert timed == [6]
    assert (record["status"], record["speed"]) == ("finished", asdict(CHOICE) | {"engine": "torch"})


@pytest.mark.usefixtures("two_threads")
def test_processes_of_a_run_agree(tmp_path, timed, monkeypatch):
    """The first process tells those that it starts; processes that torchrun starts cannot ask and time nothing."""
    told = asdict(CHOICE) | {"num_threads": 2}
    several = told | {"engine": "torch"}
    cfg = run_of(tmp_path / "run", "trainer.devices=2", "trainer.strategy=ddp")
    monkeypatch.setenv(CHOSEN, "")
    assert experiment.build(cfg).speed == several
    assert json.loads(os.environ[CHOSEN]) == told
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert experiment.build(cfg).speed == several
    assert len(timed) == 1
    monkeypatch.setenv(CHOSEN, "")
    assert experiment.build(cfg).speed == asdict(untimed(OPTIONS)) | {"engine": "torch"}
    assert len(timed) == 1


@pytest.mark.usefixtures("two_threads", "timed")
def test_network_that_cannot_be_trained_is_refused_as_without_timing(tmp_path):
    with pytest.raises(InputError, match="LeNet5 with MSELoss cannot be trained"):
        experiment.build(run_of(tmp_path / "run", "loss=mse"))


@pytest.mark.usefixtures("two_threads")
def test_exact_runs_time_nothing_and_default_ones_threads_only(tmp_path, monkeypatch):
    varied = []

    def choose(options, steps, count):
        varied.append([name for name, values in options.items() if len(values) > 1])
        return Timing(START, {START: 1.0})

    monkeypatch.setattr(speed_choice, "choose", choose)
    large = ["model=resnet18", "model.weights=null", "model.image_size=64", "data.channels=3"]
    for overrides in (["speed=exact"], ["speed=default"], ["speed=default", *large]):
        built = experiment.build(run_of(tmp_path / "run", *overrides))
        assert built.speed == asdict(START) | {"engine": "torch"}
    assert varied == [["num_threads"]]  # a large network needs all
