"""Report how often a policy network of Go predicts the move that was played, by phase of the game."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnnlab.reports.pages import html_page, html_section, html_table
from cnnlab.system.files import write_json, write_text

PHASES = ((1, 50), (51, 150), (151, None))
"""First and last move of the opening, the middle game and the end game."""


@dataclass(frozen=True)
class MoveScores:
    """The scores of N played moves, as arrays of length N."""

    rank: np.ndarray
    """Number of moves that the network finds more probable."""
    loss: np.ndarray
    """-log of the move's probability."""
    number: np.ndarray
    """Number of the move in its game, from 1."""
    game: np.ndarray
    """Identifier of the game."""

    def where(self, chosen: np.ndarray) -> "MoveScores":
        """Return the scores of the moves selected by a boolean mask."""
        return MoveScores(self.rank[chosen], self.loss[chosen], self.number[chosen], self.game[chosen])


def scores(moves: MoveScores) -> dict[str, Any]:
    """Return n, games, acc with its 95 % interval over games, acc_top5, and loss (natural logarithm)."""
    correct = moves.rank == 0
    return {
        "n": len(moves.rank),
        "games": len(np.unique(moves.game)),
        "acc": float(correct.mean()),
        "acc_interval_95": list(interval(correct, moves.game)),
        "acc_top5": float((moves.rank < 5).mean()),
        "loss": float(moves.loss.mean()),
    }


def interval(correct: np.ndarray, game: np.ndarray) -> tuple[float, float]:
    """Return the 95 % normal interval of an accuracy whose moves are correlated within games.

    The standard error is that of a ratio of sums over games (Cochran 1977, chapter 6.3); (0, 1) for a single game.
    """
    _, number = np.unique(game, return_inverse=True)
    counts, hits = np.bincount(number), np.bincount(number, correct)
    games, share = len(counts), hits.sum() / counts.sum()
    if games == 1:
        return 0.0, 1.0
    error = (((hits - share * counts) ** 2).sum() * games / (games - 1)) ** 0.5 / counts.sum()
    return max(0.0, share - 1.96 * error), min(1.0, share + 1.96 * error)


def report(moves: MoveScores) -> dict[str, Any]:
    """Return the scores of all moves and, under `by_phase`, those of the phases that occur."""
    phases = {}
    for first, last in PHASES:
        chosen = (moves.number >= first) & (moves.number <= (last or np.inf))
        if chosen.any():
            phases[f"{first}-{last or ''}"] = scores(moves.where(chosen))
    return {**scores(moves), "by_phase": phases}


def metrics_of(found: dict[int, MoveScores]) -> dict[str, Any]:
    """Return the report without averaging and, under `symmetries_8`, the one averaged over eight symmetries, if any.

    found: number of symmetries averaged over -> scores of each move.
    """
    return report(found[1]) | {f"symmetries_{count}": report(moves) for count, moves in found.items() if count > 1}


def write_report(folder: Path, title: str, found: dict[int, MoveScores]) -> None:
    """Write metrics.json and report.html into `folder`; found: see `metrics_of`."""
    write_json(folder / "metrics.json", metrics_of(found))
    reports = {symmetries: report(moves) for symmetries, moves in found.items()}
    header = ["moves", "symmetries", "positions", "games", "top-1", "95 % interval", "top-5", "loss"]
    tables = []
    for phase in ("all", *reports[1]["by_phase"]):
        for count, whole in reports.items():
            row = whole if phase == "all" else whole["by_phase"][phase]
            low, high = row["acc_interval_95"]
            shares = [f"{row['acc']:.4f}", f"{low:.4f} to {high:.4f}", f"{row['acc_top5']:.4f}", f"{row['loss']:.4f}"]
            tables.append([phase, count, row["n"], row["games"], *shares])
    write_text(folder / "report.html", html_page(title, html_section("Moves predicted", html_table(tables, header))))
