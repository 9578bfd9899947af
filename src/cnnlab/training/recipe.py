"""The recipe of a training: the config groups optimizer, scheduler, loss, freeze and regularization as objects."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from cnnlab.config import build, locate
from cnnlab.errors import InputError
from cnnlab.training.freezing import FreezePlan

LR_SCALING: dict[str, Callable[[int], float]] = {
    "none": lambda processes: 1,
    "linear": lambda processes: processes,
    "sqrt": lambda processes: processes**0.5,
}
"""Value of trainer.scale_lr -> function from the number of processes to the factor of the learning rate."""

FLOAT16, BFLOAT16 = ("16", "16-mixed"), ("bf16", "bf16-mixed")
"""Names of mixed precision."""


@dataclass(frozen=True)
class Recipe:
    """Everything that a module needs to train its network."""

    optimizer: Callable[..., torch.optim.Optimizer]
    scheduler: Callable[..., Any]
    loss: Callable[..., nn.Module]
    plan: FreezePlan
    lr: float
    seed: int
    monitor: str = "val/acc"
    """The metric for the best epoch, early stopping and plateaus."""
    mode: str = "max"
    scale_lr: Callable[[int], float] = LR_SCALING["none"]
    class_weights: Sequence[float] | None = None
    """Weight of each class in the training loss; None: 1."""
    regularizers: Mapping[str, Any] = field(default_factory=dict)
    batch_transforms: Sequence[nn.Module] = ()
    """Augmentations that run on the device, on whole batches."""
    channels_last: bool = True
    resume_schedule: str = "extend"
    """The learning rate of a run that is resumed with another length: see `resumed_schedule`."""

    @property
    def weight_decay(self) -> float:
        return sum(getattr(each, "weight_decay", 0.0) for each in self.regularizers.values())

    @property
    def label_smoothing(self) -> float:
        return sum(getattr(each, "label_smoothing", 0.0) for each in self.regularizers.values())

    def train_loss(self) -> nn.Module:
        """Return the loss of training; unlike `loss`, by which epochs are compared, it is smoothed and weighted."""
        options: dict[str, Any] = {"label_smoothing": self.label_smoothing} if self.label_smoothing else {}
        if self.class_weights is None:
            return self.loss(**options)
        weights = torch.tensor(self.class_weights, dtype=torch.float32)
        loss = self.loss(**options, weight=weights)
        loss.register_buffer("weight", weights, persistent=False)  # a checkpoint predicts without its recipe
        return loss

    @property
    def waits_for_plateaus(self) -> bool:
        return is_plateau(self.scheduler)


def is_plateau(scheduler: Callable[..., Any]) -> bool:
    """Return whether a scheduler follows a metric instead of the steps."""
    return getattr(scheduler, "func", scheduler) is ReduceLROnPlateau


def build_optimizer(
    node: Mapping[str, Any], precision: str, trusted: Sequence[str], clips: bool = False
) -> Callable[..., torch.optim.Optimizer]:
    """Return the config group `optimizer` as a function of parameter groups, with fused=True if it has a fused kernel.

    clips: whether gradients are clipped, which Lightning refuses for a fused optimizer in mixed precision. A fused
    optimizer in float16 undoes the scaling of the loss by itself, so that callbacks would see scaled gradients.

    Raises InputError if the node itself sets fused=True where gradients cannot be clipped then.
    """
    if clips and precision in (*FLOAT16, *BFLOAT16) and node.get("fused"):
        raise InputError(
            f"optimizer.fused=true does not work in precision {precision} with trainer.gradient_clip_val: leave it out."
        )
    unfused = precision in FLOAT16 or (clips and precision in BFLOAT16)
    arguments = inspect.signature(locate(node["_target_"], trusted)).parameters
    fused = "fused" in arguments and not {"fused", "foreach"} & set(node) and not unfused
    return build(dict(node) | ({"fused": True} if fused else {}), trusted)


def lr_scaling(name: str) -> Callable[[int], float]:
    """Return how the learning rate grows with the number of processes; raise InputError for an unknown name."""
    if name not in LR_SCALING:
        raise InputError(f"trainer.scale_lr={name}: use one of {', '.join(LR_SCALING)}.")
    return LR_SCALING[name]


def check_optimizer(
    optimizer: Callable[..., torch.optim.Optimizer], scheduler: Callable[..., Any], cfg: Mapping[str, Any]
) -> None:
    """Raise InputError for numbers that torch refuses, by trying optimizer and scheduler on one parameter."""
    group, lr = "optimizer", cfg["optimizer"]["lr"]
    try:
        tried = optimizer([nn.Parameter(torch.zeros(1))], lr=lr)
        group = "scheduler"
        if is_plateau(scheduler):
            scheduler(tried, mode=cfg["metric_mode"])
        elif cfg["trainer"]["max_epochs"] == -1 and cfg["trainer"]["max_steps"] == -1:
            raise ValueError("the length of the run must be known: set trainer.max_epochs or trainer.max_steps")
        else:
            scheduler(tried, total_steps=100, steps_per_epoch=10)
    except (ValueError, TypeError) as error:
        given = ", ".join(f"{key}={value}" for key, value in cfg[group].items() if not key.startswith("_"))
        raise InputError(f"{group}: {error}. Given: {given}.") from error
