"""Penalties on the size of weights, as terms of the loss or as proximal steps, and limits on their norm."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnnlab.errors import InputError
from cnnlab.models.weighted import weights_of
from cnnlab.training.regularizers.base import Regularizer


def penalty(name: str, module: nn.Module, beta: float = 1.0, modules: Sequence[str] | None = None) -> Tensor:
    """Return R(W) over the weights of `module`, a scalar without lambda and without 1/2.

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


@dataclass(frozen=True)
class L2Penalty(Regularizer):
    """The penalty lambd / 2 * sum w^2."""

    lambd: float = 1e-4
    modules: Sequence[str] | None = None
    name = "l2"
    shrinks_squares = True

    def __post_init__(self) -> None:
        _at_least_zero("l2.lambd", self.lambd)

    def loss(self, network: nn.Module) -> Tensor:
        return self.lambd / 2 * penalty("l2", network, modules=self.modules)


@dataclass(frozen=True)
class L1Penalty(Regularizer):
    """The penalty lambd * sum |w|.

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

    @property
    def makes_zeros(self) -> bool:
        return self.mode == "proximal"

    def loss(self, network: nn.Module) -> Tensor | None:
        return self.lambd * penalty("l1", network, modules=self.modules) if self.mode == "penalty" else None

    def after_step(self, network: nn.Module, lr_of: Callable[[nn.Parameter], float]) -> None:
        if self.mode == "proximal":
            for weight in moved_weights(network, self.modules):
                weight.copy_(nn.functional.softshrink(weight, lr_of(weight) * self.lambd))


@dataclass(frozen=True)
class ElasticNet(Regularizer):
    """The penalty lambd * (beta * sum w^2 + sum |w|) (Zou and Hastie 2005); `mode` as in L1Penalty.

    The proximal step is the soft threshold, then a division by 1 + 2 * lr * lambd * beta (Parikh and Boyd 2014, 6.5.3).
    """

    lambd: float = 1e-4
    beta: float = 1.0
    mode: str = "penalty"
    modules: Sequence[str] | None = None
    name = "elastic_net"
    shrinks_squares = True

    def __post_init__(self) -> None:
        _at_least_zero("elastic_net.lambd", self.lambd)
        _at_least_zero("elastic_net.beta", self.beta)
        _check_mode("elastic_net", self.mode)

    @property
    def makes_zeros(self) -> bool:
        return self.mode == "proximal"

    def loss(self, network: nn.Module) -> Tensor | None:
        if self.mode == "proximal":
            return None
        return self.lambd * penalty("elastic_net", network, beta=self.beta, modules=self.modules)

    def after_step(self, network: nn.Module, lr_of: Callable[[nn.Parameter], float]) -> None:
        if self.mode == "proximal":
            for weight in moved_weights(network, self.modules):
                lr = lr_of(weight)
                shrunk = nn.functional.softshrink(weight, lr * self.lambd)
                weight.copy_(shrunk / (1 + 2 * lr * self.lambd * self.beta))


@dataclass(frozen=True)
class MaxNorm(Regularizer):
    """Scales each unit's incoming weights down to the norm `max_norm` (Srivastava et al. 2014, section 5.1)."""

    max_norm: float = 3.0
    modules: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.max_norm <= 0:
            raise InputError(f"regularization.max_norm.max_norm={self.max_norm}: it must be positive.")

    def after_step(self, network: nn.Module, lr_of: Callable[[nn.Parameter], float]) -> None:
        for weight in moved_weights(network, self.modules):
            weight.copy_(torch.renorm(weight, p=2, dim=0, maxnorm=self.max_norm))


@dataclass(frozen=True)
class WeightDecay(Regularizer):
    """The optimizer's weight decay.

    SGD, Adam and RMSprop add it to the gradient, which is an L2 penalty of weight_decay / 2 * |w|^2; AdamW decouples it
    (Loshchilov and Hutter 2019).
    """

    weight_decay: float = 1e-4
    shrinks_squares = True

    def __post_init__(self) -> None:
        _at_least_zero("weight_decay.weight_decay", self.weight_decay)


def moved_weights(network: nn.Module, modules: Sequence[str] | None) -> list[nn.Parameter]:
    """Return the weights that the last step may have changed: those with a gradient."""
    return [weight for weight in weights_of(network, modules).values() if weight.grad is not None]


def sparsity(weights: Mapping[str, Tensor]) -> dict[str, float]:
    """Return name -> share of exact zeros in each weight, and under `all` in all of them together."""
    zeros = {name: int((weight == 0).sum()) for name, weight in weights.items()}
    total = sum(weight.numel() for weight in weights.values())
    shares = {name: count / weights[name].numel() for name, count in zeros.items()}
    return {"all": sum(zeros.values()) / max(total, 1)} | shares


def _sum(terms: Iterable[Tensor]) -> Tensor:
    found = list(terms)
    return torch.stack(found).sum() if found else torch.zeros(())


def _at_least_zero(key: str, value: float) -> None:
    if value < 0:
        raise InputError(f"regularization.{key}={value}: it must not be negative.")


def _check_mode(key: str, mode: str) -> None:
    if mode not in ("penalty", "proximal"):
        raise InputError(f"regularization.{key}.mode={mode}: use penalty or proximal.")
