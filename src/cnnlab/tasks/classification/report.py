"""Report the scores of a classifier: numbers, tables and pictures in files, and one HTML page with all of them."""

from collections.abc import Sequence
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
from cnnlab.drawing.confusion import confusion_figure
from cnnlab.drawing.sheets import captioned, png
from cnnlab.reports.pages import figure_png, html_page, html_pictures, html_section, html_table, write_csv
from cnnlab.system.files import write_bytes, write_json, write_text
from cnnlab.tasks.scoring import scoring_batches
from cnnlab.training.module import TaskModule

MOST_CONFUSED = 20
"""Number of pairs of classes in the table of confusions."""
TOP_LOSSES = 24
"""Number of images on the sheet of largest losses."""
LARGEST_PICTURE = 60
"""Largest number of classes for which the confusion matrix is drawn; its CSV is always written."""


@dataclass(frozen=True)
class Scored:
    """The outputs of a network for `images`, float64 N x K before softmax, and the indices of the true classes, N."""

    images: LabelledImages
    outputs: np.ndarray
    truth: np.ndarray
    classes: list[str]
    channels: int
    """Channels of the pictures in the report: 1 or 3."""

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

    def summary(self) -> str:
        low, high = self.metrics["acc_interval_95"]
        return (
            f"acc {self.metrics['acc']:.4f} (95 % interval {low:.4f} to {high:.4f})   "
            f"acc_top5 {self.metrics['acc_top5']:.4f}   n {self.metrics['n']}"
        )

    def write(self, folder: Path, title: str) -> None:
        write_report(folder, title, self)


@torch.inference_mode()
def score(module: TaskModule, data: DataModule, images: LabelledImages) -> Scored:
    """Return the outputs for `images` in one pass, on the GPU if there is one."""
    outputs = torch.cat([module(batch).cpu() for batch, _ in scoring_batches(module, data, images)])
    return Scored(images, outputs.double().numpy(), images.labels, module.classes, data.channels)


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
    pictures = {"Largest losses": top_loss_sheet(scored)}
    if len(names) <= LARGEST_PICTURE:
        pictures = {"Confusion matrix": figure_png(confusion_figure(counts, names))} | pictures
    for name, picture in pictures.items():
        file = {"Confusion matrix": "confusion.png", "Largest losses": "top_losses.png"}[name]
        write_bytes(folder / file, picture)
    write_text(folder / "report.html", report_html(title, numbers, per_class, confused, pictures))


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


def top_loss_sheet(scored: Scored) -> bytes:
    """Return a PNG of the images with the largest losses, with true class, predicted class and its probability."""
    worst = np.argsort(-scored.losses)[:TOP_LOSSES]
    captions = [
        f"{scored.classes[scored.truth[i]]}\n{scored.classes[scored.predicted[i]]} {scored.probabilities[i].max():.0%}"
        for i in worst
    ]
    return png(captioned([scored.images.load(int(i), scored.channels) for i in worst], captions))


def report_html(
    title: str, numbers: dict, per_class: list[list], confused: list[list], pictures: dict[str, bytes]
) -> str:
    """Return one self-contained HTML page in which every name from the data is escaped."""
    low, high = numbers["acc_interval_95"]
    summary = [
        ["images", numbers["n"]],
        ["accuracy", f"{numbers['acc']:.4f}  (95 % interval {low:.4f} to {high:.4f})"],
        ["top-5 accuracy", f"{numbers['acc_top5']:.4f}"],
        ["balanced accuracy", f"{numbers['balanced_acc']:.4f}"],
        ["macro F1", f"{numbers['f1']:.4f}"],
        ["cross entropy", f"{numbers['loss']:.4f}"],
    ]
    scores = [[row[0], *(f"{value:.4f}" for value in row[1:4]), row[4]] for row in per_class]
    return html_page(
        title,
        html_table(summary),
        html_section("Classes", html_table(scores, ["class", "precision", "recall", "F1", "images"])),
        html_section("Most confused", html_table(confused, ["true", "predicted", "images"])),
        html_pictures(pictures),
    )
