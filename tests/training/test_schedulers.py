"""Learning rates step by step against their formulas."""

import math

import pytest
import torch
from in_process import quickly_composed
from omegaconf import OmegaConf
from torch.optim import SGD

from cnnlab.config import build
from cnnlab.training import schedulers

PER_EPOCH = 5


def optimizer(*rates: float) -> SGD:
    return SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates], lr=1.0)


def rates_of(scheduler_for, steps: int, *rates: float) -> list[list[float]]:
    """For each step the learning rate of each group."""
    sgd = optimizer(*rates)
    schedule = scheduler_for(sgd, total_steps=steps, steps_per_epoch=PER_EPOCH)
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] for group in sgd.param_groups])
        sgd.step()
        schedule.step()
    return seen


def option(name: str, *overrides: str):
    node = quickly_composed([f"scheduler={name}", *(f"scheduler.{override}" for override in overrides)]).scheduler
    return build(OmegaConf.to_container(node, resolve=True))


def test_cosine_is_half_a_cosine():
    seen = rates_of(option("cosine", "final_lr=0.01"), 20, 0.4)
    expected = [0.01 + (0.4 - 0.01) * (1 + math.cos(math.pi * step / 20)) / 2 for step in range(20)]
    assert [rate for (rate,) in seen] == pytest.approx(expected)


def test_warm_up_is_linear_and_the_cosine_begins_at_the_top():
    seen = rates_of(option("cosine", "warmup_epochs=2"), 40, 0.4)
    up = [0.4 * (0.1 + 0.9 * step / 10) for step in range(10)]
    down = [0.4 * (1 + math.cos(math.pi * step / 30)) / 2 for step in range(30)]
    assert [rate for (rate,) in seen] == pytest.approx(up + down)


def test_warm_up_longer_than_the_run_is_cut():
    seen = [rate for (rate,) in rates_of(option("cosine", "warmup_epochs=9"), 10, 0.4)]
    assert seen[:9] == pytest.approx([0.4 * (0.1 + 0.9 * step / 9) for step in range(9)])
    assert seen[9] == pytest.approx(0.4)


def test_groups_keep_their_ratio():
    seen = rates_of(option("cosine", "warmup_epochs=1"), 20, 1.0, 0.1)
    assert [low / high for high, low in seen] == pytest.approx([0.1] * 20)


def test_step_multiplies_at_epochs():
    seen = rates_of(option("step", "step_epochs=2", "gamma=0.5"), 30, 0.8)
    assert [rate for (rate,) in seen] == pytest.approx([0.8 * 0.5 ** (step // 10) for step in range(30)])


def test_onecycle_peaks_at_each_groups_own_rate():
    seen = rates_of(option("onecycle", "pct_start=0.25"), 40, 1.0, 0.1)
    first, second = ([rates[group] for rates in seen] for group in (0, 1))
    assert max(first) == pytest.approx(1.0)
    assert max(second) == pytest.approx(0.1)
    assert first.index(max(first)) == 9
    assert first[0] == pytest.approx(1 / 25)
    assert first[-1] == pytest.approx(1 / 25 / 1e4)
    expected = 1.0 + (1 / 25 / 1e4 - 1.0) * (1 - math.cos(math.pi * 10 / 30)) / 2
    assert first[19] == pytest.approx(expected)


def test_none_stays():
    assert rates_of(option("none"), 12, 0.3, 0.03) == [[0.3, 0.03]] * 12


def test_single_step_runs_through_every_schedule():
    for schedule in (schedulers.constant, schedulers.step, schedulers.cosine):
        assert rates_of(schedule, 1, 0.3) == [[0.3]]
