"""`what=alignment`: which columns of a line gave which character."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from cnnlab.drawing.album import Album
from cnnlab.drawing.sheets import figure_image
from cnnlab.errors import InputError
from cnnlab.explain.subject import Subject
from cnnlab.tasks.recognition.ctc import STRIDE, Line, columns_of, greedy

SHOWN = 12
"""Most characters whose probabilities are drawn as curves."""


@dataclass
class Options:
    """Draw which columns of a line gave which character.

    index: number of the line in the validation part.
    """

    index: int = 0


def draw(subject: Subject, options: Options, output: Path) -> list[Path]:
    """Write alignment.png and alignment.json."""
    data, classes = subject.data, subject.data.classes
    part = data.parts.val if data.parts.val is not None else data.parts.train
    if not 0 <= options.index < len(part):
        raise InputError(f"index={options.index}: the validation part has lines 0 to {len(part) - 1}.")
    pixels, targets = data.collate([data.eval_dataset(part)[(0, options.index)]])
    with torch.inference_mode():
        outputs = subject.network(subject.preprocessing(pixels.float() / 255))
    probabilities = outputs.softmax(2)[0, : int(columns_of(targets[:, 0])[0])].cpu()
    line = greedy(probabilities)
    truth = "".join(classes[number] for number in targets[0, 1:].tolist())
    found = "".join(classes[number] for number in line.classes)
    title = f"{subject.name} · {part.name(options.index)} · true: {truth} · read: {found}"
    with Album(output) as album:
        album.add("alignment", figure_image(alignment_figure(pixels[0], probabilities, line, classes, title)))
        characters = [
            {"character": classes[number], "column": column, "probability": score}
            for number, column, score in zip(line.classes, line.columns, line.scores, strict=True)
        ]
        album.numbers("alignment", {"true": truth, "read": found, "characters": characters})
    return album.paths


def alignment_figure(pixels: Tensor, probabilities: Tensor, line: Line, classes: list[str], title: str) -> Figure:
    """Draw a line, and below it the probability of the blank and of each character read in every column."""
    figure = Figure(figsize=(max(6, pixels.shape[-1] / 40), 4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1, 2])
    above.imshow(pixels.permute(1, 2, 0).squeeze().cpu().numpy(), cmap="gray", aspect="auto")
    above.set_yticks([])
    above.set_title(title, fontsize=10)
    places = STRIDE * (np.arange(len(probabilities)) + 0.5)
    below.plot(places, probabilities[:, 0].numpy(), color="lightgrey", label="blank")
    for number in list(dict.fromkeys(line.classes))[:SHOWN]:
        below.plot(places, probabilities[:, number + 1].numpy(), label=classes[number])
    for number, column, score in zip(line.classes, line.columns, line.scores, strict=True):
        below.annotate(classes[number], (places[column], score), textcoords="offset points", xytext=(0, 3), ha="center")
    below.set(xlabel="pixel", ylabel="probability", ylim=(0, 1.12))
    below.legend(fontsize=8, ncols=2, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
