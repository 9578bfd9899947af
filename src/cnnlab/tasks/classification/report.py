"""Report the scores of a classifier: numbers, tables and pictures in files, and one HTML page with all of them."""

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from cnnlab.data.datamodule import DataModule
from cnnlab.data.images import LabelledImages
from cnnlab.drawing.confusion import MOST_CLASSES, confusion_figure
from cnnlab.drawing.sheets import captioned, png
from cnnlab.errors import InputError
from cnnlab.reports.pages import (
    figure_png,
    html_gallery,
    html_note,
    html_page,
    html_paragraphs,
    html_picture,
    html_section,
    html_table,
    html_tiles,
    write_csv,
)
from cnnlab.system.files import write_bytes, write_json, write_text
from cnnlab.tasks.classification.heat_maps import HeatMaps, heat_maps
from cnnlab.tasks.classification.imbalance import UNEVEN, majority_warning, unevenness
from cnnlab.tasks.scoring import scoring_batches
from cnnlab.training.module import TaskModule

log = logging.getLogger(__name__)
MOST_CONFUSED = 20
"""Number of pairs of classes in the table of confusions."""
TOP_LOSSES = 24
"""Number of images on the sheet of largest losses."""


@dataclass(frozen=True)
class Scored:
    """The outputs of a network for `images`, float64 N x K before softmax, and the indices of the true classes, N."""

    images: LabelledImages
    outputs: np.ndarray
    truth: np.ndarray
    classes: list[str]
    channels: int
    """Channels of the pictures in the report: 1 or 3."""
    explain: Callable[[Sequence[int], Sequence[int]], HeatMaps] | None = None
    """Maps indices of images and classes to heat maps for the report; raises InputError if the network has no maps."""

    @property
    def predicted(self) -> np.ndarray:
        return self.outputs.argmax(axis=1)

    @cached_property
    def losses(self) -> np.ndarray:
        """Cross entropy of each image; of large ones, the probability would be rounded to 0."""
        return -log_softmax(self.outputs, axis=1)[np.arange(len(self.truth)), self.truth]

    @cached_property
    def probabilities(self) -> np.ndarray:
        return softmax(self.outputs, axis=1)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        return metrics(self)

    @property
    def unevenness(self) -> float:
        """How many times as many images the largest class has as the smallest."""
        return unevenness(np.bincount(self.truth))

    @property
    def warning(self) -> str:
        """What to say if always answering the largest class would reach this accuracy; empty if it is better."""
        counts = np.bincount(self.truth, minlength=len(self.classes))
        return majority_warning(int((self.predicted == self.truth).sum()), counts, self.classes)

    def summary(self) -> str:
        low, high = self.metrics["acc_interval_95"]
        lines = [
            f"acc {self.metrics['acc']:.4f} (95 % interval {low:.4f} to {high:.4f})   "
            f"acc_top5 {self.metrics['acc_top5']:.4f}   n {self.metrics['n']}"
        ]
        if self.unevenness >= UNEVEN:
            recalls = {name: scores["recall"] for name, scores in self.metrics["per_class"].items()}
            worst, best = min(recalls, key=recalls.__getitem__), max(recalls, key=recalls.__getitem__)
            lines.insert(
                0,
                f"balanced_acc {self.metrics['balanced_acc']:.4f}   recall from {recalls[worst]:.4f} ({worst}) "
                f"to {recalls[best]:.4f} ({best})",
            )
        return "\n".join(lines)

    def write(self, folder: Path, title: str) -> None:
        write_report(folder, title, self)


@torch.inference_mode()
def score(module: TaskModule, data: DataModule, images: LabelledImages) -> Scored:
    """Return the outputs for `images` in one pass, on the GPU if there is one."""
    outputs = torch.cat([module(batch).cpu() for batch, _ in scoring_batches(module, data, images)])
    explain = functools.partial(heat_maps, module, data, images)
    scored = Scored(images, outputs.double().numpy(), images.labels, module.classes, data.channels, explain)
    if scored.warning:
        log.warning("%s", scored.warning)
    return scored


def metrics(scored: Scored) -> dict[str, Any]:
    """Return accuracy with its 95 % Wilson interval, top-5 and balanced accuracy, loss, F1, and per-class scores."""
    count = len(scored.truth)
    correct = int((scored.predicted == scored.truth).sum())
    in_five = np.argpartition(-scored.outputs, min(5, scored.outputs.shape[1] - 1), axis=1)[:, :5]
    interval = binomtest(correct, count).proportion_ci(method="wilson")
    present = np.unique(scored.truth)
    precision, recall, f1, support = precision_recall_fscore_support(
        scored.truth, scored.predicted, labels=present, zero_division=0
    )
    per_class = {
        scored.classes[label]: {"precision": float(p), "recall": float(r), "f1": float(f), "n": int(n)}
        for label, p, r, f, n in zip(present, precision, recall, f1, support, strict=True)
    }
    return {
        "n": count,
        "acc": correct / count,
        "acc_interval_95": [float(interval.low), float(interval.high)],
        "acc_top5": float((in_five == scored.truth[:, None]).any(axis=1).mean()),
        "loss": float(scored.losses.mean()),
        "f1": float(f1.mean()),
        "balanced_acc": float(recall.mean()),
        "per_class": per_class,
    }


def write_report(folder: Path, title: str, scored: Scored) -> None:
    """Write the report into `folder`.

    The files are metrics.json, per_class.csv, confusion.csv, confusion.png, confused.csv, predictions.csv,
    top_losses.png and the self-contained report.html.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers = scored.metrics
    present = np.unique(np.concatenate([scored.truth, scored.predicted]))
    names = [scored.classes[label] for label in present]
    counts = confusion_matrix(scored.truth, scored.predicted, labels=present)
    confused = most_confused(counts, names)
    per_class = [[name, *scores.values()] for name, scores in numbers["per_class"].items()]
    write_json(folder / "metrics.json", numbers)
    write_csv(folder / "per_class.csv", ["class", "precision", "recall", "f1", "n"], per_class)
    write_csv(
        folder / "confusion.csv",
        ["true \\ predicted", *names],
        [[n, *row] for n, row in zip(names, counts.tolist(), strict=True)],
    )
    write_csv(folder / "confused.csv", ["true", "predicted", "count"], confused)
    write_predictions(folder / "predictions.csv", scored)
    worst = np.argsort(-scored.losses)[:TOP_LOSSES].tolist()
    write_bytes(folder / "top_losses.png", top_loss_sheet(scored, worst))
    confusion = figure_png(confusion_figure(counts, names)) if len(names) <= MOST_CLASSES else None
    if confusion:
        write_bytes(folder / "confusion.png", confusion)
    page = report_html(title, scored, per_class, confused, confusion, worst_images(scored, worst))
    write_text(folder / "report.html", page)


def most_confused(counts: np.ndarray, names: Sequence[str]) -> list[list]:
    """Return (true, predicted, count) of the most frequent confusions, most frequent first.

    counts: int K x K, true classes as rows.
    """
    wrong = counts - np.diag(np.diag(counts))
    pairs = [(int(wrong[i, j]), i, j) for i, j in zip(*np.nonzero(wrong), strict=True)]
    return [[names[i], names[j], count] for count, i, j in sorted(pairs, key=lambda pair: -pair[0])[:MOST_CONFUSED]]


def write_predictions(path: Path, scored: Scored) -> None:
    """Write one row per image: name, true class, predicted class and its probability, loss."""
    rows = [
        [
            scored.images.name(i),
            scored.classes[scored.truth[i]],
            scored.classes[scored.predicted[i]],
            f"{scored.probabilities[i].max():.6f}",
            f"{scored.losses[i]:.6f}",
        ]
        for i in range(len(scored.truth))
    ]
    write_csv(path, ["image", "true", "predicted", "probability", "loss"], rows)


def top_loss_sheet(scored: Scored, worst: Sequence[int]) -> bytes:
    """Return a PNG of the images at `worst`, with true class, predicted class and its probability."""
    captions = [
        f"{scored.classes[scored.truth[i]]}\n{scored.classes[scored.predicted[i]]} {scored.probabilities[i].max():.0%}"
        for i in worst
    ]
    return png(captioned([scored.images.load(i, scored.channels) for i in worst], captions))


def worst_images(scored: Scored, worst: Sequence[int]) -> str:
    """Return the images at `worst` as HTML, each beside the heat map of its predicted class."""
    maps, note = explained(scored, worst)
    cards = []
    for number, i in enumerate(worst):
        lines = [
            f"{scored.classes[scored.truth[i]]}",
            f"predicted: {scored.classes[scored.predicted[i]]} {scored.probabilities[i].max():.1%}",
            f"loss {scored.losses[i]:.3f} · {scored.images.name(i)}",
        ]
        pictures = [scored.images.load(i, scored.channels), *([maps.pictures[number]] if maps else [])]
        cards.append((pictures, lines))
    return html_section("Largest losses", html_note(note), html_gallery(cards))


def explained(scored: Scored, worst: Sequence[int]) -> tuple[HeatMaps | None, str]:
    """Return the heat maps of the images at `worst`, and what the pictures show; None if there are none, and why."""
    shown = f"The {len(worst)} images with the largest cross entropy, under each its true class."
    if scored.explain is None:
        return None, shown
    try:
        maps = scored.explain(worst, scored.predicted[worst].tolist())
    except (InputError, RuntimeError) as error:  # of memory too: the report is worth more than its heat maps
        log.warning("The report has no heat maps: %s", error)
        return None, f"{shown} No heat maps: {error}"
    return maps, (
        f"{shown} Beside it, what the network sees of it, in red the positions that raise the score of the predicted "
        f"class (Grad-CAM of the layer {maps.layer})."
    )


def report_html(
    title: str, scored: Scored, per_class: list[list], confused: list[list], confusion: bytes | None, worst: str
) -> str:
    """Return one self-contained HTML page in which every name from the data is escaped.

    It leads with balanced accuracy and the classes of lowest recall if the classes are uneven. confusion: PNG of the
    confusion matrix. worst: section of the worst images, as HTML.
    """
    numbers = scored.metrics
    low, high = numbers["acc_interval_95"]
    summary = [
        ("accuracy", numbers["acc"], f"95 % interval {low:.4f} to {high:.4f}"),
        ("top-5 accuracy", numbers["acc_top5"], ""),
        ("balanced accuracy", numbers["balanced_acc"], ""),
        ("macro F1", numbers["f1"], ""),
        ("cross entropy", numbers["loss"], ""),
        ("images", numbers["n"], ""),
    ]
    notes = [scored.warning] if scored.warning else []
    if scored.unevenness >= UNEVEN:
        summary.insert(0, summary.pop(2))
        per_class = sorted(per_class, key=lambda row: row[2])
        notes.append(
            f"The classes are uneven: the largest has {scored.unevenness:.3g} times as many images as the smallest. "
            "Balanced accuracy, the mean of the recalls, counts every class alike."
        )
    scores = [[row[0], *(f"{value:.4f}" for value in row[1:4]), row[4]] for row in per_class]
    mistakes = html_table(confused, ["true", "predicted", "images"]) if confused else html_note("No mistakes.")
    return html_page(
        title,
        html_section("", html_tiles(summary), html_paragraphs(notes)),
        html_section("Classes", html_table(scores, ["class", "precision", "recall", "F1", "images"]), size="half"),
        html_picture("Confusion matrix", confusion, "colours", "tall") if confusion else "",
        html_section("Most confused", mistakes, size="half"),
        worst,
    )
