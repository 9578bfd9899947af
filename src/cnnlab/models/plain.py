"""A plain deep network of only convolutions and ReLU, to show how signals propagate through depth."""

import torch
from torch import Tensor, nn

from cnnlab.errors import InputError


class Plain(nn.Module):
    """A network of `depth` layers: depth - 1 convolutions of 3 x 3 and `width` channels, and one linear layer.

    This is the plain network of He et al. 2016 without batch normalization. Without shortcuts and normalization,
    everything depends on the initialization. Max pooling halves the resolution after one and two thirds of the
    convolutions.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, depth: int = 12, width: int = 32) -> None:
        super().__init__()
        if depth < 4:
            raise InputError(f"model.network.depth={depth}: use at least 4 layers.")
        steps: list[nn.Module] = []
        convolutions = depth - 1
        for number in range(convolutions):
            steps += [nn.Conv2d(in_channels if number == 0 else width, width, 3, padding=1), nn.ReLU(inplace=True)]
            if number + 1 in (round(convolutions / 3), round(2 * convolutions / 3)):
                steps.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*steps)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """N x in_channels x H x W -> N x num_classes logits, for any H and W of at least 4."""
        return self.classifier(torch.flatten(self.avgpool(self.features(images)), 1))
