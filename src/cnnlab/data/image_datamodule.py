"""The DataModule of images with one label each, and how it is built from a data set."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from cnnlab.data.datamodule import DataModule, check_loading, fingerprint
from cnnlab.data.images import ImageArray, ImageFiles, LabelledImages, Splits
from cnnlab.data.in_memory import GIB, MIB, MemoryLoader, prepare, prepared_shape
from cnnlab.data.levels import NO_RANGES, Ranges
from cnnlab.data.records import Records
from cnnlab.data.sampling import BalancedSampler, Draw
from cnnlab.data.scanning import scan
from cnnlab.data.shared import Slots, Transport, channels_last_batch
from cnnlab.data.splitting import Division, content_hash, divide, fewer, report_copies, select
from cnnlab.data.transforms import EvalTransform, TrainTransform
from cnnlab.errors import InputError
from cnnlab.seeds import derived_rng

log = logging.getLogger(__name__)


class ImageDataModule(DataModule):
    """Train, validation and test images as batches of (uint8 N x C x H x W, int64 classes or float32 values N).

    digests: name -> hash of the content of each training image. augmentations: of training images, in order.
    memory_gib: size in GiB up to which the prepared images of a part are kept in memory, on the device.
    sampler: "balanced" to draw every class equally often, None to draw every training image once in an epoch.
    image_size, resize_size, resizing: arguments of EvalTransform.
    """

    parts: Splits
    examples, unit = "Images", "images"

    def __init__(
        self,
        parts: Splits,
        *,
        split_hash: str = "",
        digests: Mapping[str, str] | None = None,
        skipped: dict[str, str],
        augmentations: Sequence[torch.nn.Module],
        channels: int,
        image_size: int,
        resize_size: int,
        batch_size: int,
        num_workers: int | None,
        seed: int,
        memory_gib: float = 0.0,
        sampler: str | None = None,
        division: Mapping[str, Any] = MappingProxyType({}),
        **resizing: Any,
    ) -> None:
        super().__init__(
            parts, skipped=skipped, channels=channels, batch_size=batch_size, num_workers=num_workers, seed=seed
        )
        self.memory_gib = memory_gib
        self.sampler = sampler
        self.division = division
        self.reading_epochs = 1
        """Number of epochs in which the images are read; files that are read once are not kept in memory."""
        self._kept: dict[tuple[int, str], Tensor | None] = {}
        """Images of a part, and what they are prepared as -> the prepared images; None if they cannot be kept."""
        self.image_size = image_size
        self.split_hash = split_hash
        self.digests = digests or {}
        self.records: dict[str, Records] = {}
        """Part -> its images as that part's transform prepares them; empty if records are off."""
        self.train_transform = TrainTransform(augmentations, image_size, resize_size, **resizing)
        self.eval_transform = EvalTransform(image_size, resize_size, **resizing)

    @property
    def classes(self) -> list[str]:
        return self.parts.train.classes

    @property
    def ranges(self) -> Ranges:
        return (self.parts.train.ranges or NO_RANGES) if isinstance(self.parts.train, ImageFiles) else NO_RANGES

    @property
    def decodes_files(self) -> bool:
        return isinstance(self.parts.train, ImageFiles)

    @property
    def recordable(self) -> dict[str, tuple[LabelledImages, EvalTransform | TrainTransform]]:
        """Part (train, val) -> its images and the transform that prepares them."""
        found: dict[str, tuple[LabelledImages, EvalTransform | TrainTransform]] = {
            "train": (self.parts.train, self.train_transform)
        }
        return found | ({"val": (self.parts.val, self.eval_transform)} if self.parts.val is not None else {})

    def check_augmentation(self) -> None:
        side = self.eval_transform.resize_size
        with derived_rng("trial"):
            try:
                self.train_transform(Image.new("L" if self.channels == 1 else "RGB", (side, side)))
            except (ValueError, TypeError, RuntimeError) as error:
                raise InputError(
                    f"augmentation: an image of {side} x {side} pixels cannot be augmented: {error}"
                ) from error

    def collate(self, examples: list) -> Any:
        return channels_last_batch(examples)

    @property
    def train_fingerprint(self) -> str:
        """Hash of the training images as evaluation sees them: contents, order, channels and size."""
        images = self.parts.train
        digests = (self.digests[images.name(index)] for index in range(len(images)))
        return fingerprint(f"{self.channels} {self.eval_transform.prepared_as()}", digests)

    def train_dataset(self) -> "ImageDataset":
        return ImageDataset(self.parts.train, self.train_transform, self.channels, self.seed, self.records.get("train"))

    def eval_dataset(self, part: LabelledImages) -> "ImageDataset":
        records = self.records.get("val") if part is self.parts.val else None
        return ImageDataset(part, self.eval_transform, self.channels, self.seed, records)

    def train_sampler(self, world_size: int, rank: int) -> Any:
        if self.sampler is None:
            return super().train_sampler(world_size, rank)
        labels = self.parts.train.labels
        counts = np.bincount(labels, minlength=len(self.classes))
        share, rarest = len(labels) / np.count_nonzero(counts), int(np.where(counts, counts, len(labels)).argmin())
        log.info(
            "Balanced sampling: an epoch draws each class about %.0f times, so every image of %s, the smallest class "
            "(%d images), about %.2g times.",
            *(share, self.classes[rarest], counts[rarest], share / counts[rarest]),
        )
        return BalancedSampler(labels, self.seed, world_size, rank)

    def transport(self) -> Transport:
        return Slots(self.num_workers, self.batch_size, self.image_size, self.channels)

    def repeated_loader(self, dataset: Dataset, batches: Iterable) -> Any:
        assert isinstance(dataset, ImageDataset)
        is_part = any(dataset.images is part for part in (self.parts.train, self.parts.val, self.parts.test))
        again = isinstance(dataset.images, ImageArray) or self.reading_epochs > 1
        if not self.memory_gib or not is_part or not again:
            return self.loader(dataset, batches)
        if steps := dataset.transform.one_by_one:
            log.info("Images are augmented one by one: %s does not work on batches.", ", ".join(steps))
            return self.loader(dataset, batches)
        return MemoryLoader(dataset, batches, lambda: self._keep(dataset), lambda: self.loader(dataset, batches))

    def _keep(self, dataset: "ImageDataset") -> Tensor | None:
        """Return the prepared images of a dataset on the run's device; None if they are too large or differ in size."""
        key = (id(dataset.images), str(dataset.transform.prepared_as()))  # of one of the parts, which stay
        if key not in self._kept:
            self._kept[key] = self._prepare(dataset)
        kept = self._kept[key]
        if kept is not None and self.trainer:
            kept = self._kept[key] = kept.to(self.trainer.strategy.root_device)
        return kept

    def _prepare(self, dataset: "ImageDataset") -> Tensor | None:
        """Return all images of a dataset as its transform prepares them; None if too large or of several sizes."""
        shape, limit = prepared_shape(dataset), self.memory_gib * GIB
        size = len(dataset.images) * math.prod(shape or ())
        pixels = None
        if shape and size <= limit:
            plain = PreparedDataset(dataset.images, dataset.transform, dataset.channels, self.seed, dataset.records)
            pixels = prepare(plain, shape, lambda batches: self.loader(plain, batches))
        images = f"{len(dataset.images):,} images of {' x '.join(map(str, shape or ()))}, {size / MIB:,.1f} MiB"
        if dataset.images is not self.parts.train:
            return pixels
        if pixels is not None:
            log.info("In memory: %s.", images)
        elif size > limit:
            log.info("Not in memory: %s, more than data.memory_gib=%g.", images, self.memory_gib)
        else:
            log.info("Not in memory: %s images of different sizes.", f"{len(dataset.images):,}")
        return pixels

    def teardown(self, stage: str) -> None:
        """Write the records that this process has made, if it loads images itself; workers write their own."""
        for records in self.records.values():
            records.write()

    def listing(self, part: LabelledImages) -> Iterator[str]:
        return (part.name(index) for index in range(len(part)))


class ImageDataset(Dataset):
    """Dataset of (uint8 C x H x W, label); the transform's randomness depends only on (seed, epoch, index).

    records: cached results of the transform's `prepare`; None computes them each time.
    """

    def __init__(
        self,
        images: LabelledImages,
        transform: EvalTransform | TrainTransform,
        channels: int,
        seed: int,
        records: Records | None = None,
    ) -> None:
        self.images = images
        self.transform = transform
        self.channels = channels
        self.seed = seed
        self.records = records

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int | float]:
        epoch, index = draw
        pixels = self.prepared(index)
        with derived_rng(self.seed, "augmentation", epoch, index):
            return self.transform.augment(pixels), self.images.labels[index].item()

    def prepared(self, index: int) -> Tensor:
        """Return image `index` as the transform prepares it, uint8 C x H x W."""
        if self.records is not None:
            return self.records[index]
        return self.transform.prepare(self.images.tensor(index, self.channels))


class PreparedDataset(ImageDataset):
    """The images of an ImageDataset before augmentation."""

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int | float]:
        _, index = draw
        return self.prepared(index), self.images.labels[index].item()


def build_data(
    dataset: Callable[[], Splits],
    *,
    augmentations: Sequence[torch.nn.Module] = (),
    cache_dir: Path,
    seed: int,
    channels: int,
    image_size: int,
    resize_size: int,
    batch_size: int = 32,
    num_workers: int | None = None,
    val_fraction: float = 0.1,
    test_fraction: float = 0.0,
    split_seed: int = 0,
    bad_images: str = "error",
    classes: Sequence[str | int] | int | None = None,
    images_per_class: int | None = None,
    train_fraction: float = 1.0,
    memory_gib: float = 0.0,
    sampler: str | None = None,
    folds: int | None = None,
    fold: int | None = None,
    groups: str | None = None,
    stratified: bool = True,
    ranges: Ranges | None = None,
    **resizing: Any,
) -> ImageDataModule:
    """Load, select, check and split a data set, and return its DataModule.

    channels: input channels of the network, 1 or 3; images are converted. image_size, resize_size: pixels.
    resizing: further arguments of EvalTransform (interpolation, crop_mode, fill).
    num_workers: None chooses a number by the machine and the data. memory_gib, sampler: see ImageDataModule.
    folds, fold, groups: see `splitting.Division`.
    stratified: True if labels are classes, so that each part gets its share of every class; False if they are values.
    ranges: of samples that are not unsigned 8-bit numbers (see `levels`); None takes those of the training images.
    Raises InputError or DataError if the options or the data cannot work.
    """
    if channels not in (1, 3):
        raise InputError(
            f"The network takes {channels} input channels; image data give 1 or 3. Choose another model or data."
        )
    check_loading(batch_size, num_workers)
    if not memory_gib >= 0:
        raise InputError(f"data.memory_gib={memory_gib}: use 0 to keep no images in memory, or the GiB they may take.")
    if sampler not in (None, "balanced"):
        raise InputError(
            f"data.sampler={sampler}: use balanced to draw every class equally often, or null to draw every image once."
        )
    division = Division(folds, fold, groups)
    published = dataset()
    train = scan(select(published.train, classes, images_per_class, split_seed), bad_images, cache_dir, ranges)
    others = [
        scan(select(part, classes, None, split_seed), bad_images, cache_dir, train.ranges) if part is not None else None
        for part in (published.val, published.test)
    ]
    for name, part in zip(("val", "test"), others, strict=True):
        report_copies(train.images, part.images if part else None, name)
    whole, divided = divide(
        Splits(train.images, *(part.images if part else None for part in others)),
        train.digests,
        division,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        split_seed=split_seed,
        stratified=stratified,
    )
    skipped = {name: reason for part in (train, *others) if part for name, reason in part.skipped.items()}
    return ImageDataModule(
        replace(whole, train=fewer(whole.train, train_fraction, split_seed, stratified)),
        split_hash=content_hash(whole),
        digests={train.images.name(index): digest for index, digest in enumerate(train.digests)},
        skipped=skipped,
        augmentations=augmentations,
        channels=channels,
        image_size=image_size,
        resize_size=resize_size,
        batch_size=batch_size,
        num_workers=num_workers,
        seed=seed,
        memory_gib=memory_gib,
        sampler=sampler,
        division=divided,
        **resizing,
    )
