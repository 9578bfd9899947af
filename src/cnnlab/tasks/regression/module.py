"""The LightningModule of regression, with its metrics."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric, R2Score

from cnnlab.errors import InputError
from cnnlab.training.module import TaskModule


class Regressor(TaskModule):
    """Trains any network with one output; targets are float32 N."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Map uint8 or float-in-[0, 1] inputs N x C x H x W to values N, float32."""
        return super().forward(inputs).flatten(1).squeeze(1)

    def from_features(self, features: Tensor) -> Tensor:
        return super().from_features(features).flatten(1).squeeze(1)

    def build_metrics(self) -> Mapping[str, Metric]:
        return {"mse": MeanSquaredError(), "mae": MeanAbsoluteError(), "r2": R2Score()}

    def build_train_metrics(self) -> Mapping[str, Metric]:
        return {"mse": MeanSquaredError()}

    def check_outputs(self, outputs: Any, targets: Tensor) -> None:
        super().check_outputs(outputs, targets)
        if outputs.numel() != len(targets):
            raise InputError(
                f"{type(self.network).__name__} returns {' x '.join(map(str, outputs.shape))} numbers for "
                f"{len(targets)} images; regression needs one per image."
            )

    def predict(self, inputs: Tensor) -> Tensor:
        """Return values N, float32."""
        return self(inputs)
