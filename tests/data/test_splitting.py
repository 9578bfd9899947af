"""Splits: their sizes are those of exact arithmetic, no content is on two sides, and only split_seed decides."""

import logging
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cnnlab.data.images import ImageArray, Splits
from cnnlab.data.scanning import Scan, scan
from cnnlab.data.sources.flowers import flowers
from cnnlab.data.splitting import content_hash, report_copies, select, split
from cnnlab.errors import DataError, InputError


def images_of(counts: list[int], names: list[str] | None = None, wnids: list[str] | None = None) -> ImageArray:
    """One-pixel pictures, so many of each class, in shuffled order; no two have equal contents."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    numbers = np.arange(len(labels))
    levels = np.stack([numbers // 256, numbers % 256], axis=1).astype(np.uint8).reshape(-1, 1, 2)
    return ImageArray(levels, labels, names or [f"class {label}" for label in range(len(counts))], numbers, wnids)


def digests_of(images: ImageArray) -> list[str]:
    return [images.digest(index) for index in range(len(images))]


def cut(images: ImageArray, val: float = 0.1, test: float = 0.0, seed: int = 0, digests: list[str] | None = None):
    digests = digests_of(images) if digests is None else digests
    return split(Splits(images), digests, val_fraction=val, test_fraction=test, split_seed=seed)


def numbers(part) -> list[int]:
    return [] if part is None else part.numbers.tolist()


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(3, 60), min_size=2, max_size=5),
    val=st.integers(0, 49),
    test=st.integers(0, 49),
    seed=st.integers(0, 2**31),
)
@example(counts=[100, 200], val=29, test=7, seed=0)  # 100 * 0.29 is less than 29 in floating point
def test_parts_are_stratified_disjoint_and_complete(counts, val, test, seed):
    images = images_of(counts)
    parts = cut(images, val / 100, test / 100, seed)
    for part, percent in ((parts.val, val), (parts.test, test)):
        of_class = Counter(part.labels.tolist()) if part else Counter()
        wanted = [max(1, int(Fraction(percent, 100) * count)) if percent else 0 for count in counts]
        assert [of_class[label] for label in range(len(counts))] == wanted
    together = [number for part in (parts.train, parts.val, parts.test) for number in numbers(part)]
    assert sorted(together) == list(range(len(images)))
    for part in (parts.train, parts.val, parts.test):
        assert numbers(part) == sorted(numbers(part))
        if part:
            assert part.labels.tolist() == images.labels[part.numbers].tolist()


@settings(max_examples=60, deadline=None)
@given(contents=st.lists(st.integers(0, 25), min_size=60, max_size=120), seed=st.integers(0, 99))
def test_equal_contents_are_on_one_side(contents, seed):
    """Some pictures share their contents, within a class or across; a third class of single ones can always be cut."""
    images = images_of([len(contents) // 2, len(contents) - len(contents) // 2, 9])
    digests = [
        f"content {contents[number % len(contents)]}" if label < 2 and number % 3 else f"single {number}"
        for number, label in enumerate(images.labels)
    ]
    parts = cut(images, 0.1, 0.05, seed, digests)
    sides = [{digests[number] for number in numbers(part)} for part in (parts.train, parts.val, parts.test)]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    assert sum(map(len, (parts.train, parts.val, parts.test))) == len(images)


def test_split_seed_decides():
    images = images_of([40, 40])
    same, again, other = cut(images, seed=3), cut(images, seed=3), cut(images, seed=4)
    assert numbers(same.val) == numbers(again.val)
    assert numbers(same.val) != numbers(other.val)
    assert content_hash(same) == content_hash(again) != content_hash(other)


def test_validation_image_is_any_of_its_class():
    """Over many seeds every picture of the smaller class is drawn: the split has no favourites."""
    images = images_of([6, 30])
    drawn = Counter(number for seed in range(120) for number in numbers(cut(images, seed=seed).val))
    small = np.flatnonzero(images.labels == 0).tolist()
    assert sorted(number for number in drawn if number in small) == small
    assert max(drawn[number] for number in small) < 45  # 20 are expected of each, with a deviation of 4


def test_published_parts_stay_as_they_are():
    train, val, test = images_of([20, 20]), images_of([3, 2]), images_of([4, 4])
    both = split(Splits(train, val, test), digests_of(train), val_fraction=0.2, test_fraction=0.2, split_seed=0)
    assert (both.train.numbers.tolist(), both.val, both.test) == (list(range(40)), val, test)
    one = split(Splits(train, test=test), digests_of(train), val_fraction=0.2, test_fraction=0.2, split_seed=0)
    assert (len(one.train), len(one.val), one.test) == (32, 8, test)


def test_pair_in_two_classes_is_reported_by_name(caplog):
    images = images_of([10, 10])
    first, second = np.flatnonzero(images.labels == 0)[0], np.flatnonzero(images.labels == 1)[0]
    digests = digests_of(images)
    digests[first] = digests[second]
    with caplog.at_level(logging.WARNING, "cnnlab"):
        parts = cut(images, digests=digests)
    names = " = ".join(images.name(index) for index in sorted((first, second)))
    assert [record.getMessage() for record in caplog.records] == [
        f"The same image is in two classes: {names}. Its copies stay in one part of the split."
    ]
    assert {first, second} <= set(numbers(parts.train))


def test_pair_in_one_class_is_no_news(caplog):
    images = images_of([10, 10])
    first, second = np.flatnonzero(images.labels == 0)[:2]
    digests = digests_of(images)
    digests[first] = digests[second]
    parts = cut(images, digests=digests)
    assert caplog.records == []
    assert {first, second} <= set(numbers(parts.train))


@pytest.mark.parametrize(
    "fractions", [(-0.1, 0.0), (-0.1, 0.5), (0.5, 0.5), (1.0, 0.0), (0.0, 1.5), (float("nan"), 0.0)]
)
def test_fractions_that_leave_nothing_are_refused(fractions):
    with pytest.raises(InputError, match=rf"data\.val_fraction={fractions[0]}, data\.test_fraction={fractions[1]}: "):
        cut(images_of([40, 40]), *fractions)


def test_class_too_small_to_split_is_named():
    with pytest.raises(DataError, match=r"Class 'tulips' has too few images to split \(1\): .*data\.val_fraction=0"):
        cut(images_of([9, 1], ["roses", "tulips"]))
    with pytest.raises(DataError, match=r"Class 'tulips' has too few images to split \(2\)"):
        cut(images_of([9, 2], ["roses", "tulips"]), 0.1, 0.1)
    parts = cut(images_of([9, 3], ["roses", "tulips"]), 0.1, 0.1)
    assert [Counter(part.labels.tolist())[1] for part in (parts.train, parts.val, parts.test)] == [1, 1, 1]
    assert cut(images_of([9, 1]), 0.0, 0.0).val is None


def test_class_of_twins_cannot_be_split():
    images = images_of([9, 4], ["roses", "tulips"])
    digests = ["equal" if label else f"{number}" for number, label in enumerate(images.labels)]
    with pytest.raises(DataError, match=r"split \(4, 4 of them duplicates that are used for training only\)"):
        cut(images, digests=digests)


def test_one_class_is_no_classification():
    with pytest.raises(DataError, match=r"only one class \(roses\)"):
        cut(images_of([9], ["roses"]))


# --- Selecting classes and images ---

ANIMALS = ["cat", "crane", "dog", "eel"]
WNIDS = ["n01", "n02", "n03", "n04"]
ZOO = images_of([12, 8, 10, 6], ANIMALS, WNIDS)


@pytest.mark.parametrize(
    ("classes", "chosen"),
    [
        (["dog", "cat"], [0, 2]),
        (["n04", "n02"], [1, 3]),
        (["n04", "cat", "cat"], [0, 3]),
        (3, [0, 1, 2]),
        (4, [0, 1, 2, 3]),
        (None, [0, 1, 2, 3]),
    ],
)
def test_classes_are_chosen_by_name_wordnet_id_or_count(classes, chosen):
    images = select(ZOO, classes, None, 0)
    assert images.classes == [ANIMALS[label] for label in chosen]
    assert images.wnids == [WNIDS[label] for label in chosen]
    assert images.numbers.tolist() == np.flatnonzero(np.isin(ZOO.labels, chosen)).tolist()
    assert [chosen[label] for label in images.labels] == ZOO.labels[images.numbers].tolist()


def test_classes_named_by_numbers_are_names():
    images = select(images_of([5, 5, 5], ["0", "1", "7"]), [7, 0], None, 0)
    assert images.classes == ["0", "7"]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["dog", "crain"], r"unknown class crain\. Did you mean crane"),
        (["dog", "xyzzy"], r"unknown class xyzzy\. Available: cat, crane, dog, eel"),
        (5, r"data\.classes=5: use a number from 2 to 4"),
        (1, r"data\.classes=1: use a number from 2 to 4"),
        (0, r"from 2 to 4"),
        (-2, r"from 2 to 4"),
        (["dog"], r"data\.classes=\[dog\]: use at least 2 classes"),
        (["dog", "n03"], r"at least 2 classes"),
        ([], r"data\.classes=\[\]: use at least 2 classes"),
        ("dog", r"data\.classes=dog: use a list"),
        (2.5, r"data\.classes=2\.5: use a list"),
    ],
)
def test_classes_that_the_data_cannot_give_are_refused(classes, message):
    with pytest.raises(InputError, match=message):
        select(ZOO, classes, None, 0)


@pytest.mark.parametrize("count", [0, -1])
def test_images_per_class_starts_at_one(count):
    with pytest.raises(InputError, match=rf"data\.images_per_class={count}: use at least 1"):
        select(ZOO, None, count, 0)


@settings(max_examples=40, deadline=None)
@given(few=st.integers(1, 15), more=st.integers(0, 15), seed=st.integers(0, 9))
def test_images_per_class_takes_so_many_of_each_and_grows(few, more, seed):
    small, large = (select(ZOO, None, count, seed) for count in (few, few + more))
    assert Counter(small.labels.tolist()) == {label: min(few, count) for label, count in enumerate([12, 8, 10, 6])}
    assert set(small.numbers) <= set(large.numbers)
    assert small.numbers.tolist() == sorted(small.numbers)


def test_images_chosen_of_a_class_do_not_depend_on_the_other_classes():
    all_four, two = select(ZOO, None, 3, 5), select(ZOO, ["eel", "dog"], 3, 5)
    assert two.numbers.tolist() == all_four.numbers[np.isin(all_four.labels, [2, 3])].tolist()
    assert set(select(ZOO, None, 3, 6).numbers) != set(all_four.numbers)


# --- Identity and copies ---


def test_hash_tells_which_image_is_on_which_side():
    train, val = images_of([5, 5]).subset(range(8)), images_of([5, 5]).subset([8, 9])
    moved = Splits(images_of([5, 5]).subset(range(7)), images_of([5, 5]).subset([7, 8, 9]))
    hashes = [content_hash(parts) for parts in (Splits(train, val), moved, Splits(train, test=val), Splits(val, train))]
    assert len(set(hashes)) == 4
    assert content_hash(Splits(images_of([5, 5]).subset(range(8)), val)) == hashes[0]


class WithDigests:
    """Images whose digests are given."""

    def __init__(self, images, digests):
        self.name, self.digest, self.count = images.name, digests.__getitem__, len(images)

    def __len__(self):
        return self.count


def test_copies_in_a_published_part_are_reported(caplog):
    train, test = images_of([5, 5]), images_of([2, 2])
    digests = ["x", digests_of(train)[7], "y", digests_of(train)[2]]
    report_copies(WithDigests(train, digests_of(train)), WithDigests(test, digests), "test")
    assert [record.getMessage() for record in caplog.records] == [
        "2 of the 4 published test images are also in training, and count towards the score: 00001 = 00007, ..."
    ]
    caplog.clear()
    report_copies(WithDigests(train, digests_of(train)), WithDigests(test, ["x", "y", "z", "u"]), "test")
    report_copies(WithDigests(train, digests_of(train)), None, "test")
    assert caplog.records == []


# --- The real flowers ---


@pytest.fixture(scope="module")
def scanned_flowers(shared_data, tmp_path_factory) -> Scan:
    images = flowers(str(shared_data / "flower_photos")).train
    return scan(images, "error", tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("split_seed", [0, 1])
def test_flowers_give_364_validation_images(scanned_flowers, caplog, split_seed):
    caplog.clear()
    with caplog.at_level(logging.WARNING, "cnnlab"):
        parts = split(
            Splits(scanned_flowers.images),
            scanned_flowers.digests,
            val_fraction=0.1,
            test_fraction=0.0,
            split_seed=split_seed,
        )
    assert parts.train.classes == ["daisy", "dandelion", "roses", "sunflowers", "tulips"]
    assert np.bincount(parts.val.labels).tolist() == [63, 89, 64, 69, 79]
    assert np.bincount(parts.train.labels).tolist() == [570, 809, 577, 630, 720]
    assert not set(parts.train.paths) & set(parts.val.paths)
    pair = "15922772266_1167a06620.jpg"
    assert [record.getMessage() for record in caplog.records] == [
        f"The same image is in two classes: roses/{pair} = tulips/{pair}. Its copies stay in one part of the split."
    ]
    learned = {path.read_bytes() for path in parts.train.paths}
    assert not any(path.read_bytes() in learned for path in parts.val.paths)


def test_flowers_have_the_three_known_pairs(scanned_flowers):
    contents = Counter(Path(path).read_bytes() for path in scanned_flowers.images.paths)
    assert sorted(contents.values())[-4:] == [1, 2, 2, 2]
    assert Counter(Counter(scanned_flowers.digests).values()) == {1: 3664, 2: 3}
