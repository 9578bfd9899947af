"""The training loss of a detector: a weighted sum of the losses of its parts."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cnnlab.errors import InputError


class WeightedSum(nn.Module):
    """Adds up the losses of a detector's parts (classifier, box_reg, mask, objectness, ...).

    weights: name of a part -> its factor; 1 for those not named.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.weights = dict(weights or {})

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the sum; raise InputError for a weight of a part that the detector does not have."""
        unknown = [name for name in self.weights if name not in losses]
        if unknown:
            raise InputError(f"loss.weights.{unknown[0]}: the detector's losses are {', '.join(losses)}.")
        return torch.stack([self.weights.get(name, 1.0) * value for name, value in losses.items()]).sum()
