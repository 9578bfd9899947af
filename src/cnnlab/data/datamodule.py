"""The base of all DataModules: batches of examples, with random numbers derived from the seed."""

import hashlib
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Protocol
from weakref import WeakSet

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset

from cnnlab.data.levels import NO_RANGES, Ranges
from cnnlab.data.sampling import EpochBatches, EpochSampler, ResumedEpochs
from cnnlab.data.shared import Loader, Transport, default_batch
from cnnlab.data.splitting import content_hash
from cnnlab.errors import InputError
from cnnlab.seeds import derive
from cnnlab.system.processes import cores

log = logging.getLogger(__name__)


class Cached(Protocol):
    """Replaces the loaders by ones whose batches need less work (training.feature_cache)."""

    def train(self, loader: DataLoader) -> Any: ...

    def val(self, loader: DataLoader) -> Any: ...


class DataModule(L.LightningDataModule, ABC):
    """Train, validation and test examples of any kind as batches of (inputs uint8 N x C x H x W, targets N).

    parts: has `train`, `val` and `test`; the last two may be None. skipped: name -> reason of each skipped item.
    num_workers: None chooses a number by the size of the data. epoch_size: training examples in an epoch; None: all.
    """

    examples: str
    """Name of the examples in reports: Images, Positions."""
    unit: str
    """Name of the items that the data list and are split by: images, games."""
    image_size: int
    split_hash: str
    """Hash of the split; independent of train_fraction."""
    division: Mapping[str, Any] = MappingProxyType({})
    """What run.json says of folds and groups."""
    decodes_files = False
    """Whether training decodes a file for each example, so that records and faster decoders help."""

    def __init__(
        self,
        parts: Any,
        *,
        skipped: dict[str, str],
        channels: int,
        batch_size: int,
        num_workers: int | None,
        seed: int,
        epoch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.parts = parts
        self.skipped = skipped
        self.channels = channels
        self.batch_size = batch_size
        self.num_workers = default_workers(len(parts.train)) if num_workers is None else num_workers
        self.seed = seed
        self.epoch_size = epoch_size
        self.cached: Cached | None = None
        self._loaders: WeakSet[Loader] = WeakSet()

    @property
    def classes(self) -> list[str]:
        """Names of the classes in the order of the labels; empty if targets are not classes."""
        return []

    @property
    def ranges(self) -> Ranges:
        """Kind of values -> those of black and white, for images whose samples are not unsigned 8-bit numbers."""
        return NO_RANGES

    @property
    @abstractmethod
    def train_fingerprint(self) -> str:
        """Hash of the training examples as evaluation sees them."""

    @abstractmethod
    def train_dataset(self) -> Dataset:
        """Return the augmented training examples, indexed by `Draw`."""

    @abstractmethod
    def eval_dataset(self, part: Any) -> Dataset:
        """Return the examples of `part` as evaluation sees them, indexed by `Draw`."""

    @abstractmethod
    def listing(self, part: Any) -> Iterator[str]:
        """Yield the names of the items in a part."""

    def check_augmentation(self) -> None:
        """Raise InputError if the augmentations cannot work on the smallest example."""

    def collate(self, examples: list) -> Any:
        """Return examples as a batch, as the loaders do."""
        return default_batch(examples)

    def probe_batch(self, size: int = 2) -> Any:
        """Return a batch of two training examples, repeated up to `size`, for a trial step, made in this process."""
        dataset = self.train_dataset()
        pair = [dataset[(0, index)] for index in (0, len(self.parts.train) - 1)]
        return self.collate([pair[number % 2] for number in range(size)])

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of a batch, N x C x H x W."""
        return self.batch_size, self.channels, self.image_size, self.image_size

    def keep_few(self, amount: float, seed: int) -> None:
        """Reduce training and validation to the same few training examples and drop the test part.

        amount: number of batches (int), or share of the training examples (float).
        """
        train = self.parts.train
        count = amount * self.batch_size if isinstance(amount, int) else round(amount * len(train))
        order = np.random.default_rng(derive(seed, "overfit")).permutation(len(train))
        few = train.subset(np.sort(order[: max(1, int(count))]))
        self.parts = replace(self.parts, train=few, val=few, test=None)
        self.split_hash = content_hash(self.parts)

    def train_dataloader(self) -> Any:
        world_size, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        dataset = self.train_dataset()
        loader = self.repeated_loader(dataset, self.train_batches(self.train_sampler(world_size, rank)))
        given = self.cached.train(loader) if self.cached else loader
        return ResumedEpochs(given, self.trainer) if self.trainer else given

    def train_sampler(self, world_size: int, rank: int) -> Any:
        """Return the sampler of the draws of an epoch for one of several processes."""
        return EpochSampler(len(self.parts.train), self.seed, world_size, rank, self.epoch_size)

    def train_batches(self, sampler: Any) -> EpochBatches:
        """Return the batches of an epoch."""
        # A last batch of one image has no useful batch statistics, and a smaller batch recompiles a compiled network.
        return EpochBatches(sampler, self.batch_size, drop_last=len(sampler) >= self.batch_size)

    def val_dataloader(self) -> Any:
        if self.parts.val is None:
            return []
        loader = self.eval_dataloader(self.parts.val)
        return self.cached.val(loader) if self.cached else loader

    def test_dataloader(self) -> DataLoader | list:
        return self.eval_dataloader(self.parts.test) if self.parts.test is not None else []

    def eval_dataloader(self, part: Any) -> DataLoader:
        """Return a loader of `part`, in order and not augmented; under DDP each example is on exactly one rank."""
        world_size, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        draws: Any = [(0, index) for index in range(rank, len(part), world_size)]
        return self.repeated_loader(self.eval_dataset(part), BatchSampler(draws, self.batch_size, drop_last=False))

    def count_batches(self, part: str, processes: int) -> int:
        """Return the number of batches of a part (train, val, test) in each of several processes; 0 without the part.

        With an uneven number of examples, the first process counts.
        """
        examples = getattr(self.parts, part)
        if examples is None:
            return 0
        if part == "train":
            own = len(EpochSampler(len(examples), self.seed, processes, 0, self.epoch_size))
            return own // self.batch_size if own >= self.batch_size else math.ceil(own / self.batch_size)
        return math.ceil(math.ceil(len(examples) / processes) / self.batch_size)

    def sample(self, count: int) -> Tensor:
        """Return at most `count` training images as evaluation sees them, chosen by the seed: uint8 N x C x H x W."""
        dataset = self.eval_dataset(self.parts.train)
        generator = torch.Generator().manual_seed(derive(self.seed, "sample"))
        chosen = torch.randperm(len(self.parts.train), generator=generator)[:count].tolist()
        return torch.stack([dataset[(0, index)][0] for index in chosen])

    def train_images(self) -> Iterator[Tensor]:
        """Yield the training images as evaluation sees them, in float32 batches in [0, 1]."""
        draws: Any = [(0, index) for index in range(len(self.parts.train))]
        batches = BatchSampler(draws, self.batch_size, drop_last=False)
        for images, _ in self.repeated_loader(self.eval_dataset(self.parts.train), batches):
            yield images.float() / 255

    def repeated_loader(self, dataset: Dataset, batches: Iterable) -> Any:
        """Return a loader of the batches of draws in `batches`, which a run may read again and again."""
        return self.loader(dataset, batches)

    def loader(self, dataset: Dataset, batches: Iterable) -> DataLoader:
        """Return a loader of `dataset` whose workers prepare the batches of draws in `batches`."""
        loader = Loader(dataset, batches, self.transport(), self.num_workers)
        self._loaders.add(loader)
        return loader

    def transport(self) -> Transport:
        """Return how a loader's batches come from its workers."""
        return Transport(self.collate)

    def close(self) -> None:
        """End the workers of all loaders."""
        for loader in self._loaders:
            loader.close()


def fingerprint(prepared_as: str, digests: Iterable[str]) -> str:
    """Return a hash of examples, in order; prepared_as: what is done to them. digests: hash of each one's content."""
    digest = hashlib.blake2b(prepared_as.encode(), digest_size=16)
    for each in digests:
        digest.update(each.encode())
    return digest.hexdigest()


def check_loading(batch_size: int, num_workers: int | None) -> None:
    """Raise InputError for an invalid batch size or number of workers."""
    if batch_size < 1:
        raise InputError(f"data.batch_size={batch_size}: use at least 1.")
    if num_workers is not None and num_workers < 0:
        raise InputError(f"data.num_workers={num_workers}: use 0 to load in the main process, or null for automatic.")


def default_workers(images: int) -> int:
    """Return the default number of workers: one for each usable core, up to 8; 0 for small data sets.

    Cores are limited by the container's CPU quota.
    """
    return min(8, cores()) if images > 2500 else 0
