"""What makes up for classes of unequal size, and what to say about scores on them."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest
from sklearn.utils.class_weight import compute_class_weight

from cnnlab.errors import InputError

log = logging.getLogger(__name__)
UNEVEN = 2.0
"""How many times as large as the smallest class the largest one is if classes are called uneven."""
LEAST_SHARE = 0.8
"""Share of its own class in an image's target below which label smoothing is warned of."""
NAMED = 12
"""Number of classes up to which the log names the weight of each."""


def class_weights(given: Any, labels: np.ndarray, classes: Sequence[str]) -> list[float]:
    """Return the weight of each class for loss.class_weights, and log them.

    given: "balanced", which is images / (classes * images of the class), or a number for each class. labels: of the
    training images, int64 N. Raises InputError if the numbers do not fit the classes.
    """
    if given == "balanced":
        weights = np.ones(len(classes))  # that of a class without training images has no effect
        there = np.unique(labels)
        weights[there] = compute_class_weight("balanced", classes=there, y=labels)
    else:
        weights = given_weights(given, classes)
    named = [f"{name} {weight:.3g}" for name, weight in zip(classes, weights, strict=True)]
    least, most = named[int(np.argmin(weights))], named[int(np.argmax(weights))]
    text = ", ".join(named) if len(named) <= NAMED else f"from {least} to {most}"
    log.info("Class weights%s: %s.", " (balanced)" if given == "balanced" else "", text)
    return [float(weight) for weight in weights]


def given_weights(given: Any, classes: Sequence[str]) -> np.ndarray:
    """Return the numbers of loss.class_weights=[...] as float64; raise InputError if they do not fit the classes."""
    names = ", ".join(classes[:NAMED]) + (", ..." if len(classes) > NAMED else "")
    if not isinstance(given, list) or not all(isinstance(w, int | float) and not isinstance(w, bool) for w in given):
        raise InputError(f"loss.class_weights={given}: use balanced, or a list of a number for each class ({names}).")
    if len(given) != len(classes):
        raise InputError(
            f"loss.class_weights has {len(given)} numbers for the {len(classes)} classes of the data, which are, in "
            f"order: {names}."
        )
    if not all(math.isfinite(weight) and weight >= 0 for weight in given) or not any(given):
        raise InputError(f"loss.class_weights={given}: a weight may not be negative, and not all may be 0.")
    return np.array(given, float)


def own_share(weights: Sequence[float], smoothing: float) -> float:
    """Return the share of its own class in the weighted target of an image of the class of least weight.

    torch multiplies the target of each class by its weight, and so the small share that smoothing gives a class of
    large weight. Classes of weight 0 are left out: their images do not count.
    """
    counted = [weight for weight in weights if weight]
    spread = smoothing / len(weights) * sum(weights)
    own = (1 - smoothing) * min(counted)
    return (own + smoothing / len(weights) * min(counted)) / (own + spread)


def warn_of_smoothing(weights: Sequence[float], smoothing: float) -> None:
    """Warn if label smoothing takes the target of some images away from their own class."""
    if (share := own_share(weights, smoothing)) < LEAST_SHARE:
        log.warning(
            "loss.class_weights and label smoothing: weights count for the smoothed shares as well, so that the target "
            "of an image of the class of least weight is only %.0f %% that class. Use one of the two.",
            100 * share,
        )


def unevenness(counts: Sequence[int] | np.ndarray) -> float:
    """Return how many times as large as the smallest class the largest one is, of the classes that occur."""
    there = [count for count in counts if count]
    return max(there) / min(there) if there else 1.0


def majority_warning(correct: int, counts: np.ndarray, classes: Sequence[str]) -> str:
    """Return what to say of an accuracy that always answering the largest class reaches as well; "" if it is better.

    correct: number of right answers. counts: images of each class, int K. An accuracy is better if its 95 % Wilson
    interval lies above the share of the largest class.
    """
    total, largest = int(counts.sum()), int(counts.argmax())
    if not total:
        return ""
    share = counts[largest] / total
    interval = binomtest(correct, total).proportion_ci(method="wilson")
    if interval.low > share or np.count_nonzero(counts) < 2:
        return ""
    return (
        f"The accuracy of {correct / total:.4f} (95 % interval {interval.low:.4f} to {interval.high:.4f}) is not "
        f"significantly above {share:.4f}, the share of the largest class: always answering {classes[largest]} would "
        "reach it."
    )
