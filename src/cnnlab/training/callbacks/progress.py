"""Show a progress bar with loss, metrics and speed, and measure speed and memory for the run's record."""

import resource
import sys
import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import TQDMProgressBar

from cnnlab.training.lightning_compat import resumes_within_epoch
from cnnlab.training.module import TaskModule


class Progress(TQDMProgressBar):
    """A progress bar with loss and metrics of the last batch, the run's metric and its best value, and images/s."""

    def on_train_start(self, trainer: L.Trainer, *arguments: Any) -> None:
        super().on_train_start(trainer, *arguments)
        if resumes_within_epoch(trainer):  # Lightning does not call the hook then
            self.on_train_epoch_start(trainer)

    def get_metrics(self, trainer: L.Trainer, pl_module: TaskModule) -> dict[str, Any]:
        metrics = trainer.callback_metrics | pl_module.step_values
        monitor = pl_module.recipe.monitor
        shown = {key.removeprefix("train/"): key for key in pl_module.step_values}
        shown |= {monitor.replace("/", "_"): monitor, "best": f"best/{monitor}"}
        items: dict[str, Any] = {label: f"{metrics[key]:.3f}" for label, key in shown.items() if key in metrics}
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        speed = next((callback.speed for callback in callbacks if isinstance(callback, Throughput)), None)
        return items | ({"img/s": f"{speed:.0f}"} if speed else {})


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
