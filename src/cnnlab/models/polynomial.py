"""A polynomial of one grey pixel: the smallest network that overfits."""

import torch
from torch import Tensor, nn


class Powers(nn.Module):
    """N x 1 x 1 x 1 -> N x (degree + 1): x^0, x^1, ..., x^degree."""

    def __init__(self, degree: int) -> None:
        super().__init__()
        self.degree = degree

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.flatten(1) ** torch.arange(self.degree + 1, device=pixels.device)


class Coefficients(nn.Module):
    """`parabola` (w0, w1, w2) and `higher` (w3, w4): the sum of their products with the powers, N x 1."""

    def __init__(self) -> None:
        super().__init__()
        self.parabola = nn.Linear(3, 1, bias=False)
        self.higher = nn.Linear(2, 1, bias=False)

    def forward(self, powers: Tensor) -> Tensor:
        return self.parabola(powers[:, :3]) + self.higher(powers[:, 3:])


class Polynomial(nn.Module):
    """f(x) = w0 + w1 x + ... + w4 x^4 of a grey pixel x; class k has the score -(f(x) - k)^2.

    The class is the whole number next to f(x), and torch.nn.NLLLoss of the scores is the squared error (f(x) - k)^2.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(Powers(4))
        self.classifier = Coefficients()
        self.register_buffer("levels", torch.arange(num_classes, dtype=torch.float32), persistent=False)
        self.levels: Tensor

    def forward(self, pixels: Tensor) -> Tensor:
        """N x 1 x 1 x 1 -> N x num_classes scores."""
        return -((self.classifier(self.features(pixels)) - self.levels) ** 2)
