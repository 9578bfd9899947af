"""A task of one's own in one file: everything works for it without a change to cnnlab."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from in_process import command_line
from PIL import Image
from torch import nn
from torchmetrics import MeanAbsoluteError

from cnnlab import explain
from cnnlab.cli import compare, evaluate, predict, visualize
from cnnlab.data.image_datamodule import build_data
from cnnlab.data.images import ImageArray, Splits
from cnnlab.drawing.album import Album
from cnnlab.drawing.sheets import tensor_image
from cnnlab.tasks.base import Task
from cnnlab.tasks.regression.task import Value
from cnnlab.training.module import TaskModule


def dots(count: int = 60) -> Splits:
    """8 x 8 pixels with so many of them lit as the target says."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 20, count).astype(np.float32)
    pixels = np.stack([rng.permutation(64).reshape(8, 8) < target for target in targets]).astype(np.uint8) * 255
    return Splits(ImageArray(pixels, targets, [], np.arange(count)))


def counting_network(num_classes: int) -> nn.Module:
    network = nn.Sequential()
    network.add_module("features", nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten()))
    network.add_module("classifier", nn.Linear(256, 1))
    return network


class Counter(TaskModule):
    def build_metrics(self):
        return {"mae": MeanAbsoluteError()}

    def forward(self, inputs):
        return super().forward(inputs).squeeze(1)

    def predict(self, inputs):
        return self(inputs).round()


@dataclass
class DotsData:
    name: str
    batch_size: int
    channels: int


class Dots(Task):
    data_schema = DotsData
    module_class = Counter
    pictures = {**explain.OF_NETWORKS, "sample": "test_new_task"}  # noqa: RUF012

    def build_data(self, cfg, spec, augmentations, trusted):
        sizes = {"channels": 1, "image_size": spec.image_size, "resize_size": spec.resize_size}
        where = {"cache_dir": Path(cfg["paths"]["cache_dir"]), "seed": cfg["seed"]}
        return build_data(dots, **where, **sizes, batch_size=cfg["data"]["batch_size"], stratified=False)

    def predict(self, module, inputs, options):
        return [Value(value) for value in module.predict(inputs).tolist()]


@dataclass
class Options:
    number: int = 0


def draw(subject, options, output):
    with Album(output) as album:
        album.add("sample", tensor_image(subject.data.eval_dataset(subject.data.parts.val)[(0, options.number)][0]))
    return album.paths


CONFIGS = {
    "task/dots": "name: dots\nimplementation: {_target_: test_new_task.Dots}\nmetric: mae\nmetrics: {mae: min}",
    "data/dots": "defaults: [override /task@_global_.task: dots, override /loss@_global_.loss: l1, "
    "override /augmentation@_global_.augmentation: none]\nname: dots\nbatch_size: 9\nchannels: 1",
    "loss/l1": "_target_: torch.nn.L1Loss\n_partial_: true",
    "model/counter": "defaults: [override /preprocessing@_global_.preprocessing: none]\nname: counter\n"
    "network: {_target_: test_new_task.counting_network}\nweights: null\nin_channels: 1\nimage_size: 8\nresize_size: 8",
}
RUN = ("model=counter", "data=dots", "trainer=cpu", "callbacks=none", "logger=csv", "trusted_packages=[test_new_task]")


@pytest.mark.usefixtures("kept_logging")
def test_every_verb_works_for_a_task_of_ones_own(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.chdir(tmp_path)
    for name, text in CONFIGS.items():
        (tmp_path / f"my_configs/{name}.yaml").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"my_configs/{name}.yaml").write_text(text)
    sweep = (*RUN, "trainer.max_epochs=2", "optimizer.lr=0.01,0.00001", "sweep.dir=sweep", "--config-dir", "my_configs")
    assert command_line(monkeypatch, "-m", *sweep) == 0
    run = tmp_path / "sweep" / "lr-0.01"
    again = (f"resume={run}", "trainer.max_epochs=4", RUN[-1], "--config-dir", "my_configs")
    assert command_line(monkeypatch, *again) == 0
    record = json.loads((run / "run.json").read_text())
    errors = [float(row.split(",")[-1]) for row in (run / "metrics.csv").read_text().splitlines()[1:] if row[-1] != ","]
    assert (record["metric"], record["best"]["val/mae"]) == ("val/mae", pytest.approx(min(errors)))
    compare.main(["sweep"])
    assert "Best: optimizer.lr=0.01" in capsys.readouterr().out  # fewer mistakes, though the number is smaller
    evaluate.main([f"run={run}", "split=val", RUN[-1]])
    assert json.loads((run / "report/metrics.json").read_text())["mae"] == pytest.approx(record["best"]["val/mae"])
    Image.fromarray(dots().train.pixels[0]).save(tmp_path / "dots.png")
    predict.main([f"run={run}", "images=dots.png", RUN[-1]])
    assert (run / "predictions/dots.png/predictions.csv").read_text().startswith("image,value\ndots.png,")
    assert visualize.visualize([f"run={run}", "what=sample", "number=1", RUN[-1]])[0].is_file()
