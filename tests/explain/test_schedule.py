"""Schedules without training, against the closed forms of the papers."""

import json
import math

import pytest

from cnnlab.cli.visualize import visualize
from cnnlab.errors import InputError

LENET = ["what=schedule", "model=lenet5", "optimizer.lr=0.1", "trainer.max_epochs=10", "steps=20"]


def numbers(tmp_path, *overrides):
    visualize([*LENET, *overrides, f"output={tmp_path}"])
    return json.loads((tmp_path / "schedule.json").read_text())


def test_cosine_with_freezing_and_discriminative_rates(tmp_path):
    found = numbers(tmp_path, "scheduler=cosine", "freeze=fine_tune")
    assert found["trainable"][0] == ["classifier"]
    assert "features.0" in found["trainable"][1]
    cosine = [0.1 * (1 + math.cos(math.pi * epoch / 10)) / 2 for epoch in range(10)]
    assert found["learning_rate"]["classifier"]["start_of_epoch"] == pytest.approx(cosine, rel=1e-6)
    lower, upper = (found["learning_rate"][name]["start_of_epoch"] for name in ("features.0", "features.3"))
    assert [a / b for a, b in zip(lower, upper, strict=True)] == pytest.approx([lower[0] / upper[0]] * 10)
    assert lower[0] < upper[0] < 0.1


def test_one_cycle_rises_to_the_rate_and_ends_near_nothing(tmp_path):
    """Smith and Topin 2018 with torch's cosine annealing: from lr / 25 at once, lr at 30 % of the steps."""
    found = numbers(tmp_path, "scheduler=onecycle", "freeze=gradual")
    rate = found["learning_rate"]["classifier"]
    assert rate["start_of_epoch"][0] == pytest.approx(0.1 / 25)
    assert rate["highest"] == pytest.approx(0.1)
    assert max(range(10), key=rate["start_of_epoch"].__getitem__) == 3
    assert rate["last"] == pytest.approx(0.1 / 25 / 1e4)
    assert [len(stages) for stages in found["trainable"]] == sorted(len(stages) for stages in found["trainable"])


def test_step_schedule_falls_every_so_many_epochs(tmp_path):
    found = numbers(tmp_path, "scheduler=step", "scheduler.step_epochs=4")
    assert found["learning_rate"]["features.0"]["start_of_epoch"] == pytest.approx([0.1] * 4 + [0.01] * 4 + [0.001] * 2)


def test_schedule_of_a_run_is_that_of_its_config(quick_run, tmp_path):
    visualize(["what=schedule", f"run={quick_run}", f"output={tmp_path}"])
    found = json.loads((tmp_path / "schedule.json").read_text())
    assert found["epochs"] == 3
    assert set(found["learning_rate"]) == {"features.0", "features.3", "classifier"}


def test_plateau_says_what_it_cannot_know(tmp_path):
    found = numbers(tmp_path, "scheduler=plateau")
    assert found["learning_rate"]["classifier"]["start_of_epoch"] == [0.1] * 10


def test_too_few_steps_are_refused():
    with pytest.raises(InputError, match="steps=1"):
        visualize([*LENET[:-1], "steps=1"])
