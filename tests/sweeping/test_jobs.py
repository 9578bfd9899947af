"""Searches, processes and clusters: the same folders, the same record and the same exit code everywhere."""

import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import run_train, start_train
from hydra.core.hydra_config import HydraConfig
from in_process import DIGITS
from in_slurm import install_slurm
from program import run_program
from sweeps import statuses, sweep_json, train

from cnnlab.sweeping import jobs
from cnnlab.sweeping.jobs import share
from cnnlab.system.files import write_json

TINY = (*DIGITS, "trainer.max_epochs=1", "trainer.limit_train_batches=2")


# --- Searches ---

TRIALS = 3
SEARCH = ("-m", *DIGITS, "hparams_search=optuna", f"hydra.sweeper.n_trials={TRIALS}", "sweep.dir=s")


@pytest.fixture
def score(monkeypatch, here):
    """Runs whose best accuracy is highest (and whose loss lowest) at a learning rate of 0.01, and whose last one is 0.

    Returns the task, which can be told to stop or fail, and the rates that were tried.
    """
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
        loss = abs(math.log10(cfg.optimizer.lr / 0.01)) / 2
        best = {f"val/{cfg.metric}": loss if cfg.metric == "loss" else 1 - loss, "epoch": 0}
        write_json(
            folder / "run.json",
            {"status": "finished", "best": best, "last": {"val/acc": 0.0}, "wall_seconds": 1.0},
        )

    task.stops_at = task.fails_at = 0
    monkeypatch.setattr("cnnlab.cli.train.run_job", task)
    return task, tried


def study_in(folder: Path) -> Any:
    import optuna  # after the sweeper, which quietens SQLAlchemy

    return optuna.load_study(study_name="cnnlab", storage=f"sqlite:///{folder}/optuna.db")


def trials(folder: Path) -> list:
    return study_in(folder).trials


def test_search_finds_the_best_epoch_s_optimum(score, here, capsys):
    _, tried = score
    assert train(*SEARCH) == 0
    found = trials(here / "s")
    assert [trial.params["optimizer.lr"] for trial in found] == tried
    assert [trial.value for trial in found] == pytest.approx([1 - abs(math.log10(lr / 0.01)) / 2 for lr in tried])
    assert len(set(tried)) == TRIALS
    jobs = sweep_json(here / "s")["jobs"]
    assert [job["number"] for job in jobs] == list(range(TRIALS))
    assert [job["best"]["val/acc"] for job in jobs] == [trial.value for trial in found]
    assert jobs[2]["name"] == f"002-lr-{tried[2]:.4g}"
    said = capsys.readouterr().out
    assert f"Search of {TRIALS} trials in s" in said
    assert f"{TRIALS} jobs: {TRIALS} finished" in said


def test_search_for_the_least_minimizes(score, here, capsys):
    _, tried = score
    assert train(*SEARCH, "metric=loss") == 0
    record = sweep_json(here / "s")
    assert (record["metric"], record["mode"]) == ("val/loss", "min")
    study = study_in(here / "s")
    assert study.direction.name == "MINIMIZE"
    losses = [abs(math.log10(lr / 0.01)) / 2 for lr in tried]
    assert [trial.value for trial in study.trials] == pytest.approx(losses)
    assert study.best_value == pytest.approx(min(losses))
    assert [job["best"]["val/loss"] for job in record["jobs"]] == pytest.approx(losses)
    assert f"finished in 1 s, best val/loss {losses[0]:.4f} (epoch 0)" in capsys.readouterr().out


def test_search_has_one_metric(score, here, capsys):
    assert train(*SEARCH, "metric=acc,loss") == 2
    assert "A search optimizes one metric, not " in capsys.readouterr().err
    assert not (here / "s").exists()


def test_search_that_is_stopped_goes_on(score, here):
    task, tried = score
    task.stops_at, task.fails_at = 3, 2
    assert train(*SEARCH) == 130
    assert train(*SEARCH) == 2  # a search is there already
    assert train(*SEARCH, "sweep.resume=true") == 4
    found = trials(here / "s")
    assert tried[3] == tried[2]  # the trial that was stopped is taken up again, with its own value
    assert [trial.state.name for trial in found].count("COMPLETE") == TRIALS
    assert [trial.state.name for trial in found].count("FAIL") == 1
    assert [trial.params["optimizer.lr"] for trial in found] == [*tried[:3], *tried[4:]]
    assert len({trial.params["optimizer.lr"] for trial in found}) == TRIALS + 1
    assert [job["number"] for job in sweep_json(here / "s")["jobs"]] == list(range(TRIALS + 1))
    before = list(tried)
    assert train(*SEARCH, "sweep.resume=true") == 4
    assert tried == before


def test_search_of_which_every_trial_fails_ends_with_their_exit_code(tasks, here):
    tasks["ends"][0] = {"status": "failed", "error": "x", "exit_code": 4, "wall_seconds": 1.0}
    assert train(*SEARCH[:-2], "hydra.sweeper.n_trials=2", "sweep.dir=s") == 4
    assert set(statuses(here / "s").values()) == {"failed"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["init=normal,vgg"], "unknown option vgg of init"),
        (["seed=interval(0, 1.5)"], "seed=1.5 is not int"),
        (["optimizer.lr=0.1"], "The search has nothing to vary"),
    ],
)
def test_space_of_a_search_is_checked_before_it_starts(tasks, here, capsys, arguments, message):
    assert train(*SEARCH, *arguments) == 2
    assert message in capsys.readouterr().err
    assert tasks["folders"] == []
    assert not (here / "s").exists()


# --- Several jobs at a time ---


@pytest.mark.parametrize(
    ("launcher", "gpus", "number", "devices", "threads"),
    [
        ("basic", 2, 3, "auto", None),
        ("joblib", 0, 3, "auto", 4),
        ("joblib", 2, 3, [1], 4),
        ("joblib", 4, 3, [3], 4),
        ("submitit_local", 2, 3, "auto", 4),
        ("submitit_slurm", 2, 3, "auto", None),
    ],
)
def test_jobs_share_a_machine(tmp_path, monkeypatch, launcher, gpus, number, devices, threads):
    """Eight cores for two jobs at a time."""
    monkeypatch.setattr(jobs, "device_count", lambda accelerator: gpus)
    monkeypatch.setattr(jobs, "cores", lambda: 8)
    write_json(tmp_path / "sweep.json", {"launcher": launcher, "at_once": 2})
    plain = {"trainer": {"accelerator": "auto", "devices": "auto"}, "speed": {"num_threads": None}}
    shared = share(plain, tmp_path, number)
    assert (shared["trainer"]["devices"], shared["speed"]["num_threads"]) == (devices, threads)
    assert plain["trainer"]["devices"] == "auto"  # the run's record holds what was asked for
    chosen = {**plain, "speed": {"num_threads": 3}}
    assert share(chosen, tmp_path, number)["speed"]["num_threads"] == 3


RATES = "optimizer.lr=0.01,1e30"
OUTCOME = {"lr-0.01": "finished", "lr-1e+30": "failed"}


@pytest.mark.slow  # three interpreters of their own
def test_joblib_runs_jobs_side_by_side(tmp_path):
    # As an interpreter of its own: at its end it sends joblib's workers home, for which a fork would wait five minutes.
    done = run_program(
        "-m", *TINY, RATES, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "sweep.dir=s", cwd=tmp_path
    )
    assert done.returncode == 4, done.stderr
    assert statuses(tmp_path / "s") == OUTCOME
    assert "2 at a time" in done.stdout
    assert "[2/2]" in done.stdout
    assert "2 jobs: 1 finished, 1 failed" in done.stdout
    hosts = [json.loads((tmp_path / "s" / name / "run.json").read_text())["process"]["pid"] for name in OUTCOME]
    assert len(set(hosts)) == 2


def test_slurm_gets_a_job_array_that_it_may_requeue(tmp_path, monkeypatch):
    slurm = install_slurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{slurm}:{os.environ['PATH']}")
    options = ["hydra.launcher.timeout_min=90", "hydra.launcher.partition=gpu", "hydra.launcher.max_num_timeout=3"]
    code, said = run_train("-m", *TINY, RATES, "hydra/launcher=submitit_slurm", *options, "sweep.dir=s", cwd=tmp_path)
    assert code == 4, said
    assert statuses(tmp_path / "s") == OUTCOME
    script = (slurm / "script.sh").read_text().splitlines()
    flags = {"array=0-1%2", "requeue", "time=90", "partition=gpu", "signal=USR2@120", "nodes=1", "open-mode=append"}
    assert {f"#SBATCH --{flag}" for flag in flags} <= set(script)
    (command,) = [line for line in script if line.startswith("srun")]
    assert command.endswith(f"-u -m submitit.core._submit {tmp_path}/s/.submitit/%j")


def test_job_that_is_preempted_goes_on_from_its_checkpoint(tmp_path):
    batches = ("trainer.max_epochs=20", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1")
    overrides = (*DIGITS, *batches, "seed=0", "sweep.dir=s")
    output = tmp_path / "output.txt"
    sweep = start_train("-m", *overrides, "hydra/launcher=submitit_local", cwd=tmp_path, output=output)
    while not (checkpoints := list(tmp_path.glob("s/*/checkpoints/last.ckpt"))):
        assert sweep.exitcode is None, output.read_text()
        time.sleep(0.02)
    run = checkpoints[0].parents[1]
    job = json.loads((run / "run.json").read_text())["process"]
    os.kill(job["pid"], signal.SIGUSR2)  # the signal that submitit asks SLURM for
    sweep.join(300)
    assert sweep.exitcode == 0, output.read_text()
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "finished"
    assert len(record["resumed"]) == 1
    assert record["process"]["pid"] != job["pid"]
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 20 * 2
    assert "1 job: 1 finished" in output.read_text()


# --- Several processes a job ---

PROBE = """
import json, os
from pathlib import Path
import lightning as L

class Probe(L.Callback):
    def on_train_start(self, trainer, pl_module):
        seen = {"lr": pl_module.recipe.lr, "seed": pl_module.recipe.seed, "hash": os.environ["CNNLAB_CONFIG_HASH"]}
        (Path(trainer.default_root_dir) / f"rank-{trainer.global_rank}.json").write_text(json.dumps(seen))
        if pl_module.recipe.seed == 1 and trainer.global_rank == 1:
            raise RuntimeError("rank 1 of seed 1 fails")
"""
PROBED = (
    *TINY,
    "trainer=ddp_cpu",
    "trusted_packages=[probe]",
    "+callbacks.probe._target_=probe.Probe",
)


@pytest.fixture
def probed(tmp_path, monkeypatch):
    """A package of the user's own that notes what each rank trains with."""
    (tmp_path / "probe.py").write_text(PROBE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    return tmp_path


def ranks_of(run: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(run.glob("rank-*.json"))]


def test_every_rank_trains_the_job_it_belongs_to(probed):
    """The first job loses its second rank, which takes down the first one, and nothing else."""
    code, said = run_train("-m", *PROBED, "seed=1,2", "sweep.dir=s", cwd=probed)
    assert code == 1, said
    assert statuses(probed / "s") == {"seed-1": "failed", "seed-2": "finished"}
    assert sorted(path.name for path in (probed / "s").iterdir()) == ["seed-1", "seed-2", "sweep.json"]
    assert not (probed / "outputs").exists()
    assert "rank 1 of seed 1 fails" in (probed / "s" / "seed-1" / "train.log").read_text()
    for seed in (1, 2):
        record = json.loads((probed / "s" / f"seed-{seed}" / "run.json").read_text())
        expected = {"lr": 0.001, "seed": seed, "hash": record["config_hash"]}
        assert ranks_of(probed / "s" / f"seed-{seed}") == [expected, expected]
    assert record["world_size"] == 2


@pytest.mark.slow
def test_every_rank_trains_the_trial_it_belongs_to(probed):
    search = ("hparams_search=optuna", "hydra.sweeper.n_trials=3", "seed=2", "sweep.dir=s")
    code, said = run_train("-m", *PROBED, *search, cwd=probed)
    assert code == 0, said
    jobs = sweep_json(probed / "s")["jobs"]
    assert [job["status"] for job in jobs] == ["finished"] * 3
    tried = [trial.params["optimizer.lr"] for trial in trials(probed / "s")]
    assert len(set(tried)) == 3
    for job, lr in zip(jobs, tried, strict=True):
        ranks = ranks_of(probed / "s" / job["name"])
        assert [rank["lr"] for rank in ranks] == [lr, lr]
        assert len({rank["hash"] for rank in ranks}) == 1
