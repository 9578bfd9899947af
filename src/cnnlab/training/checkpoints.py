"""Write checkpoints from which a run continues exactly as if it had never stopped."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_only

from cnnlab.errors import InputError
from cnnlab.runs.events import event_sizes
from cnnlab.runs.saving import save_now
from cnnlab.system.files import write_atomically
from cnnlab.training.module import TaskModule


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes each checkpoint to a temporary file in the same folder, then replaces the old one.

    Lightning uses the system's temporary folder, and a move from there is atomic only on the same file system.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write_atomically(Path(path), lambda file: torch.save(checkpoint, file))


class Resumable(Checkpoint):
    """A callback that makes checkpoints resumable, and also writes last.ckpt after every `every_n_steps` steps.

    It adds the sums of the epoch's metrics in every process, and the sizes of the event files, which are truncated to
    them on resuming. A checkpoint within an epoch is written when the next batch starts, after everything of the
    previous step has been logged.
    """

    def __init__(self, every_n_steps: int | None = None) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise InputError(
                f"checkpoint.every_n_steps={every_n_steps}: must be at least 1, or null for once an epoch."
            )
        self.every_n_steps = every_n_steps
        self._saved_step = 0
        self._within_epoch = False

    @rank_zero_only
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for path in _folder(trainer).glob(".*.ckpt.*"):  # partial files of a killed process
            path.unlink(missing_ok=True)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if not self.every_n_steps or batch_idx == 0 or step % self.every_n_steps or step == self._saved_step:
            return
        self._saved_step, self._within_epoch = step, True
        trainer.save_checkpoint(_folder(trainer) / "last.ckpt", weights_only=False)
        self._within_epoch = False

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: TaskModule, checkpoint: dict[str, Any]) -> None:
        save_now(trainer.loggers)
        checkpoint["event_sizes"] = event_sizes(Path(trainer.default_root_dir))
        checkpoint["epoch_sums"] = _of_all_processes(
            trainer, {n: m.metric_state for n, m in pl_module.epoch_sums().items()}
        )
        if self._within_epoch:  # Lightning has already counted the next batch
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
            progress["total"]["ready"] -= 1
            progress["current"]["ready"] -= 1
            progress["is_last_batch"] = False

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: TaskModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit" or "epoch_sums" not in checkpoint:
            return
        self._saved_step = checkpoint["global_step"]
        of_process = checkpoint["epoch_sums"]
        if len(of_process) != trainer.world_size:  # trainer.devices has changed: rank zero continues with the total
            _count_batches_of(checkpoint, len(of_process), trainer.world_size)
            of_process = [_total(of_process)] if trainer.global_rank == 0 else []
        for name, metric in pl_module.epoch_sums().items():
            for key, value in of_process[trainer.global_rank][name].items() if of_process else ():
                setattr(metric, key, value.to(metric.device))


def _count_batches_of(checkpoint: dict[str, Any], before: int, now: int) -> None:
    """Convert the batches that each process has had within an epoch to another number of processes."""
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    if not progress["is_last_batch"]:
        progress["current"] = {key: count * before // now for key, count in progress["current"].items()}


def _folder(trainer: L.Trainer) -> Path:
    return Path(trainer.default_root_dir) / "checkpoints"


def _of_all_processes(trainer: L.Trainer, value: Any) -> list[Any]:
    if trainer.world_size == 1:
        return [value]
    gathered: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(gathered, value)
    return gathered


def _total(states: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    return {
        name: {key: sum(state[name][key].cpu() for state in states) for key in of_metric}
        for name, of_metric in states[0].items()
    }
