"""Regularization of what a network is trained on: its inputs and its targets."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cnnlab.errors import InputError
from cnnlab.models.attacks import Attack
from cnnlab.models.modes import evaluating
from cnnlab.training.regularizers.base import Regularizer


@dataclass(frozen=True)
class LabelSmoothing(Regularizer):
    """Targets (1 - epsilon) * one-hot + epsilon / classes in training (Szegedy et al. 2016); val/loss stays plain."""

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < 1:
            raise InputError(f"regularization.label_smoothing.epsilon={self.epsilon}: at least 0 and less than 1.")

    @property
    def label_smoothing(self) -> float:
        return self.epsilon


class AdversarialTraining(Attack, Regularizer):
    """Replace every training image by an adversarial one of its batch's network (Madry et al. 2018, section 4).

    Attributes as of `Attack`, which sees the network in eval mode: its passes leave batch statistics alone.
    """

    def on_batch(self, module: Any, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """inputs: float N x C x H x W in [0, 1]. targets: N, or N x classes. The module's modes and gradients stay."""
        with evaluating(module):
            return self(module, inputs, targets), targets
