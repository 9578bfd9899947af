"""Log the validation confusion matrix to TensorBoard."""

import lightning as L

from cnnlab.drawing.confusion import confusion_figure
from cnnlab.drawing.sheets import figure_image
from cnnlab.tasks.classification.module import Classifier
from cnnlab.training.callbacks.pace import Pace
from cnnlab.training.callbacks.pictures import add_picture, tensorboard_writer


class ConfusionMatrix(L.Callback):
    """A callback that logs `confusion/val` after a validation, unless there are more than `max_classes` classes.

    every_n_epochs: in which epochs (see Pace).
    """

    def __init__(self, max_classes: int = 40, every_n_epochs: int | None = None) -> None:
        self.max_classes = max_classes
        self.pace = Pace(every_n_epochs)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Classifier) -> None:
        counts = pl_module.confusion.compute().cpu().numpy()  # on every rank: it gathers the counts of all
        writer = tensorboard_writer(trainer)
        if writer is None or len(pl_module.classes) > self.max_classes:
            return
        if self.pace.due(trainer, trainer.current_epoch + 1):
            with self.pace.timed():
                picture = figure_image(confusion_figure(counts, pl_module.classes))
                add_picture(writer, "confusion/val", picture, trainer.global_step)
