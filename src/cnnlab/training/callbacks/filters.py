"""Log the first layer's filters to TensorBoard."""

import lightning as L

from cnnlab.drawing.filters import filters_sheet
from cnnlab.models.feature_maps import first_conv
from cnnlab.training.callbacks.pace import Pace
from cnnlab.training.callbacks.pictures import add_picture, tensorboard_writer
from cnnlab.training.module import TaskModule

WIDTH = 640
"""Width of the grid of filters, in pixels."""


class Filters(L.Callback):
    """A callback that logs `filters/<layer>`, the filters of the first convolution.

    It logs before training and after epochs, the latter unless they have been frozen so far.
    every_n_epochs: after which epochs (see Pace).
    """

    def __init__(self, every_n_epochs: int | None = None) -> None:
        self.pace = Pace(every_n_epochs)

    def on_train_start(self, trainer: L.Trainer, pl_module: TaskModule) -> None:
        if trainer.global_step == 0:  # not a resumed run
            self._log(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: TaskModule) -> None:
        if self.pace.due(trainer, trainer.current_epoch + 1):
            with self.pace.timed():
                self._log(trainer, pl_module, trained=trainer.current_epoch)

    def _log(self, trainer: L.Trainer, module: TaskModule, trained: int | None = None) -> None:
        """Log the filters; trained: the epoch that has just ended, None before training."""
        if writer := tensorboard_writer(trainer):
            name, conv = first_conv(module.network)
            if trained is not None and module.recipe.plan.is_constant(module.network, name, trained):
                return
            sheet = filters_sheet(f"{name} · step {trainer.global_step}", conv.weight.detach().cpu(), width=WIDTH)
            add_picture(writer, f"filters/{name}", sheet, trainer.global_step)
