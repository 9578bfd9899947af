"""Make adversarial examples within a distance of an image, by FGSM and projected gradient descent (PGD).

Distances are in pixel space [0, 1] and comparable between models, because preprocessing is a model's first layer.
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
"""Function of float images N x C x H x W in [0, 1] that returns logits N x classes."""


@dataclass(frozen=True)
class Attack:
    """An adversarial attack and its settings.

    kind: "fgsm" (Goodfellow et al. 2015) is one step of length epsilon along the sign of the gradient; "pgd" (Madry
    et al. 2018) takes `steps` of length `step`, each followed by a projection onto the ball of radius epsilon.
    norm: norm of the ball, "linf" or, for pgd, "l2". step: None is 2.5 * epsilon / steps (Madry et al., section 5.1).
    random_start: whether pgd starts at a random point of the ball.
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
            raise InputError(f"Unknown attack {self.kind}: use {' or '.join(ATTACKS)}.")
        if self.norm not in norms:
            raise InputError(f"norm={self.norm}: {self.kind} takes {' or '.join(norms)}.")
        if self.epsilon < 0:
            raise InputError(f"epsilon={self.epsilon}: it must not be negative.")
        if self.steps < 1 or (self.step is not None and self.step <= 0):
            raise InputError(f"steps={self.steps}, step={self.step}: both must be positive.")

    def __call__(self, model: Model, images: Tensor, targets: Tensor, targeted: bool = False) -> Tensor:
        """Return images within epsilon of `images` and within [0, 1] with a larger cross entropy of `targets`.

        targets: class indices N, or probabilities N x classes. targeted: decrease the cross entropy of `targets`.
        """
        if self.kind == "fgsm":
            return fgsm(model, images, targets, self.epsilon, targeted)
        length = self.step or 2.5 * self.epsilon / self.steps
        return pgd(model, images, targets, self.epsilon, length, self.steps, self.norm, targeted, self.random_start)


def fgsm(model: Model, images: Tensor, targets: Tensor, epsilon: float, targeted: bool = False) -> Tensor:
    """Return x + epsilon * sign(grad_x loss), clipped to [0, 1] (Goodfellow et al. 2015, section 4)."""
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
    """Take steps along the gradient's sign ("linf") or direction ("l2"), each projected back (Madry et al. 2018, 2.1).

    The random start is drawn from torch's generator.
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
    """Return the nearest offsets in the ball of radius epsilon."""
    if norm == "linf":
        return offsets.clamp(-epsilon, epsilon)
    return offsets * (epsilon / _norms(offsets).clamp_min(1e-12)).clamp_max(1)


def _loss_gradient(model: Model, images: Tensor, targets: Tensor, targeted: bool) -> Tensor:
    sign = -1 if targeted else 1

    def loss(variable: Tensor) -> Tensor:
        own = targets.clone()  # targets of an evaluation loop are inference tensors, which autograd refuses
        return sign * F.cross_entropy(model(variable).float(), own, reduction="none")

    return input_gradient(loss, images)


def _random_offset(images: Tensor, epsilon: float, norm: str) -> Tensor:
    """Draw offsets uniformly from the ball of radius epsilon."""
    if norm == "linf":
        return (2 * torch.rand_like(images) - 1) * epsilon
    direction = torch.randn_like(images)
    radius = torch.rand_like(images[:, :1, :1, :1]) ** (1 / images[0].numel())
    return direction / _norms(direction).clamp_min(1e-12) * radius * epsilon


def _norms(images: Tensor) -> Tensor:
    return images.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
