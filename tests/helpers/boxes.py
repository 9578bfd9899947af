"""Detections for tests: random images with objects and what a detector might find."""

import numpy as np
from PIL import Image

from cnnlab.tasks.detection.scores import Found, Scored
from cnnlab.tasks.detection.truth import encode_masks, truth

SHAPES = (
    "data=shapes",
    "model=ssdlite",
    "model.backbone=timm:test_resnet",
    "model.weights=null",
    "preprocessing=standardize",
    "trainer=cpu",
    "callbacks=none",
    "logger=csv",
    "data.dataset.images=40",
    "data.dataset.side=64",
    "data.batch_size=4",
    "data.num_workers=0",
    "speed.num_threads=1",
)
"""SSDLite on a tiny ResNet, from scratch, on drawn shapes: an epoch takes two seconds."""

RUN = (*SHAPES, "data.test_fraction=0.25", "trainer.max_epochs=2", "speed=exact", "optimizer.lr=0.01")
"""Two epochs of it: the run that tests share, of the fixture `run`."""


def random_images(count: int, classes: int = 3, size: tuple[int, int] = (90, 120), seed: int = 0) -> list[Scored]:
    """Images with objects, some of them crowds, and detections near them or anywhere, with masks."""
    random = np.random.default_rng(seed)
    images = []
    for index in range(count):
        boxes = _boxes(random, int(random.integers(0, 6)), size)
        labels = random.integers(classes, size=len(boxes))
        crowd = random.random(len(boxes)) < 0.15
        near = boxes[random.random(len(boxes)) < 0.8]
        moved = near + random.normal(0, 4, near.shape).astype(np.float32)
        found = np.concatenate([_valid(moved, size), _boxes(random, int(random.integers(0, 4)), size)])
        guessed = random.integers(classes, size=len(found))
        guessed[: len(near)] = labels[: len(near)]
        scores = random.random(len(found)).astype(np.float32).round(1)  # with ties
        objects = truth(boxes, labels, _masks(boxes, size), crowd=crowd)
        order = np.argsort(-scores, kind="stable")
        detected = Found(found[order], scores[order], guessed[order].astype(np.int64), _masks(found[order], size))
        images.append(Scored(index, size, detected, objects))
    return images


def _boxes(random: np.random.Generator, count: int, size: tuple[int, int]) -> np.ndarray:
    corner = random.uniform(0, 0.7, (count, 2)) * size[::-1]
    sides = random.uniform(4, 60, (count, 2))
    return _valid(np.concatenate([corner, corner + sides], axis=1), size)


def _valid(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    boxes = boxes.copy()
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 2)
    return np.clip(boxes, 0, [size[1], size[0]] * 2).astype(np.float32)


def _masks(boxes: np.ndarray, size: tuple[int, int]) -> list:
    """An ellipse in each box."""
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    masks = []
    for x1, y1, x2, y2 in boxes:
        x, y, width, height = (x1 + x2) / 2, (y1 + y2) / 2, max(x2 - x1, 1), max(y2 - y1, 1)
        masks.append(((columns - x) / width) ** 2 + ((rows - y) / height) ** 2 <= 0.25)
    return encode_masks(np.array(masks)) if masks else []


def save_picture(path, width: int, height: int, seed: int = 0, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
