"""Connectionist temporal classification (Graves et al. 2006): its loss, and texts from its outputs.

Output 0 of each column is the blank; output k is class k - 1. Targets are int64 N x (1 + L): the width of each image in
its batch in pixels, then its classes, -1 beyond their end.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

STRIDE = 4
"""Pixels of an image's width for each column of a reader's output."""


def columns_of(widths: Tensor) -> Tensor:
    """Return the number of columns that show an image, for widths in pixels."""
    return (widths + STRIDE - 1).div(STRIDE, rounding_mode="floor")


def columns_needed(classes: Sequence[int]) -> int:
    """Return the fewest columns that can spell a text: one for each character, and a blank between equal neighbours."""
    return len(classes) + sum(a == b for a, b in itertools.pairwise(classes))


class CTC(nn.Module):
    """The mean over a batch of -log p(text), each divided by the length of its text, as torch.nn.CTCLoss has it."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """outputs: logits N x T x (1 + classes), float; targets: as the module says."""
        columns = columns_of(targets[:, 0]).clamp(max=outputs.shape[1])
        classes = targets[:, 1:]
        lengths = (classes >= 0).sum(1)
        logits = outputs.float().log_softmax(2).transpose(0, 1)
        return nn.functional.ctc_loss(logits, classes.clamp(min=0) + 1, columns, lengths, zero_infinity=True)


@dataclass(frozen=True)
class Line:
    """What a reader finds in an image."""

    classes: list[int]
    scores: list[float]
    """Probability of each character in the column where it is most certain."""
    columns: list[int]
    """That column."""


def greedy(probabilities: Tensor) -> Line:
    """Return the text of the most probable path: equal neighbours are one character, then blanks are left out.

    probabilities: T x (1 + classes) of the columns that show the image.
    """
    best, path = probabilities.max(1)
    line = Line([], [], [])
    before = 0
    for column, (output, score) in enumerate(zip(path.tolist(), best.tolist(), strict=True)):
        if output and output != before:
            line.classes.append(output - 1)
            line.scores.append(score)
            line.columns.append(column)
        elif output and score > line.scores[-1]:
            line.scores[-1], line.columns[-1] = score, column
        before = output
    return line


def beam_search(probabilities: Tensor, beam: int, lexicon: set[tuple[int, ...]] | None = None) -> list[int]:
    """Return the classes of the most probable text, the sum over all paths that spell it (Graves 2012, section 7.5.3).

    probabilities: T x (1 + classes). beam: number of beginnings that are followed at once. lexicon: the only texts that
    are possible; where none of them can be followed to its end, the result is the greedy one.
    """
    prefixes = None if lexicon is None else {text[:end] for text in lexicon for end in range(len(text) + 1)}
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (1.0, 0.0)}  # text -> p(ends in a blank), p(does not)
    for column in probabilities.double():
        shown = column.topk(min(len(column), beam + 1)).indices.tolist() if prefixes is None else range(len(column))
        values = column.tolist()
        found: dict[tuple[int, ...], list[float]] = defaultdict(lambda: [0.0, 0.0])
        for text, (blank, letter) in beams.items():
            found[text][0] += values[0] * (blank + letter)
            if text:
                found[text][1] += values[text[-1] + 1] * letter
            for output in shown:
                longer = (*text, output - 1)
                if output and (prefixes is None or longer in prefixes):
                    found[longer][1] += values[output] * (blank if text and text[-1] == output - 1 else blank + letter)
        best = sorted(found.items(), key=lambda item: -sum(item[1]))[:beam]
        scale = math.fsum(sum(each) for _, each in best) or 1.0
        beams = {text: (blank / scale, letter / scale) for text, (blank, letter) in best}
    whole = {text: blank + letter for text, (blank, letter) in beams.items() if lexicon is None or text in lexicon}
    return list(max(whole, key=lambda text: whole[tuple(text)])) if whole else greedy(probabilities).classes


def lines_of(outputs: Tensor, widths: Tensor) -> list[Line]:
    """Return what the greedy path reads in each image; outputs: logits N x T x (1 + classes)."""
    probabilities = outputs.detach().float().softmax(2).cpu()
    columns = columns_of(widths).clamp(max=outputs.shape[1]).tolist()
    return [greedy(each[:count]) for each, count in zip(probabilities, columns, strict=True)]


def texts_of(targets: Tensor) -> list[list[int]]:
    """Return the classes of each text in targets."""
    return [[number for number in row if number >= 0] for row in targets[:, 1:].tolist()]


def blank_share(outputs: Tensor, widths: Tensor) -> Tensor:
    """Return the share of columns whose most probable output is the blank."""
    columns = columns_of(widths).clamp(max=outputs.shape[1])
    inside = torch.arange(outputs.shape[1], device=outputs.device) < columns[:, None]
    return ((outputs.argmax(2) == 0) & inside).sum() / inside.sum()  # on the device, so that training does not wait
