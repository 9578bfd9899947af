"""What a run leaves behind, and how it says that it ended."""

import json

import pytest
import torch
import torchvision
import yaml
from in_process import DIGITS, KeptSignals, command_line, interrupt_at_epoch, train_in_process
from program import draw_picture
from sklearn.datasets import load_digits

from cnnlab.errors import InputError
from cnnlab.models.lenet5 import LeNet5
from cnnlab.runs.folder import RunFolder, read_config, read_overrides
from cnnlab.system.files import read_yaml

FEW = ("trainer.limit_train_batches=3", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1")
CONFIG = {
    "seed": 1,
    "metric": "mae",
    "task": {"name": "regression", "metrics": {"mse": "min", "mae": "min", "r2": "max"}},
}
"""As much of a config as a record is made of."""


def record_of(folder) -> dict:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


def test_record_of_a_finished_run(quick_run):
    record = record_of(quick_run)
    assert record["status"] == "finished"
    assert (record["task"], record["metric"], record["modes"]["acc"]) == ("classification", "val/acc", "max")
    assert record["images"] == {"train": 1266, "val": 176, "test": 355}
    assert sum(record["images"].values()) == len(load_digits().target)
    assert (record["classes"], record["seed"], record["device"], record["world_size"]) == (10, 0, "cpu", 1)
    assert set(record["versions"]) >= {"cnnlab", "torch", "lightning", "hydra-core"}
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
    assert "experiment=quickstart" in record["command"]
    assert record["images_per_second"] > 0
    assert record["wall_seconds"] > 0
    assert record["best"]["epoch"] in range(3)
    assert record["last"]["epoch"] == 2


def test_classes_and_splits_of_a_finished_run(quick_run):
    assert json.loads((quick_run / "class_indices.json").read_text()) == {str(i): str(i) for i in range(10)}
    splits = {name: (quick_run / "splits" / f"{name}.txt").read_text().split() for name in ("train", "val", "test")}
    everything = [name for names in splits.values() for name in names]
    assert sorted(everything) == [f"{number:05d}" for number in range(1797)]
    labels = load_digits().target
    for name, fraction in (("val", 0.1), ("test", 0.2)):
        for digit in range(10):
            chosen = sum(labels[int(image)] == digit for image in splits[name])
            assert chosen == int((labels == digit).sum() * fraction + 1e-9)


def test_lists_have_a_line_for_each_image_whatever_its_name(tmp_path):
    for number in range(12):
        draw_picture(tmp_path / "data" / ("cat\ndog" if number % 2 else "b") / f"{number}\n.png", "circle", number)
    (tmp_path / "data" / "b" / "bad\n.png").write_bytes(b"no picture")
    options = [option for option in DIGITS if not option.startswith("data=")]
    data = ("data=image_folder", f"data.root={tmp_path / 'data'}", "data.bad_images=skip", "model.image_size=32")
    record = train_in_process(tmp_path / "run", *options, *data, "trainer.max_epochs=1", "data.val_fraction=0.25")
    for part, count in record["images"].items():
        lines = (tmp_path / "run" / "splits" / f"{part}.txt").read_text(encoding="utf-8").splitlines()
        assert len(lines) == count
    assert sum(record["images"].values()) == 12
    skipped = (tmp_path / "run" / "skipped_images.txt").read_text(encoding="utf-8").splitlines()
    assert len(skipped) == 1
    assert r"bad\n.png" in skipped[0]


def test_config_and_overrides_of_a_finished_run(quick_run):
    cfg = read_config(quick_run)
    assert cfg["trainer"]["max_epochs"] == 3
    assert cfg["model"]["network"]["_target_"] == "cnnlab.models.lenet5.LeNet5"
    assert "${" not in (quick_run / "config.yaml").read_text()
    assert read_overrides(quick_run)[:2] == ["experiment=quickstart", "trainer.max_epochs=3"]


def test_log_of_a_finished_run(quick_run):
    lines = (quick_run / "train.log").read_text(encoding="utf-8").splitlines()
    assert sum("Run folder:" in line for line in lines) == 1
    assert sum("Stages in epoch 0" in line for line in lines) == 1
    assert any("Best val/acc" in line for line in lines)


def test_exported_weights_are_those_of_the_best_checkpoint(quick_run):
    state = torch.load(quick_run / "best_weights.pth", weights_only=True)
    LeNet5().load_state_dict(state, strict=True)
    best = torch.load(quick_run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, best[f"network.{name}"]) for name, value in state.items())


def test_exported_weights_fit_torchvision(tmp_path):
    """Without cnnlab: the file alone, torchvision's class, and `weights_only=True`."""
    for label, shape in enumerate(("circle", "square", "round <square>")):
        for number in range(4):
            draw_picture(tmp_path / "pictures" / shape / f"{number}.png", shape, 100 * label + number)
    train_in_process(
        tmp_path / "run",
        "model=mobilenet_v2",
        "model.weights=null",
        "model.image_size=32",
        "model.resize_size=32",
        "preprocessing=standardize",
        "data=image_folder",
        f"data.root={tmp_path / 'pictures'}",
        "data.batch_size=4",
        "data.val_fraction=0.25",
        "trainer=cpu",
        "trainer.max_epochs=1",
        "callbacks=none",
        "logger=none",
    )
    network = torchvision.models.mobilenet_v2(num_classes=3)
    network.load_state_dict(torch.load(tmp_path / "run" / "best_weights.pth", weights_only=True), strict=True)
    names = json.loads((tmp_path / "run" / "class_indices.json").read_text())
    assert names == {"0": "circle", "1": "round <square>", "2": "square"}
    assert not (tmp_path / "run" / "skipped_images.txt").exists()


def started(folder, config=CONFIG, overrides=(), **options) -> RunFolder:
    run = RunFolder(folder, config, overrides, **options)
    run.begin()
    return run


def test_run_that_diverged_says_so_and_exits_with_4(tmp_path, monkeypatch, kept_logging):
    code = command_line(
        monkeypatch,
        *DIGITS,
        *FEW,
        "optimizer=sgd",
        "optimizer.lr=1e30",
        "scheduler=none",
        "trainer.max_epochs=1",
        f"paths.output_dir={tmp_path / 'run'}",
    )
    record = record_of(tmp_path / "run")
    assert code == 4
    assert record["status"] == "failed"
    assert "The loss is" in record["error"]
    assert "learning rate 1e+30" in (tmp_path / "run" / "train.log").read_text()


def test_interrupted_run_says_how_to_go_on_and_goes_on(tmp_path, monkeypatch, kept_logging):
    folder = tmp_path / "run"
    overrides = (*DIGITS, *FEW, "trainer.max_epochs=3", f"paths.output_dir={folder}")
    with monkeypatch.context() as patched, KeptSignals():
        interrupt_at_epoch(patched, 1)
        assert command_line(patched, *overrides) == 130
    assert record_of(folder)["status"] == "interrupted"
    assert f"resume={folder}" in (folder / "train.log").read_text()
    assert command_line(monkeypatch, f"resume={folder}") == 0
    record = record_of(folder)
    assert record["status"] == "finished"
    assert record["last"]["epoch"] == 2
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 9


def test_nothing_is_written_before_the_run_begins(tmp_path):
    run = RunFolder(tmp_path / "run", CONFIG)
    assert not run.has_begun
    assert not (tmp_path / "run").exists()
    run.begin()
    assert run.has_begun
    record = record_of(tmp_path / "run")
    assert (record["status"], record["seed"]) == ("running", 1)
    assert (record["task"], record["metric"]) == ("regression", "val/mae")
    assert record["modes"] == {"mse": "min", "mae": "min", "r2": "max"}


def test_run_that_fails_before_it_begins_is_recorded_only_where_it_is_ended(tmp_path):
    """As a job of a sweep is, whose folder is there already."""
    run = RunFolder(tmp_path / "run", CONFIG, ["seed=1"])
    run.end(status="failed", error="no data", exit_code=3)
    record = record_of(tmp_path / "run")
    assert (record["status"], record["error"], record["exit_code"]) == ("failed", "no data", 3)
    assert read_overrides(tmp_path / "run") == ["seed=1"]


def test_resumed_run_keeps_its_record_but_not_how_it_failed(tmp_path):
    run = started(tmp_path / "run")
    run.update(status="failed", error="no memory", exit_code=3, best={"val/mae": 0.5})
    again = started(tmp_path / "run", resumes=True)
    assert again.resumes_from == again.last_checkpoint
    record = record_of(tmp_path / "run")
    assert (record["status"], record["best"]) == ("running", {"val/mae": 0.5})
    assert not {"error", "exit_code"} & set(record)
    assert record["started"] == run.record["started"]
    assert len(record["resumed"]) == 1
    assert "best" not in started(tmp_path / "run").record


def test_only_rank_zero_writes(tmp_path):
    run = started(tmp_path / "run", writes=False)
    run.update(status="finished")
    run.write_text("a.txt", "text")
    run.write_json("a.json", {})
    assert not (tmp_path / "run").exists()
    assert run.record["status"] == "finished"


def test_files_keep_every_letter(tmp_path):
    run = started(tmp_path / "run", CONFIG | {"data": {"root": "Größe, 图片"}}, ["data.root='Größe, 图片'"])
    assert read_yaml(run.path / "config.yaml")["data"]["root"] == "Größe, 图片"
    assert read_overrides(run.path) == ["data.root='Größe, 图片'"]
    run.write_json("x.json", {"acc": float("nan"), "é": [float("inf"), 1.5]})
    assert json.loads((run.path / "x.json").read_text(encoding="utf-8")) == {"acc": None, "é": [None, 1.5]}


def test_best_checkpoint_is_the_last_where_nothing_was_validated(tmp_path):
    run = started(tmp_path / "run")
    (tmp_path / "run" / "checkpoints").mkdir()
    assert run.best_checkpoint == run.last_checkpoint
    (tmp_path / "run" / "checkpoints" / "best.ckpt").write_bytes(b"")
    assert run.best_checkpoint.name == "best.ckpt"


def test_folder_without_a_config_is_no_run(tmp_path):
    with pytest.raises(InputError, match=r"is not a run folder: .*config\.yaml"):
        read_config(tmp_path)
    (tmp_path / "config.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(InputError, match="is not a run folder"):
        read_config(tmp_path)


def test_config_is_plain_yaml(quick_run):
    assert yaml.safe_load((quick_run / "config.yaml").read_text(encoding="utf-8")) == read_config(quick_run)
