"""Regularization that acts during training; what changes the network itself is in models/surgery.py."""

from dataclasses import dataclass

from cnnlab.errors import InputError


@dataclass(frozen=True)
class WeightDecay:
    """The optimizer's weight decay, for weights but not for biases and norm parameters.

    SGD, Adam and RMSprop add it to the gradient, which is an L2 penalty of weight_decay / 2 * |w|^2; AdamW decouples it
    (Loshchilov and Hutter 2019).
    """

    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        if self.weight_decay < 0:
            raise InputError(f"weight_decay={self.weight_decay}: it must not be negative.")


@dataclass(frozen=True)
class L2Penalty:
    """weight / 2 * |w|^2 added to the loss, over weights but not biases and norms; logged apart as train/l2."""

    weight: float = 1e-4

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise InputError(f"regularization.l2.weight={self.weight}: it must not be negative.")


@dataclass(frozen=True)
class LabelSmoothing:
    """Targets (1 - epsilon) * one-hot + epsilon / classes in training (Szegedy et al. 2016); val/loss stays plain."""

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < 1:
            raise InputError(f"regularization.label_smoothing.epsilon={self.epsilon}: at least 0 and less than 1.")
