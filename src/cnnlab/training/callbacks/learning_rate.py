"""Log the learning rate."""

from typing import Any

import lightning as L

from cnnlab.models.stages import stages
from cnnlab.training.lightning_compat import logs_this_step
from cnnlab.training.module import TaskModule


class LearningRate(L.Callback):
    """A callback that logs the classifier's rate as `train/lr` and other rates of the freeze plan as `train/lr_<k>`."""

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: TaskModule, batch: Any, batch_idx: int) -> None:
        # log_dict is slow compared with a small network's step; in other steps the loggers would not get the rates.
        if not logs_this_step(trainer) and batch_idx + 1 != trainer.num_training_batches:
            return
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        head = {id(p) for p in stages(pl_module.network)["classifier"].parameters()}
        of_head = next(
            (group["lr"] for group in groups if any(id(p) in head for p in group["params"])), groups[0]["lr"]
        )
        others = sorted({group["lr"] for group in groups} - {of_head}, reverse=True)
        rates = {"train/lr": of_head} | {f"train/lr_{k}": rate for k, rate in enumerate(others, start=2)}
        pl_module.log_dict(rates, on_step=True, on_epoch=False)
