"""Regularization that changes the inputs and targets of training."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cnnlab.errors import InputError
from cnnlab.models.attacks import Attack
from cnnlab.models.modes import evaluating
from cnnlab.training.regularizers.base import Regularizer


@dataclass(frozen=True)
class LabelSmoothing(Regularizer):
    """Trains on targets (1 - epsilon) * one-hot + epsilon / classes (Szegedy et al. 2016); val/loss is not smoothed."""

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < 1:
            raise InputError(
                f"regularization.label_smoothing.epsilon={self.epsilon}: must be at least 0 and less than 1."
            )

    @property
    def label_smoothing(self) -> float:
        return self.epsilon


class AdversarialTraining(Attack, Regularizer):
    """Replaces every training image by an adversarial example for the current network (Madry et al. 2018, section 4).

    The attributes are those of `Attack`, which sees the network in eval mode and so leaves batch statistics unchanged.
    """

    def on_batch(self, module: Any, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return adversarial inputs and the same targets; the module's modes and gradients are left unchanged.

        inputs: float N x C x H x W in [0, 1]. targets: N, or N x classes.
        """
        with evaluating(module):
            return self(module, inputs, targets), targets
