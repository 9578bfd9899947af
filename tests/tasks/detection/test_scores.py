"""Average precision, intervals and mistakes, compared with pycocotools and with cases worked out by hand."""

import contextlib
import io

import numpy as np
import pytest
from boxes import random_images
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cnnlab.tasks.detection.matching import confusion, error_kinds, match
from cnnlab.tasks.detection.scores import Found, Scored, Scores, evaluate
from cnnlab.tasks.detection.truth import truth

NAMES = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_1", "mar_10", "mar_100")


def by_pycocotools(images, classes, kind):
    def xywh(box):
        return [float(box[0]), float(box[1]), float(box[2]) - float(box[0]), float(box[3]) - float(box[1])]

    objects, found = [], []
    for each in images:
        for place, box in enumerate(each.truth.boxes):
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": each.index,
                    "category_id": int(each.truth.labels[place]),
                    "bbox": xywh(box),
                    "area": float(each.truth.areas[place]),
                    "iscrowd": int(each.truth.crowd[place]),
                    "segmentation": each.truth.masks[place],
                }
            )
        for place, box in enumerate(each.found.boxes):
            entry = {"image_id": each.index, "category_id": int(each.found.labels[place])}
            shape = {"bbox": xywh(box)} if kind == "bbox" else {"segmentation": each.found.masks[place]}
            found.append({**entry, **shape, "score": float(each.found.scores[place])})
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = {
            "images": [{"id": each.index, "height": each.size[0], "width": each.size[1]} for each in images],
            "categories": [{"id": label} for label in range(classes)],
            "annotations": objects,
        }
        data.createIndex()
        evaluation = COCOeval(data, data.loadRes(found), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("seed", [0, 1])
def test_average_precision_is_that_of_pycocotools(seed):
    images = random_images(25, seed=seed)
    for prefix, kind in (("", "bbox"), ("mask_", "segm")):
        found = evaluate(images, 3, with_masks=True)[prefix]
        expected = by_pycocotools(images, 3, kind)
        for name, value in zip(NAMES, expected.stats, strict=False):
            assert found.summary[prefix + name] == pytest.approx(value, abs=1e-6) or value == -1
        assert np.abs(found.precision - expected.eval["precision"]).max() < 1e-6
        for label, values in enumerate(found.per_class()):
            of_class = expected.eval["precision"][:, :, label, 0, -1]
            assert values["map"] == pytest.approx(of_class[of_class > -1].mean(), abs=1e-6)


def test_the_matches_are_those_of_pycocotools():
    images = random_images(25, seed=2)
    expected = {each["image_id"]: 0 for each in by_pycocotools(images, 3, "bbox").evalImgs if each}
    for each in by_pycocotools(images, 3, "bbox").evalImgs:
        if each is not None and each["aRng"][1] == 1e10:
            right = (each["dtMatches"][0] > 0) & ~each["dtIgnore"][0].astype(bool)
            expected[each["image_id"]] += int(right.sum())
    assert {each.index: int(match(each).right.sum()) for each in images if each.index in expected} == expected


def test_order_and_processes_change_nothing():
    images = random_images(10, seed=3)
    scores = Scores(3, with_masks=True)
    scores.update(images[::-1])
    assert scores.compute() == {
        name: pytest.approx(value, nan_ok=True)
        for each in evaluate(images, 3, True).values()
        for name, value in each.summary.items()
    }


def test_what_cannot_be_measured_is_not_a_number():
    """Only large objects: pycocotools gives -1 for small ones, which a mean or a comparison would take for a score."""
    box = [[0, 0, 100, 100]]
    image = Scored(
        0, (120, 120), Found(np.array(box, np.float32), np.array([0.9], np.float32), np.array([0])), truth(box, [0])
    )
    values = evaluate([image], 2, with_masks=False)[""]
    assert (values.summary["map"], np.isnan(values.summary["map_small"])) == (1.0, True)
    assert np.isnan(values.per_class()[1]["map"])


def test_intervals_hold_the_value_and_shrink_with_the_images():
    """Resampling n copies of independent images: the width falls as 1 / sqrt(n)."""
    few, many = random_images(20, seed=4), random_images(80, seed=4)
    widths = []
    for images in (few, many):
        values = evaluate(images, 3, with_masks=False)[""]
        low, high = values.intervals(100, seed=0)["map"]
        assert low < values.summary["map"] < high
        widths.append(high - low)
    assert 1.2 < widths[0] / widths[1] < 3.5


def test_kinds_of_mistakes():
    """One image with each mistake of TIDE, and what COCO's AP50 would be if one kind were corrected."""
    objects = truth([[0, 0, 20, 20], [40, 0, 60, 20], [0, 40, 20, 60], [80, 80, 100, 100]], [0, 0, 1, 1])
    found = [
        ([0, 0, 20, 20], 0, 0.9),  # right
        ([0, 0, 20, 19], 0, 0.8),  # duplicate
        ([40, 0, 60, 20], 1, 0.7),  # classification
        ([0, 40, 20, 46], 1, 0.6),  # localisation: IoU 0.3
        ([0, 50, 10, 60], 0, 0.5),  # both: IoU 0.25 with an object of class 1
        ([70, 40, 75, 45], 0, 0.4),  # background
    ]
    boxes, labels, scores = (np.array(values) for values in zip(*found, strict=True))
    image = Scored(0, (120, 120), Found(boxes.astype(np.float32), scores.astype(np.float32), labels), objects)
    matched = match(image)
    assert matched.error == ["", "duplicate", "classification", "localisation", "both", "background"]
    assert matched.missed.tolist() == [False, False, False, True]
    kinds = {each.name: each for each in error_kinds([matched], 2)}
    assert all(kinds[name].count == 1 for name in kinds)
    base = evaluate([image], 2, False)[""].summary["map_50"]

    def corrected(place, box=None, label=None, remove=False):
        keep = [n for n in range(6) if n != place or not remove]
        new_boxes, new_labels = boxes.copy(), labels.copy()
        if box is not None:
            new_boxes[place] = box
        if label is not None:
            new_labels[place] = label
        new = Found(new_boxes[keep].astype(np.float32), scores[keep].astype(np.float32), new_labels[keep])
        return evaluate([Scored(0, (120, 120), new, objects)], 2, False)[""].summary["map_50"] - base

    assert kinds["classification"].cost == pytest.approx(corrected(2, label=0), abs=1e-6)
    assert kinds["localisation"].cost == pytest.approx(corrected(3, box=[0, 40, 20, 60]), abs=1e-6)
    assert kinds["duplicate"].cost == pytest.approx(corrected(1, remove=True), abs=1e-6)
    assert kinds["background"].cost == pytest.approx(corrected(5, remove=True), abs=1e-6)
    counts = confusion([matched], 2, min_score=0.0)
    # Rows: true 0, true 1, background; columns: detected as 0, as 1, not at all.
    assert counts.tolist() == [[1, 1, 0], [0, 0, 2], [3, 1, 0]]
