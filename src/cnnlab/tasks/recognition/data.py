"""The DataModule of recognition: lines of any width, resized to the network's height, augmented and padded."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms import v2

from cnnlab.config import Config, build
from cnnlab.config.schema import Target
from cnnlab.data.datamodule import DataModule, check_loading, fingerprint
from cnnlab.data.levels import NO_RANGES, Ranges
from cnnlab.data.sampling import Draw, EpochBatches, GroupedBatches
from cnnlab.data.scanning import scan_files
from cnnlab.data.splitting import content_hash, fractions_to_take, report_copies, share_of
from cnnlab.errors import DataError, InputError
from cnnlab.models.inputs import InputSpec
from cnnlab.seeds import derive, derived_rng
from cnnlab.tasks.recognition.charset import Charset
from cnnlab.tasks.recognition.ctc import STRIDE, columns_needed
from cnnlab.tasks.recognition.lines import LineFiles, Lines, LineSplits

log = logging.getLogger(__name__)
PARTS = ("train", "val", "test")
MIRRORING = (v2.RandomHorizontalFlip, v2.RandomVerticalFlip)


@dataclass
class RecognitionData:
    """The config group `data` for lines of text, drawn (lines to style) or listed in tables (file to bad_rows)."""

    name: str
    dataset: Target
    root: str | None
    charset: str
    case: str
    width: str
    channels: int
    batch_size: int
    num_workers: int | None
    max_aspect: float
    val_fraction: float
    test_fraction: float
    split_seed: int
    bad_images: str
    train_fraction: float
    lines: int = 0
    val_lines: int = 0
    test_lines: int = 0
    length: list[int] | None = None
    words: str | None = None
    fonts: Any = None
    test_fonts: Any = None
    style: Target | None = None
    file: str = ""
    val_file: str | None = None
    test_file: str | None = None
    unknown_characters: str = ""
    bad_rows: str = ""


RecognitionData.NEEDED = ("name", "dataset")  # type: ignore[attr-defined]


class Fit:
    """Resizes a line to `height` pixels and the width that keeps its shape, at most `max_aspect` times the height."""

    def __init__(self, height: int, max_aspect: float) -> None:
        self.height = height
        self.widest = int(height * max_aspect)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Map uint8 C x H x W to uint8 C x height x width."""
        height, width = pixels.shape[-2:]
        wanted = min(self.widest, max(STRIDE, round(width * self.height / height)))
        return v2.functional.resize(pixels, [self.height, wanted], antialias=True)


class LinesDataModule(DataModule):
    """Batches of (uint8 N x C x height x W, targets int64 N x (1 + L) as `ctc` says), padded at the right."""

    examples, unit = "Lines", "lines"
    decodes_files = True
    parts: LineSplits

    def __init__(
        self,
        parts: LineSplits,
        *,
        split_hash: str,
        skipped: dict[str, str],
        augmentations: Mapping[str, nn.Module],
        channels: int,
        height: int,
        max_aspect: float,
        batch_size: int,
        num_workers: int | None,
        seed: int,
    ) -> None:
        super().__init__(
            parts, skipped=skipped, channels=channels, batch_size=batch_size, num_workers=num_workers, seed=seed
        )
        self.image_size = height
        self.split_hash = split_hash
        self.fit = Fit(height, max_aspect)
        self.augmentation = v2.Compose(list(augmentations.values())) if augmentations else None

    @property
    def charset(self) -> Charset:
        return self.parts.charset

    @property
    def classes(self) -> list[str]:
        return list(self.charset.characters)

    @property
    def ranges(self) -> Ranges:
        return getattr(self.parts.train, "ranges", None) or NO_RANGES

    @property
    def train_fingerprint(self) -> str:
        """Hash of the training lines as evaluation sees them: contents, order, channels and size."""
        lines = self.parts.train
        digests = (lines.digest(index) for index in range(len(lines)))
        return fingerprint(f"{self.channels} {self.fit.height} {self.fit.widest}", digests)

    def collate(self, examples: list) -> tuple[Tensor, Tensor]:
        images, texts = zip(*examples, strict=True)
        return padded(images), targets_of([image.shape[-1] for image in images], texts)

    def train_dataset(self) -> "LinesDataset":
        return LinesDataset(self, self.parts.train, self.augmentation)

    def eval_dataset(self, part: Lines) -> "LinesDataset":
        return LinesDataset(self, part, None)

    def train_batches(self, sampler: Any) -> EpochBatches:
        lines = self.parts.train
        return GroupedBatches(super().train_batches(sampler), lambda draw: lines.aspect(draw[1], draw[0]))

    def listing(self, part: Lines) -> Iterator[str]:
        return (part.name(index) for index in range(len(part)))

    def sample(self, count: int) -> Tensor:
        """Return training lines as evaluation sees them, padded to one batch."""
        dataset = self.eval_dataset(self.parts.train)
        generator = torch.Generator().manual_seed(derive(self.seed, "sample"))
        chosen = torch.randperm(len(self.parts.train), generator=generator)[:count].tolist()
        return padded([dataset[(0, index)][0] for index in chosen])

    def train_images(self) -> Iterator[Tensor]:
        """Yield each training line as evaluation sees it, without padding, float32 1 x C x H x W in [0, 1]."""
        dataset = self.eval_dataset(self.parts.train)
        for index in range(len(dataset)):
            yield dataset[(0, index)][0][None].float() / 255


class LinesDataset(Dataset):
    """Dataset of (uint8 C x H x W, classes); its randomness depends only on (seed, epoch, index).

    A line that is too narrow for its text, one column for each character, is continued at its right edge.
    """

    def __init__(self, data: LinesDataModule, lines: Lines, augmentation: v2.Compose | None) -> None:
        self.lines = lines
        self.charset = data.charset
        self.channels = data.channels
        self.seed = data.seed
        self.fit = data.fit
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, list[int]]:
        epoch, index = draw
        pixels = self.fit(self.lines.tensor(index, self.channels, epoch))
        classes = self.charset.encode(self.lines.text(index, epoch))
        if self.augmentation is not None:
            with derived_rng(self.seed, "augmentation", epoch, index):
                pixels = self.augmentation(pixels)
        return widened(pixels, STRIDE * columns_needed(classes)), classes


def padded(images: Sequence[Tensor]) -> Tensor:
    """Return images of one height as a batch; each is continued at its right edge."""
    widest = max(image.shape[-1] for image in images)
    return torch.stack([widened(image, widest) for image in images])


def widened(pixels: Tensor, width: int) -> Tensor:
    """Return pixels C x H x W with the last column repeated up to `width`."""
    missing = width - pixels.shape[-1]
    return pixels if missing <= 0 else torch.cat([pixels, pixels[..., -1:].expand(*pixels.shape[:-1], missing)], -1)


def targets_of(widths: Sequence[int], texts: Sequence[Sequence[int]]) -> Tensor:
    """Return targets int64 N x (1 + L): widths in pixels, and classes with -1 beyond their end."""
    longest = max(map(len, texts))
    rows = [[width, *text, *[-1] * (longest - len(text))] for width, text in zip(widths, texts, strict=True)]
    return torch.tensor(rows)


def build_lines(
    cfg: Config, spec: InputSpec, augmentations: Mapping[str, nn.Module], trusted: Sequence[str]
) -> LinesDataModule:
    """Read, check and split the config group `data`.

    Raises InputError or DataError, which name files and rows, if the options or the data cannot work.
    """
    options = cfg["data"]
    if spec.channels not in (1, 3):
        raise InputError(f"The network takes {spec.channels} input channels; lines give 1 or 3. Choose another model.")
    check_loading(options["batch_size"], options["num_workers"])
    if options["max_aspect"] < 1:
        raise InputError(f"data.max_aspect={options['max_aspect']}: lines are at least as wide as high.")
    require_readable_after(augmentations)
    published: LineSplits = build(options["dataset"], trusted)()
    skipped: dict[str, str] = {}
    parts: dict[str, Any] = {}
    for name in PARTS:
        part = getattr(published, name)
        ranges = spec.ranges if name == "train" else getattr(parts["train"], "ranges", None)
        cache_dir = Path(cfg["paths"]["cache_dir"])
        is_file = isinstance(part, LineFiles)
        parts[name] = scan_files(part, options["bad_images"], cache_dir, skipped, ranges) if is_file else part
    for name in PARTS[1:]:
        report_copies(parts["train"], parts[name], name, "lines")
    fractions = {key: options[key] for key in ("val_fraction", "test_fraction", "split_seed")}
    whole = split(replace(published, **parts), **fractions)
    report_wide_lines(whole, options["max_aspect"])
    share = share_of([np.arange(len(whole.train))], options["train_fraction"], options["split_seed"])
    return LinesDataModule(
        replace(whole, train=whole.train.subset(share)),
        split_hash=content_hash(whole),
        skipped=skipped,
        augmentations=augmentations,
        channels=spec.channels,
        height=spec.image_size,
        max_aspect=options["max_aspect"],
        batch_size=options["batch_size"],
        num_workers=options["num_workers"],
        seed=cfg["seed"],
    )


def require_readable_after(augmentations: Mapping[str, nn.Module]) -> None:
    """Raise InputError for augmentations after which a text is not what it was."""
    for name, step in augmentations.items():
        if isinstance(step, MIRRORING):
            raise InputError(f"augmentation=[{name}] mirrors lines, which then read differently. Leave it out.")


def split(published: LineSplits, *, val_fraction: float, test_fraction: float, split_seed: int) -> LineSplits:
    """Take the parts that a data set does not publish from its training lines; equal pictures stay in training.

    Raises InputError for fractions that leave nothing to train on, DataError if a part would be empty.
    """
    lines = published.train
    fractions = {part: each for part, each in fractions_to_take(published, val_fraction, test_fraction).items() if each}
    if not fractions:
        return published
    digests = [lines.digest(index) for index in range(len(lines))]
    counts = Counter(digests)
    order = np.random.default_rng(derive("split", split_seed)).permutation(len(lines)).tolist()
    free = [index for index in order if counts[digests[index]] == 1]
    taken: dict[str, list[int]] = {}
    for part, fraction in fractions.items():
        count = int(len(lines) * fraction + 1e-9)
        if not 0 < count <= len(free):
            raise DataError(
                f"{len(lines)} lines are too few for data.{part}_fraction={fraction}: {part} would be empty. "
                "Raise it, or set it to 0."
            )
        taken[part], free = sorted(free[:count]), free[count:]
    rest = sorted(set(order).difference(*taken.values()))
    others: dict[str, Any] = {part: lines.subset(indices) for part, indices in taken.items()}
    return replace(published, train=lines.subset(rest), **others)


def report_wide_lines(parts: LineSplits, max_aspect: float) -> None:
    """Warn about lines that are compressed to data.max_aspect."""
    train = parts.train
    if isinstance(train, LineFiles) and (wide := [i for i in range(len(train)) if train.aspect(i) > max_aspect]):
        log.warning(
            "%d of %d training lines are wider than data.max_aspect=%g times their height and are compressed: %s%s",
            *(len(wide), len(train), max_aspect, train.name(wide[0]), ", ..." * (len(wide) > 1)),
        )
