"""Callbacks of tests that do a run harm."""

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import lightning as L


class Poison(L.Callback):
    """Multiplies what the network gets in the training `steps` by NaN, on the process `rank` alone."""

    def __init__(self, steps: list[int], rank: int = 0) -> None:
        self.steps = steps
        self.rank = rank

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        preprocessed = pl_module.preprocessed

        def poisoned(images: Any) -> Any:
            bad = pl_module.training and trainer.global_step in self.steps and trainer.global_rank == self.rank
            return preprocessed(images) * (float("nan") if bad else 1)

        pl_module.preprocessed = poisoned


class Kill(L.Callback):
    """Sends SIGKILL to the process `rank`, its own, in the middle of the training step `step`."""

    def __init__(self, step: int, rank: int = 0) -> None:
        self.step = step
        self.rank = rank

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            os.kill(os.getpid(), signal.SIGKILL)


class Fail(L.Callback):
    """Raises a RuntimeError in the middle of the training step `step`."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("harm done")


class FillDisk(L.Callback):
    """Writes `folder`/full in the training step `step`, until `left` bytes of its disk are free."""

    def __init__(self, folder: str, step: int, left: int) -> None:
        self.folder = Path(folder)
        self.step = step
        self.left = left

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        if trainer.global_step == self.step:
            fill_disk(self.folder, self.left)


def fill_disk(folder: Path, left: int) -> None:
    """Write `folder`/full until `left` bytes are free."""
    with (folder / "full").open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        file.truncate(file.tell() - left)


class TakeAway(L.Callback):
    """Renames `folder` in the training step `step`."""

    def __init__(self, folder: str, step: int) -> None:
        self.folder = Path(folder)
        self.step = step

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        if trainer.global_step == self.step:
            self.folder.rename(self.folder.with_name("gone"))


class KillWorker(L.Callback):
    """Sends SIGKILL to the process that loads training data, in the training step `step`."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        if trainer.global_step == self.step:
            trainer.train_dataloader.loader._iterator._workers[0].kill()
