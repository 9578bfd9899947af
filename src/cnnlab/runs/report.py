"""The report of an evaluation: numbers, tables and pictures in files, and one HTML page that holds them all."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from cnnlab.data.images import LabelledImages
from cnnlab.explain.confusion import confusion_figure
from cnnlab.explain.sheets import png
from cnnlab.files import write_bytes, write_json, write_text
from cnnlab.runs.pages import figure_png, html_page, html_pictures, html_section, html_table, write_csv

MOST_CONFUSED = 20
TOP_LOSSES = 24
LARGEST_PICTURE = 60
"""Classes up to which the confusion matrix is drawn; its CSV is always there."""


@dataclass(frozen=True)
class Scored:
    """What a network said of `images`: probabilities float N x K, and the index of the true class among the K."""

    images: LabelledImages
    probabilities: np.ndarray
    truth: np.ndarray
    classes: list[str]

    @property
    def predicted(self) -> np.ndarray:
        return self.probabilities.argmax(axis=1)

    @property
    def losses(self) -> np.ndarray:
        """Cross entropy of each image."""
        return -np.log(np.maximum(self.probabilities[np.arange(len(self.truth)), self.truth], 1e-12))


def metrics(scored: Scored) -> dict:
    """Accuracy with its 95 % Wilson interval, top-5 accuracy, loss, macro F1, and scores of each class that occurs."""
    count = len(scored.truth)
    correct = int((scored.predicted == scored.truth).sum())
    in_five = np.argpartition(-scored.probabilities, min(5, scored.probabilities.shape[1] - 1), axis=1)[:, :5]
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
        "per_class": per_class,
    }


def write_report(folder: Path, title: str, scored: Scored, channels: int) -> dict:
    """Write metrics.json, per_class.csv, confusion.csv, confusion.png, confused.csv, predictions.csv, top_losses.png
    and the self-contained report.html into `folder`; returns the metrics."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = metrics(scored)
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
    pictures = {"Largest losses": top_loss_sheet(scored, channels)}
    if len(names) <= LARGEST_PICTURE:
        pictures = {"Confusion matrix": figure_png(confusion_figure(counts, names))} | pictures
    for name, picture in pictures.items():
        file = {"Confusion matrix": "confusion.png", "Largest losses": "top_losses.png"}[name]
        write_bytes(folder / file, picture)
    write_text(folder / "report.html", report_html(title, numbers, per_class, confused, pictures))
    return numbers


def most_confused(counts: np.ndarray, names: Sequence[str]) -> list[list]:
    """(true, predicted, count) of the pairs of different classes, most frequent first."""
    wrong = counts - np.diag(np.diag(counts))
    pairs = [(int(wrong[i, j]), i, j) for i, j in zip(*np.nonzero(wrong), strict=True)]
    return [[names[i], names[j], count] for count, i, j in sorted(pairs, key=lambda pair: -pair[0])[:MOST_CONFUSED]]


def write_predictions(path: Path, scored: Scored) -> None:
    """One row for each image: name, true class, predicted class, its probability, loss."""
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


def top_loss_sheet(scored: Scored, channels: int) -> bytes:
    """PNG of the images with the largest losses: true class, then what was predicted and how surely."""
    worst = np.argsort(-scored.losses)[:TOP_LOSSES]
    captions = [
        f"{scored.classes[scored.truth[i]]}\n{scored.classes[scored.predicted[i]]} {scored.probabilities[i].max():.0%}"
        for i in worst
    ]
    return png(sheet([scored.images.load(int(i), channels) for i in worst], captions))


def sheet(images: Sequence[Image.Image], captions: Sequence[str], columns: int = 6, side: int = 180) -> Image.Image:
    """Pictures side by side, each above its caption of up to two lines."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    step_x, step_y = side + 10, side + 44
    page = Image.new("RGB", (columns * step_x + 10, rows * step_y + 10), "white")
    draw = ImageDraw.Draw(page)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = 10 + number % columns * step_x, 10 + number // columns * step_y
        small = image.convert("RGB")
        scale = side / max(small.size)
        small = small.resize((max(1, round(small.width * scale)), max(1, round(small.height * scale))))
        page.paste(small, (left + (side - small.width) // 2, top + (side - small.height) // 2))
        for line, text in enumerate(caption.split("\n")[:2]):
            draw.text((left, top + side + 2 + 16 * line), text[:30], fill="black", font_size=13)
    return page


def report_html(
    title: str, numbers: dict, per_class: list[list], confused: list[list], pictures: dict[str, bytes]
) -> str:
    """One page without outside references; every name from data is escaped."""
    low, high = numbers["acc_interval_95"]
    summary = [
        ["images", numbers["n"]],
        ["accuracy", f"{numbers['acc']:.4f}  (95 % interval {low:.4f} to {high:.4f})"],
        ["top-5 accuracy", f"{numbers['acc_top5']:.4f}"],
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
