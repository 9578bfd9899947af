"""Pictures of a detector: what they show is what the network, torchvision and the training data say."""

import json

import numpy as np
import pytest
import torch
from boxes import SHAPES, save_picture
from in_process import parts_of_a_run, train_in_process
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cnnlab import api
from cnnlab.cli.visualize import visualize
from cnnlab.errors import InputError
from cnnlab.tasks.detection.augmenting import Fit
from cnnlab.tasks.detection.explain.anchors import matches
from cnnlab.tasks.detection.explain.attribution import batch_of, chosen, occlusion, score_of, share_inside
from cnnlab.tasks.detection.explain.looking import Seen, input_of
from cnnlab.tasks.detection.explain.proposals import proposals
from cnnlab.tasks.detection.sources.shapes import shapes
from cnnlab.tasks.detection.tiles import prepare


def seen(number=0, size=64):
    images = shapes(20, size, 4, seed=5).train
    pixels = images.tensor(number, 3)
    return Seen(images.name(number), pixels, images.truth(number), images.classes, prepare(pixels, Fit(64, 96)))


def untrained(tmp_path, kind, *overrides):
    own = [option for option in SHAPES if not option.startswith("model=")]
    network = [f"model={kind}", "model.network.channels=16", "model.network.norm=batch", "model.image_size=64"]
    _, module, _ = parts_of_a_run(tmp_path / kind, *own, *network, *overrides)
    return module.eval()


def numbers(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def test_detections_are_those_of_predict(run, tmp_path):
    save_picture(tmp_path / "images/a.png", 80, 60)
    paths = visualize(
        [f"run={run}", "what=detections", f"images={tmp_path}/images", "min_score=0.05", f"output={tmp_path}/out"]
    )
    assert [path.name for path in paths] == ["a.png", "detections.json"]
    expected = api.predict(run, tmp_path / "images", min_score=0.05)["a.png"].found
    found = numbers(tmp_path / "out", "detections")["annotations"]
    assert [entry["score"] for entry in found] == pytest.approx(expected.scores.tolist(), abs=1e-5)
    assert len(found) > 0
    visualize([f"run={run}", "what=detections", "limit=2", f"output={tmp_path}/val"])
    assert len(list((tmp_path / "val").glob("*.png"))) == 2


def test_anchors_are_matched_as_ssd_does(run, tmp_path):
    """Liu et al. 2016: each anchor to its best object from IoU .5 on, and each object to its best anchor."""
    module = api.load_run(run).network
    image = seen()
    found = matches(module, image, image.truth)
    boxes, objects = found.boxes.numpy(), image.truth.boxes
    low = np.maximum(boxes[None, :, :2], objects[:, None, :2])
    high = np.minimum(boxes[None, :, 2:], objects[:, None, 2:])
    common = (high - low).clip(0).prod(axis=2)
    areas = [(each[:, 2:] - each[:, :2]).prod(axis=1) for each in (objects, boxes)]
    overlap = common / (areas[0][:, None] + areas[1][None] - common)
    expected = np.where(overlap.max(axis=0) >= 0.5, overlap.argmax(axis=0), -1)
    expected[overlap.argmax(axis=1)] = np.arange(len(objects))
    assert np.array_equal(found.objects.numpy(), expected)
    assert sum(found.counts) == len(boxes)
    visualize([f"run={run}", "what=anchors", f"output={tmp_path}/out"])
    (per_image,) = numbers(tmp_path / "out", "anchors").values()
    assert per_image["anchors_per_level"] == found.counts
    assert all(each["matched"] > 0 for each in per_image["objects"])


def test_proposals_are_those_that_the_second_stage_gets(tmp_path):
    module, image = untrained(tmp_path, "faster_rcnn"), seen()
    boxes, scores = proposals(module, image)
    _, images, pyramid = input_of(module, image)
    with torch.no_grad():
        (expected,), _ = module.network.head.model.rpn(images, pyramid)
    assert torch.equal(boxes, expected)
    assert bool((scores[:-1] >= scores[1:]).all())


def test_attribution_explains_the_score_of_one_detection(run):
    module, image = api.load_run(run).network, seen()
    explained = chosen(module, image, None, 0)
    batch = batch_of(module, image)
    with torch.no_grad():
        (found,) = module(batch, [image.fitted])
    assert explained.score == pytest.approx(float(found["scores"].max()))
    # A window over the whole image: the score falls by as much as on a grey image.
    whole = occlusion(module, image, explained, batch, window=128)
    with torch.no_grad():
        assert float(score_of(module, image, batch, explained)[0]) == pytest.approx(explained.score, rel=1e-5)
        grey = float(score_of(module, image, torch.full_like(batch, 0.5), explained)[0])
    assert float(whole[0, 0]) == pytest.approx(explained.score - grey, abs=1e-5)
    values = torch.zeros(8, 8)
    values[2:4, 2:6], values[7, 7] = 1, -2
    assert share_inside(values, torch.tensor([2.0, 2, 6, 4])) == pytest.approx(0.8)
    with pytest.raises(InputError, match=r"detection=9999: 00000 has the detections 0 to"):
        chosen(module, image, None, 9999)


def test_augmented_images_are_those_of_training(run, tmp_path):
    visualize([f"run={run}", "what=augmentation", "index=3", "draws=3", "alone=false", f"output={tmp_path}/out"])
    drawn = numbers(tmp_path / "out", "draws")["draws"]
    cfg = api.read_config(run)
    dataset = api.data_of_run(cfg, api.load_run(run).spec, augmented=True).train_dataset()
    for epoch, each in enumerate(drawn):
        assert np.allclose(each["boxes"], dataset[(epoch, 3)][1]["boxes"])
    assert {each["parameters"]["flip"] for each in drawn} <= {"-", "applied"}


def test_levels_of_the_pyramid(run, tmp_path):
    visualize([f"run={run}", "what=features", "level=0,2", f"output={tmp_path}/out"])
    assert [numbers(tmp_path / "out", f"level_{level}")["stride"] for level in (0, 2)] == [16, 64]
    assert not (tmp_path / "out/level_1.png").exists()
    assert min(Image.open(tmp_path / "out/pyramid.png").size) > 300


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["what=proposals"], "has one stage, and no proposals"),
        (["what=attribution", "methods=[lime]"], "Unknown method lime"),
        (["what=attribution", "target=circel"], "Did you mean circle"),
        (["what=attribution", "layer=3"], "Unknown key layer"),
        (["what=features", "level=9"], "has the levels 0 to 5"),
        (["what=anchors", "object=99"], "has the objects 0 to"),
        (["what=augmentation", "index=99"], "have the numbers 0 to 25"),
        (["what=detections", "min_score=2"], "use a number from 0 to 1"),
        (["what=embedding"], "not available for the task detection"),
    ],
)
def test_what_a_picture_of_a_run_cannot_show(run, tmp_path, arguments, reason):
    with pytest.raises(InputError, match=reason):
        visualize([f"run={run}", *arguments, f"output={tmp_path}/out"])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["what=anchors", "model=fcos", "model.network.norm=batch"], "model=fcos has no anchors"),
        (["what=detections", "model=ssdlite"], "has not been trained"),
        (["what=attribution", "model=lenet5", "level=3"], "Unknown key level"),
    ],
)
def test_what_a_picture_of_a_model_cannot_show(tmp_path, arguments, reason):
    own = [option for option in SHAPES if not option.startswith(("model=", "callbacks", "logger"))]
    own = [] if "model=lenet5" in arguments else [*own, f"paths.cache_dir={tmp_path}/cache"]
    with pytest.raises(InputError, match=reason):
        visualize([*own, *arguments, f"output={tmp_path}/out"])


def test_objects_and_detections_are_logged_after_an_epoch(tmp_path):
    own = [option for option in SHAPES if not option.startswith(("callbacks", "logger"))]
    quiet = [
        f"callbacks.{name}=null" for name in ("feature_maps", "filters", "histograms", "diagnostics", "stage_table")
    ]
    options = ["callbacks=detection", *quiet, "callbacks.detections.images=2", "callbacks.detections.min_score=0.01"]
    train_in_process(
        tmp_path / "run", *own, *options, "logger=tensorboard", "data.dataset.images=20", "trainer.max_epochs=1"
    )
    folder = next((tmp_path / "run").rglob("events.*.0"), None) or next((tmp_path / "run").rglob("events.*"))
    events = EventAccumulator(str(folder.parent), {"images": 0}).Reload()
    assert [tag for tag in events.Tags()["images"] if tag.startswith("detections/")] == ["detections/0", "detections/1"]
    (picture,) = events.Images("detections/0")
    assert (picture.step, picture.width > 2 * 400) == (
        4,
        True,
    )  # 18 images in whole batches of 4; two pictures side by side
