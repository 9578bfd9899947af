"""Split annotated images into training, validation and test sets, with every class on each side where possible."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from cnnlab.data.splitting import fractions_to_take, share_of
from cnnlab.errors import DataError
from cnnlab.seeds import derive
from cnnlab.tasks.detection.annotated import AnnotatedImages, AnnotatedSplits


def split(published: AnnotatedSplits, *, val_fraction: float, test_fraction: float, split_seed: int) -> AnnotatedSplits:
    """Take the parts that a data set does not publish from its training images.

    The images of each stratum (`strata`) are divided in proportion, and images with equal content stay together, in
    training. Raises InputError for fractions that leave nothing to train on, DataError if a part would be empty.
    """
    images = published.train
    fractions = fractions_to_take(published, val_fraction, test_fraction)
    order = np.random.default_rng(derive("split", split_seed))
    parts: dict[str, list[int]] = {"val": [], "test": []}
    owed = dict.fromkeys(parts, 0.0)
    single = _without_twins(images)
    for members in strata(images):
        free = [index for index in order.permutation(members).tolist() if single[index]]
        for part, fraction in fractions.items():
            owed[part] += len(members) * fraction
            count = min(len(free), int(owed[part] + 1e-9))
            owed[part] -= count
            parts[part] += free[:count]
            free = free[count:]
    for part, fraction in fractions.items():
        if fraction and not parts[part]:
            raise DataError(
                f"{len(images)} images are too few for data.{part}_fraction={fraction}: {part} would be empty. "
                f"Raise it, or set it to 0."
            )
    taken = {*parts["val"], *parts["test"]}
    train = images.subset([index for index in range(len(images)) if index not in taken])
    if not len(train):
        raise DataError(f"{len(images)} images leave nothing to train on. Lower data.val_fraction, data.test_fraction.")
    val = images.subset(sorted(parts["val"])) if parts["val"] else published.val
    test = images.subset(sorted(parts["test"])) if parts["test"] else published.test
    return AnnotatedSplits(train, val, test)


def strata(images: AnnotatedImages) -> list[np.ndarray]:
    """Return the indices of each stratum: images by the rarest class in them, rarest first, then those without objects.

    An image with several classes thus counts for the class that is hardest to divide.
    """
    present = [np.unique(images.truth(index).labels) for index in range(len(images))]
    counts = np.zeros(len(images.classes), int)
    for labels in present:
        counts[labels] += 1
    rank = {int(label): place for place, label in enumerate(np.argsort(counts, kind="stable"))}
    found: dict[int, list[int]] = defaultdict(list)
    for index, labels in enumerate(present):
        found[min((rank[int(label)] for label in labels), default=len(rank))].append(index)
    return [np.array(found[key]) for key in sorted(found)]


def fewer(images: AnnotatedImages, fraction: float, split_seed: int) -> AnnotatedImages:
    """Return the share `fraction` of each stratum, rounded up; smaller shares are subsets of larger ones."""
    return images if fraction == 1 else images.subset(share_of(strata(images), fraction, split_seed))


def _without_twins(images: AnnotatedImages) -> Sequence[bool]:
    """Return for each image whether no other image has the same content."""
    digests = [images.digest(index) for index in range(len(images))]
    counts = Counter(digests)
    return [counts[digest] == 1 for digest in digests]
