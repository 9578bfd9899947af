"""Score a reader on a part of its data, and write the report."""

import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cnnlab.drawing.sheets import tensor_image
from cnnlab.errors import InputError
from cnnlab.reports.pages import (
    html_gallery,
    html_note,
    html_page,
    html_section,
    html_table,
    html_tiles,
    write_csv,
)
from cnnlab.system.files import write_json, write_text
from cnnlab.tasks.recognition.ctc import Line, lines_of, texts_of
from cnnlab.tasks.recognition.data import LinesDataModule
from cnnlab.tasks.recognition.lines import Lines
from cnnlab.tasks.scoring import scoring_batches
from cnnlab.training.module import TaskModule

WORST = 36
"""Lines with the most mistakes that the report shows."""
CONFUSIONS = 30
"""Pairs of characters in the report's table of confusions."""


@dataclass
class EvaluateOptions:
    """Keys of `cnnlab evaluate` for recognition.

    bootstrap: number of resamples of the lines for the 95 % intervals.
    """

    bootstrap: int = 1000

    def __post_init__(self) -> None:
        if self.bootstrap < 20:
            raise InputError(f"bootstrap={self.bootstrap}: at least 20 resamples are needed.")


@dataclass(frozen=True)
class Read:
    """A line as it was read, and as it should have been."""

    name: str
    truth: str
    found: str
    scores: tuple[float, ...]
    changes: tuple[tuple[str, str], ...]
    """(true, read) character of each mistake; "" for one that was added or missed."""

    @property
    def confidence(self) -> float:
        """The probability of the least certain character; 0 for an empty text."""
        return min(self.scores, default=0.0)


@dataclass(frozen=True)
class ReadingScores:
    """What a reader found in `lines`."""

    lines: Lines
    read: list[Read]
    channels: int
    bootstrap: int

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """n, character error rate and line accuracy with their 95 % intervals (percentile bootstrap over lines)."""
        errors = np.array([len(line.changes) for line in self.read])
        lengths = np.array([len(line.truth) for line in self.read])
        random = np.random.default_rng(0)
        chosen = random.integers(len(errors), size=(self.bootstrap, len(errors)))
        rates = errors[chosen].sum(1) / np.maximum(1, lengths[chosen].sum(1))
        exact = (errors[chosen] == 0).mean(1)
        return {
            "n": len(errors),
            "characters": int(lengths.sum()),
            "cer": float(errors.sum() / max(1, lengths.sum())),
            "cer_interval": np.quantile(rates, [0.025, 0.975]).tolist(),
            "acc": float((errors == 0).mean()),
            "acc_interval": np.quantile(exact, [0.025, 0.975]).tolist(),
            "by_length": {
                str(length): {
                    "n": int((lengths == length).sum()),
                    "cer": float(errors[lengths == length].sum() / max(1, length * (lengths == length).sum())),
                    "acc": float((errors[lengths == length] == 0).mean()),
                }
                for length in np.unique(lengths).tolist()
            },
        }

    @cached_property
    def by_character(self) -> list[tuple[str, int, int]]:
        """(character, how often it occurs, how often it was missed or misread), those with most mistakes first."""
        counts = Counter(character for line in self.read for character in line.truth)
        wrong = Counter(true for line in self.read for true, _ in line.changes if true)
        return sorted(((c, n, wrong[c]) for c, n in counts.items()), key=lambda item: (-item[2], -item[1], item[0]))

    @cached_property
    def confusions(self) -> list[tuple[str, str, int]]:
        """(true, read, how often), the most frequent first; "" is nothing."""
        counts = Counter(change for line in self.read for change in line.changes)
        return [(true, found, number) for (true, found), number in counts.most_common()]

    def summary(self) -> str:
        numbers = self.metrics
        low, high = numbers["cer_interval"]
        least, most = numbers["acc_interval"]
        return (
            f"cer {numbers['cer']:.4f} ({low:.4f} to {high:.4f})   "
            f"acc {numbers['acc']:.4f} ({least:.4f} to {most:.4f})   n {numbers['n']}"
        )

    def write(self, folder: Path, title: str) -> None:
        """Write metrics.json, predictions.csv, characters.csv, confusion.csv and report.html."""
        write_json(folder / "metrics.json", self.metrics)
        rows = [[r.name, r.truth, r.found, len(r.changes), f"{r.confidence:.6f}"] for r in self.read]
        write_csv(folder / "predictions.csv", ["image", "true", "read", "errors", "confidence"], rows)
        write_csv(folder / "characters.csv", ["character", "n", "errors"], self.by_character)
        write_csv(folder / "confusion.csv", ["true", "read", "n"], self.confusions)
        write_text(folder / "report.html", self._page(title))

    def _page(self, title: str) -> str:
        numbers = self.metrics
        tiles = [
            ("character error rate", numbers["cer"], _interval(numbers["cer_interval"])),
            ("lines without a mistake", numbers["acc"], _interval(numbers["acc_interval"])),
            ("lines", numbers["n"], f"{numbers['characters']} characters"),
        ]
        lengths = [[k, v["n"], f"{v['cer']:.4f}", f"{v['acc']:.4f}"] for k, v in numbers["by_length"].items()]
        confusions = [[_shown(true), _shown(found), n] for true, found, n in self.confusions[:CONFUSIONS]]
        characters = [[_shown(c), n, wrong, f"{wrong / n:.1%}"] for c, n, wrong in self.by_character[:CONFUSIONS]]
        parts = [html_section("", html_tiles(tiles))]
        if worst := self.worst():
            note = html_note("In order of the share of characters that are wrong; below each the text that was read.")
            parts.append(html_section("Lines with the most mistakes", note, html_gallery(list(map(self._card, worst)))))
        if confusions:
            parts.append(
                html_section("Confusions", html_table(confusions, ["true", "read", "n"]), size="half"),
            )
        parts.append(
            html_section("Characters", html_table(characters, ["character", "n", "errors", "share"]), size="half")
        )
        parts.append(html_section("By length", html_table(lengths, ["characters", "lines", "cer", "acc"]), size="half"))
        return html_page(title, *parts)

    def worst(self) -> list[int]:
        """Return the lines with the largest shares of mistakes, the most confident first among equals."""
        wrong = [place for place, line in enumerate(self.read) if line.changes]

        def badness(place: int) -> tuple[float, float]:
            line = self.read[place]
            return -len(line.changes) / max(1, len(line.truth)), -line.confidence

        return sorted(wrong, key=badness)[:WORST]

    def _card(self, place: int) -> tuple[list[Image.Image], list[str]]:
        line = self.read[place]
        picture = tensor_image(self.lines.tensor(place, self.channels))
        sure = f"least certain character {line.confidence:.0%}"
        return [picture], [f"{line.found or '(nothing)'}", f"true: {line.truth}", sure, line.name]


@torch.inference_mode()
def score(module: TaskModule, data: LinesDataModule, part: Lines, options: EvaluateOptions) -> ReadingScores:
    """Read the lines of `part` in one pass, on the GPU if there is one."""
    lines: list[Line] = []
    truths: list[list[int]] = []
    for inputs, targets in scoring_batches(module, data, part):
        lines += lines_of(module(inputs), targets[:, 0])
        truths += texts_of(targets)
    read = []
    for index, (line, truth) in enumerate(zip(lines, truths, strict=True)):
        found_text, true_text = ("".join(data.classes[k] for k in text) for text in (line.classes, truth))
        changes = tuple(mistakes(true_text, found_text))
        read.append(Read(part.name(index), true_text, found_text, tuple(line.scores), changes))
    return ReadingScores(part, read, data.channels, options.bootstrap)


def mistakes(truth: str, found: str) -> list[tuple[str, str]]:
    """Return the (true, read) characters of the fewest changes that make one text the other (Wagner and Fischer 1974).

    "" stands for nothing: (x, "") is a missed character, ("", x) an added one.
    """
    costs = np.zeros((len(truth) + 1, len(found) + 1), int)
    costs[0], costs[:, 0] = np.arange(len(found) + 1), np.arange(len(truth) + 1)
    for i, true in enumerate(truth, start=1):
        for j, read in enumerate(found, start=1):
            costs[i, j] = min(costs[i - 1, j - 1] + (true != read), costs[i - 1, j] + 1, costs[i, j - 1] + 1)
    changes = []
    i, j = len(truth), len(found)
    while i or j:
        if i and j and costs[i, j] == costs[i - 1, j - 1] + (truth[i - 1] != found[j - 1]):
            i, j = i - 1, j - 1
            if truth[i] != found[j]:
                changes.append((truth[i], found[j]))
        elif i and costs[i, j] == costs[i - 1, j] + 1:
            i -= 1
            changes.append((truth[i], ""))
        else:
            j -= 1
            changes.append(("", found[j]))
    return changes[::-1]


def _interval(bounds: list[float]) -> str:
    return f"95 % interval {bounds[0]:.4f} to {bounds[1]:.4f}"


def _shown(character: str) -> str:
    if not character:
        return "(nothing)"
    return unicodedata.name(character, character).lower() if character.isspace() else character
