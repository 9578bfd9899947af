"""Decide which stages train in which epochs: a list of phases, applied with requires_grad and batch-norm modes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cnnlab.errors import InputError
from cnnlab.models.stages import match_stages, stage_of_parameter, stages


@dataclass(frozen=True)
class Phase:
    """The stages that train from `epoch` on; both factors apply to stages that no earlier phase trained."""

    epoch: int
    trainable: list[str]
    lr_multiplier: float = 1.0
    lr_decay: float = 1.0
    """Ratio of the learning rate of a stage to that of the next stage above."""


class FreezePlan:
    """The phases of one network, with patterns resolved to stage names.

    phases: dictionaries of `epoch`, `train` (patterns of stages) and, if not 1, `lr_multiplier` and `lr_decay`.
    batch_norm: "eval" keeps frozen batch norm on its stored statistics; "train" lets them drift.
    Raises InputError for an unknown key or stage, or epochs that do not increase from 0.
    """

    def __init__(self, network: nn.Module, phases: Sequence[dict], batch_norm: str = "eval") -> None:
        if batch_norm not in ("eval", "train"):
            raise InputError(f"freeze.batch_norm={batch_norm}: use eval or train.")
        self.phases = [_phase(network, dict(phase)) for phase in phases]
        epochs = [phase.epoch for phase in self.phases]
        if not epochs or epochs[0] != 0 or sorted(set(epochs)) != epochs:
            raise InputError(f"freeze.phases begin at epochs {epochs}: the first must be 0, and they must increase.")
        self.batch_norm = batch_norm
        self._multipliers: dict[str, float] = {}
        weighted = [name for name, module in stages(network).items() if next(module.parameters(), None) is not None]
        for phase in self.phases:
            new = [name for name in phase.trainable if name in weighted and name not in self._multipliers]
            for depth, name in enumerate(reversed(new)):
                self._multipliers[name] = phase.lr_multiplier * phase.lr_decay**depth

    def trainable(self, epoch: int) -> list[str]:
        """Return the stages that train in `epoch`."""
        return [phase for phase in self.phases if phase.epoch <= epoch][-1].trainable

    def lr_multiplier(self, stage: str) -> float:
        """Return the multiplier of a stage, set by the first phase that trains it; 1 if none does."""
        return self._multipliers.get(stage, 1.0)

    def ever_freezes(self, network: nn.Module) -> bool:
        """Return whether any phase freezes any stage."""
        return any(set(phase.trainable) != set(stages(network)) for phase in self.phases)

    def first_trained(self, network: nn.Module, epoch: int) -> str | None:
        """Return the first stage that a phase up to `epoch` trains; None if it is the first one with parameters."""
        trained = {name for phase in self.phases if phase.epoch <= epoch for name in phase.trainable}
        weighted = [name for name, module in stages(network).items() if next(module.parameters(), None) is not None]
        first = next((name for name in weighted if name in trained), None)
        return None if first == weighted[0] else first

    def constant(self, network: nn.Module, epoch: int) -> list[str]:
        """Return the stages whose outputs for an image stay the same from the first epoch to the end of `epoch`.

        Returns [] if batch-norm statistics drift in any of them.
        """
        names, first = list(stages(network)), self.first_trained(network, epoch)
        below = names[: names.index(first)] if first else []
        layers = [layer for name in below for layer in stages(network)[name].modules()]
        return [] if self.batch_norm == "train" and any(isinstance(layer, _BatchNorm) for layer in layers) else below

    def is_constant(self, network: nn.Module, layer: str, epoch: int) -> bool:
        """Return whether a layer belongs to a stage that is `constant` up to `epoch`."""
        return any(layer == stage or layer.startswith(f"{stage}.") for stage in self.constant(network, epoch))

    def apply(self, network: nn.Module, epoch: int) -> None:
        """Set requires_grad and the batch-norm mode of every stage; call after anything that calls `train()`."""
        trainable = set(self.trainable(epoch))
        stage = stage_of_parameter(network)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(stage[name] in trainable)
        if self.batch_norm == "train":
            return
        for name, module in stages(network).items():
            for layer in module.modules():
                if isinstance(layer, _BatchNorm):
                    layer.train(name in trainable)


def check_batch_norm(plan: FreezePlan, network: nn.Module, batch_size: int) -> None:
    """Raise InputError if batch normalization would take its statistics from single images."""
    if batch_size > 1:
        return
    trained = {name for phase in plan.phases for name in phase.trainable}
    normalized = [
        name
        for name, stage in stages(network).items()
        if (name in trained or plan.batch_norm == "train") and any(isinstance(m, _BatchNorm) for m in stage.modules())
    ]
    if normalized:
        raise InputError(
            f"data.batch_size=1: batch normalization ({normalized[0]}, ...) would take its statistics from one image. "
            "Use at least 2."
        )


def _phase(network: nn.Module, given: dict[str, Any]) -> Phase:
    known = ["epoch", "train", "lr_multiplier", "lr_decay"]
    unknown = [key for key in given if key not in known]
    missing = [key for key in known[:2] if key not in given]
    if unknown or missing:
        raise InputError(
            f"freeze.phases: {given} has {f'the unknown {unknown[0]}' if unknown else f'no {missing[0]}'}. "
            f"A phase has {', '.join(known)}."
        )
    patterns = given.pop("train")
    trainable = match_stages(network, [patterns] if isinstance(patterns, str) else list(patterns))
    return Phase(trainable=trainable, **given)
