"""The subject of a picture: a network, its preprocessing, and the data and settings that belong to it."""

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
from cnnlab.models.inputs import InputSpec
from cnnlab.system.files import printable

BATCH = 32
SMALLEST = 8
"""Smallest length of the shorter side of an image, in pixels."""


@dataclass(frozen=True)
class Picture:
    """An image as the network takes it: uint8 C x image_size x image_size."""

    name: str
    pixels: Tensor
    label: str = ""
    """Name of its class, or of the folder it is in."""
    target: int | None = None
    """Index of the network's output for its class; None if unknown."""

    @property
    def batch(self) -> Tensor:
        """The image as a batch, float32 1 x C x H x W in [0, 1]."""
        return self.pixels[None].float() / 255


class Subject(ABC):
    """A network with its preprocessing, data and settings, each built on first access: a schedule needs no weights."""

    name: str
    run: Path | None = None
    """The run folder; None if the network is not from a run."""
    has_data: bool = False
    """Whether the run or the user names the data of the network."""
    starts_untrained: bool = False
    """Whether the network has layers without weights, as at the beginning of a training."""
    packages: tuple[str, ...] = ()
    """The user's trusted_packages."""

    @property
    @abstractmethod
    def cfg(self) -> dict[str, Any]:
        """The resolved config of the run or of the overrides."""

    @property
    @abstractmethod
    def spec(self) -> InputSpec:
        """The size and channels of the network's input."""

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """The network in eval mode; if its weights have no classifier, its outputs are flattened features."""

    @property
    @abstractmethod
    def preprocessing(self) -> nn.Module:
        """The module that maps float images in [0, 1] to the network's input."""

    @property
    @abstractmethod
    def class_names(self) -> list[str] | None:
        """The names of the outputs; None if the weights have no classifier."""

    @property
    @abstractmethod
    def data(self) -> DataModule:
        """The split data of the config, with its augmentations."""

    @property
    @abstractmethod
    def meta_network(self) -> nn.Module:
        """The network as it is trained, on the meta device."""

    @property
    @abstractmethod
    def task(self) -> Any:
        """The task of the network (tasks.base.Task)."""

    @cached_property
    def model(self) -> nn.Sequential:
        """Preprocessing and network: maps float images in [0, 1], N x C x H x W, to logits."""
        return nn.Sequential(self.preprocessing, self.network).eval().to(memory_format=torch.channels_last)

    @cached_property
    def classes(self) -> list[str]:
        """The names of the outputs; raises InputError if the weights have no classifier."""
        if self.class_names is None:
            raise InputError(
                f"The weights of {self.name} have no classifier, which this picture needs. "
                "Train one first: python train.py model=... model.weights=... freeze=features"
            )
        return self.class_names

    def class_index(self, text: str) -> int:
        """Return the index of a class given by name or number; raise InputError if it is unknown."""
        if text in self.classes:
            return self.classes.index(text)
        if text.isdigit() and int(text) < len(self.classes):
            return int(text)
        raise InputError(
            f"{text!r} is not a class of {self.name}: use 0 to {len(self.classes) - 1} or a name. "
            f"{nearest([text], self.classes)}".rstrip()
        )

    def pictures(self, images: str | None, limit: int, spread: bool = False) -> list[Picture]:
        """Return at most `limit` pictures of a file or folder, or validation images if `images` is None.

        spread: take evenly spaced pictures instead of the first ones, to cover the classes of an ordered data set.
        Raises InputError or DataError if an image cannot be read or is smaller than 8 pixels, or if the network does
        not take images.
        """
        if self.spec.channels not in (1, 3):
            raise InputError(f"{self.name} takes inputs of {self.spec.channels} planes; pictures have 1 or 3 channels.")
        if images is None:
            return self._validation_images(limit, spread)
        folder, paths = find_pictures(Path(images))
        chosen = [paths[index] for index in _chosen(len(paths), limit, spread)]
        return [self._picture(path, printable(path.relative_to(folder).with_suffix("").as_posix())) for path in chosen]

    def picture(self, image: str | None) -> Picture:
        """Return one picture; raise as `pictures` does."""
        return self.pictures(image, 1)[0]

    def _picture(self, path: Path, name: str) -> Picture:
        image = decode(path, self.spec.channels, self.spec.ranges or {})
        if min(image.size) < SMALLEST:
            raise DataError(f"{path} has {image.width} x {image.height} pixels; at least {SMALLEST} a side are needed.")
        pixels = EvalTransform(**self.spec.resizing)(image)
        label, _, _ = name.rpartition("/")
        classes = self.class_names or []
        return Picture(name.replace("/", "-"), pixels, label, classes.index(label) if label in classes else None)

    def _validation_images(self, limit: int, spread: bool) -> list[Picture]:
        if not self.has_data:
            raise InputError(
                "images=FILE is required, a picture or a folder of pictures; or data=... with data.root=FOLDER."
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
        """Return the network's output index for each class of the data; None if the network has other classes."""
        wnids = list(imagenet_classes())
        if images.wnids and len(self.class_names or []) == len(wnids):
            return [wnids.index(wnid) for wnid in images.wnids]
        return list(range(len(images.classes))) if images.classes == self.class_names else None

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Return the probabilities N x classes of float images in [0, 1], N x C x H x W.

        Raises InputError if the weights have no classifier.
        """
        count = len(self.classes)
        return torch.cat([self.model(batch).float()[:, :count].softmax(dim=1) for batch in images.split(BATCH)])


def _chosen(count: int, limit: int, spread: bool) -> list[int]:
    """Return the first `limit` of `count` indices or, with `spread`, evenly spaced ones."""
    if limit < 1:
        raise InputError(f"limit={limit}: at least 1 is needed.")
    if not spread or limit >= count:
        return list(range(min(limit, count)))
    return [number * count // limit for number in range(limit)]
