"""A detector from a command line to its predictions: training, evaluation, resuming, two processes."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from boxes import RUN, SHAPES, save_picture
from in_process import KeptSignals, command_line, config, interrupt_at_epoch, parts_of_a_run, train_in_process
from PIL import Image
from pycocotools.coco import COCO
from ranks import run_ranks

from cnnlab import api, experiment
from cnnlab.cli import predict
from cnnlab.errors import DataError, InputError
from cnnlab.runs.folder import RunFolder
from cnnlab.system.files import load_tensors
from cnnlab.system.processes import is_rank_zero
from cnnlab.tasks.detection.sources.shapes import shapes


def test_a_run_learns_and_records_its_parts(run):
    record = json.loads((run / "run.json").read_text())
    assert (record["metric"], record["classes"], record["images"]) == (
        "val/map",
        3,
        {"train": 26, "val": 4, "test": 10},
    )
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    losses = [float(row["train/loss_epoch"]) for row in rows if row.get("train/loss_epoch")]
    assert losses[1] < losses[0]
    assert {"val/loss", "val/map", "val/map_50", "val/mar_100", "train/loss_classification"} <= set(rows[0])


def test_evaluation_gives_what_the_run_recorded(run):
    evaluation = api.evaluate(run)
    recorded = json.loads((run / "run.json").read_text())["test"]
    assert evaluation.metrics["map"] == pytest.approx(recorded["test/map"], abs=1e-6)
    numbers = json.loads((run / "report/metrics.json").read_text())
    assert (numbers["n"], set(numbers["per_class"])) == (10, {"circle", "square", "triangle"})
    page = (run / "report/report.html").read_text()
    assert all(word in page for word in ("average precision", "localisation", "triangle"))
    assert {"curves.png", "confusion.csv", "per_class.csv", "errors.csv"} <= {
        p.name for p in (run / "report").iterdir()
    }


def test_predictions_of_pictures_of_any_size(run, tmp_path, capsys):
    drawn = shapes(20, 64, 4, seed=5).train
    drawn.load(0, 3).save(tmp_path / "a.png")
    save_picture(tmp_path / "wide.jpg", 150, 40)
    save_picture(tmp_path / "dot.png", 1, 1)
    predict.main([f"run={run}", f"images={tmp_path}", f"output={tmp_path}/out", "min_score=0.05"])
    assert "3 images" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "out/predictions.csv").open()))
    found = COCO(str(tmp_path / "out/predictions.json"))
    sizes = {"a.png": (64, 64), "wide.jpg": (150, 40), "dot.png": (1, 1)}
    assert {image["file_name"]: (image["width"], image["height"]) for image in found.imgs.values()} == sizes
    assert len(rows) == len(found.anns) > 0
    for row in rows:
        width, height = sizes[row["image"]]
        assert 0 <= float(row["x1"]) < float(row["x2"]) <= width + 1e-3
        assert 0 <= float(row["y1"]) < float(row["y2"]) <= height + 1e-3
        assert float(row["score"]) >= 0.05
    counts = {row["image"]: row for row in csv.DictReader((tmp_path / "out/counts.csv").open())}
    assert sum(int(counts[name][label]) for name in counts for label in drawn.classes) == len(rows)
    assert Image.open(tmp_path / "out/pictures/wide.jpg.png").size == (450, 120)  # enlarged


def test_tiles_find_what_the_whole_picture_is_too_small_for(run, tmp_path):
    """Four pictures side by side, cut into tiles of their size, give the detections of the four."""
    drawn = shapes(20, 64, 4, seed=5).train
    whole = Image.new("RGB", (128, 128))
    for number, place in enumerate([(0, 0), (64, 0), (0, 64), (64, 64)]):
        drawn.load(number, 3).save(tmp_path / f"{number}.png")
        whole.paste(drawn.load(number, 3), place)
    whole.save(tmp_path / "whole.png")
    tiled = api.predict(run, tmp_path / "whole.png", min_score=0.1, tile=64, overlap=0.0)["whole.png"]
    single = [api.predict(run, tmp_path / f"{number}.png", min_score=0.1)[f"{number}.png"] for number in range(4)]
    assert len(tiled.found.labels) > 0
    moved = [
        each.found.boxes + np.array([x, y, x, y])
        for each, (x, y) in zip(single, [(0, 0), (64, 0), (0, 64), (64, 64)], strict=True)
    ]
    expected = np.concatenate(moved)
    assert len(tiled.found.boxes) <= len(expected)
    nearest = np.abs(tiled.found.boxes[:, None] - expected[None]).max(axis=2).min(axis=1)
    assert nearest.max() < 0.01


def test_a_resumed_run_is_the_run_that_was_not_stopped(run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, KeptSignals():
        interrupt_at_epoch(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            train_in_process(tmp_path / "run", *RUN)
    train_in_process(tmp_path / "run", *RUN, resume=True)
    straight, resumed = (load_tensors(f / "checkpoints/last.ckpt")["state_dict"] for f in (run, tmp_path / "run"))
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    first, second = (json.loads((folder / "run.json").read_text())["test"] for folder in (run, tmp_path / "run"))
    assert first == second


def train_as(rank: int, folder: Path, options: tuple[str, ...]) -> None:
    cfg = config(folder / "run", *options)
    run = RunFolder(folder / "run", cfg, list(options), writes=is_rank_zero())
    experiment.train(cfg, run)
    (folder / f"{rank}.json").write_text(json.dumps(run.record["test"]))
    run.update(status="finished")


def test_two_processes_score_every_image_once(tmp_path):
    """Ten test images on two processes, odd numbers of objects on each: the scores are those of one process."""
    options = (*(o for o in RUN if o != "trainer=cpu"), "trainer=ddp_cpu", "trainer.max_epochs=1")
    assert run_ranks(train_as, tmp_path, options) == [0, 0]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert api.evaluate(tmp_path / "run").metrics["map"] == pytest.approx(first["test/map"], abs=1e-6)


@pytest.mark.usefixtures("kept_logging")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (["metric=mask_map"], "this detector gives no masks"),
        (["loss=cross_entropy"], "cannot be the loss of a detector"),
        (["regularization=[label_smoothing]"], "changes the class of an image"),
        (["augmentation=[mixup]"], "augmentation=mosaic"),
        (["model=mobilenet_v2", "model.weights=null"], "is not a detector"),
        (["+loss.weights.mask=2.0"], "the detector's losses are bbox_regression, classification"),
        (["data.dataset.most=0"], "1 shape"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_run(tmp_path, monkeypatch, capsys, changes, reason):
    keys = {change.split("=")[0] for change in changes}
    options = [o for o in SHAPES if o.split("=")[0] not in keys and not ("model" in keys and o.startswith("model."))]
    monkeypatch.chdir(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        assert command_line(patch, *options, *changes, "paths.output_dir=run") == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_boxes_are_not_enough_for_outlines(tmp_path):
    for number in range(4):
        save_picture(tmp_path / f"images/{number}.jpg", 60, 40, seed=number)
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / f"labels/{number}.txt").write_text("0 0.5 0.5 0.5 0.5")
    (tmp_path / "classes.txt").write_text("cat\n")
    own = [option for option in SHAPES if not option.startswith(("data", "model="))]
    data = ["data=yolo_folder", f"data.root={tmp_path}", "data.val_fraction=0.25"]
    with pytest.raises(InputError, match=r"needs polygons or masks. Use model=faster_rcnn"):
        parts_of_a_run(tmp_path / "run", *own, "model=mask_rcnn", "model.network.norm=batch", *data)
    for number in range(4):
        (tmp_path / f"labels/{number}.txt").write_text("")
    with pytest.raises(DataError, match="average precision is undefined"):
        parts_of_a_run(tmp_path / "run", *own, "model=faster_rcnn", "model.network.norm=batch", *data)


def test_images_without_objects_are_trained_on(tmp_path):
    """Every batch of two has an image without objects; the losses are finite and fall."""
    for number in range(6):
        save_picture(tmp_path / f"images/{number}.jpg", 64, 48, seed=number)
        (tmp_path / "labels").mkdir(exist_ok=True)
        if number < 2:
            (tmp_path / f"labels/{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "classes.txt").write_text("cat\n")
    own = [o for o in SHAPES if not o.startswith(("data", "model="))]
    options = ["data=yolo_folder", f"data.root={tmp_path}", "data.val_fraction=0", "data.batch_size=2"]
    network = ["model=retinanet", "model.image_size=64", "model.network.channels=32", "model.network.norm=batch"]
    record = train_in_process(tmp_path / "run", *own, *network, *options, "data.num_workers=0", "trainer.max_epochs=2")
    assert np.isfinite(record["last"]["train/loss_epoch"])
