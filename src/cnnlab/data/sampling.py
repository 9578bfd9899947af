"""Which examples make up an epoch, in which order, and from which batch on a resumed one goes on."""

import itertools
from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, Sampler

from cnnlab.seeds import derive

Draw = tuple[int, int]
"""An epoch and the index of an image: all that its augmentation depends on, beside the seed."""


class EpochSampler(Sampler[Draw]):
    """A new permutation for each pass, a pure function of (seed, pass), dealt out to `world_size` ranks.

    epoch_size: examples of an epoch, of which each goes on where the last one ended; None: one pass.
    All ranks draw the same number of examples; the few that do not divide evenly rest for the epoch.
    """

    def __init__(self, size: int, seed: int, world_size: int = 1, rank: int = 0, epoch_size: int | None = None) -> None:
        self.size = size
        self.seed = seed
        self.world_size = world_size
        self.rank = rank
        self.epoch_size = size if epoch_size is None else epoch_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.epoch_size // self.world_size

    def __iter__(self) -> Iterator[Draw]:
        first = self.epoch * self.epoch_size
        mine = self._stream(first, first + self.epoch_size)[self.rank :: self.world_size][: len(self)]
        return iter([(self.epoch, index) for index in mine.tolist()])

    def _stream(self, start: int, stop: int) -> Tensor:
        """The indices from `start` to `stop` of all passes, one behind the other."""
        parts = []
        for number in range(start // self.size, -(-stop // self.size)):
            generator = torch.Generator().manual_seed(derive(self.seed, "order", number))
            order = torch.randperm(self.size, generator=generator)
            parts.append(order[max(0, start - number * self.size) : stop - number * self.size])
        return torch.cat(parts)


class EpochBatches(BatchSampler):
    """The batches of an epoch, from number `first` on."""

    first = 0

    def __iter__(self) -> Iterator[list]:
        return itertools.islice(super().__iter__(), self.first, None)


class ResumedEpochs:
    """Stands for the training `loader` before Lightning: a resumed epoch begins with the batch it had come to.

    The loader, and its workers, begin with the first batch, when epoch and batch are known: Lightning asks for an
    iterator before it has read its checkpoint.
    """

    def __init__(self, loader: Any, trainer: L.Trainer) -> None:
        self.loader = loader
        self.trainer = trainer
        self.batch_sampler = loader.batch_sampler
        """Lightning tells its sampler the epoch."""

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator:
        trains = self.trainer.training
        self.batch_sampler.first = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready if trains else 0
        yield from self.loader
