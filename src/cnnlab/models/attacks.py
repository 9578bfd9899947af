"""Adversarial examples within a distance of an image: FGSM and projected gradient descent.

They live in pixel space [0, 1]; preprocessing is the model's first layer, so that a distance means the same everywhere.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnlab.errors import InputError
from cnnlab.models.gradients import input_gradient

ATTACKS = ("fgsm", "pgd")
NORMS = ("linf", "l2")
Model = Callable[[Tensor], Tensor]
"""float images N x C x H x W in [0, 1] -> logits."""


@dataclass(frozen=True)
class Attack:
    """kind: "fgsm" (Goodfellow et al. 2015) is one step of length epsilon along the sign of the gradient; "pgd" (Madry
    et al. 2018) takes `steps` of length `step`, each followed by a projection onto the ball of radius epsilon.

    norm: the ball is of "linf" or, for pgd, of "l2". step: null is 2.5 * epsilon / steps (Madry et al., section 5.1).
    random_start: begin at a random point of the ball.
    """

    kind: str = "pgd"
    epsilon: float = 8 / 255
    norm: str = "linf"
    steps: int = 10
    step: float | None = None
    random_start: bool = True

    def __post_init__(self) -> None:
        norms = NORMS if self.kind == "pgd" else NORMS[:1]
        if self.kind not in ATTACKS:
            raise InputError(f"attack {self.kind}: use {' or '.join(ATTACKS)}.")
        if self.norm not in norms:
            raise InputError(f"norm={self.norm}: {self.kind} takes {' or '.join(norms)}.")
        if self.epsilon < 0:
            raise InputError(f"epsilon={self.epsilon}: a distance is not negative.")
        if self.steps < 1 or (self.step is not None and self.step <= 0):
            raise InputError(f"steps={self.steps}, step={self.step}: both must be positive.")

    def __call__(self, model: Model, images: Tensor, targets: Tensor, targeted: bool = False) -> Tensor:
        """Images within epsilon of `images` and within [0, 1] for which the cross entropy of `targets` is larger.

        targets: class indices N, or probabilities N x classes. targeted: lower the cross entropy of `targets` instead.
        """
        if self.kind == "fgsm":
            return fgsm(model, images, targets, self.epsilon, targeted)
        length = self.step or 2.5 * self.epsilon / self.steps
        return pgd(model, images, targets, self.epsilon, length, self.steps, self.norm, targeted, self.random_start)


def fgsm(model: Model, images: Tensor, targets: Tensor, epsilon: float, targeted: bool = False) -> Tensor:
    """x + epsilon * sign(grad_x loss), clipped to [0, 1] (Goodfellow et al. 2015, section 4)."""
    gradient = _loss_gradient(model, images, targets, targeted)
    return (images + epsilon * gradient.sign()).clamp(0, 1)


def pgd(
    model: Model,
    images: Tensor,
    targets: Tensor,
    epsilon: float,
    step: float,
    steps: int,
    norm: str = "linf",
    targeted: bool = False,
    random_start: bool = True,
) -> Tensor:
    """Steps along the gradient's sign ("linf") or direction ("l2"), each projected back (Madry et al. 2018, 2.1).

    The random start comes from torch's generator.
    """
    found = images
    if random_start:
        found = (images + _random_offset(images, epsilon, norm)).clamp(0, 1)
    for _ in range(steps):
        gradient = _loss_gradient(model, found, targets, targeted)
        direction = gradient.sign() if norm == "linf" else gradient / _norms(gradient).clamp_min(1e-12)
        found = (images + project(found + step * direction - images, epsilon, norm)).clamp(0, 1)
    return found


def project(offsets: Tensor, epsilon: float, norm: str) -> Tensor:
    """The nearest offsets in the ball of radius epsilon."""
    if norm == "linf":
        return offsets.clamp(-epsilon, epsilon)
    return offsets * (epsilon / _norms(offsets).clamp_min(1e-12)).clamp_max(1)


def _loss_gradient(model: Model, images: Tensor, targets: Tensor, targeted: bool) -> Tensor:
    sign = -1 if targeted else 1

    def loss(variable: Tensor) -> Tensor:
        own = targets.clone()  # those of an evaluation loop are inference tensors, which autograd does not take
        return sign * F.cross_entropy(model(variable).float(), own, reduction="none")

    return input_gradient(loss, images)


def _random_offset(images: Tensor, epsilon: float, norm: str) -> Tensor:
    """Uniform in the ball."""
    if norm == "linf":
        return (2 * torch.rand_like(images) - 1) * epsilon
    direction = torch.randn_like(images)
    radius = torch.rand_like(images[:, :1, :1, :1]) ** (1 / images[0].numel())
    return direction / _norms(direction).clamp_min(1e-12) * radius * epsilon


def _norms(images: Tensor) -> Tensor:
    return images.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
