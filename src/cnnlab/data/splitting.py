"""Split images into training, validation and test sets, depending only on the data set and `split_seed`."""

import difflib
import hashlib
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cnnlab.data.groups import (
    fold_numbers,
    group_names,
    on_two_sides,
    report_groups,
    require_classes,
    require_enough,
    split_units,
    units_of,
)
from cnnlab.data.images import LabelledImages, Splits
from cnnlab.errors import DataError, InputError
from cnnlab.seeds import derive

log = logging.getLogger(__name__)


class Named(Protocol):
    """Examples that have names."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...


class Digested(Named, Protocol):
    """Examples that have names and hashes of their content."""

    def digest(self, index: int) -> str: ...


class Parts(Protocol):
    """The parts of a data set of any kind; `val` and `test` may be None."""

    @property
    def train(self) -> Named: ...

    @property
    def val(self) -> Named | None: ...

    @property
    def test(self) -> Named | None: ...


def split(
    published: Splits,
    digests: Sequence[str],
    *,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    stratified: bool = True,
) -> Splits:
    """Take the parts that a data set does not publish from its training images, stratified by class or as one stratum.

    Each class of n images contributes floor(n * fraction) of them, at least one, to each new part. Images with equal
    content (equal `digests`, one for each training image) all stay in training, so that no image is in two parts.
    Raises InputError for fractions that leave nothing to train on, and DataError that names the class if one has too
    few images.
    """
    fractions = fractions_to_take(published, val_fraction, test_fraction)
    _require_classes(published.train, stratified)
    return _parts(published, _take(published.train, digests, fractions, split_seed, stratified))


@dataclass(frozen=True)
class Division:
    """How the training images are divided, apart from fractions: into folds, and by groups.

    folds: number of parts of which each is the validation part of one run. fold: number of the validation part.
    groups: see `groups.group_names`. Raises InputError for numbers that do not fit.
    """

    folds: int | None = None
    fold: int | None = None
    groups: str | None = None

    def __post_init__(self) -> None:
        if self.folds is None and self.fold is not None:
            raise InputError(f"data.fold={self.fold} needs the number of folds: add data.folds=5.")
        if self.folds is not None and self.folds < 2:
            raise InputError(f"data.folds={self.folds}: use at least 2 folds, or null.")
        if self.folds is not None and (self.fold is None or not 0 <= self.fold < self.folds):
            raise InputError(
                f"data.folds={self.folds} needs data.fold=0 to {self.folds - 1}, the part to validate on; it is "
                f"{'null' if self.fold is None else self.fold}. All of them: -m 'data.fold=range({self.folds})'"
            )


def divide(
    published: Splits,
    digests: Sequence[str],
    division: Division,
    *,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    stratified: bool = True,
) -> tuple[Splits, dict[str, Any]]:
    """Return the parts as `split` does, but into folds or by groups, and what run.json says of these.

    With groups, whole groups are assigned to the parts; with folds, the validation part is one of them, and
    `val_fraction` has no effect. Copies of an image are in one part or fold, which need not be training.
    Raises InputError or DataError if the images cannot be divided so.
    """
    images, folds = published.train, division.folds
    if folds and published.val is not None:
        raise InputError(
            f"data.folds={folds} is not possible: the data publish a validation part of {len(published.val)} images. "
            "Use that (data.folds=null), or put its images into the training part."
        )
    if folds:
        val_fraction = 0.0
    if division == Division():
        whole = split(
            published,
            digests,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            split_seed=split_seed,
            stratified=stratified,
        )
        return whole, {}
    fractions = fractions_to_take(published, val_fraction, test_fraction)
    _require_classes(images, stratified)
    names, others = None, []
    if division.groups is not None:
        names, *others = group_names([images, *filter(None, (published.val, published.test))], division.groups)
        report_groups(names, division.groups)
    units = units_of(digests, names)
    classes, labels = (images.classes, images.labels) if stratified else ([""], np.zeros(len(images), int))
    if names is None:
        chosen = _take(images, digests, fractions, split_seed, stratified)
    else:
        _warn_of_twins(images, digests)
        shares = {"train": 1 - sum(fractions.values()), **fractions}
        chosen = split_units(labels, units, {part: share for part, share in shares.items() if share}, split_seed)
    record: dict[str, Any] = {}
    if folds:
        rest = np.array(chosen["train"])
        require_enough(labels[rest], units[rest], classes, folds, names is not None)
        number = fold_numbers(labels[rest], units[rest], folds, split_seed, names is not None)
        chosen |= {"train": rest[number != division.fold].tolist(), "val": rest[number == division.fold].tolist()}
        every = [images.subset(rest[number == fold]) for fold in range(folds)]
        record["folds"] = {"fold": division.fold, "of": folds, "hash": names_hash([*every, published.test])}
    if names is not None:
        require_classes(labels, chosen, classes)
        record["groups"] = on_two_sides([*([names[index] for index in part] for part in chosen.values()), *others])
    return _parts(published, chosen), record


def _require_classes(images: LabelledImages, stratified: bool) -> None:
    if stratified and len(images.classes) < 2:
        raise DataError(f"The data have only one class ({', '.join(images.classes)}). A classifier needs at least two.")


def _parts(published: Splits, chosen: dict[str, list[int]]) -> Splits:
    """Return the images at the indices chosen for each part; a part without any is the published one."""
    train, val, test = (chosen.get(part, []) for part in ("train", "val", "test"))
    images = published.train
    return Splits(
        images.subset(sorted(train)),
        images.subset(sorted(val)) if val else published.val,
        images.subset(sorted(test)) if test else published.test,
    )


def _take(
    images: LabelledImages, digests: Sequence[str], fractions: dict[str, float], split_seed: int, stratified: bool
) -> dict[str, list[int]]:
    """Return part -> indices of a split of single images."""
    single = _without_twins(images, digests)
    order = np.random.default_rng(derive("split", split_seed))
    parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for name, members in strata(images, stratified).items():
        free = [index for index in order.permutation(members).tolist() if single[index]]
        for part, fraction in fractions.items():
            count = max(1, int(len(members) * fraction + 1e-9)) if fraction else 0
            if count > len(free):
                raise DataError(_too_few(name, members, single))
            parts[part] += free[:count]
            free = free[count:]
        kept = set(members.tolist()).difference(parts["val"], parts["test"])
        if not kept and any(fractions.values()):
            raise DataError(_too_few(name, members, single))
        parts["train"] += kept
    return parts


def fractions_to_take(published: Parts, val_fraction: float, test_fraction: float) -> dict[str, float]:
    """Return the fraction of the training images that each part gets: 0 for a part that is published.

    Raises InputError for fractions that leave nothing to train on.
    """
    fractions = {
        "val": 0.0 if published.val is not None else val_fraction,
        "test": 0.0 if published.test is not None else test_fraction,
    }
    if not (min(fractions.values()) >= 0 and sum(fractions.values()) < 1):  # written so that NaN is refused too
        raise InputError(
            f"data.val_fraction={val_fraction}, data.test_fraction={test_fraction}: neither may be negative, "
            "and they must add up to less than 1."
        )
    return fractions


def strata(images: LabelledImages, stratified: bool) -> dict[str, np.ndarray]:
    """Return name -> int64 indices of each stratum: the classes, or all images as one."""
    if not stratified:
        return {"all": np.arange(len(images))}
    return {name: np.flatnonzero(images.labels == label) for label, name in enumerate(images.classes)}


def fewer(images: LabelledImages, fraction: float, split_seed: int, stratified: bool = True) -> LabelledImages:
    """Return the share `fraction` of each stratum, rounded up; smaller shares are subsets of larger ones."""
    if fraction == 1:
        return images
    return images.subset(share_of(list(strata(images, stratified).values()), fraction, split_seed))


def share_of(strata: Sequence[np.ndarray], fraction: float, split_seed: int) -> list[int]:
    """Return the sorted indices of the share `fraction` of each stratum, rounded up; see `fewer`.

    Raises InputError for a fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise InputError(f"data.train_fraction={fraction}: use a number above 0 and at most 1.")
    order = np.random.default_rng(derive("train_fraction", split_seed))
    kept: list[int] = []
    for stratum in strata:
        members = order.permutation(stratum)
        kept += members[: math.ceil(len(members) * fraction - 1e-9)].tolist()
    return sorted(kept)


def select(
    images: LabelledImages,
    classes: Sequence[str | int] | int | None,
    images_per_class: int | None,
    split_seed: int,
) -> LabelledImages:
    """Return the images of the chosen classes, at most `images_per_class` of each.

    classes: names or WordNet ids, or how many of the first classes; None: all.
    Raises InputError for an unknown class, with suggestions, and for too few classes or images.
    """
    if images_per_class is not None and images_per_class < 1:
        raise InputError(f"data.images_per_class={images_per_class}: use at least 1, or null for all images.")
    if classes is None and images_per_class is None:
        return images
    chosen = _class_indices(images, classes)
    order = np.random.default_rng(derive("images_per_class", split_seed))
    kept: list[int] = []
    for label in range(len(images.classes)):
        members = order.permutation(np.flatnonzero(images.labels == label))
        if label in chosen:
            kept += members[:images_per_class].tolist()
    subset = images.subset(sorted(kept))
    return subset if len(chosen) == len(images.classes) else subset.with_classes(chosen)


def report_copies(train: Digested, published: Digested | None, part: str, unit: str = "images") -> None:
    """Warn about examples of a published `part` that are in training too; published parts are not changed."""
    learned = {train.digest(index): index for index in range(len(train))} if published else {}
    twins = [(index, learned.get(published.digest(index))) for index in range(len(published))] if published else []
    copies = [(index, twin) for index, twin in twins if twin is not None]
    if published and copies:
        log.warning(
            "%d of the %d published %s %s are also in training, and count towards the score: %s = %s%s",
            *(len(copies), len(published), part, unit),
            *(published.name(copies[0][0]), train.name(copies[0][1]), ", ..." if len(copies) > 1 else "."),
        )


def content_hash(parts: Parts) -> str:
    """Return a hash of a split, equal if and only if the same images are in the same parts."""
    return names_hash([parts.train, parts.val, parts.test])


def names_hash(parts: Sequence[Named | None]) -> str:
    """Return a hash of the names of the examples in each part."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        names = [] if part is None else [part.name(index) for index in range(len(part))]
        digest.update("\n".join([*names, "\0"]).encode())
    return digest.hexdigest()


def _without_twins(images: LabelledImages, digests: Sequence[str]) -> np.ndarray:
    """Return a mask of the images whose content no other image has; warn about duplicates in different classes."""
    _warn_of_twins(images, digests)
    counts = Counter(digests)
    return np.array([counts[digest] == 1 for digest in digests], bool)


def _warn_of_twins(images: LabelledImages, digests: Sequence[str]) -> None:
    """Warn about images of equal content in different classes."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, digest in enumerate(digests):
        groups[digest].append(index)
    for twins in groups.values():
        if len({images.labels[index].item() for index in twins}) > 1:
            names = " = ".join(images.name(index) for index in twins)
            log.warning("The same image is in two classes: %s. Its copies stay in one part of the split.", names)


def _too_few(name: str, members: np.ndarray, single: np.ndarray) -> str:
    twins = len(members) - np.count_nonzero(single[members])
    shared = f", {twins} of them duplicates that are used for training only" if twins else ""
    return (
        f"Class {name!r} has too few images to split ({len(members)}{shared}): each part needs at least one. Add "
        "images, remove the class, or make fewer parts (data.val_fraction=0, data.test_fraction=0)."
    )


def _class_indices(images: LabelledImages, classes: Sequence[str | int] | int | None) -> list[int]:
    if classes is None:
        return list(range(len(images.classes)))
    if isinstance(classes, str | float):
        raise InputError(f"data.classes={classes}: use a list of names ([a,b]) or a number.")
    if isinstance(classes, int):
        if not 2 <= classes <= len(images.classes):
            raise InputError(
                f"data.classes={classes}: use a number from 2 to {len(images.classes)}, the classes of the data."
            )
        return list(range(classes))
    index = {name: label for label, name in enumerate(images.classes)}
    index |= {wnid: label for label, wnid in enumerate(images.wnids or [])}
    unknown = [str(name) for name in classes if str(name) not in index]
    if unknown:
        near = [match for name in unknown for match in difflib.get_close_matches(name, index, n=2)]
        hint = f"Did you mean {' or '.join(near)}?" if near else f"Available: {', '.join(images.classes[:20])}."
        raise InputError(f"data.classes: unknown class {', '.join(unknown)}. {hint}")
    chosen = sorted({index[str(name)] for name in classes})
    if len(chosen) < 2:
        raise InputError(f"data.classes=[{', '.join(map(str, classes))}]: use at least 2 classes.")
    return chosen
