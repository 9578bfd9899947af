"""Match detections with objects at one threshold, and name the kind of every mistake (TIDE, Bolya et al. 2020)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cnnlab.tasks.detection.scores import MOST, Scored
from cnnlab.tasks.detection.truth import codec

THRESHOLD, BACKGROUND = 0.5, 0.1
"""IoU from which on a detection is right, and below which it is on the background."""
ERRORS = ("classification", "localisation", "both", "duplicate", "background")
"""Kinds of wrong detections."""
MEANING = {
    "classification": "in the right place, of the wrong class",
    "localisation": "of the right class, badly placed",
    "both": "of the wrong class and badly placed",
    "duplicate": "an object that a better detection had found",
    "background": "away from every object",
    "missed": "objects that nothing has found",
}


@dataclass
class Matched:
    """The detections of one image, best first, matched with its objects.

    right: bool D. ignored: bool D, detections of a crowd, which count neither way. error: kind of each wrong detection,
    or "". object: the object that a detection is right about, or wrong about; -1 for none. found: bool N, the objects
    that a detection is right about. missed: bool N, those that no detection is right or nearly right about.
    """

    scored: Scored
    labels: np.ndarray
    scores: np.ndarray
    right: np.ndarray
    ignored: np.ndarray
    object: np.ndarray
    error: list[str] = field(default_factory=list)
    found: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    missed: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))


def match(image: Scored, threshold: float = THRESHOLD) -> Matched:
    """Match as COCO does: within each class, best score first, each with the free object of largest IoU."""
    found, truth = image.found, image.truth
    order = np.argsort(-found.scores, kind="stable")
    order = order[_rank_in_class(found.labels[order]) < MOST]
    labels, scores = found.labels[order], found.scores[order]
    overlaps = box_iou(found.boxes[order], truth.boxes, truth.crowd)
    taken = np.zeros(len(truth.labels), bool)
    matched = Matched(
        image, labels, scores, np.zeros(len(order), bool), np.zeros(len(order), bool), np.full(len(order), -1)
    )
    for place, label in enumerate(labels):
        same = (truth.labels == label) & (overlaps[place] >= min(threshold, 1 - 1e-10))
        for candidates in (same & ~taken & ~truth.crowd, same & truth.crowd):
            if candidates.any():
                best = _last_best(overlaps[place], candidates)
                matched.object[place] = best
                matched.ignored[place] = truth.crowd[best]
                matched.right[place] = not truth.crowd[best]
                taken[best] |= not truth.crowd[best]
                break
    matched.found = taken
    _name_errors(matched, overlaps, taken)
    return matched


def _last_best(overlaps: np.ndarray, candidates: np.ndarray) -> int:
    """Return the candidate of largest IoU, the last of equal ones, as pycocotools does."""
    values = np.where(candidates, overlaps, -1)
    return int(len(values) - 1 - values[::-1].argmax())


def _name_errors(matched: Matched, overlaps: np.ndarray, taken: np.ndarray) -> None:
    truth = matched.scored.truth
    near = taken.copy()
    single = ~truth.crowd
    for place, label in enumerate(matched.labels):
        if matched.right[place] or matched.ignored[place]:
            matched.error.append("")
            continue
        same = np.where(single & (truth.labels == label), overlaps[place], 0.0)
        other = np.where(single & (truth.labels != label), overlaps[place], 0.0)
        best_same, best_other = (each.max(initial=0.0) for each in (same, other))
        if best_same >= THRESHOLD:
            kind, about = "duplicate", same
        elif best_other >= THRESHOLD:
            kind, about = "classification", other
        elif best_same >= BACKGROUND:
            kind, about = "localisation", same
        elif best_other >= BACKGROUND:
            kind, about = "both", other
        else:
            kind, about = "background", None
        matched.error.append(kind)
        if about is not None:
            matched.object[place] = int(about.argmax())
            if kind in ("classification", "localisation"):
                near[matched.object[place]] = True
    matched.missed = single & ~near


def box_iou(found: np.ndarray, truth: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Return the IoU of boxes D x 4 with objects N x 4, float64 D x N; with crowds, the covered share of the box."""
    if not len(found) or not len(truth):
        return np.zeros((len(found), len(truth)))
    first, second = (np.column_stack([each[:, :2], each[:, 2:] - each[:, :2]]).astype(float) for each in (found, truth))
    return np.asarray(codec.iou(first.tolist(), second.tolist(), crowd.astype(int).tolist()))


def _rank_in_class(labels: np.ndarray) -> np.ndarray:
    ranks = np.zeros(len(labels), int)
    for label in np.unique(labels):
        of_class = labels == label
        ranks[of_class] = np.arange(of_class.sum())
    return ranks


# --- What the mistakes cost ---


def average_precision(scores: np.ndarray, right: np.ndarray, objects: int) -> float:
    """Return COCO's average precision, the mean over 101 recalls of the best precision from there on; NaN without
    objects."""
    if not objects:
        return float("nan")
    order = np.argsort(-scores, kind="mergesort")
    hits = np.cumsum(right[order])
    recall = hits / objects
    precision = hits / np.arange(1, len(hits) + 1) if len(hits) else np.zeros(0)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    return float(np.append(precision, 0.0)[places].mean())  # beyond the largest recall, precision is 0


def mean_average_precision(rows: Sequence[tuple[int, float, bool]], objects: np.ndarray) -> float:
    """Return the mean over classes with objects. rows: (label, score, right); objects: their number, by class."""
    labels = np.array([row[0] for row in rows], int)
    scores, right = np.array([row[1] for row in rows]), np.array([row[2] for row in rows], bool)
    values = [
        average_precision(scores[labels == label], right[labels == label], int(count))
        for label, count in enumerate(objects)
        if count
    ]
    return float(np.mean(values)) if values else float("nan")


@dataclass(frozen=True)
class ErrorKind:
    """How often a mistake was made, and by how much AP50 would rise if it were corrected alone."""

    name: str
    count: int
    cost: float


def error_kinds(images: Sequence[Matched], num_classes: int) -> list[ErrorKind]:
    """Return the kinds of mistakes, as TIDE defines them, with the AP50 that each costs."""
    objects = np.zeros(num_classes, int)
    for image in images:
        truth = image.scored.truth
        objects += np.bincount(truth.labels[~truth.crowd], minlength=num_classes)
    base = mean_average_precision(_rows(images, None), objects)
    kinds = []
    for kind in ERRORS:
        count = sum(image.error.count(kind) for image in images)
        cost = mean_average_precision(_rows(images, kind), objects) - base if count else 0.0
        kinds.append(ErrorKind(kind, count, max(0.0, cost)))
    missed = np.zeros(num_classes, int)
    for image in images:
        missed += np.bincount(image.scored.truth.labels[image.missed], minlength=num_classes)
    cost = mean_average_precision(_rows(images, None), objects - missed) - base if missed.any() else 0.0
    return [*kinds, ErrorKind("missed", int(missed.sum()), max(0.0, cost) if cost == cost else 0.0)]


def _rows(images: Sequence[Matched], corrected: str | None) -> list[tuple[int, float, bool]]:
    """Return (label, score, right) of all detections, with one kind of mistakes corrected.

    A wrong class or place is made right if its object is still free, and else removed, as are other mistakes.
    """
    rows = []
    for image in images:
        free = ~image.found
        for place, error in enumerate(image.error):
            label, score = int(image.labels[place]), float(image.scores[place])
            if image.ignored[place]:
                continue
            if error and error == corrected:
                about = image.object[place]
                if error in ("classification", "localisation") and free[about]:
                    free[about] = False
                    rows.append((int(image.scored.truth.labels[about]), score, True))
                continue
            rows.append((label, score, bool(image.right[place])))
    return rows


def confusion(images: Sequence[Matched], num_classes: int, min_score: float) -> np.ndarray:
    """Return counts of (true class, detected class), int (K + 1) x (K + 1), of detections of at least `min_score`.

    The last row counts detections on the background, the last column objects that were not found. A detection
    belongs to the object that it covers best, if the IoU is at least 0.5, each object to one detection, the best one.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), int)
    for image in images:
        truth, found = image.scored.truth, image.scored.found
        kept = np.flatnonzero(found.scores >= min_score)
        overlaps = box_iou(found.boxes[kept], truth.boxes, truth.crowd)
        free = np.ones(len(truth.labels), bool)
        for place in np.argsort(-found.scores[kept], kind="stable"):
            label = found.labels[kept[place]]
            values = np.where(free | truth.crowd, overlaps[place], 0.0)
            # An object of the same class goes first: else one that overlaps more would take its detection.
            same = np.where(truth.labels == label, values, 0.0)
            best = same if same.max(initial=0.0) >= THRESHOLD else values
            if best.max(initial=0.0) < THRESHOLD:
                counts[num_classes, label] += 1
                continue
            about = int(best.argmax())
            if truth.crowd[about]:
                continue
            counts[truth.labels[about], label] += 1
            free[about] = False
        for label in truth.labels[free & ~truth.crowd]:
            counts[label, num_classes] += 1
    return counts
