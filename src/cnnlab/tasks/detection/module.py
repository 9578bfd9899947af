"""The LightningModule of detection, with its losses and metrics."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks, paste_mask_in_image

from cnnlab.errors import InputError
from cnnlab.seeds import derived_rng
from cnnlab.tasks.detection.augmenting import padded
from cnnlab.tasks.detection.networks import Detected, Detector
from cnnlab.tasks.detection.scores import Found, Score, Scored, Scores
from cnnlab.tasks.detection.tiles import Prepared, Tile, merged
from cnnlab.tasks.detection.truth import Rle, moved_mask
from cnnlab.training.module import TaskModule

LOGGED = ("map", "map_50", "map_75", "mar_100")
"""Metrics of every validation; the others depend on what sizes of objects there are, and are in the report."""
TOGETHER = 8
"""Tiles that are predicted at once."""
LEAST = 0.01
"""Smallest side of a detection, in pixels of the network's input."""


class DetectionModule(TaskModule):
    """Trains a `Detector` on batches of (images, targets), as `DetectionDataModule` makes them."""

    network: Detector

    def build_metrics(self) -> Mapping[str, Metric]:
        """Return COCO's metrics of boxes and, if the network has them, of masks."""
        with_masks = getattr(self.network, "has_masks", False)
        scores = Scores(len(self.classes), with_masks)
        names = [f"{prefix}{name}" for prefix in (["", "mask_"] if with_masks else [""]) for name in LOGGED]
        return {name: Score(scores, name, leads=name == LOGGED[0]) for name in names}

    def forward(self, inputs: Tensor, sizes: Sequence[tuple[int, int]] | None = None) -> list[Detected]:
        """Map uint8 or float-in-[0, 1] inputs N x C x H x W to the detections in each; see `Detector.forward`."""
        return self.network(self.preprocessed(inputs), sizes)

    @torch.inference_mode()
    def predict(self, inputs: Any, min_score: float = 0.0) -> list[Found]:
        """Return the detections of at least `min_score` in each picture, in its pixels.

        inputs: pictures as `tiles.prepare` makes them, or a batch N x C x H x W.
        """
        if isinstance(inputs, Tensor):
            inputs = [whole(pixels) for pixels in inputs]
        tiles = [tile for picture in inputs for tile in picture.tiles]
        found: list[Found] = []
        for first in range(0, len(tiles), TOGETHER):
            found += self.predict_tiles(tiles[first : first + TOGETHER], min_score)
        ends = np.cumsum([len(picture.tiles) for picture in inputs])
        return [
            merged(found[end - len(picture.tiles) : end], picture.tiles, picture.size)
            for picture, end in zip(inputs, ends, strict=True)
        ]

    def predict_tiles(self, tiles: Sequence[Tile], min_score: float) -> list[Found]:
        """Return the detections in each tile, in pixels of the part of the picture that it shows."""
        sizes = [(tile.pixels.shape[-2], tile.pixels.shape[-1]) for tile in tiles]
        device = next(self.network.parameters()).device
        detected = self(padded([tile.pixels.cpu() for tile in tiles], self.pads_to).to(device), sizes)
        return [
            in_image(above(each, min_score), size, tile.size)
            for each, size, tile in zip(detected, sizes, tiles, strict=True)
        ]

    @property
    def pads_to(self) -> int | None:
        """The side of all batches; None if they are as large as their images."""
        sizes = self.hparams.get("input") or {}
        return sizes.get("image_size") if sizes.get("image_size") == sizes.get("resize_size") else None

    def outputs_of(self, batch: Any) -> tuple[dict[str, Tensor], Any]:
        """Return the losses of a training batch by name, and its targets."""
        inputs, targets = batch
        if self.recipe.batch_transforms:
            inputs, targets = self.augment(inputs, targets)
        return self.network(self.preprocessed(inputs), sizes_of(targets), targets), targets

    def loss_of(self, outputs: Any, targets: Any) -> Tensor:
        return self.train_loss(outputs)

    def step_metrics(self, outputs: Any, targets: Any) -> dict[str, Tensor]:
        """Return the loss of each part of the detector."""
        return {f"loss_{name}": value for name, value in outputs.items()}

    def try_step(self, batch: Any) -> None:
        metric, known = self.recipe.monitor.removeprefix("val/"), [*self.build_metrics(), "loss"]
        if metric not in known:
            raise InputError(
                f"metric={metric} cannot be measured: this detector gives no masks. Use model=mask_rcnn, or one of "
                f"{', '.join(known)}."
            )
        outputs, targets = self.outputs_of(batch)
        self.loss_of(outputs, targets)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.score_batch("val", batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.score_batch("test", batch, batch_idx)

    def score_batch(self, part: str, batch: Any, batch_idx: int) -> None:
        """Update and log losses and metrics of a part.

        The losses of a detector draw samples of its boxes; here they depend on the batch alone, not on the epoch.
        """
        inputs, targets = batch
        with derived_rng(part, batch_idx):
            losses, found = self.network.losses_and_detections(self.preprocessed(inputs), sizes_of(targets), targets)
        getattr(self, f"{part}_metrics").update(scored_images(found, targets), targets)
        total = getattr(self, f"{part}_loss")
        total.update(self.loss(losses), len(targets))
        self.log(f"{part}/loss", total, on_step=False, on_epoch=True)
        self.log_dict(getattr(self, f"{part}_metrics"), on_step=False, on_epoch=True)


def above(found: Detected, min_score: float) -> Detected:
    """Return the detections of at least `min_score`."""
    keep = found["scores"] >= min_score
    return {name: values[keep] for name, values in found.items()}


def with_area(found: Detected) -> Detected:
    """Return the detections without those that have no area, such as boxes that lie outside their image."""
    keep = ((found["boxes"][:, 2:] - found["boxes"][:, :2]) > LEAST).all(dim=1)
    return {name: values[keep] for name, values in found.items()}


def whole(pixels: Tensor) -> Prepared:
    """Return an image that already has the size of the network's input."""
    size = (pixels.shape[-2], pixels.shape[-1])
    return Prepared([Tile(pixels, (0, 0), size)], size)


def sizes_of(targets: Sequence[dict[str, Any]]) -> list[tuple[int, int]]:
    """Return the (height, width) of each image in its batch."""
    return [target["size"] for target in targets]


def scored_images(found: Sequence[Detected], targets: Sequence[dict[str, Any]]) -> list[Scored]:
    """Return the detections in pixels of the images themselves, with the truth."""
    return [
        Scored(target["index"], target["original"], in_image(each, target["size"], target["original"]), target["truth"])
        for each, target in zip(found, targets, strict=True)
    ]


def in_image(found: Detected, size: tuple[int, int], original: tuple[int, int]) -> Found:
    """Return the detections of a resized image, (height, width) `size`, in pixels of the image of size `original`."""
    found = with_area(found)
    factors = torch.tensor([original[1] / size[1], original[0] / size[0]]).repeat(2)
    boxes = found["boxes"].detach().float().cpu() * factors
    masks = pasted(found["masks"].detach().float().cpu(), boxes, original) if "masks" in found else None
    scores, labels = found["scores"].detach().float().cpu(), found["labels"].cpu()
    return Found(boxes.numpy(), scores.numpy(), labels.numpy().astype(np.int64), masks)


def pasted(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> list[Rle]:
    """Return masks of probabilities within their boxes, D x 1 x h x w, as masks of an image of (height, width).

    As torchvision's paste_masks_in_image does, but only the pixels of each box are computed.
    """
    wide, factor = expand_masks(masks, padding=1)
    found: list[Rle] = []
    for mask, box in zip(wide, expand_boxes(boxes, factor).to(torch.int64), strict=True):
        left, top, right, bottom = (int(value) for value in box)
        first = (min(max(top, 0), size[0]), min(max(left, 0), size[1]))
        end = (max(first[0], min(bottom + 1, size[0])), max(first[1], min(right + 1, size[1])))
        shape = (end[0] - first[0], end[1] - first[1])
        part = np.zeros(shape, bool)
        if min(shape) > 0:
            corner = torch.tensor([first[1], first[0]] * 2)
            part = (paste_mask_in_image(mask[0], box - corner, *shape) > 0.5).numpy()
        found.append(moved_mask(part, first, size))
    return found
