"""Log histograms of weights and gradients to TensorBoard."""

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from cnnlab.training.callbacks.pace import Pace
from cnnlab.training.callbacks.pictures import tensorboard_writer
from cnnlab.training.module import TaskModule


class Histograms(L.Callback):
    """A callback that logs `weights/<name>` and `gradients/<name>` of trainable parameters with ndim > 1.

    It logs at the first step of an epoch. NaN and infinity are left out of the histogram and counted in
    `non_finite/<...>`: TensorBoard's own histogram of a diverged network would end the run.
    every_n_epochs: in which epochs (see Pace).
    """

    def __init__(self, every_n_epochs: int | None = None) -> None:
        self.pace = Pace(every_n_epochs)
        self._epoch = -1
        """The last epoch whose first step has been taken."""

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self._epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._epoch = state_dict["epoch"]

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: TaskModule, optimizer: Optimizer) -> None:
        epoch = trainer.current_epoch
        if epoch == self._epoch:
            return
        self._epoch = epoch
        writer = tensorboard_writer(trainer)
        if writer is None or not self.pace.due(trainer, epoch):
            return
        with self.pace.timed():
            for name, parameter in pl_module.network.named_parameters():
                if parameter.ndim > 1 and parameter.requires_grad:
                    _add(writer, f"weights/{name}", parameter.detach(), trainer.global_step)
                    if parameter.grad is not None:
                        _add(writer, f"gradients/{name}", parameter.grad, trainer.global_step)


def _add(writer: Any, tag: str, values: Tensor, step: int) -> None:
    values = values.float().flatten()
    finite = values[torch.isfinite(values)]
    if len(finite):
        writer.add_histogram(tag, finite.cpu(), step)
    if len(finite) < len(values):
        writer.add_scalar(f"non_finite/{tag}", len(values) - len(finite), step)
