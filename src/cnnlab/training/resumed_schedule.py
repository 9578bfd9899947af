"""The learning rate of a run that is resumed with another length, or whose epochs have another number of steps."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from cnnlab.errors import InputError
from cnnlab.training.schedulers import constant

log = logging.getLogger(__name__)
SMALLEST = 1e-5
"""Share of optimizer.lr below which a constant rate trains next to nothing; onecycle ends at 4e-6 of it."""


@dataclass(frozen=True)
class Schedule:
    """The steps that a learning rate schedule covers: those of the run from `start` on.

    total_steps: of the whole run. is_constant: whether the rate stays as it was at `start`.
    """

    total_steps: int
    steps_per_epoch: int
    start: int = 0
    is_constant: bool = False

    def build(self, scheduler: Callable[..., Any], optimizer: Optimizer) -> Any:
        """Return the scheduler, at the step `start`."""
        steps = {"total_steps": self.total_steps - self.start, "steps_per_epoch": self.steps_per_epoch}
        return constant(optimizer, **steps) if self.is_constant else scheduler(optimizer, **steps)

    def has_length_of(self, other: "Schedule") -> bool:
        """Return whether both runs have the same number of epochs."""
        return self.total_steps * other.steps_per_epoch == other.total_steps * self.steps_per_epoch

    def length(self) -> str:
        epochs = self.total_steps / self.steps_per_epoch
        return f"{epochs:.0f} epochs" if epochs == round(epochs) else f"{self.total_steps} steps"


def resumed_scheduler(
    checkpoint: dict[str, Any], planned: Schedule, mode: str, scheduler: Callable[..., Any], optimizer: Optimizer
) -> tuple[Schedule, Any]:
    """Return the schedule of a resumed run and its scheduler; change the rates in `checkpoint` to those it begins with.

    checkpoint: Lightning's, restored into scheduler and optimizer later. planned: the run's length now. mode, if the
    length differs: extend follows the schedule of the longer run from the epoch reached; restart begins the schedule
    again, for the steps that are left; constant keeps the rate of the last step. optimizer: has its initial rates.

    Raises InputError for a constant rate of next to nothing.
    """
    before = Schedule(**checkpoint["schedule"])
    if (before.total_steps, before.steps_per_epoch) == (planned.total_steps, planned.steps_per_epoch):
        return before, before.build(scheduler, optimizer)
    scale = planned.steps_per_epoch / before.steps_per_epoch
    position = checkpoint["lr_schedulers"][0]["last_epoch"]
    reached = round((before.start + position) * scale)
    extends = mode == "extend" or before.has_length_of(planned)
    start, is_constant = (round(before.start * scale), before.is_constant) if extends else (reached, mode == "constant")
    schedule = Schedule(planned.total_steps, planned.steps_per_epoch, start, is_constant)

    saved = checkpoint["optimizer_states"][0]["param_groups"]
    initial = _lowered(before, scheduler, optimizer, saved)
    last = _rates_at(before, position - 1, scheduler, optimizer, initial)
    if is_constant and not extends:
        initial = last
        _require_enough(max(last), max(group["lr"] for group in optimizer.param_groups))
    _set_rates(optimizer, initial)
    resumed = _stepped(schedule, reached - start, scheduler, optimizer)
    checkpoint["lr_schedulers"] = [resumed.state_dict()]
    for group, now in zip(saved, optimizer.param_groups, strict=True):
        group |= {key: value for key, value in now.items() if key != "params"}
    _report(before, schedule, mode, max(last), max(group["lr"] for group in saved), reached)
    return schedule, resumed


def _require_enough(rate: float, highest: float) -> None:
    """Raise InputError if a constant learning rate would be that of a schedule at its end."""
    if rate < SMALLEST * highest:
        raise InputError(
            f"resume_schedule=constant would keep the learning rate at {rate:.2g}, where the schedule has ended. "
            "Use resume_schedule=extend or restart."
        )


def _lowered(before: Schedule, scheduler: Callable[..., Any], optimizer: Optimizer, saved: list[dict]) -> list[float]:
    """Return the optimizer's rates, times what the run itself (divergence=rollback) has lowered them by."""
    with _unchanged(optimizer):
        before.build(scheduler, optimizer)
        first = [group["initial_lr"] for group in optimizer.param_groups]
    return [
        group["lr"] * (then["initial_lr"] / rate) if rate else group["lr"]
        for group, then, rate in zip(optimizer.param_groups, saved, first, strict=True)
    ]


def _rates_at(
    schedule: Schedule, steps: int, scheduler: Callable[..., Any], optimizer: Optimizer, initial: list[float]
) -> list[float]:
    """Return the rates of a schedule after some steps."""
    with _unchanged(optimizer):
        _set_rates(optimizer, initial)
        _stepped(schedule, steps, scheduler, optimizer)
        return [group["lr"] for group in optimizer.param_groups]


def _stepped(schedule: Schedule, steps: int, scheduler: Callable[..., Any], optimizer: Optimizer) -> Any:
    """Return the scheduler of a schedule after some steps, in which the optimizer changed nothing."""
    found = schedule.build(scheduler, optimizer)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        for _ in range(steps):
            found.step()
    return found


@contextmanager
def _unchanged(optimizer: Optimizer) -> Iterator[None]:
    """Give the optimizer's groups their options back."""
    own = [dict(group) for group in optimizer.param_groups]
    try:
        yield
    finally:
        for group, options in zip(optimizer.param_groups, own, strict=True):
            group.clear()
            group.update(options)


def _set_rates(optimizer: Optimizer, rates: list[float]) -> None:
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _report(before: Schedule, now: Schedule, mode: str, ended: float, begins: float, reached: int) -> None:
    """Log what happens to the learning rate."""
    rest = f"the remaining {now.total_steps - reached} steps"
    if before.has_length_of(now):
        log.info(
            "An epoch now has %d steps instead of %d; the learning rate continues at %.3g.",
            now.steps_per_epoch,
            before.steps_per_epoch,
            begins,
        )
    elif now.is_constant:
        log.info("Learning rate: stays at %.3g for %s.", begins, rest)
    elif mode == "restart":
        log.info("Learning rate: from %.3g to %.3g, where the schedule begins again for %s.", ended, begins, rest)
    else:
        log.info(
            "Learning rate: from %.3g to %.3g, as after %d of the %d steps of a run of %s.",
            ended,
            begins,
            reached,
            now.total_steps,
            now.length(),
        )
