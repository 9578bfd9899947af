"""RoIAlign gives what torchvision's operator gives, and its gradients."""

import pytest
import torch
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from cnnlab.tasks.detection.backbones import FrozenNorm
from cnnlab.tasks.detection.pooling import RoiAlign

SHAPE = (96, 160)
"""Height and width of the images in the batch."""


def boxes(count, seed):
    """Boxes of all sizes, whose ends may lie outside the image by some pixels, two without area."""
    torch.manual_seed(seed)
    corners = torch.rand(count, 2) * torch.tensor([150.0, 90.0]) - 8
    found = torch.cat([corners, corners + torch.rand(count, 2) ** 3 * 400], dim=1)
    found[:2, 2:] = found[:2, :2]
    return found


@pytest.mark.parametrize("side", [7, 14])
@pytest.mark.parametrize("counts", [(30, 0, 3), (0, 0, 0)])
def test_outputs_and_gradients_are_those_of_torchvision(side, counts):
    maps = {str(n): torch.randn(3, 5, SHAPE[0] >> n + 2, SHAPE[1] >> n + 2) for n in range(4)}
    given = [boxes(count, seed) for seed, count in enumerate(counts)]
    results = []
    for pool in (MultiScaleRoIAlign(list(maps), side, 2), RoiAlign((4, 8, 16, 32), side)):
        leaves = {name: each.clone().requires_grad_() for name, each in maps.items()}
        found = pool(leaves, given, [SHAPE] * 3)
        (found * torch.linspace(-1, 1, found.numel()).view(found.shape)).sum().backward()
        results.append((found.detach(), [each.grad for each in leaves.values()]))
    (expected, expected_gradients), (found, gradients) = results
    assert found.shape == (sum(counts), 5, side, side)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    for mine, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_frozen_normalization_is_that_of_torchvision():
    theirs, ours = FrozenBatchNorm2d(6), FrozenNorm(6)
    state = {name: torch.rand(6) + 0.5 for name in theirs.state_dict()}
    theirs.load_state_dict(state)
    ours.load_state_dict(state)
    images = torch.randn(2, 6, 5, 4)
    torch.testing.assert_close(ours.train()(images), theirs(images))
    assert all(torch.equal(ours.state_dict()[name], value) for name, value in state.items())
