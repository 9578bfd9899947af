"""Gradients with respect to images, wherever they are asked for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def differentiable(*tensors: Tensor) -> Iterator[list[Tensor]]:
    """Copies of the tensors that gradients can flow to, inside a block where gradients are recorded.

    Works in Lightning's validation and test loops: under inference mode `torch.enable_grad()` alone is not enough, and
    tensors made there must be copied outside it before autograd takes them.
    """
    with torch.inference_mode(False), torch.enable_grad():
        yield [tensor.clone().detach().requires_grad_() for tensor in tensors]


def input_gradient(objective: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The gradient of each image's objective with respect to that image; the network's own gradients stay as they are.

    objective: images N x ... -> values N, each of its own image alone.
    """
    with differentiable(images) as (variable,):
        return torch.autograd.grad(objective(variable).sum(), variable)[0]
