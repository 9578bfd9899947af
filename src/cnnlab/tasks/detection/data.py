"""The DataModule of detection: images of any size with their objects, resized, augmented and padded to batches."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from cnnlab.config import Config, build
from cnnlab.config.schema import Target
from cnnlab.data.datamodule import DataModule, check_loading, fingerprint
from cnnlab.data.levels import NO_RANGES, Ranges
from cnnlab.data.sampling import Draw, EpochBatches, GroupedBatches
from cnnlab.data.scanning import scan_files
from cnnlab.data.splitting import content_hash, report_copies
from cnnlab.errors import DataError, InputError
from cnnlab.models.inputs import InputSpec
from cnnlab.seeds import derive, derived_rng
from cnnlab.tasks.detection.annotated import AnnotatedFiles, AnnotatedImages, AnnotatedSplits
from cnnlab.tasks.detection.augmenting import Augmentation, Fit, check_augmentations, padded, padded_masks
from cnnlab.tasks.detection.samples import Sample, sample_of
from cnnlab.tasks.detection.strata import fewer, split
from cnnlab.tasks.detection.truth import require_codec

log = logging.getLogger(__name__)
PARTS = ("train", "val", "test")


@dataclass
class DetectionData:
    """The config group `data` for images with objects; annotations: of data=coco_folder."""

    name: str
    dataset: Target
    root: str | None
    batch_size: int
    num_workers: int | None
    val_fraction: float
    test_fraction: float
    split_seed: int
    bad_images: str
    bad_annotations: str
    train_fraction: float
    annotations: str = ""


DetectionData.NEEDED = ("name", "dataset")  # type: ignore[attr-defined]


class DetectionDataModule(DataModule):
    """Batches of (uint8 N x C x H x W, N targets), padded at the bottom and right.

    A target is a dictionary: `boxes` float32 K x 4 (x1, y1, x2, y2) and `labels` int64 K of the objects that are
    trained on, `masks` uint8 K x H x W if `with_masks`, all in pixels of the batch; `size` (height, width) of the image
    in the batch, `original` (height, width) of the image itself, its `index` in the part, and `truth`, all its objects
    in its own pixels.

    short, long: see `Fit`. with_masks: whether the network outlines objects.
    """

    examples, unit = "Images", "images"
    decodes_files = True
    parts: AnnotatedSplits

    def __init__(
        self,
        parts: AnnotatedSplits,
        *,
        split_hash: str,
        skipped: dict[str, str],
        augmentations: Mapping[str, nn.Module],
        channels: int,
        short: int,
        long: int,
        batch_size: int,
        num_workers: int | None,
        seed: int,
        with_masks: bool,
    ) -> None:
        super().__init__(
            parts, skipped=skipped, channels=channels, batch_size=batch_size, num_workers=num_workers, seed=seed
        )
        self.image_size = short
        self.split_hash = split_hash
        self.fit = Fit(short, long)
        self.augmentation = Augmentation(augmentations, self.fit)
        self.with_masks = with_masks

    @property
    def classes(self) -> list[str]:
        return self.parts.train.classes

    @property
    def ranges(self) -> Ranges:
        return getattr(self.parts.train, "ranges", None) or NO_RANGES

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch of the trial step; that of others depends on their images."""
        return tuple(self.probe_batch(self.batch_size)[0].shape)

    @property
    def has_masks(self) -> bool:
        """Whether all objects of all parts have masks."""
        return all(part.has_masks for name in PARTS if (part := getattr(self.parts, name)) is not None)

    @property
    def train_fingerprint(self) -> str:
        """Hash of the training images as evaluation sees them: contents, order, channels and size."""
        images = self.parts.train
        digests = (images.digest(index) for index in range(len(images)))
        return fingerprint(f"{self.channels} {self.fit.short} {self.fit.long}", digests)

    def collate(self, examples: list) -> tuple[Tensor, list[dict[str, Any]]]:
        images, targets = zip(*examples, strict=True)
        batch = padded(images, self.fit.square)
        for target in targets:
            if "masks" in target:
                target["masks"] = padded_masks(target["masks"], batch.shape[-2:])
        return batch, list(targets)

    def train_dataset(self) -> "DetectionDataset":
        return DetectionDataset(self, self.parts.train, self.augmentation)

    def eval_dataset(self, part: AnnotatedImages) -> "DetectionDataset":
        return DetectionDataset(self, part, None)

    def train_sides(self) -> np.ndarray:
        """Return width and height of the training objects in pixels of the network's input, float64 N x 2."""
        images = self.parts.train
        found = [np.zeros((0, 2))]
        for index in range(len(images)):
            boxes, (height, width) = images.truth(index).boxes.astype(float), images.size(index)
            factor = min(self.fit.short / min(height, width), self.fit.long / max(height, width))
            found.append(factor * (boxes[:, 2:] - boxes[:, :2]))
        return np.concatenate(found)

    def train_batches(self, sampler: Any) -> EpochBatches:
        batches = super().train_batches(sampler)
        if self.fit.square:
            return batches
        sizes = [self.parts.train.size(index) for index in range(len(self.parts.train))]
        return GroupedBatches(batches, lambda draw: sizes[draw[1]][0] / sizes[draw[1]][1])

    def listing(self, part: AnnotatedImages) -> Iterator[str]:
        return (part.name(index) for index in range(len(part)))

    def sample(self, count: int) -> Tensor:
        """Return training images as evaluation sees them, padded to one batch."""
        dataset = self.eval_dataset(self.parts.train)
        generator = torch.Generator().manual_seed(derive(self.seed, "sample"))
        chosen = torch.randperm(len(self.parts.train), generator=generator)[:count].tolist()
        return padded([dataset[(0, index)][0] for index in chosen], self.fit.square)

    def train_images(self) -> Iterator[Tensor]:
        """Yield each training image as evaluation sees it, without padding, float32 1 x C x H x W in [0, 1]."""
        dataset = self.eval_dataset(self.parts.train)
        for index in range(len(dataset)):
            yield dataset[(0, index)][0][None].float() / 255


class DetectionDataset(Dataset):
    """Dataset of (uint8 C x H x W, target); the augmentation's randomness depends only on (seed, epoch, index)."""

    def __init__(self, data: DetectionDataModule, images: AnnotatedImages, augmentation: Augmentation | None) -> None:
        self.images = images
        self.channels = data.channels
        self.seed = data.seed
        self.fit = data.fit
        self.augmentation = augmentation
        self.with_masks = data.with_masks
        follows_masks = augmentation is not None and augmentation.needs_masks
        self.reads_masks = data.has_masks and (data.with_masks or follows_masks)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, dict[str, Any]]:
        epoch, index = draw
        sample = self.read(index)
        original = sample.size
        if self.augmentation is None:
            sample = self.fit(sample)
        else:
            with derived_rng(self.seed, "augmentation", epoch, index):
                others = torch.randint(len(self.images), (self.augmentation.others,)).tolist()
                sample = self.augmentation(sample, lambda number: self.read(others[number]))
        target: dict[str, Any] = {"boxes": sample.boxes, "labels": sample.labels}
        if self.with_masks:
            target["masks"] = sample.masks
        truth = self.images.truth(index)
        return sample.image, target | {"size": sample.size, "original": original, "index": index, "truth": truth}

    def read(self, index: int) -> Sample:
        """Return an image and its objects at their full size."""
        pixels = self.images.tensor(index, self.channels)
        return sample_of(pixels, self.images.truth(index), self.reads_masks)


def build_detection_data(
    cfg: Config, spec: InputSpec, augmentations: Mapping[str, nn.Module], trusted: Sequence[str]
) -> DetectionDataModule:
    """Read, check and split the config group `data`.

    Raises InputError or DataError, which name files and lines, if the options or the data cannot work.
    """
    options = cfg["data"]
    require_codec()
    if spec.channels not in (1, 3):
        raise InputError(f"The network takes {spec.channels} input channels; images give 1 or 3. Choose another model.")
    check_loading(options["batch_size"], options["num_workers"])
    if spec.image_size < 32:
        raise InputError(f"model.image_size={spec.image_size}: detection needs at least 32 pixels.")
    with_masks = bool(cfg["model"]["network"].get("masks"))
    skipped: dict[str, str] = {}
    parts = read_parts(cfg, spec, trusted, skipped)
    for name in PARTS[1:]:
        report_copies(parts["train"], parts[name], name)
    fractions = {key: options[key] for key in ("val_fraction", "test_fraction", "split_seed")}
    whole = split(AnnotatedSplits(**parts), **fractions)
    require_objects(whole)
    train = fewer(whole.train, options["train_fraction"], options["split_seed"])
    data = DetectionDataModule(
        AnnotatedSplits(train, whole.val, whole.test),
        split_hash=content_hash(whole),
        skipped=skipped,
        augmentations=augmentations,
        channels=spec.channels,
        short=spec.image_size,
        long=spec.resize_size,
        batch_size=options["batch_size"],
        num_workers=options["num_workers"],
        seed=cfg["seed"],
        with_masks=with_masks,
    )
    if with_masks and not data.has_masks:
        raise InputError(
            f"model={cfg['model']['name']} outlines objects, but data={options['name']} has boxes without outlines: it "
            "needs polygons or masks. Use model=faster_rcnn, which predicts boxes only."
        )
    check_augmentations(augmentations, data.has_masks)
    warn_of_small_objects(data)
    return data


def read_parts(cfg: Config, spec: InputSpec, trusted: Sequence[str], skipped: dict[str, str]) -> dict[str, Any]:
    """Return the parts that a data set publishes, without unreadable images, whose reasons go to `skipped`."""
    published: AnnotatedSplits = build(cfg["data"]["dataset"], trusted)()
    cache_dir = Path(cfg["paths"]["cache_dir"])
    parts: dict[str, Any] = {}
    for name in PARTS:
        part = getattr(published, name)
        ranges = spec.ranges if name == "train" else getattr(parts["train"], "ranges", None)
        bad_images = cfg["data"]["bad_images"]
        is_file = isinstance(part, AnnotatedFiles)
        parts[name] = scan_files(part, bad_images, cache_dir, skipped, ranges) if is_file else part
    return parts


def require_objects(parts: AnnotatedSplits) -> None:
    """Raise DataError if a part has no object at all: there would be nothing to learn, or average precision would be
    undefined."""
    for name in PARTS:
        part = getattr(parts, name)
        if part is not None and not any(len(part.truth(index).labels) for index in range(len(part))):
            raise DataError(
                f"No image of {name} ({len(part)} images) has an object, so that average precision is undefined. "
                "Check the annotations, or change data.split_seed or data.val_fraction."
            )


def warn_of_small_objects(data: DetectionDataModule, smallest: float = 8.0) -> None:
    """Warn if many training objects are smaller than a detector can see at the size of its input."""
    sides = data.train_sides()
    share = float((np.sqrt(sides.prod(axis=1)) < smallest).mean()) if len(sides) else 0.0
    if share >= 0.1:
        log.warning(
            "%.0f %% of the training boxes are under %.0f pixels at model.image_size=%d. Raise it, or cut the pictures "
            "into tiles.",
            *(100 * share, smallest, data.fit.short),
        )
