"""Choose the examples of each epoch and their order, and continue a resumed epoch at the right batch."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, Sampler

from cnnlab.seeds import derive

Draw = tuple[int, int]
"""An epoch and the index of an example; together with the seed they determine its augmentation."""
WINDOW = 8
"""Number of batches within which examples are sorted by their shape."""


class EpochSampler(Sampler[Draw]):
    """Samples a new permutation in each pass over the data, a pure function of (seed, pass), split among the ranks.

    epoch_size: examples in an epoch; each epoch continues where the last one ended. None: one pass.
    All ranks get the same number of examples; the remainder is skipped in that epoch.
    """

    def __init__(self, size: int, seed: int, world_size: int = 1, rank: int = 0, epoch_size: int | None = None) -> None:
        self.size = size
        self.seed = seed
        self.world_size = world_size
        self.rank = rank
        self.epoch_size = size if epoch_size is None else epoch_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls this before each one."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.epoch_size // self.world_size

    def __iter__(self) -> Iterator[Draw]:
        first = self.epoch * self.epoch_size
        mine = self._stream(first, first + self.epoch_size)[self.rank :: self.world_size][: len(self)]
        return iter([(self.epoch, index) for index in mine.tolist()])

    def _stream(self, start: int, stop: int) -> Tensor:
        """Return positions `start` to `stop` (exclusive) of the concatenated permutations of all passes."""
        parts = []
        for number in range(start // self.size, -(-stop // self.size)):
            generator = torch.Generator().manual_seed(derive(self.seed, "order", number))
            order = torch.randperm(self.size, generator=generator)
            parts.append(order[max(0, start - number * self.size) : stop - number * self.size])
        return torch.cat(parts)


class BalancedSampler(EpochSampler):
    """Samples each class equally often: an epoch of `size` examples has size / classes of each, rounded up or down.

    labels: class of each example, int64 N; classes without examples are left out. Each class is a permutation of its
    examples after another, of which an epoch takes the next part. The first number of a draw is that of the
    permutation, not of the epoch: so an example that occurs several times in an epoch is augmented differently each
    time. What an epoch has is a pure function of (seed, epoch); it is shuffled, and split among the ranks.
    """

    def __init__(self, labels: np.ndarray, seed: int, world_size: int = 1, rank: int = 0) -> None:
        super().__init__(len(labels), seed, world_size, rank)
        self.members = [torch.from_numpy(np.flatnonzero(labels == label)) for label in np.unique(labels)]

    def __iter__(self) -> Iterator[Draw]:
        draws = [draw for number in range(len(self.members)) for draw in self._draws_of(number)]
        places = self._permutation(len(draws), "order", self.epoch)[self.rank :: self.world_size][: len(self)]
        return iter([draws[place] for place in places.tolist()])

    def _draws_of(self, number: int) -> list[Draw]:
        """Return the examples of class `number` in this epoch."""
        members, classes = self.members[number], len(self.members)
        # The sum over k classes of floor((n + number) / k) is n: no epoch has an example too many or too few.
        start, stop = ((epochs * self.size + number) // classes for epochs in (self.epoch, self.epoch + 1))
        draws: list[Draw] = []
        for turn in range(start // len(members), -(-stop // len(members))):
            order = members[self._permutation(len(members), "balanced", number, turn)]
            first = turn * len(members)
            draws += [(turn, index) for index in order[max(0, start - first) : stop - first].tolist()]
        return draws

    def _permutation(self, size: int, *purpose: int | str) -> Tensor:
        return torch.randperm(size, generator=torch.Generator().manual_seed(derive(self.seed, *purpose)))


class EpochBatches(BatchSampler):
    """The batches of an epoch, starting with number `first`."""

    first = 0

    def __iter__(self) -> Iterator[list]:
        return itertools.islice(super().__iter__(), self.first, None)


class GroupedBatches(EpochBatches):
    """The batches of an epoch, of examples of similar shape, so that little of a batch is padding.

    Draws are sorted by `shape_of`, width over height or the reverse, within windows of several batches, and the batches
    of a window are shuffled: the examples of an epoch and the number of batches stay the same.
    """

    def __init__(self, batches: EpochBatches, shape_of: Callable[[Draw], float]) -> None:
        super().__init__(batches.sampler, batches.batch_size, batches.drop_last)
        self.shape_of = shape_of

    def __iter__(self) -> Iterator[list]:
        return itertools.islice(self._grouped(), self.first, None)

    def _grouped(self) -> Iterator[list]:
        draws: list[Any] = list(self.sampler)
        if self.drop_last:
            draws = draws[: len(draws) // self.batch_size * self.batch_size]
        window = WINDOW * self.batch_size
        for start in range(0, len(draws), window):
            part = sorted(draws[start : start + window], key=self.shape_of)
            batches = [part[first : first + self.batch_size] for first in range(0, len(part), self.batch_size)]
            yield from (batches[place] for place in np.random.default_rng(part[0]).permutation(len(batches)))


class ResumedEpochs:
    """Wraps the training `loader` for Lightning, so that a resumed epoch starts with the next batch.

    Lightning asks for an iterator before it has restored its checkpoint. So the loader and its workers start only when
    the first batch is requested, when epoch and batch are known.
    """

    def __init__(self, loader: Any, trainer: L.Trainer) -> None:
        self.loader = loader
        self.trainer = trainer
        self.batch_sampler = loader.batch_sampler
        """Batch sampler of the loader; Lightning sets the epoch of its sampler."""

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator:
        trains = self.trainer.training
        self.batch_sampler.first = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready if trains else 0
        yield from self.loader
