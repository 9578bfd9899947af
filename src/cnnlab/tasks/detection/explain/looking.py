"""The detector and the images that a picture is about."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from cnnlab.data.decoding import read_image
from cnnlab.data.sources.image_folder import find_pictures
from cnnlab.drawing.sheets import resized, tensor_image
from cnnlab.errors import InputError
from cnnlab.explain.subject import Subject
from cnnlab.system.files import printable
from cnnlab.tasks.detection.augmenting import Fit, padded
from cnnlab.tasks.detection.module import DetectionModule
from cnnlab.tasks.detection.tiles import Prepared, prepare
from cnnlab.tasks.detection.truth import Truth

SIDE = 480
"""Longer side, in pixels, of the image in a picture."""


@dataclass(frozen=True)
class Seen:
    """An image, its objects if they are known, and what the network takes of it."""

    name: str
    pixels: Tensor
    """uint8 C x H x W"""
    truth: Truth | None
    classes: list[str]
    """Names of the labels of `truth`."""
    prepared: Prepared

    @property
    def shown(self) -> Image.Image:
        """The image at the size at which it is drawn on."""
        return resized(tensor_image(self.pixels), SIDE)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, to which boxes refer."""
        return self.pixels.shape[-1], self.pixels.shape[-2]

    @property
    def fitted(self) -> tuple[int, int]:
        """Height and width of the image as the network takes it."""
        tile = self.prepared.tiles[0].pixels
        return tile.shape[-2], tile.shape[-1]

    def truth_for(self, classes: list[str]) -> Truth | None:
        """Return the objects if the network has the same classes, None if they cannot be compared."""
        return self.truth if self.classes == classes else None

    def to_image(self, boxes: Tensor) -> np.ndarray:
        """Return boxes N x 4 of the network's input in pixels of the image, float32."""
        factors = torch.tensor([self.size[0] / self.fitted[1], self.size[1] / self.fitted[0]]).repeat(2)
        return (boxes.detach().cpu().float() * factors).numpy()

    def to_input(self, boxes: np.ndarray) -> Tensor:
        """Return boxes N x 4 of the image in pixels of the network's input."""
        factors = torch.tensor([self.fitted[1] / self.size[0], self.fitted[0] / self.size[1]]).repeat(2)
        return torch.from_numpy(boxes) * factors


def detector_of(subject: Subject, trained: bool = True) -> DetectionModule:
    """Return the subject's detector in eval mode; raise InputError if it must be trained and is not."""
    if trained and subject.starts_untrained:
        raise InputError(
            f"The detector of {subject.name} has not been trained: without weights, or with those of its backbone "
            "only, it finds nothing. Use run=FOLDER, or model.weights=COCO_V1 with model=mask_rcnn, faster_rcnn, "
            "retinanet or fcos."
        )
    described = {"input": vars(subject.spec)}
    return subject.task.build_module(subject.preprocessing, subject.network, subject.classes, described).eval()


def images_of(subject: Subject, images: str | None, limit: int, with_objects: bool = False) -> list[Seen]:
    """Return at most `limit` images of a file or folder or, if `images` is None, of the validation part.

    with_objects: leave out images of the data without objects. Raises InputError or DataError if an image cannot be
    read, or neither images nor data are given.
    """
    if limit < 1:
        raise InputError(f"limit={limit}: at least 1 is needed.")
    spec = subject.spec
    fit = Fit(spec.image_size, spec.resize_size)
    if images is not None:
        folder, paths = find_pictures(Path(images))
        found = []
        for path in paths[:limit]:
            pixels = read_image(path, spec.channels, spec.ranges or {})
            name = printable(path.relative_to(folder).with_suffix("").as_posix()).replace("/", "-")
            found.append(Seen(name, pixels, None, [], prepare(pixels, fit)))
        return found
    if not subject.has_data:
        raise InputError("images=FILE is required, a picture or a folder of pictures; or data=... with its options.")
    parts = subject.data.parts
    part: Any = parts.val if parts.val is not None else parts.train
    places = [n for n in range(len(part)) if not with_objects or len(part.truth(n).labels)][:limit]
    return [_of_data(part, place, spec.channels, fit) for place in places]


def _of_data(part: Any, place: int, channels: int, fit: Fit) -> Seen:
    pixels = part.tensor(place, channels)
    name = part.name(place).rsplit(".", 1)[0].replace("/", "-")
    return Seen(name, pixels, part.truth(place), part.classes, prepare(pixels, fit))


def input_of(module: DetectionModule, seen: Seen) -> tuple[Tensor, ImageList, Any]:
    """Return the preprocessed batch of one image, the same for torchvision's parts, and the pyramid of its maps."""
    batch = padded([seen.prepared.tiles[0].pixels], module.pads_to)
    inputs = module.preprocessed(batch)
    return inputs, ImageList(inputs, [seen.fitted]), module.network.pyramid(inputs, [seen.fitted])
