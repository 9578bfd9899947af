"""Each private name of Lightning is still there and still means what we take it for; and only one file knows any."""

import ast
import inspect
import logging
import os
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
from lightning.fabric.strategies.launchers import subprocess_script as fabric_launcher
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies.launchers import subprocess_script
from program import REPOSITORY

from cnnlab.training import lightning_compat
from cnnlab.training.lightning_compat import (
    NoProfiler,
    adopt_messages,
    begin_at_epoch,
    logs_this_step,
    look_for_gpus_once,
    omit_empty_hooks,
    resumes_within_epoch,
    take_over_processes,
)

SOURCE = REPOSITORY / "src"
COMPAT = SOURCE / "cnnlab" / "training" / "lightning_compat.py"


def require(owner: Any, *names: str) -> Any:
    """Follow private names from `owner`; fail with what to adapt if Lightning has moved one."""
    for name in names:
        assert hasattr(owner, name), (
            f"Lightning {L.__version__} has no {name} in {getattr(owner, '__name__', type(owner).__name__)}: adapt "
            f"{COMPAT.relative_to(REPOSITORY)}."
        )
        owner = getattr(owner, name)
    return owner


class Watched(L.Callback):
    """Notes at each step whether it is logged, and saves a checkpoint after the step `save_after`."""

    def __init__(self, path: Path | None = None, save_after: int = 0) -> None:
        self.path = path
        self.save_after = save_after
        self.logged: list[bool] = []
        self.epochs: list[int] = []
        self.within_epoch: bool | None = None

    def on_train_start(self, trainer, pl_module):
        self.within_epoch = resumes_within_epoch(trainer)

    def on_train_epoch_start(self, trainer, pl_module):
        self.epochs.append(trainer.current_epoch)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.logged.append(logs_this_step(trainer))
        if self.path and trainer.global_step == self.save_after:
            trainer.save_checkpoint(self.path)


def trainer_with(callback: L.Callback, folder: Path, **options: Any) -> L.Trainer:
    fixed = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
    return L.Trainer(callbacks=[callback], default_root_dir=folder, max_epochs=2, **fixed, **quiet, **options)


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_logged_steps_are_every_third_one(tmp_path):
    watched = Watched()
    trainer = trainer_with(watched, tmp_path, limit_train_batches=4, log_every_n_steps=3)
    require(trainer, "_logger_connector", "should_update_logs")
    trainer.fit(BoringModel())
    assert watched.logged == [False, False, True] * 2 + [False, False]


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
@pytest.mark.parametrize(("saved_after", "within"), [(2, True), (6, True)])
def test_fit_that_goes_on_within_an_epoch_is_known(tmp_path, saved_after, within):
    path = tmp_path / "within.ckpt"
    trainer_with(Watched(path, saved_after), tmp_path, limit_train_batches=4).fit(BoringModel())
    watched = Watched()
    trainer = trainer_with(watched, tmp_path, limit_train_batches=4)
    require(trainer, "fit_loop", "restarted_mid_epoch")
    trainer.fit(BoringModel(), ckpt_path=path)
    assert watched.within_epoch is within
    assert len(watched.logged) == 8 - saved_after


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_fit_begins_at_the_epoch_that_it_is_told(tmp_path):
    watched = Watched()
    trainer = trainer_with(watched, tmp_path, limit_train_batches=1)
    require(trainer, "fit_loop", "epoch_progress", "current", "processed")
    begin_at_epoch(trainer, 1)
    trainer.fit(BoringModel())
    assert watched.epochs == [1]
    assert watched.within_epoch is False


def test_observer_of_lightning_looks_at_the_list_that_is_emptied(monkeypatch):
    """The launcher hands its own list to the observer, which has nothing to look at once we have taken over."""
    launcher = subprocess_script._SubprocessScriptLauncher(LightningEnvironment(), 2, 1)
    assert require(launcher, "procs") == []
    source = inspect.getsource(require(subprocess_script, "_SubprocessScriptLauncher"))
    assert "_launch_process_observer(self.procs)" in source, f"adapt {COMPAT.relative_to(REPOSITORY)}"
    observed = []
    observer = require(fabric_launcher, "_ChildProcessObserver")
    monkeypatch.setattr(observer, "start", lambda self: observed.append(self))
    started = [SimpleNamespace(pid=1), SimpleNamespace(pid=2)]
    launcher.procs += started
    fabric_launcher._launch_process_observer(launcher.procs)
    assert take_over_processes(SimpleNamespace(strategy=SimpleNamespace(launcher=launcher))) == started
    assert require(observed[0], "_child_processes") == []
    assert launcher.procs == started  # which Lightning ends when the run is interrupted


def test_single_process_has_nothing_to_take_over(tmp_path):
    assert take_over_processes(trainer_with(Watched(), tmp_path)) == []


def test_messages_of_lightning_go_through_our_log(caplog):
    names = ("lightning", "lightning.pytorch", "lightning.fabric")
    ranks = tuple(f"lightning.{part}.utilities.rank_zero" for part in ("pytorch", "fabric"))
    loggers = [logging.getLogger(name) for name in (*names, *ranks)]
    kept = [(each, each.handlers[:], each.propagate, each.level) for each in loggers]
    try:
        with warnings.catch_warnings():
            adopt_messages()
            assert all(not logging.getLogger(name).handlers for name in names)
            logging.getLogger("lightning.pytorch").setLevel(logging.INFO)
            with caplog.at_level("INFO"):
                logging.getLogger("lightning.pytorch").warning("said once")
                for module in ("pytorch", "fabric"):
                    rank_zero = __import__(f"lightning.{module}.utilities.rank_zero", fromlist=["rank_zero_info"])
                    require(rank_zero, "rank_zero_info")("not worth a word")
            assert [record.getMessage() for record in caplog.records] == ["said once"]
    finally:
        for each, handlers, propagate, level in kept:
            each.handlers[:], each.propagate = handlers, propagate
            each.setLevel(level)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("lightning.pytorch.callbacks.model_checkpoint", "exists and is not empty"),
        ("lightning.pytorch.loops.training_epoch_loop", "You're resuming from a checkpoint that ended before"),
    ],
)
def test_silenced_warnings_are_still_worded_like_that(module, text):
    """A filter whose message Lightning no longer gives can go."""
    assert text in inspect.getsource(__import__(module, fromlist=["x"])), f"adapt {COMPAT.relative_to(REPOSITORY)}"
    assert text in inspect.getsource(lightning_compat)


def private_names(path: Path) -> list[str]:
    """What a file uses of Lightning and must not: private attributes of a trainer, private modules and names."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            of_trainer = owner.split(".")[-1] == "trainer" or ".trainer." in f".{owner}."
            if node.attr == "_logger_connector" or (of_trainer and private(node.attr)):
                found.append(f"{owner}.{node.attr}")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lightning":
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            found += [f"from {node.module} import {name}" for name in names if private(name)]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("lightning") and "._" in alias.name]
    return found


class Counting(L.Callback):
    """Defines two of the step hooks, one of them through its parent."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_train_batch_end(self, *arguments: Any) -> None:
        self.calls.append("train")


class CountingMore(Counting):
    def on_validation_batch_start(self, *arguments: Any) -> None:
        self.calls.append("val")


def test_lightning_calls_the_hooks_that_are_defined_and_skips_the_others(tmp_path):
    counting = CountingMore()
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "barebones": False}
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=2,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        callbacks=[counting],
        profiler=NoProfiler(),
        default_root_dir=tmp_path,
        **options,
    )
    omit_empty_hooks(trainer.callbacks)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about workers, and the few batches
        trainer.fit(BoringModel())
    assert counting.calls == ["train", "train", "val"]
    assert counting.on_before_backward is counting.on_train_batch_start is None
    assert callable(counting.on_train_epoch_end)


@pytest.mark.parametrize(("available", "expected"), [(False, "0"), (True, "1")])
def test_gpus_are_looked_for_in_each_step_only_where_there_are_some(monkeypatch, available, expected):
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # as Lightning sets it
    monkeypatch.setattr("torch.cuda.is_available", lambda: available)
    look_for_gpus_once()
    assert os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] == expected


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_no_other_file_uses_private_names_of_lightning():
    files = sorted(SOURCE.rglob("*.py"))
    assert COMPAT in files
    assert private_names(COMPAT) == ["trainer._logger_connector"]
    assert {str(path): private_names(path) for path in files if path != COMPAT and private_names(path)} == {}


def test_private_names_are_found(tmp_path):
    path = tmp_path / "sample.py"
    path.write_text(
        "from lightning.pytorch.utilities._pytree import x\nfrom lightning.pytorch.loops import _Loop\n"
        "import lightning.fabric._graveyard\nself.trainer._results\ntrainer.fit_loop._data_source\n"
        "trainer.fit_loop.done\nconnector = it._logger_connector\nmodule._trainer\n"
    )
    assert len(private_names(path)) == 6
