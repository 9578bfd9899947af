"""A callback of tests that makes the images of chosen steps NaN."""

from typing import Any

import lightning as L


class Poison(L.Callback):
    """Multiplies the images of the training `steps` by NaN, on the process `rank` alone; batches come as float."""

    def __init__(self, steps: list[int], rank: int = 0) -> None:
        self.steps = steps
        self.rank = rank

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        augment = pl_module.augment

        def poisoned(images: Any, labels: Any) -> Any:
            images, labels = augment(images, labels)
            bad = trainer.global_step in self.steps and trainer.global_rank == self.rank
            return (images * float("nan") if bad else images), labels

        pl_module.augment = poisoned
