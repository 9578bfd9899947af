"""Two processes on one CPU: one run folder, equal weights through all phases of freezing, and exact scores."""

import json
from pathlib import Path

import pytest
import torch
from in_process import config
from program import draw_picture
from ranks import run_ranks
from short_mobilenet import short_mobilenet

from cnnlab import experiment
from cnnlab.api import load_run
from cnnlab.errors import InputError
from cnnlab.models.building import build_network
from cnnlab.runs.folder import RunFolder
from cnnlab.system.processes import is_rank_zero

PHASES = (
    "[{epoch: 0, train: classifier}, {epoch: 1, train: [classifier, last_2], lr_multiplier: 0.5}, "
    "{epoch: 2, train: all, lr_multiplier: 0.1}, {epoch: 3, train: classifier}]"
)


def train_as(rank: int, folder: Path, options: list[str]) -> None:
    """What one process of a DDP run does."""
    cfg = config(folder / "run", *options)
    run = RunFolder(folder / "run", cfg, options, writes=is_rank_zero())
    experiment.train(cfg, run)
    (folder / f"{rank}.json").write_text(json.dumps([run.writes, run.record["last"]]))
    run.update(status="finished")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a two-process run of a small MobileNetV2 that is unfrozen in phases.

    `run` in it is the run folder; `states` has the network of each rank after each epoch. On rank 0 validation takes a
    batch more.
    """
    folder = tmp_path_factory.mktemp("ddp")
    (folder / "states").mkdir()
    for label, (shape, count) in enumerate({"circle": 20, "square": 14}.items()):
        for number in range(count):
            draw_picture(folder / "pictures" / shape / f"{number:02d}.png", shape, 100 * label + number)
    options = [
        *("trainer=ddp_cpu", "trainer.max_epochs=4", "freeze=schedule", f"freeze.phases={PHASES}"),
        *("model=mobilenet_v2", "model.network._target_=short_mobilenet.short_mobilenet", "model.weights=null"),
        *("model.image_size=32", "model.resize_size=32", "preprocessing=standardize"),
        *("data=image_folder", f"data.root={folder / 'pictures'}", "data.val_fraction=0.15"),
        *(
            "data.batch_size=2",
            "data.num_workers=0",
            "callbacks=none",
            "trusted_packages=[kept_states,short_mobilenet]",
        ),
        f"+callbacks.states={{_target_: kept_states.KeptStates, folder: '{folder / 'states'}'}}",
    ]
    assert run_ranks(train_as, folder, options) == [0, 0]
    return folder


@pytest.fixture(scope="module")
def run_folder(run):
    return run / "run"


def test_one_process_writes_and_both_know_the_same_scores(run, run_folder):
    record = json.loads((run_folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["world_size"] == 2
    assert record["images"] == {"train": 29, "val": 5}
    (writes, first), (waits, second) = (json.loads((run / f"{rank}.json").read_text()) for rank in range(2))
    assert (writes, waits) == (True, False)
    for name in ("val/loss", "val/acc", "val/f1", "val/balanced_acc", "train/loss_epoch", "train/acc_epoch"):
        assert first[name] == second[name] == record["last"][name]


@pytest.fixture(scope="module")
def states(run) -> list[dict[str, torch.Tensor]]:
    """The network as it is built, and after each epoch on rank 0."""
    initial = build_network(short_mobilenet, num_classes=2, weights=None, seed=0).state_dict()
    return [initial, *(torch.load(run / "states" / f"{epoch}-0.pt", weights_only=True) for epoch in range(4))]


@pytest.mark.parametrize("epoch", range(4))
def test_ranks_agree_after_every_phase(run, states, epoch):
    other = torch.load(run / "states" / f"{epoch}-1.pt", weights_only=True)
    assert [name for name, value in states[epoch + 1].items() if not torch.equal(value, other[name])] == []


@pytest.mark.parametrize(
    ("epoch", "trained"),
    [
        (0, {"classifier"}),
        (1, {"classifier", "features.3", "features.4"}),
        (2, {"classifier", *(f"features.{number}" for number in range(5))}),
        (3, {"classifier"}),
    ],
)
def test_every_phase_changes_its_stages_alone(states, epoch, trained):
    """Every weight and statistic of them; a bias before batch norm has a gradient of zero."""
    before, after = states[epoch : epoch + 2]
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    stages = {name: ".".join(name.split(".")[: 1 if name.startswith("classifier") else 2]) for name in before}
    assert {stages[name] for name in changed} == trained
    expected = {name for name, stage in stages.items() if stage in trained and not name.endswith("bias")}
    assert expected <= changed


def test_score_counts_every_image_once(run, run_folder):
    """Five validation images on two ranks: padding to six would score a multiple of 1/6."""
    loaded = load_run(run_folder / "checkpoints" / "last.ckpt", ["short_mobilenet"])
    names = (run_folder / "splits" / "val.txt").read_text().split()
    truth = torch.tensor([loaded.classes.index(name.split("/")[0]) for name in names])
    probabilities = loaded.predict([run / "pictures" / name for name in names])
    last = json.loads((run_folder / "run.json").read_text())["last"]
    assert len(names) == 5
    assert last["val/acc"] == pytest.approx((probabilities.argmax(1) == truth).float().mean().item(), abs=1e-6)
    expected = torch.nn.functional.nll_loss(probabilities.log(), truth).item()
    assert last["val/loss"] == pytest.approx(expected, rel=1e-4)


def test_fewer_validation_images_than_processes_are_refused(tmp_path):
    """One process would have none, and the other wait for it forever."""
    for label, shape in enumerate(("circle", "square")):
        for number in range(4):
            draw_picture(tmp_path / "pictures" / shape / f"{number}.png", shape, 100 * label + number)
    options = ("trainer=ddp_cpu", "trainer.devices=3", "model=lenet5", "data=image_folder", "data.val_fraction=0.2")
    with pytest.raises(InputError, match=r"Images: 2 in val are too few for 3 processes.* Lower trainer\.devices"):
        experiment.build(config(tmp_path / "run", *options, f"data.root={tmp_path / 'pictures'}"))
