"""Masks in run lengths: moved, pasted and looked at without building the whole image."""

import numpy as np
import pytest
import torch
from pycocotools import mask as reference
from torchvision.models.detection.roi_heads import paste_masks_in_image

from cnnlab.tasks.detection.module import pasted
from cnnlab.tasks.detection.truth import decode_masks, mask_at, moved_mask


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_masks_are_read_and_moved_as_pycocotools_would(share):
    random = np.random.default_rng(0)
    for _ in range(20):
        height, width = random.integers(1, 40, 2)
        part = (random.random((height, width)) < share).astype(np.uint8)
        encoded = reference.encode(np.asfortranarray(part))
        rows, columns = random.integers(0, height, 9), random.integers(0, width, 7)
        assert np.array_equal(mask_at(encoded, rows, columns), part[np.ix_(rows, columns)] > 0)
        top, left, below, right = random.integers(0, 9, 4)
        whole = np.pad(part, ((top, below), (left, right)))
        assert (
            moved_mask(part, (top, left), whole.shape)["counts"] == reference.encode(np.asfortranarray(whole))["counts"]
        )


def test_masks_are_pasted_as_torchvision_does():
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(40, 4, generator=generator) * torch.tensor([60.0, 40, 60, 40])
    boxes[:, 2:] = torch.minimum(boxes[:, :2] + boxes[:, 2:], torch.tensor([70.0, 50]))
    masks = torch.rand(40, 1, 28, 28, generator=generator)
    expected = paste_masks_in_image(masks, boxes, (50, 70))[:, 0] > 0.5
    assert np.array_equal(decode_masks(pasted(masks, boxes, (50, 70)), (50, 70)), expected.numpy())
