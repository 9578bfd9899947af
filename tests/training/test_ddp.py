"""Two processes on one CPU: one run folder, frozen features, and exact scores."""

import functools
import json

import pytest
import torch
import torchvision
from conftest import draw_picture, run_program

from cnnlab.loading import load_run
from cnnlab.models.building import build_network


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a two-process run of a small frozen MobileNetV2, and the program's output."""
    folder = tmp_path_factory.mktemp("ddp")
    for label, (shape, count) in enumerate({"circle": 20, "square": 14}.items()):
        for number in range(count):
            draw_picture(folder / "pictures" / shape / f"{number:02d}.png", shape, 100 * label + number)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("OMP_NUM_THREADS", "1")
        done = run_program(
            "trainer=ddp_cpu",
            "model=mobilenet_v2",
            "model.weights=null",
            "+model.network.width_mult=0.25",
            "model.image_size=32",
            "model.resize_size=32",
            "preprocessing=standardize",
            "freeze=features",
            "data=image_folder",
            f"data.root={folder / 'pictures'}",
            "data.batch_size=4",
            "data.num_workers=0",
            "data.val_fraction=0.15",
            "trainer.max_epochs=2",
            "callbacks=none",
            cwd=folder,
        )
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.fixture(scope="module")
def run_folder(run):
    (found,) = [path.parent for path in (run[0] / "outputs").rglob("run.json")]
    return found


def test_one_folder_holds_the_run(run, run_folder):
    assert [path.parent for path in (run[0] / "outputs").rglob("config.yaml")] == [run_folder]
    record = json.loads((run_folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["world_size"] == 2
    assert record["images"] == {"train": 29, "val": 5}


@pytest.mark.parametrize("checkpoint", ["best.ckpt", "last.ckpt"])
def test_frozen_features_are_those_of_the_seed(run_folder, checkpoint):
    constructor = functools.partial(torchvision.models.mobilenet_v2, width_mult=0.25, dropout=0.2)
    initial = build_network(constructor, num_classes=2, weights=None, seed=0).state_dict()
    state = torch.load(run_folder / "checkpoints" / checkpoint, weights_only=True)["state_dict"]
    features = [name for name in initial if name.startswith("features.")]
    assert [name for name in features if not torch.equal(state[f"network.{name}"], initial[name])] == []
    assert not torch.equal(state["network.classifier.1.weight"], initial["classifier.1.weight"])


def test_score_counts_every_image_once(run, run_folder):
    """Five validation images on two ranks: padding to six would score a multiple of 1/6."""
    loaded = load_run(run_folder / "checkpoints" / "last.ckpt")
    names = (run_folder / "splits" / "val.txt").read_text().split()
    truth = torch.tensor([loaded.classes.index(name.split("/")[0]) for name in names])
    probabilities = loaded.predict([run[0] / "pictures" / name for name in names])
    last = json.loads((run_folder / "run.json").read_text())["last"]
    assert len(names) == 5
    assert last["val/acc"] == pytest.approx((probabilities.argmax(1) == truth).float().mean().item(), abs=1e-6)
    expected = torch.nn.functional.nll_loss(probabilities.log(), truth).item()
    assert last["val/loss"] == pytest.approx(expected, rel=1e-4)


def test_messages_are_printed_once(run):
    assert run[1].stderr.count("Run folder:") == 1
