"""Score how often a policy network predicts the move that was played, with and without averaging over symmetries."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnnlab.data.datamodule import DataModule
from cnnlab.errors import InputError
from cnnlab.tasks.moves.report import MoveScores, metrics_of, write_report
from cnnlab.tasks.scoring import scoring_batches
from cnnlab.training.module import TaskModule


@dataclass(frozen=True)
class ScoredMoves:
    """The scores of a policy network; moves: number of symmetries averaged over -> scores of each move."""

    moves: dict[int, MoveScores]

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Scores without averaging and, under `symmetries_8`, those averaged over eight symmetries."""
        return metrics_of(self.moves)

    def summary(self) -> str:
        found = (("1 symmetry", self.metrics), ("8 symmetries", self.metrics.get("symmetries_8")))
        return "\n".join(
            f"{name:<12}  acc {scores['acc']:.4f} (95 % interval {scores['acc_interval_95'][0]:.4f} to "
            f"{scores['acc_interval_95'][1]:.4f})   acc_top5 {scores['acc_top5']:.4f}   loss {scores['loss']:.4f}   "
            f"n {scores['n']}"
            for name, scores in found
            if scores
        )

    def write(self, folder: Path, title: str) -> None:
        write_report(folder, title, self.moves)


@torch.inference_mode()
def score_moves(
    module: TaskModule, data: DataModule, part: Any, symmetries: int = 8, positions: int | None = None
) -> ScoredMoves:
    """Score the positions of `part` in one pass, on the GPU if there is one.

    symmetries: 1, or 8 for scores with and without averaging (the "symmetries" of Extended Data Table 3).
    positions: score only so many, evenly spaced; None: all.
    Raises InputError for an invalid number of either.
    """
    if symmetries not in (1, 8):
        raise InputError(f"symmetries={symmetries}: use 1 or 8.")
    if positions is not None and positions < 1:
        raise InputError(f"positions={positions}: at least 1 is needed.")
    if positions is not None and positions < len(part):
        part = part.subset([index * len(part) // positions for index in range(positions)])
    found: dict[int, list[tuple[Tensor, Tensor]]] = {count: [] for count in {1, symmetries}}
    for planes, labels in scoring_batches(module, data, part):
        turned = [probabilities(module, planes, symmetry) for symmetry in range(symmetries)]
        for count, results in found.items():
            results.append(ranked(torch.stack(turned[:count]).mean(dim=0), labels))
    places = [part.locate(index) for index in range(len(part))]
    game, number = np.array(places).T
    moves = {}
    for count, results in sorted(found.items()):
        rank, loss = (torch.cat(column).cpu().numpy() for column in zip(*results, strict=True))
        moves[count] = MoveScores(rank, loss, number + 1, game)
    return ScoredMoves(moves)


def probabilities(module: TaskModule, planes: Tensor, symmetry: int) -> Tensor:
    """Return the probabilities N x points that the network gives to boards under a symmetry, transformed back.

    symmetry: 0 to 7, see cnnlab.go.symmetries.
    """
    mirrored = planes.flip(-1) if symmetry >= 4 else planes
    answers = module.predict(torch.rot90(mirrored, symmetry % 4, (-2, -1)))
    boards = torch.rot90(answers.view(-1, *planes.shape[-2:]), -(symmetry % 4), (-2, -1))
    return (boards.flip(-1) if symmetry >= 4 else boards).flatten(1)


def ranked(shares: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each row of `shares` the number of points more probable than the label, and -log of its share."""
    own = shares.gather(1, labels[:, None])
    return (shares > own).sum(dim=1), -own[:, 0].double().clamp_min(1e-12).log()
