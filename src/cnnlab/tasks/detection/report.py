"""The report of a detector: numbers, curves, confusion, kinds of mistakes, and the images with the most of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from cnnlab.drawing.confusion import MOST_CLASSES, confusion_figure
from cnnlab.drawing.sheets import captioned, enlarged, png
from cnnlab.reports.pages import (
    figure_png,
    html_note,
    html_page,
    html_picture,
    html_section,
    html_table,
    html_tiles,
    write_csv,
)
from cnnlab.system.files import write_bytes, write_json, write_text
from cnnlab.tasks.detection.drawing import Box, draw_boxes
from cnnlab.tasks.detection.matching import MEANING, Matched, confusion
from cnnlab.tasks.detection.predictions import LEAST, Objects, coco_json
from cnnlab.tasks.detection.scores import Evaluation

if TYPE_CHECKING:
    from cnnlab.tasks.detection.evaluation import DetectionScores

WORST = 18
"""Images on the sheet of those with the most mistakes."""
HARD = 24
"""Detections on the sheet of those that are most certain and yet on the background."""
CURVES = 12
"""Classes whose precision-recall curves are drawn, those with the most objects."""
FOUND, MISSED, WRONG, RIGHT = (255, 255, 255), (255, 165, 0), (230, 40, 40), (40, 190, 90)
"""Colours of objects that are found or not, and of wrong and right detections."""
ROWS = {
    "map": "average precision (AP), IoU .50 to .95",
    "map_50": "AP at IoU .50",
    "map_75": "AP at IoU .75",
    "map_small": "AP of small objects (under 32 x 32 pixels)",
    "map_medium": "AP of medium objects",
    "map_large": "AP of large objects (over 96 x 96 pixels)",
    "mar_1": "average recall (AR), 1 detection per image",
    "mar_10": "AR, 10 detections per image",
    "mar_100": "AR, 100 detections per image",
    "mar_small": "AR of small objects",
    "mar_medium": "AR of medium objects",
    "mar_large": "AR of large objects",
}


def write_report(folder: Path, title: str, scores: "DetectionScores") -> None:
    """Write the report into `folder`.

    The files are metrics.json, per_class.csv, errors.csv, confusion.csv, confusion.png, curves.png, worst.png,
    hard.png, predictions.json (COCO's format) and the self-contained report.html.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers, classes = scores.metrics, scores.classes
    write_json(folder / "metrics.json", numbers)
    head = ["class", *next(iter(numbers["per_class"].values()))]
    per_class = [[name, *values.values()] for name, values in numbers["per_class"].items()]
    write_csv(folder / "per_class.csv", head, per_class)
    errors = [[each.name, each.count, each.cost] for each in scores.error_kinds]
    write_csv(folder / "errors.csv", ["error", "count", "cost_map_50"], errors)
    counts = confusion(scores.matched, len(classes), scores.options.min_score)
    names = [*classes, "background"]
    write_csv(
        folder / "confusion.csv",
        ["true \\ predicted", *names],
        [[name, *row] for name, row in zip(names, counts.tolist(), strict=True)],
    )
    write_json(folder / "predictions.json", coco_json(objects_by_name(scores), classes))
    pictures = report_pictures(scores, counts, names)
    for (file, _), picture in pictures.items():
        write_bytes(folder / file, picture)
    write_text(folder / "report.html", report_html(title, scores, head, per_class, pictures))


def objects_by_name(scores: "DetectionScores") -> dict[str, Objects]:
    """Return image -> its detections."""
    return {scores.images.name(each.index): Objects(each.found, each.size, scores.classes) for each in scores.scored}


def report_pictures(scores: "DetectionScores", counts: np.ndarray, names: list[str]) -> dict[tuple[str, str], bytes]:
    """Return (file, title) -> PNG."""
    pictures = {("curves.png", "Precision and recall"): figure_png(curves(scores))}
    if len(names) <= MOST_CLASSES + 1:
        pictures["confusion.png", "Confusion"] = figure_png(confusion_figure(counts, names))
    limit = f"detections of at least {scores.options.min_score:g}"
    worst = worst_images(scores.matched, scores.options.min_score)
    if worst:
        title = f"Images with the most mistakes ({limit}; green: right, red: wrong, orange: missed)"
        pictures["worst.png", title] = png(worst_sheet(scores, worst))
    if hard := hard_positives(scores.matched):
        pictures["hard.png", "Most certain detections on the background"] = png(hard_sheet(scores, hard))
    return pictures


def curves(scores: "DetectionScores") -> Figure:
    """Draw precision over recall: the mean over classes at three thresholds, and the classes at an IoU of .50."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    recalls = np.linspace(0, 1, 101)
    for prefix, evaluation in scores.evaluations.items():
        style = "-" if not prefix else "--"
        for place, name in ((0, ".50"), (5, ".75"), (9, ".95")):
            kind = "masks" if prefix else "boxes"
            left.plot(recalls, mean_curve(evaluation, place), style, label=f"{kind}, IoU {name}")
    for label in np.argsort(-scores.objects, kind="stable")[:CURVES]:
        values = scores.evaluations[""].precision[0, :, label, 0, -1]
        if (values > -1).any():
            right.plot(recalls, values, label=f"{scores.classes[label]} ({scores.objects[label]})")
    left.set_title("mean over classes")
    right.set_title("by class, boxes at IoU .50 (objects)")
    for axes in (left, right):
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        axes.legend(fontsize=8)
    return figure


def mean_curve(evaluation: Evaluation, place: int) -> np.ndarray:
    """Return the mean precision at 101 recalls over the classes with objects."""
    values = evaluation.precision[place, :, :, 0, -1]
    known = (values > -1).any(axis=0)
    return values[:, known].mean(axis=1)


def worst_images(matched: Sequence[Matched], min_score: float) -> list[tuple[int, Matched]]:
    """Return (mistakes, image) of the images with the most wrong detections and missed objects, most first."""
    counted = [(mistakes(each, min_score), each) for each in matched]
    return sorted((pair for pair in counted if pair[0]), key=lambda pair: -pair[0])[:WORST]


def mistakes(image: Matched, min_score: float) -> int:
    """Return the number of wrong detections of at least `min_score`, and of objects without a right one."""
    shown = image.scores >= min_score
    wrong = shown & ~image.right & ~image.ignored
    seen = set(image.object[shown & image.right].tolist())
    objects = np.flatnonzero(~image.scored.truth.crowd)
    return int(wrong.sum()) + len(set(objects.tolist()) - seen)


def worst_sheet(scores: "DetectionScores", worst: Sequence[tuple[int, Matched]]) -> Image.Image:
    tiles = [compared(scores, image) for _, image in worst]
    captions = [f"{scores.images.name(image.scored.index)}\n{count} mistakes" for count, image in worst]
    return captioned(tiles, captions, columns=4, side=300)


def compared(scores: "DetectionScores", image: Matched) -> Image.Image:
    """Draw an image with its objects, and its right and wrong detections."""
    found = image.scored.found
    order = np.argsort(-found.scores, kind="stable")[: len(image.scores)]
    shown, truth = image.scores >= scores.options.min_score, image.scored.truth
    seen = set(image.object[shown & image.right].tolist())
    boxes = []
    for place in range(len(truth.labels)):
        known = place in seen or truth.crowd[place]
        text = "" if known else scores.classes[truth.labels[place]]
        boxes.append(Box(tuple(map(float, truth.boxes[place])), text, FOUND if known else MISSED, dashed=True))
    for place in reversed(range(len(image.scores))):
        if shown[place] and not image.ignored[place]:
            text = f"{scores.classes[image.labels[place]]} {image.scores[place]:.0%}"
            if image.error[place]:
                text = f"{text} {image.error[place]}"
            colour = RIGHT if image.right[place] else WRONG
            boxes.append(Box(tuple(map(float, found.boxes[order[place]])), text, colour))
    picture = scores.images.load(image.scored.index, scores.channels)
    return draw_boxes(enlarged(picture, LEAST), boxes, picture.size)


def hard_positives(matched: Sequence[Matched]) -> list[tuple[float, Matched, int]]:
    """Return (score, image, place) of the most certain detections that are on the background."""
    found = [
        (float(image.scores[place]), image, place)
        for image in matched
        for place, error in enumerate(image.error)
        if error == "background"
    ]
    return sorted(found, key=lambda each: -each[0])[:HARD]


def hard_sheet(scores: "DetectionScores", hard: Sequence[tuple[float, Matched, int]]) -> Image.Image:
    tiles, captions = [], []
    for score, image, place in hard:
        order = np.argsort(-image.scored.found.scores, kind="stable")
        x1, y1, x2, y2 = (float(value) for value in image.scored.found.boxes[order[place]])
        picture = scores.images.load(image.scored.index, scores.channels)
        margin = 0.25 * max(x2 - x1, y2 - y1)
        left, top = max(0, int(x1 - margin)), max(0, int(y1 - margin))
        right, bottom = min(picture.width, int(x2 + margin) + 1), min(picture.height, int(y2 + margin) + 1)
        part = picture.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
        tiles.append(draw_boxes(part, [Box((x1 - left, y1 - top, x2 - left, y2 - top), "", WRONG)]))
        captions.append(f"{scores.classes[image.labels[place]]} {score:.0%}\n{scores.images.name(image.scored.index)}")
    return captioned(tiles, captions)


def report_html(
    title: str,
    scores: "DetectionScores",
    head: list[str],
    per_class: list[list],
    pictures: dict[tuple[str, str], bytes],
) -> str:
    """Return one self-contained HTML page in which every name from the data is escaped."""
    numbers = scores.metrics
    prefixes = list(scores.evaluations)
    tiles = [(name, numbers[name], "") for name in ("map", "map_50", "mar_100") if numbers[name] is not None]
    tiles += [("images", numbers["n"], ""), ("objects", numbers["objects"], "")]
    table = [
        [text, *(_with_interval(numbers, f"{prefix}{name}") for prefix in prefixes)] for name, text in ROWS.items()
    ]
    errors = [[each.name, MEANING[each.name], each.count, f"{each.cost:.4f}"] for each in scores.error_kinds]
    shown = [[row[0], *(_number(value) for value in row[1:])] for row in per_class]
    return html_page(
        title,
        html_section("", html_tiles(tiles)),
        html_section(
            "COCO metrics",
            html_table(table, ["", *("masks" if each else "boxes" for each in prefixes)]),
            html_note(UNDEFINED) if any(numbers[f"{p}{n}"] is None for p in prefixes for n in ROWS) else "",
        ),
        html_section("Classes", html_table(shown, [*head[:-1], "objects"])),
        html_section(
            "Kinds of mistakes (boxes, IoU .50)",
            html_table(errors, ["", "", "count", "AP at IoU .50 lost by them alone"]),
            html_note("Bolya et al. 2020 (TIDE). Each row corrects only its own mistakes."),
        ),
        *(
            html_picture(name, data, "lines" if file == "curves.png" else "colours")
            for (file, name), data in pictures.items()
        ),
    )


UNDEFINED = "A dash: this part of the data has no object of that size or class, so that the value is not defined."


def _with_interval(numbers: dict[str, Any], name: str) -> str:
    value, interval = numbers[name], numbers.get(f"{name}_interval_95")
    if value is None:
        return "-"
    return f"{value:.4f}" + (f"  (95 % interval {interval[0]:.4f} to {interval[1]:.4f})" if interval else "")


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
