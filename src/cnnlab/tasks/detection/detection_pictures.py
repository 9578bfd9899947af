"""Log what a detector finds in fixed validation images; TensorBoard's step slider shows it learn."""

import lightning as L
import torch

from cnnlab.drawing.sheets import resized, tensor_image
from cnnlab.models.modes import evaluating
from cnnlab.tasks.detection.module import DetectionModule
from cnnlab.tasks.detection.tiles import prepare
from cnnlab.tasks.detection.truth_and_detections import truth_and_detections
from cnnlab.training.callbacks.pace import Pace
from cnnlab.training.callbacks.pictures import add_picture, tensorboard_writer

SIDE = 400
"""Longer side of an image in its picture, in pixels."""


class DetectionPictures(L.Callback):
    """A callback that logs `detections/<number>`: the objects of an image, and beside them what the network finds.

    It logs after epochs the first validation images or, without a validation part, the first training images.
    images: number of images. min_score: lowest score of the detections. every_n_epochs: after which epochs (see Pace).
    """

    def __init__(self, images: int = 4, min_score: float = 0.5, every_n_epochs: int | None = None) -> None:
        self.images = images
        self.min_score = min_score
        self.pace = Pace(every_n_epochs)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: DetectionModule) -> None:
        if self.pace.due(trainer, trainer.current_epoch + 1):
            with self.pace.timed():
                self._log(trainer, pl_module)

    @torch.no_grad()
    def _log(self, trainer: L.Trainer, module: DetectionModule) -> None:
        writer = tensorboard_writer(trainer)
        if writer is None:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        part = data.parts.val if data.parts.val is not None else data.parts.train
        pixels = [part.tensor(number, data.channels) for number in range(min(self.images, len(part)))]
        with evaluating(module):
            found = module.predict([prepare(each, data.fit) for each in pixels], self.min_score)
        for number, (each, detections) in enumerate(zip(pixels, found, strict=True)):
            title = f"step {trainer.global_step}: {part.name(number)} · score of at least {self.min_score:.0%}"
            shown, size = resized(tensor_image(each), SIDE), (each.shape[-2], each.shape[-1])
            picture = truth_and_detections(shown, size, part.truth(number), detections, data.classes, title)
            add_picture(writer, f"detections/{number}", picture, trainer.global_step)
