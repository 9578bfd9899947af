"""Resize, augment and pad images together with their boxes and masks."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from cnnlab.data.augmentations import RandomAffine
from cnnlab.data.transforms import BATCH_TRANSFORMS, MIXING
from cnnlab.errors import InputError
from cnnlab.tasks.detection.mixing import CopyPaste, MixingObjects
from cnnlab.tasks.detection.samples import Sample, areas_of, boxes_of, fitted_size, remaining, resized

MULTIPLE = 32
"""Sides of a batch are multiples of this number, so that every level of the pyramid fits the next."""


class Fit:
    """Resizes an image so that its short side is `short` pixels and its long side at most `long`."""

    def __init__(self, short: int, long: int) -> None:
        self.short = short
        self.long = long

    def __call__(self, sample: Sample) -> Sample:
        return resized(sample, fitted_size(sample.size, self.short, self.long))

    @property
    def square(self) -> int | None:
        """The side of all batches, if short and long side are equal; else None."""
        return self.short if self.short == self.long else None


class Augmentation:
    """Applies augmentations to an image and its objects, then resizes them with `fit`.

    Boxes are recomputed from the masks, where there are any, after geometry that turns them; objects that are cropped
    away are dropped.
    """

    def __init__(self, steps: Mapping[str, nn.Module], fit: Fit) -> None:
        self.steps = [step for step in steps.values() if not isinstance(step, BATCH_TRANSFORMS)]
        self.fit = fit
        self.crops = any(isinstance(step, v2.RandomIoUCrop) for step in self.steps)

    @property
    def needs_masks(self) -> bool:
        """Whether boxes are better recomputed from masks, if the data have any."""
        return any(isinstance(step, (RandomAffine, CopyPaste, v2.RandomIoUCrop)) for step in self.steps)

    @property
    def others(self) -> int:
        """How many further samples one call needs."""
        return sum(step.others for step in self.steps if isinstance(step, MixingObjects))

    def __call__(self, sample: Sample, other: Callable[[int], Sample]) -> Sample:
        """Return the augmented sample; `other(k)` returns the k-th of the further samples."""
        used = 0
        sample = sample if self.crops else self.fit(sample)
        for step in self.steps:
            if isinstance(step, MixingObjects):
                more = [other(used + number) for number in range(step.others)]
                used += step.others
                sample = step(sample, more if self.crops else [self.fit(each) for each in more])
            else:
                sample = augmented(step, sample)
        return self.fit(sample)


def augmented(step: nn.Module, sample: Sample) -> Sample:
    """Apply one of torchvision's transforms to image, boxes and masks alike, and drop objects that left the image."""
    given: dict[str, Any] = {
        "image": tv_tensors.Image(sample.image),
        "boxes": tv_tensors.BoundingBoxes(sample.boxes, format="XYXY", canvas_size=sample.size),
    }
    if sample.masks is not None:
        given["masks"] = tv_tensors.Mask(sample.masks)
    made = step(given)
    image, boxes = made["image"].as_subclass(Tensor), made["boxes"].as_subclass(Tensor)
    masks = made["masks"].as_subclass(Tensor) if sample.masks is not None else None
    if image.shape == sample.image.shape and torch.equal(boxes, sample.boxes):
        return Sample(image, sample.boxes, sample.labels, masks)
    if masks is not None:
        filled = masks.bool().flatten(1).any(dim=1)
        boxes = boxes.clone()
        boxes[filled] = boxes_of(masks[filled])
        boxes[~filled] = 0
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, image.shape[-1])
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, image.shape[-2])
    keep = remaining(boxes, areas_of(sample.boxes))
    return Sample(image, boxes[keep], sample.labels[keep], masks[keep] if masks is not None else None)


# --- Which augmentations keep boxes right ---

PHOTOMETRIC = (v2.ColorJitter, v2.GaussianBlur, v2.GaussianNoise, v2.RandomGrayscale, v2.RandomPhotometricDistort)
GEOMETRIC = (v2.RandomHorizontalFlip, v2.RandomVerticalFlip, v2.RandomIoUCrop, v2.RandomZoomOut)


def check_augmentations(steps: Mapping[str, nn.Module], has_masks: bool) -> None:
    """Raise InputError that lists the augmentations that cannot move boxes along."""
    problems = [text for name, step in steps.items() if (text := refusal(name, step, has_masks))]
    if problems:
        raise InputError("\n".join(problems), problems)


def refusal(name: str, step: nn.Module, has_masks: bool) -> str | None:
    """Return why an augmentation cannot be used for detection; None if it can."""
    if isinstance(step, MIXING):
        return f"augmentation={name} mixes the classes of whole images; for objects use augmentation=mosaic."
    if isinstance(step, MixingObjects):
        return step.refusal(name, has_masks)
    if isinstance(step, RandomAffine):
        if step.border != "constant":
            return (
                f"augmentation={name} fills the border with mirrored or repeated objects that have no boxes. "
                f"Set augmentation.{name}.border=constant."
            )
        turns = any(step.degrees) or any(step.shear or ()) or step.reflect
        if turns and not has_masks:
            return f"augmentation={name} turns objects; without masks, which the data lack, their boxes cannot follow."
        return None
    if isinstance(step, PHOTOMETRIC + GEOMETRIC):
        return None
    return f"augmentation={name} ({type(step).__name__}) cannot move boxes along. " + (
        "To crop, use augmentation=iou_crop, which keeps objects." if "Crop" in type(step).__name__ else "Leave it out."
    )


# --- Batches ---


def padded(images: Sequence[Tensor], square: int | None) -> Tensor:
    """Stack images C x H x W of any sizes at the top left of a black batch N x C x H x W, channels last.

    square: side of the batch; None: the largest height and width, rounded up to a multiple of 32.
    """
    height, width = (square or _rounded(max(image.shape[axis] for image in images)) for axis in (-2, -1))
    batch = torch.zeros((len(images), height, width, images[0].shape[0]), dtype=images[0].dtype)
    for place, image in zip(batch, images, strict=True):
        place[: image.shape[-2], : image.shape[-1]] = image.permute(1, 2, 0)
    return batch.permute(0, 3, 1, 2)


def padded_masks(masks: Tensor, size: Iterable[int]) -> Tensor:
    """Return masks N x H x W with zeros at the bottom and right up to `size`."""
    height, width = size
    return nn.functional.pad(masks, (0, width - masks.shape[-1], 0, height - masks.shape[-2]))


def _rounded(side: int) -> int:
    return -(-side // MULTIPLE) * MULTIPLE
