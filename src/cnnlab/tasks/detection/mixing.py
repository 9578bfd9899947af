"""Augmentations that combine several images with their objects: mosaic and copy-paste."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import nn

from cnnlab.errors import InputError
from cnnlab.tasks.detection.samples import Sample, areas_of, boxes_of, remaining, resized


class MixingObjects(nn.Module, ABC):
    """With probability `p`, combines an image with `others` further ones."""

    others: int
    needs_objects = True

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise InputError(f"p={p}: use a probability between 0 and 1.")
        self.p = p

    def forward(self, sample: Sample, more: Sequence[Sample]) -> Sample:
        """Return the sample, or its combination with `more`, which has `others` samples."""
        return self.mix(sample, more) if torch.rand(1) < self.p else sample

    @abstractmethod
    def mix(self, sample: Sample, more: Sequence[Sample]) -> Sample:
        """Return the combination."""

    def refusal(self, name: str, has_masks: bool) -> str | None:
        """Return why the augmentation `name` cannot be used on these data; None if it can."""
        return None


class Mosaic(MixingObjects):
    """Puts four images into the quarters around a random centre (Bochkovskiy et al. 2020).

    The result has the size of the first image; each image is shown at half its size and cut at its quarter.
    """

    others = 3

    def mix(self, sample: Sample, more: Sequence[Sample]) -> Sample:
        height, width = sample.size
        x = int(torch.randint(width // 4, 3 * width // 4 + 1, (1,)))
        y = int(torch.randint(height // 4, 3 * height // 4 + 1, (1,)))
        quarters = [(0, 0, y, x), (0, x, y, width), (y, 0, height, x), (y, x, height, width)]
        parts = [_placed(each, where, (height, width)) for each, where in zip((sample, *more), quarters, strict=True)]
        image = torch.zeros_like(sample.image)
        for part, (top, left, bottom, right) in zip(parts, quarters, strict=True):
            image[:, top:bottom, left:right] = part.image[:, top:bottom, left:right]
        masks = [part.masks for part in parts if part.masks is not None]
        return sample._replace(
            image=image,
            boxes=torch.cat([part.boxes for part in parts]),
            labels=torch.cat([part.labels for part in parts]),
            masks=torch.cat(masks) if masks else None,
        )


class CopyPaste(MixingObjects):
    """Pastes outlined objects of another image, each with probability 1/2 (Ghiasi et al. 2021).

    Objects below lose what is covered; one that is covered by more than 90 % is dropped.
    """

    others = 1

    def mix(self, sample: Sample, more: Sequence[Sample]) -> Sample:
        other = resized(more[0], sample.size)
        assert other.masks is not None
        assert sample.masks is not None
        taken = torch.rand(len(other.boxes)) < 0.5
        pasted = other.masks[taken]
        if not len(pasted):
            return sample
        covered = pasted.bool().any(dim=0)
        image = torch.where(covered, other.image, sample.image)
        below = sample.masks * ~covered
        before, after = sample.masks.flatten(1).sum(dim=1), below.flatten(1).sum(dim=1)
        kept = (after > 0) & (after >= 0.1 * before)
        pasted = pasted[pasted.bool().flatten(1).any(dim=1)]
        labels = torch.cat([sample.labels[kept], other.labels[taken][other.masks[taken].bool().flatten(1).any(dim=1)]])
        masks = torch.cat([below[kept], pasted])
        return sample._replace(image=image, boxes=boxes_of(masks), labels=labels, masks=masks)

    def refusal(self, name: str, has_masks: bool) -> str | None:
        """Return the reason if the objects have no outlines to cut along."""
        return None if has_masks else f"augmentation={name} cuts objects out along their masks; these data have none."


def _placed(sample: Sample, where: tuple[int, int, int, int], size: tuple[int, int]) -> Sample:
    """Return a sample at half its size inside a quarter, `where` (top, left, bottom, right), of a canvas of `size`.

    The image's corner nearest the centre of the mosaic lies there; what reaches over the quarter's edge is cut off.
    """
    top, left, bottom, right = where
    factor = 0.5 * min(size[0] / sample.size[0], size[1] / sample.size[1])
    small = resized(sample, (max(1, round(factor * sample.size[0])), max(1, round(factor * sample.size[1]))))
    height, width = small.size
    y = bottom - height if top == 0 else top
    x = right - width if left == 0 else left
    inside = (slice(max(y, top), min(y + height, bottom)), slice(max(x, left), min(x + width, right)))
    source = (slice(inside[0].start - y, inside[0].stop - y), slice(inside[1].start - x, inside[1].stop - x))
    image = torch.zeros((small.image.shape[0], *size), dtype=small.image.dtype)
    image[:, inside[0], inside[1]] = small.image[:, source[0], source[1]]
    boxes = small.boxes + torch.tensor([x, y, x, y], dtype=torch.float32)
    boxes[:, 0::2] = boxes[:, 0::2].clamp(inside[1].start, inside[1].stop)
    boxes[:, 1::2] = boxes[:, 1::2].clamp(inside[0].start, inside[0].stop)
    masks = None
    keep = remaining(boxes, areas_of(small.boxes))
    if small.masks is not None:
        masks = torch.zeros((len(small.masks), *size), dtype=small.masks.dtype)
        masks[:, inside[0], inside[1]] = small.masks[:, source[0], source[1]]
        keep &= masks.bool().flatten(1).any(dim=1)
        masks = masks[keep]
    boxes = boxes_of(masks) if masks is not None and len(masks) else boxes[keep]
    return Sample(image, boxes, small.labels[keep], masks)
