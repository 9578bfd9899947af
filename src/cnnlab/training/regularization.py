"""Regularization that acts during training; what changes the network itself is in models/surgery.py.

It acts on weights, never on biases or the parameters of normalization layers.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnnlab.errors import InputError
from cnnlab.explain.attacks import Attack
from cnnlab.models.modes import evaluating
from cnnlab.models.weighted import weights_of


def penalty(name: str, module: nn.Module, beta: float = 1.0, modules: Sequence[str] | None = None) -> Tensor:
    """R(W) over the weights of `module`, a scalar without lambda and without 1/2.

    l1: sum |w|. l2: sum w^2. elastic_net: beta * sum w^2 + sum |w| (Zou and Hastie 2005).
    modules: names or globs of the layers whose weights count; None: all.
    Raises InputError for another name, or layers that do not exist.
    """
    weights = list(weights_of(module, modules).values())
    if name == "l1":
        return _sum(w.abs().sum() for w in weights)
    if name == "l2":
        return _sum(w.square().sum() for w in weights)
    if name == "elastic_net":
        return beta * penalty("l2", module, modules=modules) + penalty("l1", module, modules=modules)
    raise InputError(f"penalty {name}: use l1, l2 or elastic_net.")


class OnWeights(ABC):
    """Acts on the weights of the layers `modules` (names or globs; None: all layers)."""

    modules: Sequence[str] | None


class AfterStep(OnWeights):
    """Changes weights after every step of the optimizer."""

    @abstractmethod
    def after_step_(self, weight: Tensor, lr: float) -> None:
        """In place; lr is the learning rate of the step."""


class Penalty(OnWeights):
    """Is added to the training loss and logged apart as `train/<name>`, so that train/loss compares with val/loss."""

    name: str

    @abstractmethod
    def loss(self, module: nn.Module) -> Tensor:
        """A scalar with lambda and all constants."""


@dataclass(frozen=True)
class L2Penalty(Penalty):
    """lambd / 2 * sum w^2."""

    lambd: float = 1e-4
    modules: Sequence[str] | None = None
    name = "l2"

    def __post_init__(self) -> None:
        _at_least_zero("l2.lambd", self.lambd)

    def loss(self, module: nn.Module) -> Tensor:
        return self.lambd / 2 * penalty("l2", module, modules=self.modules)


@dataclass(frozen=True)
class L1Penalty(Penalty, AfterStep):
    """lambd * sum |w|.

    mode: "penalty" adds the subgradient lambd * sign(w), which makes weights small but hardly ever 0; "proximal"
        shrinks each weight by lr * lambd after the optimizer's step and stops at exactly 0 (ISTA, Beck and Teboulle
        2009, equation 1.5).
    """

    lambd: float = 1e-4
    mode: str = "penalty"
    modules: Sequence[str] | None = None
    name = "l1"

    def __post_init__(self) -> None:
        _at_least_zero("l1.lambd", self.lambd)
        _check_mode("l1", self.mode)

    def loss(self, module: nn.Module) -> Tensor:
        return self.lambd * penalty("l1", module, modules=self.modules)

    def after_step_(self, weight: Tensor, lr: float) -> None:
        weight.copy_(nn.functional.softshrink(weight, lr * self.lambd))


@dataclass(frozen=True)
class ElasticNet(Penalty, AfterStep):
    """lambd * (beta * sum w^2 + sum |w|) (Zou and Hastie 2005); `mode` as in L1Penalty.

    The proximal step is the soft threshold, then a division by 1 + 2 * lr * lambd * beta (Parikh and Boyd 2014, 6.5.3).
    """

    lambd: float = 1e-4
    beta: float = 1.0
    mode: str = "penalty"
    modules: Sequence[str] | None = None
    name = "elastic_net"

    def __post_init__(self) -> None:
        _at_least_zero("elastic_net.lambd", self.lambd)
        _at_least_zero("elastic_net.beta", self.beta)
        _check_mode("elastic_net", self.mode)

    def loss(self, module: nn.Module) -> Tensor:
        return self.lambd * penalty("elastic_net", module, beta=self.beta, modules=self.modules)

    def after_step_(self, weight: Tensor, lr: float) -> None:
        shrunk = nn.functional.softshrink(weight, lr * self.lambd)
        weight.copy_(shrunk / (1 + 2 * lr * self.lambd * self.beta))


@dataclass(frozen=True)
class MaxNorm(AfterStep):
    """Scales each unit's incoming weights down to the norm `max_norm` (Srivastava et al. 2014, section 5.1)."""

    max_norm: float = 3.0
    modules: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.max_norm <= 0:
            raise InputError(f"regularization.max_norm.max_norm={self.max_norm}: it must be positive.")

    def after_step_(self, weight: Tensor, lr: float) -> None:
        weight.copy_(torch.renorm(weight, p=2, dim=0, maxnorm=self.max_norm))


@dataclass(frozen=True)
class WeightDecay:
    """The optimizer's weight decay.

    SGD, Adam and RMSprop add it to the gradient, which is an L2 penalty of weight_decay / 2 * |w|^2; AdamW decouples it
    (Loshchilov and Hutter 2019).
    """

    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        _at_least_zero("weight_decay.weight_decay", self.weight_decay)


@dataclass(frozen=True)
class LabelSmoothing:
    """Targets (1 - epsilon) * one-hot + epsilon / classes in training (Szegedy et al. 2016); val/loss stays plain."""

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < 1:
            raise InputError(f"regularization.label_smoothing.epsilon={self.epsilon}: at least 0 and less than 1.")


class AdversarialTraining(Attack):
    """Every training image is replaced by an adversarial one of its batch's network (Madry et al. 2018, section 4).

    Attributes as of `Attack`, which sees the network in eval mode: its passes leave batch statistics alone.
    """

    def attacked(self, module: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """images: float in [0, 1]. targets: N, or N x classes. The module's modes and gradients stay as they are."""
        with evaluating(module):
            return self(module, images, targets)


def sparsity(weights: Mapping[str, Tensor]) -> dict[str, float]:
    """Name -> share of exact zeros of every weight, and of all of them together as `all`."""
    zeros = {name: int((weight == 0).sum()) for name, weight in weights.items()}
    total = sum(weight.numel() for weight in weights.values())
    shares = {name: count / weights[name].numel() for name, count in zeros.items()}
    return {"all": sum(zeros.values()) / max(total, 1)} | shares


def is_proximal(entry: object) -> bool:
    """Whether the entry's penalty is a step after the optimizer's instead of a term of the loss."""
    return getattr(entry, "mode", None) == "proximal"


def check_together(entries: Sequence[object]) -> None:
    """Raises InputError if two entries shrink the squares of the weights at once."""
    kinds = [type(entry) for entry in entries]
    squares = [kind for kind in (L2Penalty, ElasticNet) if kind in kinds]
    if len(squares) == 2:
        raise InputError("regularization: elastic_net contains an l2 penalty. Keep one, and set elastic_net.beta.")
    if squares and WeightDecay in kinds:
        name = squares[0].name
        raise InputError(
            f"regularization: {name} and weight_decay both shrink the squares of the weights, so that neither strength "
            "means what it says. Keep one of them."
        )


def _sum(terms: Iterable[Tensor]) -> Tensor:
    found = list(terms)
    return torch.stack(found).sum() if found else torch.zeros(())


def _at_least_zero(key: str, value: float) -> None:
    if value < 0:
        raise InputError(f"regularization.{key}={value}: it must not be negative.")


def _check_mode(key: str, mode: str) -> None:
    if mode not in ("penalty", "proximal"):
        raise InputError(f"regularization.{key}.mode={mode}: use penalty or proximal.")
