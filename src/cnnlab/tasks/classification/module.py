"""The LightningModule of classification, with its metrics."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassF1Score

from cnnlab.errors import InputError
from cnnlab.tasks.classification.imbalance import majority_warning
from cnnlab.training.module import TaskModule

log = logging.getLogger(__name__)


class Classifier(TaskModule):
    """Trains any network with one output per class."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.confusion = MulticlassConfusionMatrix(len(self.classes), validate_args=False)

    def build_metrics(self) -> Mapping[str, Metric]:
        """Return the metrics of validation and test."""
        count = len(self.classes)
        # validate_args=False: validation would synchronise with the device in every step.
        return {
            "acc": MulticlassAccuracy(count, average="micro", validate_args=False),
            "acc_top5": MulticlassAccuracy(count, top_k=min(5, count), average="micro", validate_args=False),
            "f1": MulticlassF1Score(count, average="macro", validate_args=False),
            "balanced_acc": BalancedAccuracy(count, validate_args=False),
        }

    def build_train_metrics(self) -> Mapping[str, Metric]:
        return {"acc": MulticlassAccuracy(len(self.classes), average="micro", validate_args=False)}

    def step_metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"acc": (outputs.argmax(1) == targets).float().mean()}

    def check_outputs(self, outputs: Any, targets: Tensor) -> None:
        super().check_outputs(outputs, targets)
        expected = (len(targets), len(self.classes))
        if tuple(outputs.shape) != expected:
            raise InputError(
                f"{type(self.network).__name__} returns {' x '.join(map(str, outputs.shape))} numbers for "
                f"{len(targets)} images; classification into {len(self.classes)} classes needs "
                f"{expected[0]} x {expected[1]}."
            )

    def predict(self, inputs: Tensor) -> Tensor:
        """Return probabilities N x classes, float32."""
        return self(inputs).softmax(dim=1)

    def on_validation_epoch_start(self) -> None:
        self.confusion.reset()

    def on_train_end(self) -> None:
        """Warn if the last validation's accuracy is one that always answering the largest class reaches."""
        if "val/acc" not in self.trainer.callback_metrics:  # the same on every rank, unlike what each has seen
            return
        counts = self.confusion.compute().cpu().numpy()
        warning = majority_warning(int(counts.trace()), counts.sum(axis=1), self.classes)
        if warning and self.trainer.is_global_zero:
            log.warning("Last validation: %s", warning)

    def score(self, part: str, outputs: Tensor, targets: Tensor) -> None:
        super().score(part, outputs, targets)
        if part == "val":
            self.confusion.update(outputs, targets)


class BalancedAccuracy(MulticlassConfusionMatrix):
    """The mean recall of the classes that occur (scikit-learn's balanced_accuracy_score)."""

    def compute(self) -> Tensor:
        counts = super().compute()
        support = counts.sum(dim=1)
        recall = counts.diagonal()[support > 0] / support[support > 0]
        return recall.float().mean() if len(recall) else torch.zeros((), device=counts.device)
