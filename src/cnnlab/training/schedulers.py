"""Learning rate schedules, each built as `scheduler(optimizer, total_steps, steps_per_epoch)`."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
    StepLR,
)


def constant(optimizer: Optimizer, total_steps: int, steps_per_epoch: int) -> LRScheduler:
    """Keep the learning rate constant."""
    return LambdaLR(optimizer, lambda step: 1.0)


def step(
    optimizer: Optimizer, total_steps: int, steps_per_epoch: int, step_epochs: int = 10, gamma: float = 0.1
) -> LRScheduler:
    """Multiply the learning rate by `gamma` every `step_epochs` epochs."""
    return StepLR(optimizer, step_size=step_epochs * steps_per_epoch, gamma=gamma)


def cosine(
    optimizer: Optimizer,
    total_steps: int,
    steps_per_epoch: int,
    warmup_epochs: float = 0.0,
    warmup_start: float = 0.1,
    final_lr: float = 0.0,
) -> LRScheduler:
    """Warm up linearly from `warmup_start` times the learning rate, then follow half a cosine down to `final_lr`."""
    warmup_steps = min(round(warmup_epochs * steps_per_epoch), total_steps - 1)
    down = CosineAnnealingLR(optimizer, T_max=max(1, total_steps - warmup_steps), eta_min=final_lr)
    if not warmup_steps:
        return down
    up = LinearLR(optimizer, start_factor=warmup_start, total_iters=warmup_steps)
    return SequentialLR(optimizer, [up, down], milestones=[warmup_steps])


def onecycle(
    optimizer: Optimizer,
    total_steps: int,
    steps_per_epoch: int,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> LRScheduler:
    """Raise each group's learning rate to the optimizer's value and lower it again (Smith and Topin 2018)."""
    peaks = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(
        optimizer,
        peaks,
        total_steps,
        pct_start=pct_start,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
    )
