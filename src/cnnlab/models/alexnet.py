"""AlexNet as published (Krizhevsky, Sutskever, Hinton 2012)."""

import torch
from torch import Tensor, nn


class AlexNet(nn.Module):
    """The network in figure 2 of the paper; `groups=2` stands for its division over two GPUs.

    It has 96 filters in the first layer and response normalization; torchvision's `alexnet` is the later single-tower
    version with 64 filters and no response normalization.
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 96, kernel_size=11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            _response_norm(),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(96, 256, kernel_size=5, padding=2, groups=2),
            nn.ReLU(inplace=True),
            _response_norm(),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(256, 384, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 384, kernel_size=3, padding=1, groups=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, kernel_size=3, padding=1, groups=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """N x in_channels x 224 x 224 -> N x num_classes logits."""
        return self.classifier(torch.flatten(self.avgpool(self.features(images)), 1))


def _response_norm() -> nn.LocalResponseNorm:
    """Return the normalization of section 3.3: k = 2, n = 5, alpha = 1e-4, beta = 0.75.

    torch divides alpha by n, which the paper does not.
    """
    return nn.LocalResponseNorm(size=5, alpha=5e-4, beta=0.75, k=2.0)
