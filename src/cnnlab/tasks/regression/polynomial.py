"""A polynomial of one grey pixel: the smallest network that overfits."""

import torch
from torch import Tensor, nn


class Powers(nn.Module):
    """Maps a grey pixel x to its powers x^0, x^1, ..., x^degree: N x 1 x 1 x 1 -> N x (degree + 1)."""

    def __init__(self, degree: int) -> None:
        super().__init__()
        self.degree = degree

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.flatten(1) ** torch.arange(self.degree + 1, device=pixels.device)


class Coefficients(nn.Module):
    """Multiplies the powers by their weights and adds them up, N x 1: `parabola` (w0, w1, w2), `higher` (w3, w4)."""

    def __init__(self) -> None:
        super().__init__()
        self.parabola = nn.Linear(3, 1, bias=False)
        self.higher = nn.Linear(2, 1, bias=False)

    def forward(self, powers: Tensor) -> Tensor:
        return self.parabola(powers[:, :3]) + self.higher(powers[:, 3:])


class Polynomial(nn.Module):
    """The network f(x) = w0 + w1 x + ... + w4 x^4 of a grey pixel x."""

    def __init__(self, num_classes: int = 0) -> None:
        """Build the network; num_classes is ignored, but every network is given it."""
        super().__init__()
        self.features = nn.Sequential(Powers(4))
        self.classifier = Coefficients()

    def forward(self, pixels: Tensor) -> Tensor:
        """Map N x 1 x 1 x 1 to values N x 1."""
        return self.classifier(self.features(pixels))
