"""Compute gradients with respect to images, also inside Lightning's validation and test loops."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def differentiable(*tensors: Tensor) -> Iterator[list[Tensor]]:
    """Yield copies of the tensors that require gradients, inside a block where gradients are recorded.

    This works in Lightning's validation and test loops: under inference mode `torch.enable_grad()` is not enough, and
    inference tensors must be copied outside it before autograd accepts them.
    """
    with torch.inference_mode(False), torch.enable_grad():
        yield [tensor.clone().detach().requires_grad_() for tensor in tensors]


def input_gradient(objective: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return the gradient of each image's objective with respect to that image; gradients of parameters are unchanged.

    objective: function of images N x ... that returns values N, each depending only on its own image.
    """
    with differentiable(images) as (variable,):
        return torch.autograd.grad(objective(variable).sum(), variable)[0]
