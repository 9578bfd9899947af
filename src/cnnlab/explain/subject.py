"""What a picture is of: a network, its preprocessing, and the data and settings that belong to it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnnlab.data.datamodule import DataModule
from cnnlab.data.decoding import decode
from cnnlab.data.images import LabelledImages
from cnnlab.data.sources.image_folder import find_pictures
from cnnlab.data.sources.imagenet_subset import imagenet_classes
from cnnlab.data.transforms import EvalTransform
from cnnlab.errors import DataError, InputError, nearest
from cnnlab.models.building import InputSpec

BATCH = 32
SMALLEST = 8
"""Pixels of the shorter side of an image, below which there is nothing to see."""


@dataclass(frozen=True)
class Picture:
    """An image as the network takes it: uint8 C x image_size x image_size."""

    name: str
    pixels: Tensor
    label: str = ""
    """The name of its class, or of the folder it is in."""
    target: int | None = None
    """The output of the network that stands for its class, where that is known."""

    @property
    def batch(self) -> Tensor:
        """float32 1 x C x H x W in [0, 1]."""
        return self.pixels[None].float() / 255


class Subject(ABC):
    """Every part is made when it is first asked for: a schedule needs no weights, filters need no data."""

    name: str
    run: Path | None = None
    """The run folder, where the network is from one."""
    has_data: bool = False
    """Whether the user said which data belong to the network."""
    packages: tuple[str, ...] = ()
    """trusted_packages, as the user gave them."""

    @property
    @abstractmethod
    def cfg(self) -> dict[str, Any]:
        """The resolved config, of the run or of the overrides."""

    @property
    @abstractmethod
    def spec(self) -> InputSpec:
        """What the network takes."""

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """In eval mode; weights without a classifier leave their flattened features in its place."""

    @property
    @abstractmethod
    def preprocessing(self) -> nn.Module:
        """In front of the network: float images in [0, 1] -> what the network takes."""

    @property
    @abstractmethod
    def class_names(self) -> list[str] | None:
        """None if the weights have no classifier."""

    @property
    @abstractmethod
    def data(self) -> DataModule:
        """The data set of the config, split, with its augmentations."""

    @property
    @abstractmethod
    def meta_network(self) -> nn.Module:
        """The network that is trained, without memory for its parameters."""

    @property
    @abstractmethod
    def task(self) -> Any:
        """The task of the network (tasks.base.Task)."""

    @cached_property
    def model(self) -> nn.Sequential:
        """Preprocessing and network: float images in [0, 1] N x C x H x W -> logits."""
        return nn.Sequential(self.preprocessing, self.network).eval().to(memory_format=torch.channels_last)

    @cached_property
    def classes(self) -> list[str]:
        """The names of the outputs; raises InputError if the weights have no classifier."""
        if self.class_names is None:
            raise InputError(
                f"The weights of {self.name} have no classifier: this picture needs one. "
                "Train one first: python train.py model=... model.weights=... freeze=features"
            )
        return self.class_names

    def class_index(self, text: str) -> int:
        """The output of a class, by its name or number; raises InputError if there is none."""
        if text in self.classes:
            return self.classes.index(text)
        if text.isdigit() and int(text) < len(self.classes):
            return int(text)
        raise InputError(
            f"{text!r} is no class of {self.name}: use 0 to {len(self.classes) - 1} or a name. "
            f"{nearest([text], self.classes)}".rstrip()
        )

    def pictures(self, images: str | None, limit: int, spread: bool = False) -> list[Picture]:
        """At most `limit` pictures of a file or folder; without `images`, the first validation images of the data.

        spread: take them at equal distances instead, so that every class of an ordered data set is among them.
        Raises InputError or DataError for an image that cannot be read or is smaller than 8 pixels, and for a network
        that takes no images.
        """
        if self.spec.channels not in (1, 3):
            raise InputError(f"{self.name} takes {self.spec.channels} planes, which pictures do not have.")
        if images is None:
            return self._validation_images(limit, spread)
        folder, paths = find_pictures(Path(images))
        chosen = [paths[index] for index in _chosen(len(paths), limit, spread)]
        return [self._picture(path, path.relative_to(folder).with_suffix("").as_posix()) for path in chosen]

    def picture(self, image: str | None) -> Picture:
        """One picture; raises as `pictures` does."""
        return self.pictures(image, 1)[0]

    def _picture(self, path: Path, name: str) -> Picture:
        image = decode(path, self.spec.channels)
        if min(image.size) < SMALLEST:
            raise DataError(f"{path} has {image.width} x {image.height} pixels; at least {SMALLEST} a side are needed.")
        pixels = EvalTransform(self.spec.image_size, self.spec.resize_size)(image)
        label, _, _ = name.rpartition("/")
        classes = self.class_names or []
        return Picture(name.replace("/", "-"), pixels, label, classes.index(label) if label in classes else None)

    def _validation_images(self, limit: int, spread: bool) -> list[Picture]:
        if not self.has_data:
            raise InputError(
                "images=FILE is needed: a picture, or a folder of them; or data=... with data.root=FOLDER."
            )
        parts = self.data.parts
        part = parts.val if parts.val is not None else parts.train
        dataset = self.data.eval_dataset(part)
        targets = self._targets(part)
        return [
            Picture(
                name=part.name(index).rsplit(".", 1)[0].replace("/", "-"),
                pixels=dataset[(0, index)][0],
                label=part.classes[part.labels[index]],
                target=targets[part.labels[index]] if targets else None,
            )
            for index in _chosen(len(part), limit, spread)
        ]

    def _targets(self, images: LabelledImages) -> list[int] | None:
        """For each class of the data the output that stands for it; None if the network knows other classes."""
        wnids = list(imagenet_classes())
        if images.wnids and len(self.class_names or []) == len(wnids):
            return [wnids.index(wnid) for wnid in images.wnids]
        return list(range(len(images.classes))) if images.classes == self.class_names else None

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """float images in [0, 1] N x C x H x W -> N x classes; raises InputError if there is no classifier."""
        count = len(self.classes)
        return torch.cat([self.model(part).float()[:, :count].softmax(dim=1) for part in images.split(BATCH)])


def _chosen(count: int, limit: int, spread: bool) -> list[int]:
    """The first `limit` of `count` indices, or as many at equal distances."""
    if limit < 1:
        raise InputError(f"limit={limit}: at least 1 is needed.")
    if not spread or limit >= count:
        return list(range(min(limit, count)))
    return [number * count // limit for number in range(limit)]
