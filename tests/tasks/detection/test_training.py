"""What a run may have works for detectors as for classifiers: freezing, weights of a run, the choice of the metric."""

import csv
import json
import logging

import numpy as np
import pytest
import torch
from boxes import SHAPES, save_picture
from in_process import parts_of_a_run, train_in_process
from torch.utils.data import SequentialSampler

from cnnlab import api
from cnnlab.data.sampling import EpochBatches, GroupedBatches
from cnnlab.system.files import load_tensors
from cnnlab.tasks.detection.annotated import AnnotatedFiles
from cnnlab.tasks.detection.scores import Scores
from cnnlab.tasks.detection.truth import truth

FEW = (*SHAPES, "data.dataset.images=16", "data.dataset.side=32", "trainer.max_epochs=1", "speed=exact")
MASKS = ("model=mask_rcnn", "model.backbone=timm:test_resnet", "model.weights=null", "model.network.norm=batch")
SMALL = ("model.network.channels=16", "model.network.proposals=20", "model.network.samples=8", "model.image_size=32")


def overrides(*others):
    keys = {other.split("=")[0] for other in others}
    return [*(each for each in FEW if each.split("=")[0] not in keys), *others]


def backbone(state):
    return {name: value for name, value in state.items() if name.startswith("network.features.")}


@pytest.mark.parametrize(
    ("freeze", "kept"),
    [
        (["freeze=features"], ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]),
        (["freeze=last_block"], ["conv1", "bn1", "layer1", "layer2", "layer3"]),
        (["freeze=schedule", "freeze.phases=[{epoch: 0, train: classifier}]"], ["conv1", "bn1", "layer4"]),
    ],
)
def test_frozen_stages_and_their_statistics_stay_bit_by_bit(tmp_path, freeze, kept):
    options = overrides(*freeze, "model.network.norm=batch")
    _, module, _ = parts_of_a_run(tmp_path / "before", *options)
    before = backbone({name: value.clone() for name, value in module.state_dict().items()})
    train_in_process(tmp_path / "run", *options)
    after = backbone(load_tensors(tmp_path / "run/checkpoints/last.ckpt")["state_dict"])
    same = {name for name, value in after.items() if torch.equal(value, before[name])}
    for stage in kept:
        names = {name for name in after if name.startswith(f"network.features.{stage}.")}
        assert names
        assert names <= same
    trained = {name for name in after if "layer4" in name and name.endswith("weight")}
    assert ("layer4" in kept) == (trained <= same)


def test_a_detector_starts_from_the_run_of_a_classifier(tmp_path):
    for number in range(8):
        save_picture(tmp_path / f"photos/{'cat' if number % 2 else 'dog'}/{number}.jpg", 40, 40, seed=number)
    network = ["model=timm", "model.name=test_resnet", "model.weights=null", "model.image_size=32"]
    data = ["data=image_folder", f"data.root={tmp_path}/photos", "data.val_fraction=0.25", "data.batch_size=2"]
    quiet = ["trainer=cpu", "trainer.max_epochs=1", "callbacks=none", "logger=none", "data.num_workers=0"]
    train_in_process(tmp_path / "classifier", *network, *data, *quiet, "preprocessing=standardize")
    learned = load_tensors(tmp_path / "classifier/best_weights.pth")
    options = overrides(f"model.weights={tmp_path}/classifier", "preprocessing=weights", "model.image_size=32")
    _, module, _ = parts_of_a_run(tmp_path / "detector", *options)
    state = module.state_dict()
    names = {name.removeprefix("network.features.") for name in backbone(state)}
    assert names == {name for name in learned if not name.startswith("fc.") and "preprocessing" not in name}
    assert all(torch.equal(state[f"network.features.{name}"], learned[name]) for name in names)


@pytest.mark.parametrize(("metric", "epoch"), [("map", 0), ("mask_map", 1)])
def test_the_metric_decides_which_epoch_is_best(tmp_path, monkeypatch, metric, epoch):
    computed = iter([(0.9, 0.1), (0.2, 0.4)] * 2)

    def compute(scores):
        if scores._values is None:
            values = dict(zip(("map", "mask_map"), next(computed), strict=True))
            names = ("map", "map_50", "map_75", "mar_100")
            scores._values = {f"{kind}{name}": 0.0 for kind in ("", "mask_") for name in names} | values
        return scores._values

    monkeypatch.setattr(Scores, "compute", compute)
    options = overrides(*MASKS, *SMALL, f"metric={metric}", "trainer.max_epochs=2")
    record = train_in_process(tmp_path / "run", *options)
    assert record["best"]["epoch"] == epoch
    rows = list(csv.DictReader((tmp_path / "run/metrics.csv").open()))
    assert [float(row[f"val/{metric}"]) for row in rows if row.get(f"val/{metric}")][epoch] == record["best"][
        f"val/{metric}"
    ]


def test_bfloat16_trains_and_the_recorded_scores_are_those_of_evaluate(tmp_path):
    options = overrides(*MASKS, *SMALL, "data.test_fraction=0.25", "speed.precision=bf16-mixed", "optimizer.lr=0.01")
    record = train_in_process(tmp_path / "run", *options)
    assert np.isfinite(record["last"]["train/loss_epoch"])
    metrics = api.evaluate(tmp_path / "run").metrics
    recorded = json.loads((tmp_path / "run/run.json").read_text())["test"]
    for name in ("map", "map_50", "mar_100", "mask_map", "mask_mar_100"):
        assert recorded[f"test/{name}"] == metrics[name]


def wide_and_tall(count):
    """Images of five shapes, without files."""
    sizes = [[(40, 100), (60, 80), (50, 50), (80, 60), (100, 40)][index * 7 % 5] for index in range(count)]
    nothing = [truth(np.zeros((0, 4)), [])] * count
    return AnnotatedFiles(None, [None] * count, nothing, sizes, ["cat"], False)


def test_batches_hold_images_of_similar_shape():
    images = wide_and_tall(70)

    class Sampler(SequentialSampler):
        """Draws (epoch, index) in an order of its own."""

        def __iter__(self):
            return iter([(0, index) for index in np.random.default_rng(3).permutation(70).tolist()])

    plain = EpochBatches(Sampler(range(70)), 4, False)
    grouped = list(GroupedBatches(plain, lambda draw: images.size(draw[1])[0] / images.size(draw[1])[1]))
    assert sorted(index for batch in grouped for _, index in batch) == list(range(70))
    assert len(grouped) == len(plain)

    def padding(batches):
        used = sum(np.prod(images.size(index)) for batch in batches for _, index in batch)
        sides = [[max(images.size(index)[axis] for _, index in batch) for axis in (0, 1)] for batch in batches]
        return sum(len(batch) * np.prod(side) for batch, side in zip(batches, sides, strict=True)) / used

    assert padding(grouped) < 1.2 < padding(list(plain))


def test_small_objects_are_warned_about(tmp_path, caplog):
    for number in range(4):
        save_picture(tmp_path / f"images/{number}.jpg", 800, 640, seed=number)
        (tmp_path / "labels").mkdir(exist_ok=True)
        big = "0 0.5 0.5 0.5 0.5\n" if number else ""
        (tmp_path / f"labels/{number}.txt").write_text(big + "0 0.2 0.2 0.02 0.02\n")
    (tmp_path / "classes.txt").write_text("cat\n")
    own = [each for each in overrides("data.val_fraction=0") if not each.startswith(("data=", "data.dataset"))]
    data = ["data=yolo_folder", f"data.root={tmp_path}", "model.image_size=320", "model.resize_size=500"]
    with caplog.at_level(logging.WARNING):
        _, _, built = parts_of_a_run(tmp_path / "run", *own, *data)
    assert "57 % of the training boxes are under 8 pixels at model.image_size=320" in caplog.text  # 4 of 7
    assert built.batch_shape == (4, 3, 320, 416)  # 320 x 400, rounded up to multiples of 32


@pytest.mark.slow  # two minutes on two cores: the proof that training works
def test_shapes_are_learned_in_three_epochs(tmp_path, shared_data):
    options = ["data=shapes", "model=ssdlite", "trainer.max_epochs=3", "trainer=cpu", "callbacks=none"]
    record = train_in_process(tmp_path / "run", *options, f"paths.data_dir={shared_data}")
    assert record["last"]["val/map_50"] >= 0.9
