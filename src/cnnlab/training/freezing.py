"""Which stages train in which epochs: a list of phases, applied by flags, never by adding parameter groups."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cnnlab.errors import InputError
from cnnlab.models.stages import match_stages, stage_of_parameter, stages


@dataclass(frozen=True)
class Phase:
    """From `epoch` on the stages `trainable` train; `lr_multiplier` holds for those that no earlier phase trained."""

    epoch: int
    trainable: list[str]
    lr_multiplier: float


class FreezePlan:
    """The phases of one network, with patterns resolved to stage names.

    batch_norm: "eval" keeps frozen batch norm on its stored statistics; "train" lets them drift.
    """

    def __init__(self, network: nn.Module, phases: Sequence[dict], batch_norm: str = "eval") -> None:
        if batch_norm not in ("eval", "train"):
            raise InputError(f"freeze.batch_norm={batch_norm}: use eval or train.")
        self.phases = [
            Phase(
                int(phase["epoch"]),
                match_stages(network, _as_list(phase["train"])),
                phase.get("lr_multiplier", 1.0),
            )
            for phase in phases
        ]
        epochs = [phase.epoch for phase in self.phases]
        if not epochs or epochs[0] != 0 or sorted(set(epochs)) != epochs:
            raise InputError(f"freeze.phases begin at epochs {epochs}: the first must be 0, and they must increase.")
        self.batch_norm = batch_norm

    def trainable(self, epoch: int) -> list[str]:
        """The stages that train in `epoch`."""
        return [phase for phase in self.phases if phase.epoch <= epoch][-1].trainable

    def lr_multiplier(self, stage: str) -> float:
        """That of the first phase that trains `stage`; 1 if none does."""
        return next((phase.lr_multiplier for phase in self.phases if stage in phase.trainable), 1.0)

    def ever_freezes(self, network: nn.Module) -> bool:
        return any(set(phase.trainable) != set(stages(network)) for phase in self.phases)

    def apply(self, network: nn.Module, epoch: int) -> None:
        """Set requires_grad, and the mode of batch norm, of every stage; call after anything that calls `train()`."""
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


def _as_list(patterns: str | list[str]) -> list[str]:
    return [patterns] if isinstance(patterns, str) else list(patterns)
