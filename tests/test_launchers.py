"""Searches, processes and clusters: the same folders, the same record and the same exit code everywhere."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from conftest import REPOSITORY, run_program
from in_process import DIGITS
from test_sweeping import here, statuses, sweep_json, tasks, train  # noqa: F401
from torch import nn

from cnnlab import cli, sweeping
from cnnlab.files import write_json

TINY = (*DIGITS, "trainer.max_epochs=1", "trainer.limit_train_batches=2")


# --- Searches ---

SEARCH = ("-m", *DIGITS, "hparams_search=optuna", "hydra.sweeper.n_trials=12", "sweep.dir=s")


@pytest.fixture
def score(monkeypatch, here):  # noqa: F811
    """Runs whose best accuracy is highest at a learning rate of 0.01, and whose last one is 0; returns the rates tried."""
    from hydra.core.hydra_config import HydraConfig

    tried: list[float] = []

    def task(cfg, rerun, failures) -> None:
        tried.append(cfg.optimizer.lr)
        folder = Path(HydraConfig.get().runtime.output_dir)
        if task.stops_at == len(tried):
            write_json(folder / "run.json", {"status": "running"})
            raise KeyboardInterrupt
        if task.fails_at == len(tried):
            write_json(folder / "run.json", {"status": "failed", "error": "x", "exit_code": 4, "wall_seconds": 1.0})
            return
        value = 1 - abs(math.log10(cfg.optimizer.lr / 0.01)) / 2
        best = {"val/acc": value, "epoch": 0}
        write_json(
            folder / "run.json",
            {"status": "finished", "best": best, "last": {"val/acc": 0.0}, "wall_seconds": 1.0},
        )

    task.stops_at = task.fails_at = 0
    monkeypatch.setattr(cli, "_task", task)
    return task, tried


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="cnnlab", storage=f"sqlite:///{folder}/optuna.db").trials


def test_search_finds_the_best_epoch_s_optimum(score, here, capsys):  # noqa: F811
    task, tried = score
    assert train(*SEARCH) == 0
    found = trials(here / "s")
    assert [trial.params["optimizer.lr"] for trial in found] == tried
    assert [trial.value for trial in found] == pytest.approx([1 - abs(math.log10(lr / 0.01)) / 2 for lr in tried])
    assert len(set(tried)) == 12
    jobs = sweep_json(here / "s")["jobs"]
    assert [job["number"] for job in jobs] == list(range(12))
    assert [job["best"]["val/acc"] for job in jobs] == [trial.value for trial in found]
    assert jobs[3]["name"] == f"003-lr-{tried[3]:.4g}"
    said = capsys.readouterr().out
    assert "Search of 12 trials in s" in said
    assert "12 jobs: 12 finished" in said


def test_search_that_is_stopped_goes_on(score, here):  # noqa: F811
    task, tried = score
    task.stops_at, task.fails_at = 5, 2
    assert train(*SEARCH) == 130
    assert train(*SEARCH) == 2  # a search is there already
    assert train(*SEARCH, "sweep.resume=true") == 4
    found = trials(here / "s")
    assert tried[5] == tried[4]  # the trial that was stopped is taken up again, with its own value
    assert [trial.state.name for trial in found].count("COMPLETE") == 12
    assert [trial.state.name for trial in found].count("FAIL") == 1
    assert [trial.params["optimizer.lr"] for trial in found] == [*tried[:5], *tried[6:]]
    assert len({trial.params["optimizer.lr"] for trial in found}) == 13
    assert [job["number"] for job in sweep_json(here / "s")["jobs"]] == list(range(13))
    before = list(tried)
    assert train(*SEARCH, "sweep.resume=true") == 4
    assert tried == before


def test_search_of_which_every_trial_fails_ends_with_their_exit_code(tasks, here):  # noqa: F811
    tasks["ends"][0] = {"status": "failed", "error": "x", "exit_code": 4, "wall_seconds": 1.0}
    assert train(*SEARCH[:-2], "hydra.sweeper.n_trials=2", "sweep.dir=s") == 4
    assert set(statuses(here / "s").values()) == {"failed"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["init=normal,vgg"], "vgg is no option of init"),
        (["seed=interval(0, 1.5)"], "seed=1.5 is not int"),
        (["optimizer.lr=0.1"], "The search has nothing to vary"),
    ],
)
def test_space_of_a_search_is_checked_before_it_starts(tasks, here, capsys, arguments, message):  # noqa: F811
    assert train(*SEARCH, *arguments) == 2
    assert message in capsys.readouterr().err
    assert tasks["folders"] == []
    assert not (here / "s").exists()
