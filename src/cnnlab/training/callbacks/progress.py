"""Show the progress with loss, metrics and speed, and measure speed and memory for the run's record."""

import logging
import resource
import sys
import time
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import TQDMProgressBar

from cnnlab.training.lightning_compat import resumes_within_epoch
from cnnlab.training.module import TaskModule

log = logging.getLogger(__name__)
SECONDS = 0.1
"""Time between two refreshes of the progress bar, in seconds."""


class Progress(TQDMProgressBar):
    """Shows loss and metrics, the run's metric and its best value, and images/s.

    On a terminal it is a bar with the values of the last batch, refreshed every SECONDS; elsewhere it is a line in the
    log after each epoch, with the means of the epoch.
    """

    def __init__(self) -> None:
        super().__init__()
        self._shown = 0.0
        """Time (time.perf_counter) at which the bar was last refreshed."""
        self._began = 0.0
        self._ended: int | None = None
        """An epoch that has ended, but is not in the log yet."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if not sys.stdout.isatty():
            self.disable()

    def on_train_start(self, trainer: L.Trainer, *arguments: Any) -> None:
        super().on_train_start(trainer, *arguments)
        if resumes_within_epoch(trainer):  # Lightning does not call the hook then
            self.on_train_epoch_start(trainer, *arguments)

    def on_train_epoch_start(self, trainer: L.Trainer, *arguments: Any) -> None:
        super().on_train_epoch_start(trainer, *arguments)
        self._log_epoch(trainer, *arguments)
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._due(batch_idx + 1 == trainer.num_training_batches):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_batch_end(self, trainer: L.Trainer, *arguments: Any) -> None:
        if self._due(False):
            super().on_validation_batch_end(trainer, *arguments)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._due(batch_idx + 1 == sum(trainer.num_test_batches)):
            super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        self._ended = trainer.current_epoch

    def on_train_end(self, trainer: L.Trainer, *arguments: Any) -> None:
        super().on_train_end(trainer, *arguments)
        self._log_epoch(trainer, *arguments)

    def get_metrics(self, trainer: L.Trainer, pl_module: TaskModule) -> dict[str, Any]:
        metrics = trainer.callback_metrics | pl_module.step_values
        shown = {key.removeprefix("train/"): key for key in pl_module.step_values}
        return self._texts(trainer, pl_module, shown, metrics)

    def _due(self, last: bool) -> bool:
        """Return whether to refresh the bar now; `last`: after the last batch."""
        now = time.perf_counter()
        if self.is_disabled or (now < self._shown + SECONDS and not last):
            return False
        self._shown = now
        return True

    def _log_epoch(self, trainer: L.Trainer, pl_module: TaskModule) -> None:
        """Log the epoch that has ended; its means are known only after all hooks of its end."""
        epoch, self._ended = self._ended, None
        if epoch is None or self.is_enabled:
            return
        metrics = trainer.callback_metrics
        shown = {name: f"train/{name}_epoch" for name in pl_module.epoch_sums()} | {"val_loss": "val/loss"}
        texts = self._texts(trainer, pl_module, shown, metrics)
        values = ", ".join(f"{name} {value}" for name, value in texts.items())
        log.info("Epoch %d: %s, %.1f s", epoch, values, time.perf_counter() - self._began)

    @staticmethod
    def _texts(
        trainer: L.Trainer, pl_module: TaskModule, shown: dict[str, str], metrics: Mapping[str, Any]
    ) -> dict[str, str]:
        """Return label -> text of `shown` (label -> name), of the run's metric and its best value, and images/s."""
        monitor = pl_module.recipe.monitor
        shown = shown | {monitor.replace("/", "_"): monitor, "best": f"best/{monitor}"}
        texts = {label: f"{metrics[name]:.3f}" for label, name in shown.items() if name in metrics}
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        speed = next((callback.speed for callback in callbacks if isinstance(callback, Throughput)), None)
        return texts | ({"img/s": f"{speed:.1f}"} if speed else {})


class Throughput(L.Callback):
    """A callback that counts the training images of all ranks and the seconds of training epochs, without validation.

    It must come before all other callbacks, so that their work does not count as waiting for data.
    """

    def __init__(self) -> None:
        self.images = 0
        self.seconds = 0.0
        self.waited = 0.0
        self._began = 0.0

    @property
    def speed(self) -> float | None:
        """Training images per second over the fit so far; None before the first batch has ended."""
        return self.images / self.seconds if self.seconds else None

    @property
    def wait_share(self) -> float | None:
        """Share of the training time spent waiting for batches; None before the first batch has ended."""
        return self.waited / self.seconds if self.seconds else None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._began = time.perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._began = time.perf_counter()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: TaskModule, batch: Any, batch_idx: int) -> None:
        self.waited += time.perf_counter() - max(self._began, pl_module.step_ended)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self.seconds += now - self._began
        self._began = now
        self.images += len(batch[1]) * trainer.world_size

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._began = time.perf_counter()


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: of tensors on a GPU, else of this whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
