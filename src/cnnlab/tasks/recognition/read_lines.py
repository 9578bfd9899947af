"""Log the first validation lines with what is read in them to TensorBoard."""

import lightning as L
import torch
from PIL import Image

from cnnlab.drawing.sheets import grid, tensor_image, titled
from cnnlab.models.modes import evaluating
from cnnlab.tasks.recognition.ctc import lines_of, texts_of
from cnnlab.tasks.recognition.module import Reader
from cnnlab.training.callbacks.pace import Pace
from cnnlab.training.callbacks.pictures import add_picture, tensorboard_writer


class ReadLines(L.Callback):
    """A callback that logs `reading/val`: validation lines, each above its text and what the network reads.

    lines: number of lines, the first ones. every_n_epochs: in which epochs (see Pace).
    """

    def __init__(self, lines: int = 24, every_n_epochs: int | None = None) -> None:
        self.lines = lines
        self.pace = Pace(every_n_epochs)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Reader) -> None:
        writer = tensorboard_writer(trainer)
        part = trainer.datamodule.parts.val  # type: ignore[attr-defined]
        if writer is None or part is None or not self.pace.due(trainer, trainer.current_epoch + 1):
            return
        with self.pace.timed():
            add_picture(writer, "reading/val", self._picture(trainer, pl_module), trainer.global_step)

    @torch.no_grad()
    def _picture(self, trainer: L.Trainer, module: Reader) -> Image.Image:
        data = trainer.datamodule  # type: ignore[attr-defined]
        dataset = data.eval_dataset(data.parts.val)
        examples = [dataset[(0, index)] for index in range(min(self.lines, len(dataset)))]
        pixels, targets = data.collate(examples)
        with evaluating(module):
            found = lines_of(module(pixels.to(module.device)), targets[:, 0])
        captions = []
        for line, truth in zip(found, texts_of(targets), strict=True):
            right, read = ("".join(module.classes[number] for number in text) for text in (truth, line.classes))
            captions.append(right if right == read else f"{right}\nread: {read or '(nothing)'}")
        wrong = sum("\n" in caption for caption in captions)
        title = f"epoch {trainer.current_epoch}: {len(captions) - wrong} of {len(captions)} lines read"
        return titled(grid(list(map(tensor_image, pixels)), captions, columns=4, gap=8, below=True), title)
