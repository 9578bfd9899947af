"""Numbers of a report against scikit-learn and closed forms; names from data are never markup."""

import base64
import csv
import io
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    top_k_accuracy_score,
)

from cnnlab.api import load_run
from cnnlab.cli.subjects import RunSubject
from cnnlab.data.images import ImageArray
from cnnlab.drawing.sheets import captioned
from cnnlab.errors import InputError
from cnnlab.models.grad_cam import grad_cam
from cnnlab.tasks.classification.heat_maps import HeatMaps, heat_maps
from cnnlab.tasks.classification.report import Scored, metrics, most_confused, top_loss_sheet, write_report

SCRIPT = "<script>alert(1)</script>"


def scored(count: int = 200, classes: int = 8, seed: int = 0, names: list[str] | None = None) -> Scored:
    rng = np.random.default_rng(seed)
    names = names or [f"class {label}" for label in range(classes)]
    truth = rng.integers(0, len(names), count)
    logits = rng.normal(size=(count, len(names))) + 1.5 * np.eye(len(names))[truth]
    pixels = rng.integers(0, 256, (count, 12, 10, 3)).astype(np.uint8)
    return Scored(ImageArray(pixels, truth, names, np.arange(count)), logits, truth, names, 3)


def rows(path) -> list[list[str]]:
    return list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("classes", [2, 3, 5, 6, 8])
def test_metrics_are_scikit_learns(classes):
    it = scored(classes=classes)
    found = metrics(it)
    assert found["n"] == 200
    assert found["acc"] == pytest.approx(accuracy_score(it.truth, it.predicted))
    assert found["f1"] == pytest.approx(f1_score(it.truth, it.predicted, average="macro"))
    assert found["loss"] == pytest.approx(log_loss(it.truth, it.probabilities))
    top5 = 1.0 if classes <= 5 else top_k_accuracy_score(it.truth, it.probabilities, k=5)
    assert found["acc_top5"] == pytest.approx(top5)
    per_class = f1_score(it.truth, it.predicted, average=None)
    assert [entry["f1"] for entry in found["per_class"].values()] == pytest.approx(per_class)
    assert [entry["n"] for entry in found["per_class"].values()] == np.bincount(it.truth).tolist()


@pytest.mark.parametrize(("correct", "count"), [(0, 7), (330, 364), (9, 9), (1, 2)])
def test_interval_is_wilsons(correct, count):
    truth = np.zeros(count, int)
    outputs = np.tile([2.0, -1.0], (count, 1))
    outputs[correct:] = [0.0, 0.5]
    images = ImageArray(np.zeros((count, 2, 2), np.uint8), truth, ["a", "b"], np.arange(count))
    low, high = metrics(Scored(images, outputs, truth, ["a", "b"], 3))["acc_interval_95"]
    z, p = 1.959963984540054, correct / count
    centre = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    assert (low, high) == pytest.approx((max(0.0, centre - half), min(1.0, centre + half)), abs=1e-9)


def test_classes_that_do_not_occur_are_left_out_of_the_mean():
    truth = np.array([0, 0, 1])
    outputs = np.array([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.1, 0.8, 0.1]])
    images = ImageArray(np.zeros((3, 2, 2), np.uint8), truth, ["a", "b", "c"], np.arange(3))
    found = metrics(Scored(images, outputs, truth, ["a", "b", "c"], 3))
    assert list(found["per_class"]) == ["a", "b"]
    assert found["f1"] == pytest.approx((2 / 3 + 1) / 2)


def test_loss_of_a_certain_mistake_is_exact():
    """log(1 + exp(5000)) is 5000; the probability of the true class is 0 in any precision."""
    images = ImageArray(np.zeros((1, 2, 2), np.uint8), np.array([0]), ["a", "b"], np.arange(1))
    assert metrics(Scored(images, np.array([[0.0, 5000.0]]), np.array([0]), ["a", "b"], 3))["loss"] == 5000


def test_most_confused_pairs_come_first():
    counts = np.array([[9, 2, 0], [5, 9, 1], [0, 0, 9]])
    assert most_confused(counts, ["a", "b", "c"]) == [["b", "a", 5], ["a", "b", 2], ["b", "c", 1]]


def test_files_of_a_report(tmp_path):
    it = scored()
    write_report(tmp_path, "A title", it)
    numbers = it.metrics
    assert json.loads((tmp_path / "metrics.json").read_text()) == numbers
    confusion = rows(tmp_path / "confusion.csv")
    assert confusion[0] == ["true \\ predicted", *it.classes]
    assert [[int(cell) for cell in row[1:]] for row in confusion[1:]] == confusion_matrix(
        it.truth, it.predicted
    ).tolist()
    predictions = rows(tmp_path / "predictions.csv")
    assert predictions[0] == ["image", "true", "predicted", "probability", "loss"]
    assert [row[2] for row in predictions[1:]] == [it.classes[label] for label in it.predicted]
    assert [float(row[4]) for row in predictions[1:]] == pytest.approx(
        -np.log(it.probabilities[range(200), it.truth]), abs=1e-6
    )
    per_class = rows(tmp_path / "per_class.csv")
    assert [row[0] for row in per_class[1:]] == it.classes
    assert float(per_class[1][3]) == pytest.approx(numbers["per_class"]["class 0"]["f1"])
    confused = rows(tmp_path / "confused.csv")
    assert sum(int(row[2]) for row in confused[1:]) <= (it.truth != it.predicted).sum()
    for name in ("confusion.png", "top_losses.png"):
        assert Image.open(tmp_path / name).format == "PNG"


def test_page_is_self_contained_and_escapes_every_name(tmp_path):
    names = [SCRIPT, 'quote " and & ampersand', "plain"]
    write_report(tmp_path, f"Title {SCRIPT}", scored(30, names=names))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<script") == 1  # the page's own
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "quote &quot; and &amp; ampersand" in page
    references = re.findall(r"""(?:src|href|url)[=(]["']?([^"'> )]+)""", page)
    assert references
    assert all(re.match("data:image/(png|jpeg);base64,", reference) for reference in references)
    assert not re.search("https?:", re.sub(r"base64,[^\"]*", "", page))


def test_names_with_commas_and_line_breaks_survive_the_tables(tmp_path):
    names = ["a, b", 'c "d"', "e\nf"]
    write_report(tmp_path, "T", scored(30, names=names))
    assert [row[0] for row in rows(tmp_path / "per_class.csv")[1:]] == names


def test_many_classes_have_no_confusion_picture_but_a_table(tmp_path):
    write_report(tmp_path, "T", scored(400, classes=61))
    assert not (tmp_path / "confusion.png").exists()
    assert len(rows(tmp_path / "confusion.csv")) == 62
    assert "Confusion matrix" not in (tmp_path / "report.html").read_text()


def test_largest_losses_come_first():
    it = scored(40)
    worst = int(np.argmax(it.losses))
    page = Image.open(io.BytesIO(top_loss_sheet(it, np.argsort(-it.losses)[:24].tolist())))
    first = it.images.load(worst, 3).resize((150, 180))
    assert np.array_equal(np.asarray(page.crop((25, 10, 175, 190))), np.asarray(first))


def test_sheet_keeps_the_shape_of_pictures():
    page = captioned([Image.new("RGB", (100, 50), "red")] * 7, ["one\ntwo"] * 7)
    assert page.size == (6 * 190 + 10, 2 * 224 + 10)
    red = (np.asarray(page) == [255, 0, 0]).all(axis=2)
    assert red.sum() == 7 * 180 * 90


def test_heat_maps_stand_beside_the_worst_images(tmp_path):
    """Each for the predicted class of its image; what cannot be explained has a report without them, which says why."""
    asked = []

    def explain(indices, targets):
        asked.append((indices, targets))
        return HeatMaps("layer4", [Image.new("RGB", (100, 100), (number, 7, 200)) for number in range(len(indices))])

    it = replace(scored(40), explain=explain)
    write_report(tmp_path, "T", it)
    worst = np.argsort(-it.losses)[:24]
    assert asked == [(worst.tolist(), it.predicted[worst].tolist())]
    page = (tmp_path / "report.html").read_text()
    images = re.findall(r"<img[^>]*alt=\"([^\"]*)\" src=\"data:image/\w+;base64,([^\"]*)", page)
    pairs = [image for image in images if image[0].startswith("class")]
    assert len(pairs) == 2 * 24
    for number in (0, 23):
        found = Image.open(io.BytesIO(base64.b64decode(pairs[2 * number + 1][1]))).getpixel((50, 50))
        assert np.abs(np.subtract(found, (number, 7, 200))).max() < 6
        assert it.images.name(int(worst[number])) in pairs[2 * number][0]
    assert "Grad-CAM of the layer layer4" in page


def test_report_without_heat_maps_says_why(tmp_path, caplog):
    def explain(indices, targets):
        raise InputError("the network has no maps.")

    write_report(tmp_path, "T", replace(scored(40), explain=explain))
    assert "No heat maps: the network has no maps." in (tmp_path / "report.html").read_text()
    assert "The report has no heat maps: the network has no maps." in caplog.text


def test_heat_map_is_the_grad_cam_of_what_the_network_sees(quick_run):
    loaded = load_run(quick_run)
    data = RunSubject(quick_run, {}).data
    indices, targets = [3, 8, 5, 1, 0], [7, 2, 7, 0, 9]
    found = heat_maps(loaded.network, data, data.parts.val, indices, targets)
    assert found.layer == "features.5"
    dataset = data.eval_dataset(data.parts.val)
    pixels = torch.stack([dataset[(0, index)][0] for index in indices])
    maps = grad_cam(loaded.network.network, loaded.network.preprocessed(pixels), "features.5", torch.tensor(targets))
    large = torch.nn.functional.interpolate(maps[:, None], size=(32, 32), mode="bilinear")[:, 0]
    for picture, values in zip(found.pictures, large, strict=True):
        red, _, blue = np.moveaxis(np.asarray(picture).astype(float), 2, 0)
        share = (values / values.max().clamp_min(1e-12)).numpy()  # of red (0.9, 0.1, 0.1) over grey, at most 0.8
        np.testing.assert_allclose(red - blue, 255 * 0.8 * 0.8 * share, atol=1.1)


def uneven(correct_of_rare: int, correct_of_common: int) -> Scored:
    """90 images of "common", 10 of "rare", some of them predicted rightly."""
    truth = np.repeat([0, 1], [90, 10])
    right = np.r_[np.arange(90) < correct_of_common, np.arange(10) < correct_of_rare]
    outputs = np.eye(2)[np.where(right, truth, 1 - truth)]
    images = ImageArray(np.zeros((100, 2, 2), np.uint8), truth, ["common", "rare"], np.arange(100))
    return Scored(images, outputs, truth, ["common", "rare"], 3)


def test_uneven_classes_lead_with_balanced_accuracy_and_recall(tmp_path):
    it = uneven(3, 90)
    assert it.metrics["balanced_acc"] == pytest.approx(balanced_accuracy_score(it.truth, it.predicted))
    assert it.summary().startswith("balanced_acc 0.6500   recall from 0.3000 (rare) to 1.0000 (common)")
    write_report(tmp_path, "uneven", it)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.index("<dt>balanced accuracy") < page.index("<dt>accuracy")
    assert page.index("<td>rare") < page.index("<td>common")  # the class of lowest recall comes first
    assert "9 times as many images" in page
    kept = np.r_[0:15, 90:100]
    pixels = ImageArray(np.zeros((25, 2, 2), np.uint8), it.truth[kept], it.classes, np.arange(25))
    write_report(tmp_path, "even", Scored(pixels, it.outputs[kept], it.truth[kept], it.classes, 3))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.index("<dt>accuracy") < page.index("<dt>balanced accuracy")


@pytest.mark.parametrize(("rare", "common", "warned"), [(0, 90, True), (2, 90, True), (10, 60, True), (9, 90, False)])
def test_accuracy_at_the_share_of_the_largest_class_is_warned_of(rare, common, warned, tmp_path):
    it = uneven(rare, common)
    assert bool(it.warning) == warned
    write_report(tmp_path, "title", it)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    said = "above 0.9000, the share of the largest class: always answering common" in page
    assert said == warned
