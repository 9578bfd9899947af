"""Sweeps: what is wrong is said before the first job, every job is recorded, and nothing finished is ever lost."""

import json
import shutil
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from container import in_container
from forked import start_train
from in_process import DIGITS, train_in_process
from sweeps import statuses, sweep_json, train

from cnnlab.config import compose
from cnnlab.config.overrides import every_combination
from cnnlab.errors import InputError
from cnnlab.runs.sweep import Sweep
from cnnlab.runs.tensorboard import HOST, SAMPLES, link
from cnnlab.sweeping import plan
from cnnlab.sweeping.plan import prepare
from cnnlab.system.files import write_json


def test_lists_can_be_swept():
    jobs = every_combination(["augmentation=[flip],[flip,noise],none", "seed=0,1"])
    found = [(list(cfg.augmentation), cfg.seed) for cfg in map(compose, jobs)]
    entries = (["flip"], ["flip", "noise"], [])
    assert found == [(names, seed) for names in entries for seed in (0, 1)]


def planned(folder: Path) -> Path:
    """A sweep of seeds 0 and 1 on digits, as its process leaves it when both have finished."""
    sweep = Sweep.create(folder, [*DIGITS, "seed=0,1"], {"seed": ["0", "1"]}, DIGITS)
    sweep.record |= {"launcher": "basic", "total": 2, "at_once": 1, "metric": "val/acc", "mode": "max"}
    for seed in (0, 1):
        job = sweep.add(seed, f"seed-{seed}", [*DIGITS, f"seed={seed}"])
        sweep.path_of(job).mkdir(parents=True)
        write_json(sweep.path_of(job) / "run.json", {"status": "finished", "wall_seconds": 1.0})
    sweep.refresh()
    sweep.begin()
    return folder


def test_planned_sweep_is_one_that_is_resumed(here, tasks, capsys):
    """What `planned` writes is what the program itself would have written: there is nothing left to run."""
    assert train("-m", *DIGITS, "seed=0,1", f"sweep.dir={planned(here / 's')}", "sweep.resume=true") == 0
    assert tasks["folders"] == []
    assert "2 jobs: 2 finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("swept", "names"),
    [
        (["augmentation=[flip],[flip,noise],none"], ["flip", "flip+noise", "none"]),
        (["data.split_seed=0,1,2"], ["split_seed-0", "split_seed-1", "split_seed-2"]),
        (["data=digits,mnist"], ["digits", "mnist"]),
        (["model.weights=a/w.pth,b/w.pth"], ["weights-w", "weights-w-2"]),
        (["seed=3"], ["seed-3"]),
    ],
)
def test_jobs_are_named_by_what_varies(here, swept, names):
    sweep, _ = prepare(["experiment=quickstart", *swept])
    assert [job["name"] for job in sweep.jobs] == names
    assert sweep.folder.parent == here / "outputs" / "quickstart"
    assert [path.name for path in sweep.folder.iterdir()] == ["sweep.json"]


def test_jobs_have_folders_of_their_names(here, tasks):
    swept = ["init=zero,normal", "seed=0,1"]
    folders = ["zero-seed-0", "zero-seed-1", "normal-seed-0", "normal-seed-1"]
    assert train("-m", "experiment=quickstart", *swept) == 0
    (sweep,) = (here / "outputs" / "quickstart").iterdir()
    assert tasks["folders"] == [sweep / folder for folder in folders]
    assert list(statuses(sweep).items()) == [(folder, "finished") for folder in folders]
    assert sorted(path.name for path in sweep.iterdir()) == sorted([*folders, "sweep.json"])


def test_plan_and_end_are_printed(here, tasks, capsys):
    tasks["ends"][1] = {"status": "failed", "error": "The loss is nan.", "exit_code": 4, "wall_seconds": 1.0}
    assert train("-m", *DIGITS, "seed=0,1,2", "sweep.dir=my sweep") == 4
    plan, end = capsys.readouterr().out.split("\n\n")
    assert plan.splitlines() == [
        "Sweep of 3 jobs in my sweep (basic launcher)",
        "  varies: seed = 0, 1, 2",
        f"  fixed:  {' '.join(DIGITS)}",
        "  time:   estimated after the first job",
        "[1/3] seed-0: finished in 2 min, best val/acc 0.5000 (epoch 1); 2 to go, about 3 min",
        "[2/3] seed-1: failed: The loss is nan; 1 to go, about 2 min",
        "[3/3] seed-2: finished in 2 min, best val/acc 0.5000 (epoch 1)",
    ]
    assert end.splitlines() == [
        "3 jobs: 2 finished, 1 failed",
        "  failed: seed-1: The loss is nan",
        "          see my sweep/seed-1/train.log",
        f"Run the rest:  python train.py -m {' '.join(DIGITS)} seed=0,1,2 sweep.dir='my sweep' sweep.resume=true",
        "Compare:       cnnlab compare 'my sweep'",
        f"TensorBoard:   tensorboard --logdir 'my sweep' --host {HOST} --samples_per_plugin {SAMPLES}",
        " " * 15 + link("val/acc", r"^(.*?)-?seed-\d+(.*)$"),
    ]


def test_metric_that_is_to_be_small_reaches_the_record_and_the_console(here, tasks, capsys):
    tasks["ends"] = {
        seed: {"status": "finished", "best": {"val/loss": 0.25, "epoch": 1}, "wall_seconds": 1.0} for seed in (0, 1)
    }
    assert train("-m", *DIGITS, "metric=loss", "seed=0,1", "sweep.dir=s") == 0
    record = sweep_json(here / "s")
    assert (record["metric"], record["mode"]) == ("val/loss", "min")
    shown = capsys.readouterr().out
    assert "[2/2] seed-1: finished in 1 s, best val/loss 0.2500 (epoch 1)" in shown
    assert link("val/loss", r"^(.*?)-?seed-\d+(.*)$") in shown


def test_record_holds_the_plan_and_the_results(here, tasks):
    assert train("-m", *DIGITS, "init=zero,normal", "seed=0", "sweep.dir=s") == 0
    record = sweep_json(here / "s")
    assert record["varies"] == {"init": ["zero", "normal"]}
    assert record["fixed"] == [*DIGITS, "seed=0"]
    assert record["overrides"] == [*DIGITS, "init=zero,normal", "seed=0"]
    assert (record["total"], record["at_once"], record["launcher"]) == (2, 1, "basic")
    job = record["jobs"][1]
    assert (job["number"], job["name"], job["status"]) == (1, "normal", "finished")
    assert job["overrides"] == [*DIGITS, "init=normal", "seed=0"]
    assert job["best"] == {"val/acc": 0.5, "epoch": 1}


def test_job_that_fails_does_not_stop_the_others(here, tasks):
    tasks["ends"] = {
        0: {"status": "failed", "error": "x", "exit_code": 3, "wall_seconds": 1.0},
        1: MemoryError("no memory"),  # before the run had a record
    }
    assert train("-m", *DIGITS, "seed=0,1,2", "sweep.dir=s") == 3
    assert statuses(here / "s") == {"seed-0": "failed", "seed-1": "failed", "seed-2": "finished"}
    assert sweep_json(here / "s")["jobs"][1]["error"].startswith("Out of memory. Use smaller batches")
    assert json.loads((here / "s" / "seed-1" / "run.json").read_text())["status"] == "failed"


def test_resumed_sweep_runs_what_has_not_finished(here, tasks, capsys):
    command = ["-m", *DIGITS, "seed=0,1,2,3", "sweep.dir=s"]
    tasks["ends"] = {
        1: {"status": "failed", "error": "x", "exit_code": 1, "wall_seconds": 1.0},
        2: KeyboardInterrupt(),
    }
    assert train(*command) == 130
    assert statuses(here / "s") == {
        "seed-0": "finished",
        "seed-1": "failed",
        "seed-2": "pending",
        "seed-3": "pending",
    }
    assert "sweep.resume=true" in capsys.readouterr().out
    tasks["folders"].clear()
    tasks["ends"] = {2: {"status": "failed", "error": "y", "exit_code": 1, "wall_seconds": 1.0}}
    assert train(*command, "sweep.resume=true") == 1
    assert [folder.name for folder in tasks["folders"]] == ["seed-1", "seed-2", "seed-3"]
    assert "resumed: 1 already finished, 0 to continue, 3 to start" in capsys.readouterr().out
    tasks["folders"].clear()
    tasks["ends"] = {}
    assert train(*command, "sweep.resume=true") == 0
    assert [folder.name for folder in tasks["folders"]] == ["seed-2"]
    assert set(statuses(here / "s").values()) == {"finished"}
    assert "error" not in sweep_json(here / "s")["jobs"][1]
    tasks["folders"].clear()
    assert train(*command, "sweep.resume=true") == 0
    assert tasks["folders"] == []


def test_job_whose_configs_have_changed_does_not_go_on(here):
    short = ("trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1")
    command = ["-m", *DIGITS, *short, "seed=0,1", "sweep.dir=s"]
    assert train(*command) == 0
    path = here / "s" / "seed-1" / "config.yaml"
    path.write_text(path.read_text().replace("max_epochs: 1", "max_epochs: 2"))
    record = json.loads((path.parent / "run.json").read_text())
    write_json(path.parent / "run.json", record | {"status": "interrupted"})
    assert train(*command, "sweep.resume=true") == 2
    job = sweep_json(here / "s")["jobs"][1]
    assert (job["status"], job["exit_code"]) == ("failed", 2)
    assert "the configs have changed: trainer.max_epochs: 2 -> 1" in job["error"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overrides": ["+hydra.callbacks.x={_target_: os.system}"]}, "could run code"),
        ({"overrides": ["trusted_packages=[os]", "loss._target_=os.system"]}, "does not belong to this sweep: refused"),
        ({"overrides": ["data=../../elsewhere"]}, "could run code"),
        ({"name": "../elsewhere"}, "is outside the sweep's folder: ../elsewhere"),
    ],
)
def test_jobs_that_somebody_else_planned_are_refused(here, tasks, capsys, changes, message):
    record = sweep_json(planned(here / "s"))
    record["jobs"][1] |= changes | {"status": "pending"}
    write_json(here / "s" / "sweep.json", record)
    shutil.rmtree(here / "s" / "seed-1")
    assert train("-m", *DIGITS, "seed=0,1", "sweep.dir=s", "sweep.resume=true") == 2
    assert message in capsys.readouterr().err
    assert tasks["folders"] == []


def test_folder_of_a_job_that_is_gone_is_made_again(here, tasks):
    shutil.rmtree(planned(here / "s") / "seed-0")
    assert train("-m", *DIGITS, "seed=0,1", "sweep.dir=s", "sweep.resume=true") == 0
    assert [folder.name for folder in tasks["folders"]] == ["seed-0"]


def test_nothing_to_resume_is_a_new_sweep(here, tasks, capsys):
    assert train("-m", *DIGITS, "seed=0,1", "sweep.dir=s", "sweep.resume=true") == 0
    assert "contains no sweep to resume" in capsys.readouterr().out
    assert len(tasks["folders"]) == 2


def test_job_without_a_checkpoint_begins_with_clean_events(here, tasks):
    command = ["-m", *DIGITS, "seed=0,1", "sweep.dir=s"]
    tasks["ends"] = {seed: {"status": "running"} for seed in (0, 1)}
    train(*command)
    for seed in (0, 1):
        (here / "s" / f"seed-{seed}" / "events.out.tfevents.1.host.1.0").touch()
    (here / "s" / "seed-1" / "checkpoints").mkdir()
    (here / "s" / "seed-1" / "checkpoints" / "last.ckpt").touch()
    tasks["ends"] = {}
    assert train(*command, "sweep.resume=true") == 0
    assert not list((here / "s" / "seed-0").glob("events*"))
    assert list((here / "s" / "seed-1").glob("events*"))


def test_jobs_side_by_side_need_processes_that_can_be_started(here):
    """Where they cannot, joblib would run the jobs as threads of one process."""
    with pytest.raises(InputError, match=r"cannot start processes \(/dev/shm: Read-only file system\): leave out"):
        in_container("ro", lambda: prepare([*DIGITS, "seed=0,1", "hydra/launcher=joblib"]))


def test_further_seeds_extend_a_sweep(here, tasks, capsys):
    """Only what is new runs, in folders of its own; the sweep can be resumed with either spelling of its values."""
    folder = planned(here / "s")
    assert train("-m", *DIGITS, "seed=range(4)", f"sweep.dir={folder}", "sweep.resume=true") == 0
    assert [path.name for path in tasks["folders"]] == ["seed-2", "seed-3"]
    assert [cfg.seed for cfg in tasks["cfgs"]] == [2, 3]
    assert statuses(folder) == dict.fromkeys(["seed-0", "seed-1", "seed-2", "seed-3"], "finished")
    assert sweep_json(folder)["varies"] == {"seed": ["0", "1", "2", "3"]}
    assert "2 already finished, 0 to continue, 2 to start" in capsys.readouterr().out
    assert train("-m", *DIGITS, "seed=0,1,2,3", f"sweep.dir={folder}", "sweep.resume=true") == 0
    assert len(tasks["folders"]) == 2


def test_a_sweep_with_the_default_seed_is_extended_by_seeds(here, tasks):
    """Its runs, which did not set the seed, are those of seed 0; those of an unknown seed cannot be extended."""
    assert train("-m", *DIGITS, "init=zero,orthogonal", "sweep.dir=s") == 0
    for seeds, count in (("0,1", 4), ("0,1,2", 6)):
        assert train("-m", *DIGITS, "init=zero,orthogonal", f"seed={seeds}", "sweep.dir=s", "sweep.resume=true") == 0
        assert len(tasks["folders"]) == len(sweep_json(here / "s")["jobs"]) == count
    tried = [(cfg.init.name, cfg.seed) for cfg in tasks["cfgs"]]
    assert sorted(tried) == [(init, seed) for init in ("orthogonal", "zero") for seed in range(3)]
    assert train("-m", *DIGITS, "init=zero,orthogonal", "optimizer.lr=1,2", "sweep.dir=s", "sweep.resume=true") == 2


def test_further_values_of_two_keys_extend_a_sweep(here, tasks):
    first = [*DIGITS, "data.folds=3", "data.fold=0,1", "init=zero"]
    assert train("-m", *first, "sweep.dir=s") == 0
    known = [job["name"] for job in sweep_json(here / "s")["jobs"]]
    more = [*DIGITS, "data.folds=3", "data.fold=range(3)", "init=zero,orthogonal"]
    assert train("-m", *more, "sweep.dir=s", "sweep.resume=true") == 0
    found = sweep_json(here / "s")
    assert [job["name"] for job in found["jobs"]][:2] == known
    assert len({job["name"] for job in found["jobs"]}) == len(tasks["folders"]) == found["total"] == 6
    tried = [(cfg.init.name, cfg.data.fold) for cfg in tasks["cfgs"]]
    assert sorted(tried) == [(init, fold) for init in ("orthogonal", "zero") for fold in range(3)]


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["model=lenet5,vgg17", "seed=0,abc"], ["unknown option vgg17 of model", "seed='abc' is not int"]),
        (["seed=0,1", "sweep.resume=true"], ["does not say which sweep: add sweep.dir=FOLDER"]),
        (["seed=0,1", "sweep.dri=x"], ["unknown key sweep.dri. Did you mean sweep.dir"]),
        (["seed=0,1", "sweep.resume=maybe"], ["sweep.resume='maybe' is not bool"]),
        (["seed=0,1", "sweep.dir=run"], ["sweep.dir=", "holds a single run"]),
        (["seed=0,1", "sweep.dir=file"], ["is a file: name a folder"]),
        (["seed=0,1", "sweep.dir=."], ["holds runs that are not of a sweep, such as run"]),
        (["seed=0,1", "sweep.dir=done"], ["already holds a sweep. Continue it with sweep.resume=true"]),
        (["seed=0,1", "sweep.dir=broken", "sweep.resume=true"], ["sweep.json cannot be read"]),
        (
            [*DIGITS, "seed=1,2", "sweep.dir=done", "sweep.resume=true"],
            ["is another sweep: it has seed=0,1, this command has seed=1,2. Resume it with its own overrides, whose"],
        ),
        (
            ["optimizer.lr=interval(0.1, 1)"],
            ["an interval is not a list of values. Search it with hparams_search=optuna"],
        ),
        (["seed=0,1", "hydra/sweeper=optuna"], ["hydra/sweeper=optuna cannot be resumed"]),
        (
            ["seed=0,1", "hydra.sweep.dir=x"],
            ["hydra.sweep.dir and hydra.sweep.subdir cannot be set: name the folder of a sweep"],
        ),
        (["seed=0,1", "hydra={sweep:{subdir:x}}"], ["hydra.sweep.subdir cannot be set"]),
        (["seed=0,1", "hydra.job={chdir:true}"], ["hydra.job.chdir is not possible"]),
        (["seed=0,1", "hydra.run={dir:x}"], ["name the folder of one run: name a sweep's with sweep.dir"]),
        (["seed=0,1", "paths={output_dir:x}"], ["name the folder of one run: name a sweep's with sweep.dir"]),
        (["seed=0,1", "hydra.run.dir=a,b"], ["Hydra's own settings are the same for all jobs of a sweep"]),
        (["seed=0,1", "trainer.num_nodes=2"], ["let SLURM start the jobs, with hydra/launcher=submitit_slurm"]),
        (
            ["seed=0,a", "trainer=ddp_cpu", "hydra/launcher=joblib", "sweep.resume=true"],
            ["seed='a' is not int", "joblib runs each job in one process", "which sweep:"],
        ),
    ],
)
def test_everything_wrong_is_said_before_the_first_job(here, tasks, capsys, arguments, messages):
    planned(here / "done")
    (here / "run").mkdir()
    (here / "run" / "run.json").touch()
    (here / "file").touch()
    (here / "broken").mkdir()
    (here / "broken" / "sweep.json").write_text("{")
    before = sorted(here.rglob("*"))
    assert train("-m", *arguments) in (2, 3)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("Error: ") == 1
    assert all(message in said.err for message in messages)
    assert tasks["folders"] == []
    assert sorted(here.rglob("*")) == before


def test_missing_extra_is_named_with_the_way_to_get_it(here, tasks, capsys, monkeypatch):
    monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: None)
    arguments = ["hparams_search=optuna", "hydra/launcher=submitit_slurm", "seed=0,a"]
    assert train("-m", *arguments) == 2
    said = capsys.readouterr().err
    assert "hparams_search=optuna needs a package that is not installed: pip install 'cnnlab[sweep]'" in said
    assert "hydra/launcher=submitit_slurm needs a package that is not installed: pip install 'cnnlab[cluster]'" in said
    assert "seed='a' is not int" in said


@pytest.mark.parametrize(("variable", "value"), [("RANK", "0"), ("SLURM_NTASKS", "2")])
def test_sweep_inside_a_group_of_processes_is_refused(here, tasks, capsys, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    assert train("-m", *DIGITS, "seed=0,1") == 2
    assert "start it once, without torchrun or srun" in capsys.readouterr().err


def test_sweep_that_another_process_runs_is_left_alone(here, tasks, capsys):
    write_json(planned(here / "s") / "seed-1" / "run.json", {"status": "interrupted"})
    command = ["-m", *DIGITS, "seed=0,1", "sweep.dir=s"]
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        began = int(Path(f"/proc/{other.pid}/stat").read_text().split()[21])
        record = sweep_json(here / "s")
        record["process"] |= {"pid": other.pid, "began": began}
        write_json(here / "s" / "sweep.json", record)
        assert train(*command, "sweep.resume=true") == 2
        assert f"still being run by process {other.pid}" in capsys.readouterr().err
        other.kill()
    assert train(*command, "sweep.resume=true") == 0


EPOCHS, BATCHES = 8, 2
KILLED = (*DIGITS, f"trainer.max_epochs={EPOCHS}", f"trainer.limit_train_batches={BATCHES}", "logger=csv")
SEEDS = "seed=0,1,2,3"


def test_sweep_that_is_killed_twice_loses_nothing(tmp_path):
    sweep, output = tmp_path / "sweep", tmp_path / "output.txt"
    command = ("-m", *KILLED, SEEDS, f"sweep.dir={sweep}")
    kept: dict[Path, bytes] = {}
    for kill in range(2):
        process = start_train(*command, f"sweep.resume={'true' if kill else 'false'}", cwd=tmp_path, output=output)
        wait_for(process, sweep, finished=kill + 1)
        process.kill()
        process.join()
        assert {path: path.read_bytes() for path in kept} == kept  # what had finished was not touched
        kept = {path: path.read_bytes() for path in sorted(sweep.glob("*/run.json")) if finished(path)}
        kept |= {
            path.parent / "best_weights.pth": (path.parent / "best_weights.pth").read_bytes() for path in list(kept)
        }
    last = start_train(*command, "sweep.resume=true", cwd=tmp_path, output=output)
    last.join()
    assert last.exitcode == 0, output.read_text()
    assert {path: path.read_bytes() for path in kept} == kept
    assert set(statuses(sweep).values()) == {"finished"}
    records = {path.parent.name: json.loads(path.read_text()) for path in sweep.glob("*/run.json")}
    assert sorted(records) == [f"seed-{seed}" for seed in range(4)]
    continued = [name for name, record in records.items() if record["resumed"]]
    assert continued
    for name in records:
        assert last_checkpoint(sweep / name)["global_step"] == EPOCHS * BATCHES
    train_in_process(tmp_path / "whole", *KILLED, f"seed={continued[0].removeprefix('seed-')}")
    whole, half = last_checkpoint(tmp_path / "whole"), last_checkpoint(sweep / continued[0])
    assert all(torch.equal(value, half["state_dict"][key]) for key, value in whole["state_dict"].items())


def wait_for(process: BaseProcess, sweep: Path, finished: int) -> None:
    """Until so many jobs have finished and another one, that is running, has a checkpoint."""
    while process.exitcode is None:
        states = {path.parent: json.loads(path.read_text())["status"] for path in sweep.glob("*/run.json")}
        running = [folder for folder, status in states.items() if status == "running"]
        enough = list(states.values()).count("finished") >= finished
        if enough and any((folder / "checkpoints" / "last.ckpt").is_file() for folder in running):
            return
        time.sleep(0.02)
    raise AssertionError("the sweep ended before it could be killed")


def finished(path: Path) -> bool:
    return json.loads(path.read_text())["status"] == "finished"


def last_checkpoint(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
