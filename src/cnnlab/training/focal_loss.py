"""The focal loss, which torch does not have."""

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from cnnlab.errors import InputError


class FocalLoss(nn.Module):
    """Cross entropy in which each class counts by (1 - p) ** gamma, less the surer the network is (Lin et al. 2017).

    The loss of an image is the sum over classes of -weight * target * (1 - p) ** gamma * log(p), with p the softmax of
    the outputs. It is averaged as torch.nn.CrossEntropyLoss averages, which it equals for gamma 0: indices of classes
    over the sum of their weights, soft targets over the number of images.

    weight: of each class, float K; None: 1. label_smoothing: share of an index's target that is spread evenly over all
    classes.
    """

    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None, gamma: float = 2.0, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not gamma >= 0:
            raise InputError(f"loss.gamma={gamma}: use 0, which is cross entropy, or more; 2 is usual.")
        self.register_buffer("weight", weight)
        self.gamma = gamma
        self.label_smoothing = label_smoothing

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the scalar loss of outputs float N x K for targets int64 N, or probabilities float N x K."""
        classes = outputs.shape[1]
        weight = outputs.new_ones(classes) if self.weight is None else self.weight
        total: Tensor | int = len(outputs)
        if not targets.is_floating_point():
            total = weight[targets].sum()
            targets = one_hot(targets, classes).to(outputs.dtype)
        targets = targets * (1 - self.label_smoothing) + self.label_smoothing / classes
        log_p = outputs.log_softmax(dim=1)
        # 1 - p, kept above 0, where the gradient of a power below 1 is infinite
        unsure = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)
        return -(weight * targets * unsure**self.gamma * log_p).sum() / total
