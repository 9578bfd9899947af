"""Keep data that fit in memory on the device: prepared once, as one tensor from which batches are taken by index."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from cnnlab.data.draws import seeded_draws
from cnnlab.data.images import ImageArray, LabelledImages
from cnnlab.data.sampling import Draw
from cnnlab.seeds import derive

MIB, GIB = 1 << 20, 1 << 30
TOGETHER = MIB
"""Bytes of images that are augmented at once, several batches if they are small: each operation has a fixed cost."""
TRIED = 16
"""Number of images from whose sizes it is concluded whether all have one size."""
PORTION = 32
"""Images that are prepared at once."""


class MemoryLoader:
    """Batches of (uint8 N x C x H x W, labels N) of images in memory, augmented as a whole; stands in for a DataLoader.

    batches: lists of draws. find_pixels: returns the prepared images on the device, uint8 N x C x H x W in
    channels-last layout, or None if they cannot be kept; then `one_by_one` gives the loader to use. Both are called
    when the first batch is needed. The images of a draw depend on seed, epoch and index only, as if they were augmented
    one by one.
    """

    def __init__(
        self,
        dataset: Any,
        batches: Any,
        find_pixels: Callable[[], Tensor | None],
        one_by_one: Callable[[], DataLoader],
    ) -> None:
        self.dataset = dataset
        self.batch_sampler = batches
        self._find_pixels = find_pixels
        self._one_by_one = cache(one_by_one)

    @property
    def in_memory(self) -> bool:
        """Whether the images are kept in memory; they are prepared first if they are to be."""
        return self._find_pixels() is not None

    @property
    def num_workers(self) -> int:
        return 0 if self.in_memory else self._one_by_one().num_workers

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        pixels = self._find_pixels()
        return iter(self._one_by_one()) if pixels is None else self._batches(pixels)

    def _batches(self, pixels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        labels = labels_of(self.dataset.images).to(pixels.device)
        batches = iter(self.batch_sampler)
        while together := list(itertools.islice(batches, self._number(pixels))):
            draws = [draw for batch in together for draw in batch]
            chosen = torch.tensor([index for _, index in draws]).to(pixels.device, non_blocking=True)
            sizes = [len(batch) for batch in together]
            yield from zip(self._images(pixels, chosen, draws).split(sizes), labels[chosen].split(sizes), strict=True)

    def _number(self, pixels: Tensor) -> int:
        """Return how many batches are made at once."""
        size = self.batch_sampler.batch_size * pixels[0].numel()
        return max(1, TOGETHER // size)

    def _images(self, pixels: Tensor, chosen: Tensor, draws: Sequence[Draw]) -> Tensor:
        images = pixels.permute(0, 2, 3, 1)[chosen].permute(0, 3, 1, 2)
        if not self.dataset.transform.augmentations:
            return images
        seeds = [derive(self.dataset.seed, "augmentation", epoch, index) for epoch, index in draws]
        return self.dataset.transform.augment_batch(images, seeded_draws(seeds)).contiguous(
            memory_format=torch.channels_last
        )


def labels_of(images: LabelledImages) -> Tensor:
    """Return the labels: int64 classes or float32 values."""
    labels = torch.from_numpy(np.asarray(images.labels))
    return labels.float() if labels.is_floating_point() else labels


def prepared_shape(dataset: Any) -> tuple[int, int, int] | None:
    """Return C, H, W of all images of an ImageDataset as its transform prepares them; None if they differ in size.

    Of images in files only a few are tried, unless the size is a fixed one.
    """
    images, transform, channels = dataset.images, dataset.transform, dataset.channels
    if (size := transform.prepared_size) is not None:
        return channels, size, size
    tried = [0] if isinstance(images, ImageArray) else range(0, len(images), -(-len(images) // TRIED))
    shapes = {tuple(dataset.prepared(index).shape) for index in tried}
    return shapes.pop() if len(shapes) == 1 else None


def prepare(dataset: Any, shape: tuple[int, int, int], load: Callable[[list[list[Draw]]], Iterable]) -> Tensor | None:
    """Return all images of an ImageDataset as its transform prepares them: uint8 N x C x H x W, channels last.

    shape: C, H, W. load: returns the prepared images of batches of draws, for images in files. Returns None if an
    image has another size.
    """
    images, transform, channels = dataset.images, dataset.transform, dataset.channels
    count, (_, height, width) = len(images), shape
    pixels = torch.empty(count, height, width, channels, dtype=torch.uint8).permute(0, 3, 1, 2)
    if isinstance(images, ImageArray):
        for start in range(0, count, PORTION):
            pixels[start : start + PORTION] = transform.prepare(images.tensors(start, start + PORTION, channels))
        return pixels
    portion = PORTION if transform.prepared_size else 1  # images of several sizes make no batch
    batches = [[(0, index) for index in range(count)[start : start + portion]] for start in range(0, count, portion)]
    with tqdm(desc="Preparing images", total=count, leave=False, delay=1, unit="img", disable=None) as shown:
        for draws, (found, _) in zip(batches, load(batches), strict=True):
            if found.shape[1:] != pixels.shape[1:]:
                return None
            pixels[draws[0][1] : draws[-1][1] + 1] = found
            shown.update(len(draws))
    return pixels
