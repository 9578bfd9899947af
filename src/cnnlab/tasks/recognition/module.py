"""The LightningModule of recognition, with its metrics."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.text import edit_distance

from cnnlab.errors import InputError
from cnnlab.tasks.recognition.ctc import STRIDE, Line, blank_share, lines_of, texts_of
from cnnlab.training.module import TaskModule

log = logging.getLogger(__name__)
ALL_BLANK = 0.999
"""Share of blank columns from which a reader is said to read nothing."""


class Reader(TaskModule):
    """Trains a network whose outputs are logits N x T x (1 + classes); targets are as `ctc` says."""

    def build_metrics(self) -> Mapping[str, Metric]:
        return {"cer": CharacterErrorRate(), "acc": LineAccuracy()}

    def check_outputs(self, outputs: Any, targets: Tensor) -> None:
        super().check_outputs(outputs, targets)
        if outputs.ndim != 3 or outputs.shape[2] != 1 + len(self.classes):
            raise InputError(
                f"{type(self.network).__name__} returns {' x '.join(map(str, outputs.shape))} numbers; a reader of "
                f"{len(self.classes)} characters returns N x columns x {1 + len(self.classes)}. Use model=crnn or "
                "model=conv_transformer."
            )
        if outputs.shape[1] * STRIDE < int(targets[:, 0].max()):
            raise InputError(
                f"{type(self.network).__name__} returns {outputs.shape[1]} columns for images of "
                f"{int(targets[:, 0].max())} pixels; a reader returns one for every {STRIDE} pixels."
            )

    def step_metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"blanks": blank_share(outputs, targets[:, 0])}

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        blanks = float(self.step_values.get("train/blanks", torch.zeros(())))
        if self.current_epoch == 0 and blanks > ALL_BLANK:
            log.warning(
                "After its first epoch the network reads nothing: the blank is the most probable output everywhere. "
                "Readers often begin so. If it lasts, train longer, on fewer characters, or with a higher optimizer.lr."
            )

    @torch.inference_mode()
    def read(self, inputs: Tensor, widths: Tensor) -> list[Line]:
        """Return what the network reads in each image, N x C x 32 x W, of which the first `widths` pixels show it."""
        return lines_of(self(inputs), widths)

    def predict(self, inputs: Tensor) -> Tensor:
        """Return probabilities N x T x (1 + classes), float32; output 0 is the blank."""
        return self(inputs).softmax(2)


class CharacterErrorRate(Metric):
    """Edit distance between the texts read and the true ones, divided by the number of characters in the latter."""

    full_state_update = False
    errors: Tensor
    characters: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("errors", "characters"):
            self.add_state(name, torch.tensor(0, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        truth = texts_of(targets)
        self.errors += sum(edit_distances([line.classes for line in lines_of(outputs, targets[:, 0])], truth))
        self.characters += sum(map(len, truth))

    def compute(self) -> Tensor:
        return self.errors / self.characters.clamp(min=1)


class LineAccuracy(Metric):
    """Share of lines that are read without a mistake."""

    full_state_update = False
    right: Tensor
    lines: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("right", "lines"):
            self.add_state(name, torch.tensor(0, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        found = [line.classes for line in lines_of(outputs, targets[:, 0])]
        self.right += sum(a == b for a, b in zip(found, texts_of(targets), strict=True))
        self.lines += len(found)

    def compute(self) -> Tensor:
        return self.right / self.lines.clamp(min=1)


def edit_distances(found: list[list[int]], truth: list[list[int]]) -> list[int]:
    """Return the number of insertions, deletions and substitutions between each pair (Levenshtein 1966)."""
    if not found:
        return []
    first, second = (["".join(map(chr, text)) for text in texts] for texts in (found, truth))
    return [int(number) for number in edit_distance(first, second, reduction="none")]
