"""The best value so far of a metric, as a scalar of its own."""

import lightning as L

from cnnlab.training.classifier import Classifier


class BestMetric(L.Callback):
    """Logs `best/<metric>` after every validation, and remembers the epoch; survives a resume."""

    def __init__(self, monitor: str = "val/acc") -> None:
        self.monitor = monitor
        self.value: float | None = None
        self.epoch: int | None = None

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Classifier) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        if value is None or trainer.sanity_checking:
            return
        if self.value is None or float(value) > self.value:
            self.value, self.epoch = float(value), trainer.current_epoch
        pl_module.log(f"best/{self.monitor}", self.value)

    def state_dict(self) -> dict:
        return {"value": self.value, "epoch": self.epoch}

    def load_state_dict(self, state_dict: dict) -> None:
        self.value, self.epoch = state_dict["value"], state_dict["epoch"]
