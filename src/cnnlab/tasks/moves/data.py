"""Positions of Go games as a data set: 48 planes in, the move that was played out (Silver et al. 2016).

Only the moves are kept, in two bytes each; planes are worked out when a batch is made, 17,000 positions a second on one
core from random places of random games. Bit-packed planes take 2,166 bytes a position, 61 GB for the paper's 28.4
million, and save nothing: no network that is worth training takes more positions than that from one core.
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
from cnnlab.errors import DataError, InputError
from cnnlab.go.archive import Archive, Filters, open_archive
from cnnlab.go.board import Board
from cnnlab.go.planes import planes_at
from cnnlab.go.positions import PASS, decode, vertex
from cnnlab.go.symmetries import SYMMETRIES, transform
from cnnlab.seeds import derive

MANY = 10**6
"""Positions that are worth as many processes as the machine has cores to read them."""


@dataclass(frozen=True)
class Positions:
    """The positions before every move, passes aside, of some games of an archive.

    games: int64, ascending indices into the archive. chosen: indices of the positions that are meant; None: all.
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
        """The game of a position in the archive, and the number of the move that follows, from 0, passes counted."""
        place = index if self.chosen is None else int(self.chosen[index])
        number = int(np.searchsorted(self._ends, place, "right"))
        game = int(self.games[number])
        before = int(self._ends[number - 1]) if number else 0
        moves = self.archive.moves(game)
        return game, int(np.flatnonzero(moves & PASS != PASS)[place - before])

    def planes(self, index: int, **options: Any) -> tuple[np.ndarray, int]:
        """uint8 [features, size, size] of 0 and 1, and the move that follows; options of `go.planes.planes_at`."""
        game, number = self.locate(index)
        archive = self.archive
        planes, labels = planes_at(archive.moves(game), [number], archive.size, archive.setup(game), **options)
        return planes[0], int(labels[0])

    def board(self, index: int) -> Board:
        """The position to look at or to play on."""
        game, number = self.locate(index)
        size = self.archive.size
        board = Board(size, decode(self.archive.setup(game), size))
        for colour, point in decode(self.archive.moves(game)[:number], size):
            board.play(colour, point)
        return board

    def name(self, index: int) -> str:
        game, number = self.locate(index)
        return f"{self.archive.names[game]} move {number + 1}"

    def subset(self, indices: Sequence[int] | np.ndarray) -> "Positions":
        """The positions at `indices`, in that order."""
        places = np.asarray(indices, np.int64)
        return replace(self, chosen=places if self.chosen is None else self.chosen[places])


@dataclass(frozen=True)
class PositionSplits:
    """Positions by game: no two parts share one."""

    train: Positions
    val: Positions | None = None
    test: Positions | None = None


class PositionDataset(Dataset):
    """Positions as (uint8 features x size x size, label), 255 where a plane is 1: as pixels, they become 1.0.

    symmetric: under one of the eight symmetries of the board, which depends on (seed, epoch, index) alone.
    """

    def __init__(self, positions: Positions, options: dict[str, Any], seed: int, symmetric: bool) -> None:
        self.positions = positions
        self.options = options
        self.seed = seed
        self.symmetric = symmetric
        size = positions.archive.size
        points = np.arange(size**2).reshape(size, size)
        self.moved = np.array([np.argsort(transform(points, symmetry), axis=None) for symmetry in SYMMETRIES])
        """Symmetry and point -> where the symmetry takes it."""

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

    options: of the planes, as in cnnlab.go.planes.game_planes.
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
        """The points of the board row by row: A19, B19, ..."""
        size = self.archive.size
        return [vertex(divmod(index, size), size) for index in range(size**2)]

    @property
    def train_fingerprint(self) -> str:
        return f"{self.split_hash} {sorted(self.options.items())}"

    def train_dataset(self) -> PositionDataset:
        return PositionDataset(self.parts.train, self.options, self.seed, self.symmetric)

    def eval_dataset(self, part: Positions) -> PositionDataset:
        return PositionDataset(part, self.options, self.seed, symmetric=False)

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
    """Read the games of `root`, filter and split them, and prepare their positions; filters: see `archive.Filters`.

    channels, image_size: what the network takes. positions_per_epoch: training positions of an epoch, each of which
    goes on where the last one ended; None: all. val_fraction, test_fraction: of the games, at least one each.
    Raises InputError or DataError before any training if the options or the data cannot work.
    """
    check_loading(batch_size, num_workers)
    if image_size != size or channels != features:
        raise InputError(
            f"The network takes {channels} planes of {image_size} x {image_size}, the data give {features} of "
            f"{size} x {size}: set model.in_channels={features} and model.image_size={size}."
        )
    if positions_per_epoch is not None and positions_per_epoch < 1:
        raise InputError(f"data.positions_per_epoch={positions_per_epoch}: at least 1 is needed, or null for all.")
    options: dict[str, Any] = {"features": features, "capture_encoding": capture_encoding, "eye": eye}
    planes_at(np.empty(0, np.uint16), [], size, **options)  # raises for a size or an option that is none
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
    """Whole games for each part: floor(games * fraction), at least one unless the fraction is 0.

    Raises InputError for fractions that leave nothing to train on, and DataError if there are too few games.
    """
    if not (min(val_fraction, test_fraction) >= 0 and val_fraction + test_fraction < 1):
        raise InputError(
            f"data.val_fraction={val_fraction}, data.test_fraction={test_fraction}: neither may be negative, "
            "and they must add up to less than 1."
        )
    order = np.random.default_rng(derive("split", split_seed)).permutation(len(archive))
    counts = [max(1, int(len(order) * part + 1e-9)) if part else 0 for part in (val_fraction, test_fraction)]
    if sum(counts) >= len(order):
        raise DataError(
            f"{len(order)} games are too few to split: each part needs one of its own. Add games, ask less of them, "
            "or cut fewer parts (data.val_fraction=0, data.test_fraction=0)."
        )
    val, test, train = np.split(order, np.cumsum(counts))
    parts = [Positions(archive, np.sort(games)) if len(games) else None for games in (val, test)]
    return PositionSplits(Positions(archive, np.sort(train)), *parts)
