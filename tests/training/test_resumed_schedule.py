"""The learning rate of a run that is resumed with another length is that of the run that had this length at once."""

import csv
import json
import shlex

import pytest
import torch
from in_process import KeptSignals, command_line, digits_with, interrupt_at_epoch, quickly_composed, train_in_process
from omegaconf import OmegaConf

from cnnlab.config import build
from cnnlab.errors import InputError
from cnnlab.runs.folder import RunFolder, has_checkpoint_to_resume
from cnnlab.system.processes import this_process
from cnnlab.training.checkpoints import _count_batches_of
from cnnlab.training.module import TaskModule
from cnnlab.training.resumed_schedule import Schedule, resumed_scheduler

SCHEDULERS = {
    "cosine": [],
    "cosine warmed up": ["warmup_epochs=1.5", "final_lr=0.01"],
    "onecycle": ["pct_start=0.25"],
    "step": ["step_epochs=3", "gamma=0.5"],
    "none": [],
}


class Stopped:
    """An optimizer of two groups and its schedule, as a run has them; `rates` are those of the steps taken so far."""

    def __init__(self, scheduler, schedule: Schedule, checkpoint=None, mode: str = "extend", lr: float = 0.4) -> None:
        groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr * scale} for scale in (1, 0.1)]
        self.optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9)
        self.schedule, self.rates = schedule, []
        if checkpoint is None:
            self.scheduler = schedule.build(scheduler, self.optimizer)
        else:
            self.schedule, self.scheduler = resumed_scheduler(checkpoint, schedule, mode, scheduler, self.optimizer)
            self.optimizer.load_state_dict(checkpoint["optimizer_states"][0])
            self.scheduler.load_state_dict(checkpoint["lr_schedulers"][0])

    def take(self, steps: int) -> "Stopped":
        for _ in range(steps):
            self.rates.append([(group["lr"], group["momentum"]) for group in self.optimizer.param_groups])
            self.optimizer.step()
            self.scheduler.step()
        return self

    def checkpoint(self) -> dict:
        return {
            "schedule": vars(self.schedule),
            "lr_schedulers": [self.scheduler.state_dict()],
            "optimizer_states": [self.optimizer.state_dict()],
        }


@pytest.fixture(params=SCHEDULERS)
def scheduler(request):
    overrides = [f"scheduler.{override}" for override in SCHEDULERS[request.param]]
    node = quickly_composed([f"scheduler={request.param.split()[0]}", *overrides]).scheduler
    return build(OmegaConf.to_container(node, resolve=True))


@pytest.mark.parametrize(("epochs", "reached"), [(8, 4), (8, 3), (3, 2), (5, 4)])
def test_extended_run_goes_on_as_the_run_of_its_length(scheduler, epochs, reached):
    """Of 4 epochs in 5 steps each; it has finished, was stopped before, or is cut short."""
    straight = Stopped(scheduler, Schedule(5 * epochs, 5)).take(5 * epochs)
    before = Stopped(scheduler, Schedule(20, 5)).take(5 * reached)
    resumed = Stopped(scheduler, Schedule(5 * epochs, 5), before.checkpoint()).take(5 * (epochs - reached))
    assert resumed.rates == straight.rates[5 * reached :]


def test_unchanged_run_goes_on_as_it_was(scheduler):
    straight = Stopped(scheduler, Schedule(20, 5)).take(20)
    before = Stopped(scheduler, Schedule(20, 5)).take(7)
    assert Stopped(scheduler, Schedule(20, 5), before.checkpoint(), "restart").take(13).rates == straight.rates[7:]


def test_epochs_of_another_number_of_steps_go_on_from_the_same_epoch(scheduler):
    """As after trainer.devices=2 instead of 1: 10 steps an epoch become 5."""
    straight = Stopped(scheduler, Schedule(20, 5)).take(20)
    before = Stopped(scheduler, Schedule(40, 10)).take(20)
    assert Stopped(scheduler, Schedule(20, 5), before.checkpoint(), "restart").take(10).rates == straight.rates[10:]


def test_restarted_run_has_the_schedule_again_and_keeps_it_when_it_is_resumed(scheduler):
    again = Stopped(scheduler, Schedule(15, 5)).take(15)
    before = Stopped(scheduler, Schedule(20, 5)).take(20)
    restarted = Stopped(scheduler, Schedule(35, 5), before.checkpoint(), "restart").take(4)
    rest = Stopped(scheduler, Schedule(35, 5), restarted.checkpoint()).take(11)
    assert restarted.rates + rest.rates == again.rates


def test_constant_rate_is_that_of_the_last_step_for_every_group(scheduler):
    before = Stopped(scheduler, Schedule(20, 5)).take(8)
    last = [lr for lr, _ in before.rates[-1]]
    constant = Stopped(scheduler, Schedule(40, 5), before.checkpoint(), "constant").take(9)
    rest = Stopped(scheduler, Schedule(40, 5), constant.checkpoint()).take(9)
    assert [[lr for lr, _ in step] for step in constant.rates + rest.rates] == [last] * 18


def test_rates_that_a_rollback_has_lowered_stay_lowered():
    node = OmegaConf.to_container(quickly_composed(["scheduler=cosine"]).scheduler, resolve=True)
    scheduler = build(node)
    straight = Stopped(scheduler, Schedule(40, 5), lr=0.1).take(40)
    halved = Stopped(scheduler, Schedule(20, 5), lr=0.1).take(20).checkpoint()
    resumed = Stopped(scheduler, Schedule(40, 5), halved, lr=0.4).take(20)  # the config still says 0.4
    assert [step[0][0] for step in resumed.rates] == pytest.approx([step[0][0] for step in straight.rates[20:]])


def test_constant_rate_of_a_schedule_that_has_ended_is_refused():
    scheduler = build(OmegaConf.to_container(quickly_composed(["scheduler=onecycle"]).scheduler, resolve=True))
    ended = Stopped(scheduler, Schedule(20, 5)).take(20).checkpoint()
    with pytest.raises(InputError, match=r"keep the learning rate at 1.6e-06.*Use resume_schedule=extend or restart"):
        Stopped(scheduler, Schedule(40, 5), ended, "constant")


def test_batches_within_an_epoch_are_converted_to_other_processes():
    progress = {"current": {"ready": 7, "completed": 6}, "total": {"ready": 27}, "is_last_batch": False}
    checkpoint = {"loops": {"fit_loop": {"epoch_loop.batch_progress": progress}}}
    _count_batches_of(checkpoint, before=2, now=4)
    assert progress["current"] == {"ready": 3, "completed": 3}
    _count_batches_of(checkpoint, before=4, now=2)
    assert (progress["current"]["ready"], progress["total"]["ready"]) == (6, 27)


# --- Whole runs ---

TINY = digits_with(
    "data.images_per_class=6", "data.batch_size=13", "trainer.log_every_n_steps=1", "logger=csv", "scheduler=onecycle"
)
RATES = "+callbacks.rates={_target_: cnnlab.training.callbacks.learning_rate.LearningRate}"


def rates_of(folder):
    with (folder / "metrics.csv").open() as file:
        return {int(row["step"]): row["train/lr"] for row in csv.DictReader(file) if row["train/lr"]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of two epochs of three steps, whose name needs quotes."""
    folder = tmp_path_factory.mktemp("finished") / "my run"
    train_in_process(folder, *TINY, RATES, "trainer.max_epochs=2")
    return folder


def test_finished_run_is_damaged_by_no_attempt(finished, monkeypatch, kept_logging, capfd, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = ("run.json", "config.yaml", "overrides.yaml", "metrics.csv", "checkpoints/last.ckpt", "best_weights.pth")
    before = {name: (finished / name).read_bytes() for name in names}

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    longer = (f"resume={finished}", "trainer.max_epochs=4")
    for wrong, code in ((["trainer.max_epochs=1"], 2), (["trainer.max_epochs=4", "resume_schedule=constant"], 2)):
        assert command_line(monkeypatch, longer[0], *wrong) == code
    with monkeypatch.context() as patched:
        patched.setattr(TaskModule, "training_step", fail)
        assert command_line(monkeypatch, *longer) == 3
    with monkeypatch.context() as patched, KeptSignals():
        interrupt_at_epoch(patched, 2)
        assert command_line(monkeypatch, *longer) == 130
    assert {name: (finished / name).read_bytes() for name in names} == before
    said = capfd.readouterr().err
    assert "trainer.max_epochs=1: the run has had 2 already" in said
    assert "Traceback" not in said


def test_longer_run_ends_with_the_rates_of_the_run_of_its_length(finished, monkeypatch, kept_logging, capfd, tmp_path):
    monkeypatch.chdir(tmp_path)
    train_in_process(tmp_path / "straight", *TINY, RATES, "trainer.max_epochs=4", "trainer.limit_test_batches=0")
    assert command_line(monkeypatch, f"resume={finished}", "trainer.max_epochs=4") == 0
    straight, resumed = rates_of(tmp_path / "straight"), rates_of(finished)
    assert sorted(resumed) == list(range(12))
    assert {step: resumed[step] for step in range(6, 12)} == {step: straight[step] for step in range(6, 12)}
    record = json.loads((finished / "run.json").read_text())
    assert (record["status"], record["last"]["epoch"]) == ("finished", 3)
    assert "Learning rate: from 4e-09 to 0.000" in capfd.readouterr().err


def test_advice_after_ctrl_c_before_the_first_checkpoint_works(monkeypatch, kept_logging, capfd, tmp_path):
    monkeypatch.chdir(tmp_path)
    short = (*TINY, "trainer.max_epochs=1", "paths.output_dir=my run, (1)")
    with monkeypatch.context() as patched, KeptSignals():
        interrupt_at_epoch(patched, 0)
        assert command_line(monkeypatch, *short) == 130
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("Interrupted")]
    before, advice = line.split(": ", 1)
    assert before == "Interrupted before the first checkpoint. Start over in the same folder with"
    program, *arguments = shlex.split(advice.removeprefix("python "))
    assert program == "train.py"
    assert command_line(monkeypatch, *short) == 2
    assert "Continue it with resume=" in capfd.readouterr().err
    assert command_line(monkeypatch, *arguments) == 0
    assert json.loads((tmp_path / "my run, (1)" / "run.json").read_text())["status"] == "finished"
    assert "has no checkpoint yet: the run starts over." in capfd.readouterr().err


def test_run_that_is_still_going_on_is_not_resumed(finished, tmp_path):
    RunFolder(tmp_path, {}).write_json("run.json", {"status": "running", "process": {**this_process(), "pid": 1}})
    other = json.loads((tmp_path / "run.json").read_text())
    other["process"]["began"] = None
    (tmp_path / "run.json").write_text(json.dumps(other))
    with pytest.raises(InputError, match="is still being run by process 1: wait for it, or stop it"):
        has_checkpoint_to_resume(tmp_path)
    (tmp_path / "run.json").write_text('{"status": "finished"}')
    with pytest.raises(InputError, match=r"it has no checkpoints/last\.ckpt"):
        has_checkpoint_to_resume(tmp_path)
