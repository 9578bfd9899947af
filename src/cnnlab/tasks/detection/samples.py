"""An image as a tensor with its objects, and what every transform of it needs."""

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import v2

from cnnlab.tasks.detection.truth import Truth, decode_masks

VISIBLE = 0.1
"""Smallest share of its area that an object must keep inside the image to stay one."""
SMALLEST = 1.0
"""Smallest side of an object in pixels after augmentation."""


class Sample(NamedTuple):
    """An image and its objects, in pixels of the image."""

    image: Tensor
    """uint8 C x H x W"""
    boxes: Tensor
    """float32 N x 4: x1, y1, x2, y2"""
    labels: Tensor
    """int64 N"""
    masks: Tensor | None
    """uint8 N x H x W"""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image.shape[-2], self.image.shape[-1]


def sample_of(image: Tensor, objects: Truth, with_masks: bool) -> Sample:
    """Return an image with its objects, without crowds, which are not trained on."""
    single = ~objects.crowd
    masks = None
    if with_masks and objects.masks is not None:
        kept = [mask for mask, keep in zip(objects.masks, single, strict=True) if keep]
        masks = torch.from_numpy(decode_masks(kept, (image.shape[-2], image.shape[-1])))
    return Sample(
        image, torch.from_numpy(objects.boxes[single]).clone(), torch.from_numpy(objects.labels[single]), masks
    )


def fitted_size(size: tuple[int, int], short: int, long: int) -> tuple[int, int]:
    """Return the (height, width) at which the short side is `short`, or the long side `long` if that is smaller."""
    factor = min(short / min(size), long / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def resized(sample: Sample, size: tuple[int, int]) -> Sample:
    """Return a sample at another size, (height, width)."""
    if sample.size == size:
        return sample
    scale = torch.tensor([size[1] / sample.size[1], size[0] / sample.size[0]]).repeat(2)
    image = v2.functional.resize(sample.image, list(size), antialias=True)
    masks = sample.masks
    if masks is not None:
        masks = (
            v2.functional.resize(masks, list(size), v2.InterpolationMode.NEAREST)
            if len(masks)
            else masks.new_zeros((0, *size))
        )
    return Sample(image, sample.boxes * scale, sample.labels, masks)


def boxes_of(masks: Tensor) -> Tensor:
    """Return the smallest box around each mask, float32 N x 4; masks: uint8 N x H x W, none of them empty."""
    rows, columns = masks.bool().any(dim=2), masks.bool().any(dim=1)
    height, width = masks.shape[-2:]
    top, left = rows.int().argmax(dim=1), columns.int().argmax(dim=1)
    bottom = height - rows.flip(1).int().argmax(dim=1)
    right = width - columns.flip(1).int().argmax(dim=1)
    return torch.stack([left, top, right, bottom], dim=1).float()


def areas_of(boxes: Tensor) -> Tensor:
    """Return the area of each box, N."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def remaining(boxes: Tensor, areas: Tensor) -> Tensor:
    """Return which boxes are still objects after clipping, bool N; areas: of the boxes before."""
    return ((boxes[:, 2:] - boxes[:, :2]) >= SMALLEST).all(dim=1) & (areas_of(boxes) >= VISIBLE * areas)
