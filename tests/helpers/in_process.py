"""Runs inside the test's own process: what `train.py` does behind the command line, without a second interpreter."""

import copy
import functools
import logging
import multiprocessing
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cnnlab import experiment
from cnnlab.cli import main as cli
from cnnlab.config import Config, check, compose, plain_config
from cnnlab.runs.folder import RunFolder

torch.set_num_threads(1)  # networks this small are slower on two

DIGITS = (
    "model=lenet5",
    "data=digits",
    "trainer=cpu",
    "augmentation=none",
    "callbacks=none",
    "logger=none",
    "data.num_workers=0",
)
"""LeNet-5 on scikit-learn's digits, on the CPU, without pictures: an epoch takes a second."""

EVERY_EPOCH = tuple(
    f"callbacks.{name}.every_n_epochs=1"
    for name in ("feature_maps", "filters", "histograms", "diagnostics", "confusion_matrix")
)
"""Draw after every epoch, however little time the training takes."""

VALUE = re.compile(r"(?!hydra\.)\w+\.[\w.]+=|(seed|metric|trusted_packages)=")
"""An override of a value, which chooses no option and adds no key."""


def digits_with(*overrides: str) -> list[str]:
    """The overrides of a run on digits, with these in place of those of the same key."""
    keys = {override.split("=")[0] for override in overrides}
    return [override for override in DIGITS if override.split("=")[0] not in keys] + list(overrides)


@functools.cache
def composed_once(choices: tuple[str, ...]) -> DictConfig:
    return compose(choices)


def quickly_composed(overrides: Sequence[str]) -> DictConfig:
    """What `compose` makes of the overrides, half a second sooner.

    Options of groups are composed once per process; other values are put in afterwards, as Hydra does.
    """
    values = [text for text in overrides if VALUE.match(text)]
    choices = tuple(text for text in overrides if text not in values)
    cfg = copy.deepcopy(composed_once(choices))
    try:
        for override in OverridesParser.create().parse_overrides(values):
            OmegaConf.update(cfg, override.key_or_group, override.value(), merge=True)
    except (HydraException, OmegaConfBaseException):  # `compose` says what is wrong
        return compose(overrides)
    return cfg


def config(folder: Path, *overrides: str) -> Config:
    """The composed, checked and resolved config of a run in `folder`."""
    own = [f"paths.output_dir='{folder}'", f"paths.cache_dir='{folder.parent / 'cache'}'"]
    cfg = quickly_composed([*overrides, *own])
    check(cfg)
    return plain_config(cfg, folder)


def train_in_process(folder: Path, *overrides: str, resume: bool = False) -> dict[str, Any]:
    """Train into `folder` and return the record; `resume` continues from its last checkpoint."""
    cfg = config(folder, *overrides)
    run = RunFolder(folder, cfg, list(overrides), resumes=resume)
    record = experiment.train(cfg, run)
    run.update(status="finished")
    return record


def command_line(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """`train.py ARGUMENTS` in this process; returns the exit code."""
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.train()
    return int(exit_.value.code or 0)


def parts_of_a_run(folder: Path, *overrides: str) -> tuple[L.Trainer, Any, Any]:
    """(trainer, module, data) as `train` makes them, before it fits."""
    built = experiment.build(config(folder, *overrides))
    folder.mkdir(parents=True, exist_ok=True)
    return built.trainer, built.module, built.data


def interrupt_at_epoch(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """Make every fit behave as if Ctrl-C were pressed at the start of `epoch`."""
    from cnnlab.training.module import TaskModule

    original = TaskModule.on_train_epoch_start

    def press(self: TaskModule) -> None:
        if self.current_epoch == epoch:
            raise KeyboardInterrupt
        original(self)

    monkeypatch.setattr(TaskModule, "on_train_epoch_start", press)


class KeptSignals:
    """Gives Ctrl-C back to pytest: Lightning makes the process deaf to it while it shuts an interrupted fit down."""

    def __enter__(self) -> None:
        self.handler = signal.getsignal(signal.SIGINT)

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGINT, self.handler)


class KeptLogging:
    """Gives the root logger its handlers back, which Hydra replaces."""

    def __enter__(self) -> None:
        root = logging.getLogger()
        self.handlers, self.level, self.raises = root.handlers[:], root.level, logging.raiseExceptions

    def __exit__(self, *error: object) -> None:
        root = logging.getLogger()
        for handler in set(root.handlers) - set(self.handlers):
            handler.close()
        root.handlers[:] = self.handlers
        root.setLevel(self.level)
        logging.raiseExceptions = self.raises


def fork(function: Callable[..., object], *arguments: object, **options: object) -> int:
    """Call the function in a copy of this process, which needs no imports; return its exit code, -9 if it was killed.

    0: it has returned. 1: it has raised.
    """
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments, kwargs=options)
    process.start()
    process.join(300)
    if process.exitcode is None:
        process.kill()
        pytest.fail("the forked process does not end")
    return process.exitcode
