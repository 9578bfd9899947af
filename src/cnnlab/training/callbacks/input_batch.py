"""Log what the network is really fed: the first training batch of an epoch, after augmentation."""

from typing import Any

import lightning as L
import torch

from cnnlab.drawing.grids import tile, to_uint8
from cnnlab.drawing.sheets import tensor_image
from cnnlab.seeds import seed_generators
from cnnlab.training.callbacks.pictures import add_picture, tensorboard_writer
from cnnlab.training.module import FeatureBatch, TaskModule


class InputBatch(L.Callback):
    """A callback that logs `input/train`, the first `images` images of an epoch's first batch, every `every_n_epochs`.

    Inputs that do not have one or three channels are not pictures, and are not logged.
    """

    def __init__(self, images: int = 16, every_n_epochs: int = 1) -> None:
        self.images = images
        self.every_n_epochs = every_n_epochs

    @torch.no_grad()
    def on_train_batch_start(self, trainer: L.Trainer, pl_module: TaskModule, batch: Any, batch_idx: int) -> None:
        if batch_idx or trainer.current_epoch % self.every_n_epochs:
            return
        if writer := tensorboard_writer(trainer):
            if isinstance(batch, FeatureBatch):
                images = trainer.datamodule.cached.images(batch.draws[: self.images])  # type: ignore[attr-defined]
            else:
                devices = [pl_module.device] if pl_module.device.type == "cuda" else []
                with torch.random.fork_rng(devices):
                    seed_generators(pl_module.step_seed(), pl_module.device)
                    images, _ = pl_module.augment(*batch)
            if images.shape[1] in (1, 3):
                shown = tensor_image(tile(to_uint8(images[: self.images].cpu())))
                add_picture(writer, "input/train", shown, trainer.global_step)
