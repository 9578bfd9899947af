"""AlphaGo's supervised policy network (Silver et al. 2016, Methods, "Neural network architecture")."""

from collections import OrderedDict

import torch
from torch import Tensor, nn


class AlphaGoPolicy(nn.Module):
    """A 5x5 and eleven 3x3 convolutions of k filters, a 1x1 convolution of one filter and a bias for each position.

    It has 3,882,793 parameters with k = 192 and 48 planes on a 19 x 19 board.
    """

    def __init__(self, num_classes: int = 361, in_channels: int = 48, k: int = 192, layers: int = 12) -> None:
        super().__init__()
        side = int(num_classes**0.5)
        if side * side != num_classes:
            raise ValueError(f"num_classes must be the number of points of a square board, got {num_classes}")
        steps: OrderedDict[str, nn.Module] = OrderedDict()
        for layer in range(1, layers + 1):
            kernel_size, planes = (5, in_channels) if layer == 1 else (3, k)
            steps[f"conv{layer}"] = nn.Conv2d(planes, k, kernel_size, padding=kernel_size // 2)
            steps[f"relu{layer}"] = nn.ReLU(inplace=True)
        self.features = nn.Sequential(steps)
        self.classifier = nn.Sequential(
            nn.Conv2d(k, 1, kernel_size=1, bias=False), nn.Flatten(), PositionBias(num_classes)
        )

    def forward(self, planes: Tensor) -> Tensor:
        """N x in_channels x side x side -> N x side^2 logits, row by row."""
        return self.classifier(self.features(planes))


class PositionBias(nn.Module):
    """Adds a separate bias for each position of the board, initially zero."""

    def __init__(self, positions: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(positions))

    def forward(self, logits: Tensor) -> Tensor:
        return logits + self.bias
