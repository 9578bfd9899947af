"""Log the best value so far of the run's metric."""

import math
from collections.abc import Mapping

import lightning as L

from cnnlab.training.module import TaskModule


class BestMetric(L.Callback):
    """A callback that logs `best/<monitor>` after every validation and remembers its epoch, also over a resume.

    NaN is never the best value."""

    def __init__(self, monitor: str = "val/acc", mode: str = "max") -> None:
        self.monitor = monitor
        self.mode = mode
        self.value: float | None = None
        self.epoch: int | None = None

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: TaskModule) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        if value is None or trainer.sanity_checking:
            return
        if not math.isnan(value) and (self.value is None or self._is_better(float(value), self.value)):
            self.value, self.epoch = float(value), trainer.current_epoch
        if self.value is not None:
            pl_module.log(f"best/{self.monitor}", self.value)

    def _is_better(self, value: float, best: float) -> bool:
        return value < best if self.mode == "min" else value > best

    def state_dict(self) -> dict:
        return {"value": self.value, "epoch": self.epoch}

    def load_state_dict(self, state_dict: dict) -> None:
        self.value, self.epoch = state_dict["value"], state_dict["epoch"]


def describe_best(monitor: str, best: Mapping[str, float], last: Mapping[str, float]) -> str:
    """Return a sentence with the best and the last value of the run's metric, which a run may not have."""
    if monitor in best:
        now = last.get(monitor, math.nan)
        after = "" if math.isnan(now) else f"   last: {now:.4f}"
        return f"Best {monitor}: {best[monitor]:.4f} (epoch {best['epoch']}){after}"
    if monitor in last:
        return f"Best {monitor}: none, because it was never a number."
    return f"Best {monitor}: none, because nothing was validated."
