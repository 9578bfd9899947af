"""Circles, squares and triangles, drawn when they are read: data for a first run and for tests, without a download."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from cnnlab.data.decoding import to_pixels
from cnnlab.errors import InputError
from cnnlab.seeds import derive
from cnnlab.tasks.detection.annotated import AnnotatedSplits
from cnnlab.tasks.detection.truth import Truth, encode_masks, truth

CLASSES = ["circle", "square", "triangle"]
SMALLEST_SIDE = 32
VISIBLE = 0.4
"""Smallest visible share of a shape; one that later shapes would cover more is not drawn."""


def shapes(images: int, side: int, most: int, seed: int) -> AnnotatedSplits:
    """Return `images` pictures of `side` x `side` pixels with 0 to `most` shapes each, the same for the same seed.

    Raises InputError for values that leave nothing to draw.
    """
    if images < 10 or side < SMALLEST_SIDE or most < 1:
        raise InputError(
            f"data.images={images}, data.side={side}, data.most={most}: at least 10 images, {SMALLEST_SIDE} pixels "
            "and 1 shape are needed."
        )
    return AnnotatedSplits(DrawnShapes(np.arange(images), side, most, seed))


@dataclass(frozen=True)
class DrawnShapes:
    """Pictures drawn from (seed, number): coloured shapes on a noisy background; one picture in ten is empty."""

    numbers: np.ndarray
    side: int
    most: int
    seed: int
    has_masks: bool = True

    @property
    def classes(self) -> list[str]:
        return CLASSES

    def __len__(self) -> int:
        return len(self.numbers)

    def load(self, index: int, channels: int) -> Image.Image:
        pixels, _ = drawn(self.seed, int(self.numbers[index]), self.side, self.most)
        return Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")

    def tensor(self, index: int, channels: int) -> Tensor:
        if channels == 1:
            return to_pixels(self.load(index, channels))
        pixels, _ = drawn(self.seed, int(self.numbers[index]), self.side, self.most)
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def truth(self, index: int) -> Truth:
        return drawn(self.seed, int(self.numbers[index]), self.side, self.most)[1]

    def size(self, index: int) -> tuple[int, int]:
        return self.side, self.side

    def name(self, index: int) -> str:
        return f"{self.numbers[index]:05d}"

    def digest(self, index: int) -> str:
        text = f"{self.seed} {self.numbers[index]} {self.side} {self.most}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def subset(self, indices: Sequence[int] | np.ndarray) -> "DrawnShapes":
        return replace(self, numbers=self.numbers[np.asarray(indices, int)])


@lru_cache(maxsize=2048)
def drawn(seed: int, number: int, side: int, most: int) -> tuple[np.ndarray, Truth]:
    """Return picture `number`, uint8 side x side x 3, and its shapes.

    The box of a shape is the smallest one around what is visible of it.
    """
    random = np.random.default_rng(derive(seed, "shapes", number))
    ground = random.integers(60, 200, 3)
    canvas = Image.fromarray(np.full((side, side, 3), ground, np.uint8))
    masks: list[np.ndarray] = []
    labels: list[int] = []
    count = 0 if number % 10 == 9 else int(random.integers(1, most + 1))
    for _ in range(count):
        label = int(random.integers(len(CLASSES)))
        colour = _distinct(random, ground)
        mask = _shape(random, label, side)
        rest = [each & ~mask for each in masks]
        if any(after.sum() < VISIBLE * before.sum() for before, after in zip(masks, rest, strict=True)):
            continue
        masks = [*rest, mask]
        labels.append(label)
        canvas.paste(colour, mask=Image.fromarray(mask.astype(np.uint8) * 255))
    noise = random.normal(0, 8, (side, side, 3))
    pixels = np.clip(np.asarray(canvas) + noise, 0, 255).astype(np.uint8)
    return pixels, _truth(masks, labels, side)


def _truth(masks: list[np.ndarray], labels: list[int], side: int) -> Truth:
    boxes = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    stacked = np.stack(masks) if masks else np.zeros((0, side, side), bool)
    return truth(boxes, labels, encode_masks(stacked), areas=stacked.sum(axis=(1, 2)))


def _distinct(random: np.random.Generator, ground: np.ndarray) -> tuple[int, int, int]:
    """Return a colour that differs from the background by at least 60 levels in one channel."""
    colour = random.integers(0, 256, 3)
    while np.abs(colour - ground).max() < 60:
        colour = random.integers(0, 256, 3)
    return tuple(int(level) for level in colour)  # type: ignore[return-value]


def _shape(random: np.random.Generator, label: int, side: int) -> np.ndarray:
    """Return the mask of one shape that lies inside the picture, bool side x side."""
    radius = random.uniform(0.08, 0.22) * side
    x, y = random.uniform(radius + 1, side - radius - 1, 2)
    turn = random.uniform(0, 2 * np.pi)
    picture = Image.new("1", (side, side))
    pen = ImageDraw.Draw(picture)
    if label == 0:
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    else:
        corners = 4 if label == 1 else 3
        angles = turn + 2 * np.pi * np.arange(corners) / corners
        pen.polygon([(x + radius * np.cos(angle), y + radius * np.sin(angle)) for angle in angles], fill=1)
    return np.asarray(picture)
