"""Anchors: fixed, or clustered from the boxes of the training data."""

import logging

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator

from cnnlab.errors import InputError

log = logging.getLogger(__name__)
KINDS = ("default", "auto")


class Anchors(AnchorGenerator):
    """torchvision's AnchorGenerator whose anchors are part of the checkpoint, because they may come from the data.

    sizes, ratios: for each level. kind: "default" uses them as they are; "auto" replaces them by `fit`, and only their
    number counts.
    """

    def __init__(self, sizes: list, ratios: list, kind: str = "default") -> None:
        if kind not in KINDS:
            raise InputError(f"model.anchors={kind}: use {' or '.join(KINDS)}.")
        super().__init__(tuple(map(tuple, sizes)), tuple(map(tuple, ratios)))
        self.kind = kind
        self.cells: list[Tensor]
        for level, cell in enumerate(self.cell_anchors):
            self.register_buffer(f"cell_{level}", torch.as_tensor(cell).float())
        self._count = len(self.cell_anchors)

    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        """Use the anchors of the buffers."""
        self.cell_anchors = [cell.to(dtype=dtype, device=device) for cell in self.per_level]

    @property
    def per_level(self) -> list[Tensor]:
        """Anchors A x 4 (x1, y1, x2, y2) about the origin, for each level."""
        return [getattr(self, f"cell_{level}") for level in range(self._count)]

    def sides(self) -> np.ndarray:
        """Return width and height of all anchors, float N x 2."""
        cells = torch.cat(self.per_level).double()
        return (cells[:, 2:] - cells[:, :2]).numpy()

    def fit(self, sides: np.ndarray) -> None:
        """Cluster width and height of the training boxes, float N x 2, and give the smallest to the finest level."""
        counts = [len(cell) for cell in self.per_level]
        found = torch.from_numpy(clustered(sides, sum(counts))).float()
        for cell, mine in zip(self.per_level, found.split(counts), strict=True):
            cell.copy_(torch.cat([-mine / 2, mine / 2], dim=1))


def fit_anchors(network: nn.Module, sides: np.ndarray) -> None:
    """Cluster the anchors of a network with anchors=auto, and log how well they match; leave others as they are.

    sides: width and height of the training boxes in pixels of the network's input, float N x 2.
    """
    for anchors in network.modules():
        if isinstance(anchors, Anchors) and anchors.kind == "auto":
            before = recall(sides, anchors.sides())
            anchors.fit(sides)
            log.info(
                "Anchors clustered from %d training boxes: %.1f %% of them have an anchor of IoU 0.5 or more (default "
                "anchors: %.1f %%).",
                *(len(sides), 100 * recall(sides, anchors.sides()), 100 * before),
            )


def clustered(sides: np.ndarray, count: int, rounds: int = 100) -> np.ndarray:
    """Return `count` clusters of sides (width, height), float64 count x 2, by area: k-means with 1 - IoU as distance.

    sides: float N x 2 (Redmon and Farhadi 2017). It starts from evenly spaced boxes of the list sorted by area, so
    that the same boxes give the same clusters.
    """
    order = np.argsort(sides.prod(axis=1), kind="stable")
    centres = sides[order[np.linspace(0, len(sides) - 1, count).round().astype(int)]].astype(float)
    nearest = np.full(len(sides), -1)
    for _ in range(rounds):
        closest = shape_iou(sides, centres).argmax(axis=1)
        if np.array_equal(closest, nearest):
            break
        nearest = closest
        for cluster in range(count):
            members = sides[nearest == cluster]
            if len(members):
                centres[cluster] = np.median(members, axis=0)
    return centres[np.argsort(centres.prod(axis=1), kind="stable")]


def shape_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the IoU of boxes of the same centre, N x M, by their sides N x 2 and M x 2."""
    common = np.minimum(first[:, None], second[None]).prod(axis=2)
    return common / (first.prod(axis=1)[:, None] + second.prod(axis=1)[None] - common)


def recall(sides: np.ndarray, anchors: np.ndarray, threshold: float = 0.5) -> float:
    """Return the share of boxes whose shape an anchor of sides M x 2 matches with an IoU of at least `threshold`."""
    return float((shape_iou(sides, anchors).max(axis=1) >= threshold).mean())
