"""Pretrained detectors: torchvision's COCO weights, and those of a run, scored and used without training."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from boxes import SHAPES, save_picture
from in_process import config
from torchvision.ops import FrozenBatchNorm2d

from cnnlab import api
from cnnlab.cli import evaluate, predict
from cnnlab.config import build
from cnnlab.errors import DataError, InputError
from cnnlab.models.building import meta_network
from cnnlab.models.inputs import network_node
from cnnlab.tasks.detection import Detection
from cnnlab.tasks.detection.detector_weights import DetectorWeights, find_detector_weights, renamed
from cnnlab.tasks.detection.evaluation import EvaluateOptions, score
from cnnlab.tasks.detection.pretrained import matched
from cnnlab.tasks.detection.sources.shapes import shapes

FILES = {
    "mask_rcnn": "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
    "retinanet": "retinanet_resnet50_fpn_coco-eeacb38b.pth",
    "fcos": "fcos_resnet50_fpn_coco-99b0c9b7.pth",
}


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No weights in torch's cache, and none to be downloaded."""

    def refuse(*arguments, **options):
        raise DataError("https://download.pytorch.org cannot be reached")

    monkeypatch.setattr("cnnlab.models.weights.download", refuse)
    return tmp_path


def model_of(name, *overrides):
    return config(Path("run"), "data=shapes", f"model={name}", *overrides)["model"]


@pytest.mark.parametrize("name", FILES)
def test_coco_weights_fit_the_detector_that_they_choose(offline, name):
    """Names and shapes are those of torchvision's own detector, whose file lies in the folder of the weights."""
    model = model_of(name, "model.weights=COCO_V1")
    assert (model["backbone"], model["image_size"], model["resize_size"]) == ("resnet50", 800, 1333)
    peer = torchvision.models.detection
    with torch.device("meta"):
        state = getattr(peer, FILES[name].split("_coco")[0])(weights=None, weights_backbone=None).state_dict()
    file = {key: torch.zeros(0) for key in state} | {"backbone.body.bn1.running_var": torch.tensor([0.5])}
    (offline / "weights").mkdir()
    torch.save(file, offline / "weights" / FILES[name])
    found = find_detector_weights(model, offline)
    assert (len(found.classes), found.classes[0], found.classes[-1]) == (80, "person", "toothbrush")
    outputs = len(found.labels)
    assert (outputs, found.labels.count(-1)) == ((90, 10) if "rcnn" in name else (91, 11))
    # COCO numbers its categories from 1, and 13 is a stop sign.
    stop = 13 - 1 if "rcnn" in name else 13
    assert found.classes[found.labels[stop]] == "stop sign"
    node = network_node(model, Detection("detection", {}).input_spec(model))
    own = meta_network(build(node, ("cnnlab",)), outputs).state_dict()
    shapes = {key: value.shape for key, value in renamed(state).items() if "num_batches" not in key}
    assert shapes == {key: own[key].shape for key in own if "anchor" not in key and "num_batches" not in key}


def test_coco_weights_are_normalized_as_torchvision_does(offline):
    """torchvision adds nothing to the variances of these backbones; the layers here add 1e-5 to what they are given."""
    variance, images = torch.rand(3) + 0.01, torch.rand(2, 3, 4, 4)
    (offline / "weights").mkdir()
    for name, eps in (("retinanet", 0.0), ("fcos", 1e-5)):
        torch.save({"backbone.body.bn1.running_var": variance}, offline / "weights" / FILES[name])
        given = find_detector_weights(model_of(name, "model.weights=COCO_V1"), offline).state[
            "features.bn1.running_var"
        ]
        own, peer = FrozenBatchNorm2d(3, 1e-5), FrozenBatchNorm2d(3, eps)
        own.running_var, peer.running_var = given, variance
        assert torch.allclose(own(images), peer(images), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["model=ssdlite"], "COCO weights of ssdlite belong to a backbone that was changed"),
        (["model=mask_rcnn", "model.backbone=resnet18"], "trained with model.backbone=resnet50, not resnet18"),
        (["model=mask_rcnn"], "Put its file, as maskrcnn_resnet50_fpn.pth"),
    ],
)
def test_coco_weights_that_cannot_be_had_say_why(offline, options, reason):
    name, *others = options
    with pytest.raises((InputError, DataError), match=reason):
        find_detector_weights(model_of(name.removeprefix("model="), *others, "model.weights=COCO_V1"), offline)


def test_classes_are_matched_by_name():
    weights = DetectorWeights({}, "file", classes=["person", "dog", "cat"], labels=[-1, 0, 1, 2])
    assert matched(weights, ["cat", "person"]).tolist() == [-1, 1, -1, 0]
    with pytest.raises(InputError, match=r"do not know these classes of the data: horse\. They know person, dog, cat"):
        matched(weights, ["cat", "horse"])


def test_weights_of_a_run_are_scored_and_predict_without_it(run, tmp_path, capsys):
    own = [
        option for option in SHAPES if not option.startswith(("model.weights", "preprocessing", "callbacks", "logger"))
    ]
    options = [*own, "data.dataset.images=20", f"model.weights={run}", f"paths.cache_dir={tmp_path}/cache"]
    evaluate.main([*options, f"paths.output_dir={tmp_path}/scored"])
    numbers = json.loads((tmp_path / "scored/report/metrics.json").read_text())
    assert (numbers["n"], list(numbers["per_class"])) == (20, ["circle", "square", "triangle"])
    loaded = api.load_run(run)
    images, data = shapes(20, 64, 4, seed=0).train, api.data_of_run(api.read_config(run), loaded.spec)
    expected = score(loaded.network, data, images, EvaluateOptions(bootstrap=20)).metrics
    assert numbers["map"] == pytest.approx(expected["map"], abs=1e-6)
    save_picture(tmp_path / "images/a.png", 64, 64)
    for name, way in (("weights", options), ("run", [f"run={run}"])):
        predict.main([*way, f"images={tmp_path}/images", f"output={tmp_path}/{name}", "min_score=0.05"])
    rows = [list(csv.DictReader((tmp_path / name / "predictions.csv").open())) for name in ("weights", "run")]
    assert len(rows[0]) == len(rows[1]) > 0
    boxes = [np.array([[float(row[key]) for key in ("score", "x1", "x2")] for row in part]) for part in rows]
    assert np.allclose(*boxes, atol=1e-3)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["model=ssdlite", "model.weights=null"], "without weights the network is untrained"),
        ([], "run=FOLDER, or model"),
    ],
)
def test_predict_without_a_trained_network(tmp_path, options, reason):
    save_picture(tmp_path / "a.png", 32, 32)
    with pytest.raises(InputError, match=reason):
        predict.main([*options, f"images={tmp_path}/a.png"])
