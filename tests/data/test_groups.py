"""Folds and groups: sizes and strata against scikit-learn, no group or copy on two sides, and what is refused."""

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import digits_with, train_in_process
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from cnnlab.data.groups import group_names, split_units, units_of
from cnnlab.data.images import ImageArray, ImageFiles, Splits
from cnnlab.data.splitting import Division, divide
from cnnlab.errors import DataError, InputError


def files_of(names: list[str], labels: list[int], groups: list[str] | None = None, root="/data") -> ImageFiles:
    classes = [f"class {label}" for label in range(max(labels) + 1)]
    paths = [Path(root) / name for name in names]
    return ImageFiles(Path(root), paths, np.array(labels), classes, digests=[*names], groups=groups)


def patients(count: int, seed: int = 0, classes: int = 3, most: int = 12) -> ImageFiles:
    """Some patients with 1 to `most` pictures each, mostly of one class."""
    rng = np.random.default_rng(seed)
    names, labels = [], []
    for patient in range(count):
        usual = patient % classes
        for number in range(int(rng.integers(1, most + 1))):
            names.append(f"p{patient:03d}_{number}.png")
            labels.append(usual if rng.random() < 0.9 else int(rng.integers(classes)))
    return files_of(names, labels)


def parts_of(images, division: Division, val: float = 0.1, test: float = 0.0, seed: int = 0, published=None):
    published = published or Splits(images)
    digests = [images.digest(index) for index in range(len(images))]
    return divide(published, digests, division, val_fraction=val, test_fraction=test, split_seed=seed)


def groups_in(part) -> set[str]:
    return {path.name.split("_")[0] for path in part.paths}


PATIENT = r"^(p\d+)_"


@pytest.mark.parametrize(("val", "test"), [(0.1, 0.0), (0.2, 0.1), (0.15, 0.25)])
@pytest.mark.parametrize("seed", [0, 1])
def test_groups_hit_the_fractions_and_stay_on_one_side(val, test, seed):
    images = patients(150)
    parts, record = parts_of(images, Division(groups=PATIENT), val, test, seed)
    there = [part for part in (parts.train, parts.val, parts.test) if part is not None]
    sides = [groups_in(part) for part in there]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 150
    assert record["groups"] == "0 of 150 groups on two sides"
    assert sorted(path for part in there for path in part.paths) == sorted(images.paths)
    totals = np.bincount(images.labels)
    for part, fraction in zip(there, [1 - val - test, val, *([test] if test else [])], strict=True):
        assert len(part) / len(images) == pytest.approx(fraction, abs=0.01)
        assert np.bincount(part.labels, minlength=3) / totals == pytest.approx(fraction, abs=0.02)
    sizes = [len(part) / len(groups) for part, groups in zip(there, sides, strict=True)]
    assert max(sizes) < 1.4 * min(sizes)  # validation does not get the small groups only


def test_another_seed_divides_the_groups_otherwise():
    parts = [parts_of(patients(60), Division(groups=PATIENT), seed=seed)[0] for seed in (0, 0, 1)]
    assert groups_in(parts[0].val) == groups_in(parts[1].val) != groups_in(parts[2].val)


@settings(max_examples=25, deadline=None)
@given(counts=st.lists(st.integers(5, 40), min_size=2, max_size=5), folds=st.integers(2, 5), seed=st.integers(0, 99))
def test_folds_are_those_of_stratified_k_fold(counts, folds, seed):
    """Each image is validated once, and each fold has as many of each class as scikit-learn's."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    images = files_of([f"{number}.png" for number in range(len(labels))], labels.tolist())
    every = [parts_of(images, Division(folds, fold), seed=seed)[0] for fold in range(folds)]
    assert sorted(path for parts in every for path in parts.val.paths) == sorted(images.paths)
    ours = Counter(tuple(np.bincount(parts.val.labels, minlength=len(counts))) for parts in every)
    sides = StratifiedKFold(folds, shuffle=True, random_state=0).split(labels, labels)
    sklearns = [np.bincount(labels[chosen], minlength=len(counts)) for _, chosen in sides]
    assert np.abs(np.array(sorted(ours.elements())).sum(0) - np.array(sklearns).sum(0)).max() == 0
    spread = np.ptp(np.array(list(ours.elements())), axis=0)
    assert (spread <= np.ptp(np.array(sklearns), axis=0)).all()
    for parts in every:
        assert len(parts.train) + len(parts.val) == len(images)


def test_folds_of_groups_are_those_of_stratified_group_k_fold():
    images = patients(60)
    every = [parts_of(images, Division(5, fold, PATIENT)) for fold in range(5)]
    sides = [groups_in(parts.val) for parts, _ in every]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 60
    assert {record["groups"] for _, record in every} == {"0 of 60 groups on two sides"}
    assert len({record["folds"]["hash"] for _, record in every}) == 1
    groups = [path.name.split("_")[0] for path in images.paths]
    sklearns = StratifiedGroupKFold(5, shuffle=True, random_state=0).split(images.labels, images.labels, groups)
    worst = max(abs(len(chosen) / len(images) - 0.2) for _, chosen in sklearns)
    assert max(abs(len(parts.val) / len(images) - 0.2) for parts, _ in every) <= worst + 0.02


def test_copies_are_validated_once_and_together():
    images = files_of([f"{number}.png" for number in range(40)], [number % 2 for number in range(40)])
    digests = [f"content {number // 4}" if number < 12 else f"{number}" for number in range(40)]
    images = replace(images, digests=digests)
    every = [parts_of(images, Division(4, fold))[0] for fold in range(4)]
    for parts in every:
        assert not set(parts.val.digests) & set(parts.train.digests)
    assert sum(len(parts.val) for parts in every) == 40


def test_groups_that_share_an_image_are_on_one_side():
    units = units_of(["a", "b", "b", "c", "d"], ["p1", "p1", "p2", "p2", "p3"])
    assert units[0] == units[1] == units[2] == units[3] != units[4]


def test_the_test_part_is_the_same_for_all_folds():
    images = files_of([f"{number}.png" for number in range(60)], [number % 3 for number in range(60)])
    every = [parts_of(images, Division(3, fold), test=0.2)[0] for fold in range(3)]
    assert {tuple(parts.test.paths) for parts in every} == {tuple(every[0].test.paths)}
    assert len(every[0].test) == 12
    assert sum(len(parts.val) for parts in every) == 48


def test_units_of_very_different_sizes_fill_their_parts():
    units = np.repeat(np.arange(60), [100] * 3 + [10] * 20 + [1] * 37)
    found = split_units(np.zeros(len(units), int), units, {"train": 0.7, "val": 0.2, "test": 0.1}, 0)
    assert [len(part) / len(units) for part in found.values()] == pytest.approx([0.7, 0.2, 0.1], abs=0.01)


def test_expression_is_searched_in_the_name_then_in_the_path():
    images = files_of(["rose/7/1.png", "rose/8/2.png"], [0, 0])
    assert group_names([images], r"(\d)/") == [["7", "8"]]
    assert group_names([images], r"^(\d+)") == [["1", "2"]]
    assert group_names([images], r"\d\.png") == [["1.png", "2.png"]]
    array = ImageArray(np.zeros((2, 2, 2), np.uint8), np.zeros(2, int), ["a"], np.array([12, 31]))
    assert group_names([array], r"(\d\d)$") == [["12", "31"]]
    assert group_names([replace(images, groups=["x", "y"])], "patient") == [["x", "y"]]


def test_published_parts_that_share_groups_are_counted(caplog):
    train, test = patients(20), patients(3, seed=5)
    with caplog.at_level(logging.WARNING):
        _, record = parts_of(train, Division(groups=PATIENT), published=Splits(train, test=test))
    assert record["groups"] == "3 of 20 groups on two sides"
    assert "3 of 20 groups on two sides of the published split, such as p000" in caplog.text


@pytest.mark.parametrize(
    ("division", "message"),
    [
        ({"fold": 1}, "data.fold=1 needs the number of folds"),
        ({"folds": 1, "fold": 0}, "use at least 2 folds"),
        ({"folds": 5}, r"data.folds=5 needs data.fold=0 to 4.*it is null.*-m 'data.fold=range\(5\)'"),
        ({"folds": 5, "fold": 5}, "needs data.fold=0 to 4.*it is 5"),
        ({"folds": 5, "fold": -1}, "it is -1"),
        ({"groups": "(p"}, "is not a regular expression: missing"),
        ({"groups": "^(q)"}, r"does not match the names of 40 of 40 images: p000_0.png, .* and 35 more"),
        ({"groups": "^(p)"}, "puts all 40 images into one group, p"),
        ({"folds": 50, "fold": 0}, "too few for data.folds=50"),
        ({"folds": 15, "fold": 0, "groups": PATIENT}, "the data have only 10 groups"),
    ],
)
def test_what_does_not_fit_is_refused(division, message):
    images = files_of([f"p{number // 4:03d}_{number}.png" for number in range(40)], [n // 4 % 2 for n in range(40)])
    with pytest.raises((InputError, DataError), match=message):
        parts_of(images, Division(**division))


def test_a_class_in_one_group_cannot_be_divided():
    images = files_of([f"p{number // 10}_{number}.png" for number in range(40)], [number // 10 for number in range(40)])
    with pytest.raises(DataError, match=r"Class 'class 0' has only 1 group, too few for data.folds=2"):
        parts_of(images, Division(2, 0, PATIENT))
    with pytest.raises(DataError, match="train part is without class"):
        parts_of(images, Division(groups=PATIENT), val=0.4)


@pytest.mark.parametrize("division", [Division(groups=PATIENT), Division(2, 0)])
def test_one_class_cannot_be_divided(division):
    images = files_of([f"p{number}_0.png" for number in range(20)], [0] * 20)
    with pytest.raises(DataError, match="only one class"):
        parts_of(images, division)


def test_copies_in_two_classes_are_named(caplog):
    images = replace(patients(20), digests=None)
    other = int(np.flatnonzero(images.labels != images.labels[0])[20])
    digests = ["same" if index in (0, other) else str(index) for index in range(len(images))]
    with caplog.at_level(logging.WARNING):
        options = {"val_fraction": 0.2, "test_fraction": 0.0, "split_seed": 0}
        parts, _ = divide(Splits(images), digests, Division(groups=PATIENT), **options)
    assert f"two classes: {images.name(0)} = {images.name(other)}. Its copies stay in one part" in caplog.text
    sides = [{path.name for path in part.paths} for part in (parts.train, parts.val)]
    assert any({images.name(0), images.name(other)} <= side for side in sides)


def test_folds_and_a_published_validation_part_are_refused():
    images = patients(10)
    with pytest.raises(InputError, match="the data publish a validation part of"):
        parts_of(images, Division(2, 0), published=Splits(images, val=images))


def test_record_of_a_run_proves_its_groups(tmp_path):
    """Digits 000 to 009 are a group, and so on; the fold of another seed is the same."""
    overrides = digits_with(
        *("trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1"),
        *("data.folds=3", "data.fold=1", "data.groups='^(\\d\\d\\d\\d)'", "data.test_fraction=0"),
    )
    records = [train_in_process(tmp_path / str(seed), *overrides, f"seed={seed}") for seed in (0, 1)]
    assert records[0]["groups"] == "0 of 180 groups on two sides"
    assert records[0]["folds"] == records[1]["folds"]
    assert (records[0]["folds"]["fold"], records[0]["folds"]["of"]) == (1, 3)
    sides = [
        {line[:4] for line in (tmp_path / "0" / "splits" / f"{part}.txt").read_text().split()}
        for part in ("train", "val")
    ]
    assert not sides[0] & sides[1]
