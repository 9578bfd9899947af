"""Keep what belongs together on one side of a split: all images of a patient, a plant, a video, and equal images."""

import logging
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from cnnlab.data.images import ImageFiles, LabelledImages
from cnnlab.errors import DataError, InputError
from cnnlab.seeds import derive

log = logging.getLogger(__name__)
SHOWN = 5
"""Number of names that an error lists."""


def group_names(parts: Sequence[LabelledImages], groups: str) -> list[list[str]]:
    """Return the group of each image of each part: as its table says, or by a regular expression on the files' names.

    groups: the expression; the group of an image is what its first pair of parentheses matches, without parentheses all
    that matches. It is searched in the file's name or, unless all of these match, in the path below the data's root.
    Raises InputError that names the images that do not match.
    """
    told = [part.groups for part in parts if isinstance(part, ImageFiles) and part.groups is not None]
    if len(told) == len(parts):
        return told
    try:
        pattern = re.compile(groups)
    except re.error as error:
        raise InputError(f"data.groups={groups} is not a regular expression: {error}.") from error
    paths = [part.name(index) for part in parts for index in range(len(part))]
    names = [path.rsplit("/", 1)[-1] for path in paths]
    searched = names if all(map(pattern.search, names)) else paths
    found = [pattern.search(name) for name in searched]
    missed = [path for path, match in zip(paths, found, strict=True) if match is None or _group_of(match) is None]
    if missed:
        more = f" and {len(missed) - SHOWN} more" if len(missed) > SHOWN else ""
        raise InputError(
            f"data.groups={groups} does not match the names of {len(missed)} of {len(paths)} images: "
            f"{', '.join(missed[:SHOWN])}{more}. Use a regular expression that matches all of them."
        )
    every = iter([str(_group_of(match)) for match in found if match is not None])
    return [list(islice(every, len(part))) for part in parts]


def _group_of(match: re.Match[str]) -> str | None:
    return match[1] if match.re.groups else match[0]


def report_groups(names: Sequence[str], groups: str) -> None:
    """Log how many groups there are and how large they are; raise InputError if there is only one."""
    sizes = Counter(names)
    if len(sizes) < 2:
        raise InputError(f"data.groups={groups} puts all {len(names)} images into one group, {names[0]}.")
    largest, most = sizes.most_common(1)[0]
    if most == 1:
        log.warning("data.groups=%s puts every image into a group of its own, so it has no effect.", groups)
    else:
        least = min(sizes.values())
        log.info("%d groups by %s, of %d to %d images; the largest is %s.", len(sizes), groups, least, most, largest)


def units_of(digests: Sequence[str], names: Sequence[str] | None) -> np.ndarray:
    """Return the number of each image's unit, int64 N: images of one group or of equal content are in one unit.

    digests: hash of each image's content. names: group of each image; None: there are no groups.
    """
    parent = list(range(len(digests)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = index = parent[parent[index]]
        return index

    first: dict[tuple[str, str], int] = {}
    for index, digest in enumerate(digests):
        for key in (("content", digest), *([("group", names[index])] if names else [])):
            parent[root(index)] = root(first.setdefault(key, index))
    return np.unique([root(index) for index in range(len(digests))], return_inverse=True)[1]


def split_units(
    labels: np.ndarray, units: np.ndarray, fractions: Mapping[str, float], split_seed: int
) -> dict[str, list[int]]:
    """Assign whole units to parts, so that each part gets close to its fraction of all images and of every class.

    labels, units: of each image, int64 N. fractions: part -> fraction; they add up to 1. Returns part -> indices.

    Units are assigned one by one, those of similar size in an order derived from the seed and larger ones first, to the
    part where the chi-square distance between the images of the parts and their fractions grows least.
    """
    targets = np.array(list(fractions.values()))[:, None]
    counts = np.zeros((units.max() + 1, labels.max() + 2))  # unit -> images of each class, and of all as often
    np.add.at(counts, (units, labels), 1)
    counts[:, -1] = counts.sum(axis=1)
    shares = counts / np.maximum(counts.sum(axis=0), 1)
    shares[:, -1] *= max(1, labels.max() + 1) ** 0.5
    goal = targets * shares.sum(axis=0)
    order = np.random.default_rng(derive("groups", split_seed)).permutation(len(counts))
    order = order[np.argsort(-np.floor(np.log2(counts[order, -1])), kind="stable")]
    filled = np.zeros((len(targets), shares.shape[1]))
    part_of = np.zeros(len(counts), int)
    for unit in order:
        growth = (shares[unit] * (2 * (filled - goal) + shares[unit]) / targets).sum(axis=1)
        part_of[unit] = growth.argmin()
        filled[part_of[unit]] += shares[unit]
    return {part: np.flatnonzero(part_of[units] == number).tolist() for number, part in enumerate(fractions)}


def fold_numbers(labels: np.ndarray, units: np.ndarray, folds: int, split_seed: int, grouped: bool) -> np.ndarray:
    """Return the fold of each image, int64 N, stratified by class; a unit is in one fold.

    grouped: whether units are groups, which scikit-learn's StratifiedGroupKFold then divides; otherwise units are
    single images with their copies, and StratifiedKFold divides the first image of each.
    """
    options = {"n_splits": folds, "shuffle": True, "random_state": derive("folds", split_seed) % 2**32}
    numbers = np.empty(len(labels), int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of rare classes, which `require_classes` names
        if grouped:
            for number, (_, chosen) in enumerate(StratifiedGroupKFold(**options).split(labels, labels, units)):
                numbers[chosen] = number
            return numbers
        _, first, place = np.unique(units, return_index=True, return_inverse=True)
        of_unit = np.empty(len(first), int)
        for number, (_, chosen) in enumerate(StratifiedKFold(**options).split(first, labels[first])):
            of_unit[chosen] = number
    return of_unit[place]


def require_enough(labels: np.ndarray, units: np.ndarray, classes: Sequence[str], folds: int, grouped: bool) -> None:
    """Raise DataError if a class has too few groups or images for so many folds.

    A class needs an image in every fold, or, with groups, two groups, so that each fold leaves one to train on.
    """
    for label, name in enumerate(classes):
        count = len(np.unique(units[labels == label]))
        least = 2 if grouped else folds
        if 0 < count < least:
            what = "group" if grouped else "image"
            raise DataError(
                f"Class {name!r} has only {count} {what}{'s' * (count != 1)}, too few for data.folds={folds}: it needs "
                f"at least {least}. Add images, remove the class, or make fewer folds."
            )
    if (count := len(np.unique(units))) < folds:
        raise DataError(f"data.folds={folds}: the data have only {count} groups. Make fewer folds.")


def require_classes(labels: np.ndarray, parts: Mapping[str, Sequence[int]], classes: Sequence[str]) -> None:
    """Raise DataError if a part is empty or training lacks a class; warn if another part lacks one.

    labels: int64 N. parts: part -> indices of its images.
    """
    for part, indices in parts.items():
        there = set(labels[list(indices)].tolist())
        missing = [name for label, name in enumerate(classes) if label not in there and label in labels]
        if not indices or (missing and part == "train"):
            lacks = f"without {', '.join(missing)}" if indices else "empty"
            raise DataError(
                f"There are too few groups, so that the {part} part is {lacks}. Change the fractions or the number of "
                "folds, or remove the class."
            )
        if missing:
            log.warning("The %s part has no image of %s: its groups are too few.", part, ", ".join(missing))


def on_two_sides(names_of_parts: Sequence[Sequence[str]]) -> str:
    """Return how many groups have images in more than one part, as text: 0 of 212 groups on two sides."""
    parts_of: dict[str, set[int]] = defaultdict(set)
    for part, names in enumerate(names_of_parts):
        for name in names:
            parts_of[name].add(part)
    divided = [name for name, parts in parts_of.items() if len(parts) > 1]
    text = f"{len(divided)} of {len(parts_of)} groups on two sides"
    if divided:
        log.warning("%s of the published split, such as %s: they count towards the score.", text, divided[0])
    return text
