"""Positions of Go games as a data set: 48 planes as input, the move that was played as target (Silver et al. 2016).

Only the moves are stored, in two bytes each; planes are computed when a batch is made. Storing bit-packed planes would
take 48 * 361 / 8 = 2,166 bytes per position, 61 GB for the paper's 28.4 million, without making training faster: one
core computes planes faster than a network worth training consumes them (`cnnlab check data=go` measures both).
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cnnlab.data.datamodule import DataModule, check_loading, default_workers
from cnnlab.data.sampling import Draw
from cnnlab.data.shared import Slots, Transport, channels_last_batch
from cnnlab.errors import DataError, InputError
from cnnlab.go.archive import Archive, Filters, open_archive
from cnnlab.go.board import Board
from cnnlab.go.planes import planes_at
from cnnlab.go.positions import PASS, decode, vertex
from cnnlab.go.symmetries import SYMMETRIES, transform
from cnnlab.seeds import derive

MANY = 10**6
"""Number of positions that justifies one reading process per core."""


@dataclass(frozen=True)
class Positions:
    """The positions before every move, except passes, of some games of an archive.

    games: int64, ascending indices into the archive. chosen: indices of the selected positions; None: all.
    """

    archive: Archive
    games: np.ndarray
    chosen: np.ndarray | None = None

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum(self.archive.positions[self.games])

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.chosen is None else len(self.chosen)

    def locate(self, index: int) -> tuple[int, int]:
        """Return the archive index of a position's game, and the number of the next move (from 0, passes included)."""
        place = index if self.chosen is None else int(self.chosen[index])
        number = int(np.searchsorted(self._ends, place, "right"))
        game = int(self.games[number])
        before = int(self._ends[number - 1]) if number else 0
        moves = self.archive.moves(game)
        return game, int(np.flatnonzero(moves & PASS != PASS)[place - before])

    def planes(self, index: int, **options: Any) -> tuple[np.ndarray, int]:
        """Return the planes of a position, uint8 [features, size, size] of 0 and 1, and the index of the next move.

        options: see `go.planes.planes_at`.
        """
        game, number = self.locate(index)
        archive = self.archive
        planes, labels = planes_at(archive.moves(game), [number], archive.size, archive.setup(game), **options)
        return planes[0], int(labels[0])

    def board(self, index: int) -> Board:
        """Return a position as a Board."""
        game, number = self.locate(index)
        size = self.archive.size
        board = Board(size, decode(self.archive.setup(game), size))
        for colour, point in decode(self.archive.moves(game)[:number], size):
            board.play(colour, point)
        return board

    def name(self, index: int) -> str:
        """Return the name of the game and the number of the next move, from 1."""
        game, number = self.locate(index)
        return f"{self.archive.names[game]} move {number + 1}"

    def subset(self, indices: Sequence[int] | np.ndarray) -> "Positions":
        """Return the positions at `indices`, in that order."""
        places = np.asarray(indices, np.int64)
        return replace(self, chosen=places if self.chosen is None else self.chosen[places])


@dataclass(frozen=True)
class PositionSplits:
    """Train, validation and test positions; no game is in two of them."""

    train: Positions
    val: Positions | None = None
    test: Positions | None = None


class PositionDataset(Dataset):
    """Positions as (uint8 features x size x size, label), with 255 for 1, since pixels are divided by 255.

    symmetric: transform each position by one of the board's eight symmetries, chosen by (seed, epoch, index) alone.
    """

    def __init__(self, positions: Positions, options: dict[str, Any], seed: int, symmetric: bool) -> None:
        self.positions = positions
        self.options = options
        self.seed = seed
        self.symmetric = symmetric
        size = positions.archive.size
        points = np.arange(size**2).reshape(size, size)
        self.moved = np.array([np.argsort(transform(points, symmetry), axis=None) for symmetry in SYMMETRIES])
        """Symmetry, point -> the point that the symmetry moves it to, int [8, points]."""

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int]:
        epoch, index = draw
        planes, label = self.positions.planes(index, **self.options)
        if self.symmetric:
            symmetry = derive(self.seed, "symmetry", epoch, index) % len(SYMMETRIES)
            planes, label = transform(planes, symmetry), int(self.moved[symmetry, label])
        return torch.from_numpy(planes * np.uint8(255)), label


class GoDataModule(DataModule):
    """Train, validation and test positions as batches of (uint8 N x features x size x size, int64 N).

    options: options of the planes, see cnnlab.go.planes.game_planes.
    """

    parts: PositionSplits
    examples, unit = "Positions", "games"

    def __init__(
        self,
        parts: PositionSplits,
        *,
        options: dict[str, Any],
        symmetric: bool,
        batch_size: int,
        num_workers: int | None,
        seed: int,
        positions_per_epoch: int | None = None,
    ) -> None:
        archive = parts.train.archive
        super().__init__(
            parts,
            skipped={name: f"{name}: {reason}" for name, reason in archive.skipped.items()},
            channels=options["features"],
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            epoch_size=positions_per_epoch,
        )
        self.archive = archive
        self.image_size = archive.size
        self.options = options
        self.symmetric = symmetric
        digest = hashlib.blake2b(archive.folder.name.encode(), digest_size=8)
        for part in (parts.train, parts.val, parts.test):
            digest.update(b"/" if part is None else part.games.tobytes())
        self.split_hash = digest.hexdigest()

    @property
    def classes(self) -> list[str]:
        """Names of the board's points, row by row: A19, B19, ..."""
        size = self.archive.size
        return [vertex(divmod(index, size), size) for index in range(size**2)]

    @property
    def train_fingerprint(self) -> str:
        return f"{self.split_hash} {sorted(self.options.items())}"

    def train_dataset(self) -> PositionDataset:
        return PositionDataset(self.parts.train, self.options, self.seed, self.symmetric)

    def eval_dataset(self, part: Positions) -> PositionDataset:
        return PositionDataset(part, self.options, self.seed, symmetric=False)

    def collate(self, examples: list) -> Any:
        return channels_last_batch(examples)

    def transport(self) -> Transport:
        return Slots(self.num_workers, self.batch_size, self.image_size, self.channels)

    def listing(self, part: Positions) -> Iterator[str]:
        return (self.archive.names[game] for game in part.games)


def build_positions(
    *,
    root: str | Path,
    cache_dir: Path,
    seed: int,
    channels: int,
    image_size: int,
    size: int = 19,
    features: int = 48,
    capture_encoding: str = "0to7",
    eye: str = "recursive",
    symmetric: bool = True,
    batch_size: int = 16,
    num_workers: int | None = None,
    positions_per_epoch: int | None = None,
    val_fraction: float = 0.02,
    test_fraction: float = 0.02,
    split_seed: int = 0,
    **filters: Any,
) -> GoDataModule:
    """Read the games in `root`, filter and split them, and return their positions; filters: see `archive.Filters`.

    channels, image_size: the network's input. positions_per_epoch: number of training positions per epoch, which
    continues where the previous one ended; None: all. val_fraction, test_fraction: shares of the games, at least one
    game each.
    Raises InputError or DataError if the options or the data do not work.
    """
    check_loading(batch_size, num_workers)
    if image_size != size or channels != features:
        raise InputError(
            f"The network takes {channels} planes of {image_size} x {image_size}, but the data have {features} of "
            f"{size} x {size}: set model.in_channels={features} and model.image_size={size}."
        )
    if positions_per_epoch is not None and positions_per_epoch < 1:
        raise InputError(f"data.positions_per_epoch={positions_per_epoch}: at least 1 is needed, or null for all.")
    options: dict[str, Any] = {"features": features, "capture_encoding": capture_encoding, "eye": eye}
    planes_at(np.empty(0, np.uint16), [], size, **options)  # raises for an invalid size or option
    archive = open_archive(Path(root), Filters(size=size, **filters), cache_dir, default_workers(MANY))
    parts = split_games(archive, val_fraction, test_fraction, split_seed)
    return GoDataModule(
        parts,
        options=options,
        symmetric=symmetric,
        batch_size=batch_size,
        num_workers=num_workers,
        seed=seed,
        positions_per_epoch=positions_per_epoch,
    )


def split_games(archive: Archive, val_fraction: float, test_fraction: float, split_seed: int) -> PositionSplits:
    """Split whole games into parts: floor(games * fraction) each, at least one unless the fraction is 0.

    Raises InputError for fractions that leave nothing to train on, and DataError if there are too few games.
    """
    if not (min(val_fraction, test_fraction) >= 0 and val_fraction + test_fraction < 1):
        raise InputError(
            f"data.val_fraction={val_fraction}, data.test_fraction={test_fraction}: neither may be negative, "
            "and they must add up to less than 1."
        )
    order = np.random.default_rng(derive("split", split_seed)).permutation(len(archive))
    fractions = (val_fraction, test_fraction)
    counts = [max(1, int(len(order) * fraction + 1e-9)) if fraction else 0 for fraction in fractions]
    if sum(counts) >= len(order):
        raise DataError(
            f"{len(order)} games are too few to split: each part needs at least one. Add games, relax the filters, "
            "or split off fewer parts (data.val_fraction=0, data.test_fraction=0)."
        )
    val, test, train = np.split(order, np.cumsum(counts))
    parts = [Positions(archive, np.sort(games)) if len(games) else None for games in (val, test)]
    return PositionSplits(Positions(archive, np.sort(train)), *parts)
