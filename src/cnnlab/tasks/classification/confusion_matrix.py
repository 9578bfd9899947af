"""Log the validation confusion matrix to TensorBoard."""

import lightning as L

from cnnlab.drawing.confusion import confusion_figure
from cnnlab.drawing.sheets import figure_image
from cnnlab.tasks.classification.module import Classifier
from cnnlab.training.callbacks.pictures import add_picture, tensorboard_writer


class ConfusionMatrix(L.Callback):
    """A callback that logs `confusion/val` after every validation, unless there are more than `max_classes` classes."""

    def __init__(self, max_classes: int = 40) -> None:
        self.max_classes = max_classes

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Classifier) -> None:
        counts = pl_module.confusion.compute().cpu().numpy()
        writer = tensorboard_writer(trainer)
        if writer is None or len(pl_module.classes) > self.max_classes:
            return
        picture = figure_image(confusion_figure(counts, pl_module.classes))
        add_picture(writer, "confusion/val", picture, trainer.global_step)
