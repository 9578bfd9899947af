"""Training on features that are kept is the training it stands for, and never on features of something else."""

import logging
import shutil
from importlib.metadata import version
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from in_process import KeptSignals, interrupt_at_epoch, parts_of_a_run, train_in_process
from PIL import Image
from program import draw_picture
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchvision.transforms import v2

from cnnlab.data.image_datamodule import ImageDataModule
from cnnlab.data.store import Store
from cnnlab.errors import InputError
from cnnlab.models.engines import BUILDERS
from cnnlab.tasks.classification.module import Classifier
from cnnlab.training.feature_cache import build_feature_cache

TINY = {
    "model": "mobilenet_v2",
    "model.weights": "null",
    "model.network._target_": "short_mobilenet.short_mobilenet",
    "trusted_packages": "[short_mobilenet]",
    "model.network.dropout": "0",
    "model.image_size": "32",
    "model.resize_size": "36",
    "preprocessing": "standardize",
    "data": "image_folder",
    "data.batch_size": "8",
    "data.num_workers": "0",
    "trainer": "cpu",
    "trainer.max_epochs": "3",
    "callbacks": "none",
    "logger": "none",
    "optimizer.lr": "0.01",
    "freeze": "features",
    "freeze.cache_views": "2",
}
"""Three blocks of MobileNetV2 of a quarter of the width, with a frozen random prefix, on pictures of 32 pixels."""


def draw_twenty(folder: Path) -> Path:
    for label, shape in enumerate(("circle", "square")):
        for number in range(10):
            draw_picture(folder / shape / f"{number}.png", shape, 100 * label + number)
    return folder


@pytest.fixture
def few_pictures(tmp_path: Path) -> Path:
    return draw_twenty(tmp_path / "pictures")


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two epochs, with its cache beside it."""
    folder = tmp_path_factory.mktemp("first")
    train_in_process(folder / "run", *overrides(draw_twenty(folder / "pictures"), trainer__max_epochs="2"))
    return folder / "run"


@pytest.fixture
def full_cache(tmp_path: Path, first_run: Path) -> None:
    """What the first run has left in the cache is in this test's cache."""
    shutil.copytree(first_run.parent / "cache", tmp_path / "cache")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all batches that went through the frozen stages."""
    sizes: list[int] = []
    original = Classifier.features

    def features(self: Classifier, images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return original(self, images)

    monkeypatch.setattr(Classifier, "features", features)
    return sizes


def overrides(pictures: Path, **changes: str) -> list[str]:
    """TINY on `pictures`, with some values replaced; `__` in a name stands for a dot."""
    chosen = TINY | {"data.root": str(pictures)}
    chosen |= {key.replace("__", "."): value for key, value in changes.items()}
    return [f"{key}={value}" for key, value in chosen.items()]


def with_cache(folder: Path, given: list[str]) -> tuple[L.Trainer, Classifier, ImageDataModule]:
    """The parts of a run, with its feature cache in the data."""
    trainer, classifier, data = parts_of_a_run(folder / "run", *given)
    assert data.cached is not None
    return trainer, classifier, data


def state_after(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    return max((first[name].double() - second[name].double()).abs().max().item() for name in first)


@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 1e-5), ("bf16-mixed", 1e-3)])
def test_cached_logits_are_those_of_the_whole_network(tmp_path, few_pictures, precision, tolerance):
    """Every training image of view 1 and every validation image, against a forward without any cut."""
    given = overrides(few_pictures, speed__precision=precision)
    trainer, classifier, data = with_cache(tmp_path, given)
    trainer.fit(classifier, datamodule=data)
    classifier.eval()
    loader = data.train_dataloader()
    loader.batch_sampler.sampler.set_epoch(1)
    trainer.fit_loop.epoch_progress.current.processed = 1
    seen = 0
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        for batch in loader:
            assert batch.draws[:, 0].tolist() == [1] * len(batch.targets)
            whole = classifier(data.cached.images(batch.draws))
            assert (classifier.from_features(batch.features) - whole).abs().max() <= tolerance * whole.abs().max()
            seen += len(batch.targets)
        evaluated = data.eval_dataloader(data.parts.val)
        for batch, (pixels, labels) in zip(data.val_dataloader(), evaluated, strict=True):
            whole = classifier(pixels)
            assert torch.equal(batch.targets, labels)
            assert (classifier.from_features(batch.features) - whole).abs().max() <= tolerance * whole.abs().max()
    assert seen == 16


@pytest.mark.parametrize(
    "changes",
    [
        {"augmentation": "[random_resized_crop,flip,noise]"},
        {"augmentation": "none"},
        {"speed__precision": "bf16-mixed"},
        {"freeze": "last_block"},
        {"freeze": "schedule", "freeze__phases": "[{epoch: 0, train: classifier}, {epoch: 1, train: all}]"},
    ],
    ids=["noise", "plain", "bf16", "last_block", "unfreezes"],
)
def test_cache_changes_nothing_but_what_is_computed(tmp_path, few_pictures, computed, changes):
    kept = train_in_process(tmp_path / "kept", *overrides(few_pictures, **changes, freeze__cache="on"))
    with_cache = sum(computed)
    computed.clear()
    anew = train_in_process(tmp_path / "anew", *overrides(few_pictures, **changes, freeze__cache="off"))
    assert largest_difference(state_after(tmp_path / "kept"), state_after(tmp_path / "anew")) < 1e-4
    assert kept["last"] == pytest.approx(anew["last"], abs=1e-3)
    if changes.get("freeze") != "schedule":
        views = 1 if changes.get("augmentation") == "none" else 2
        assert with_cache == 18 * views + 2
        assert sum(computed) == 3 * (16 + 2)


def test_second_run_computes_nothing_and_equals_the_first(tmp_path, few_pictures, first_run, full_cache, computed):
    train_in_process(tmp_path / "second", *overrides(few_pictures, trainer__max_epochs="2"))
    assert computed == []
    assert largest_difference(state_after(first_run), state_after(tmp_path / "second")) == 0


def test_other_head_settings_and_splits_share_the_features(tmp_path, few_pictures, full_cache, computed):
    train_in_process(
        tmp_path / "settings",
        *overrides(
            few_pictures, optimizer__lr="0.1", regularization="[label_smoothing]", model__network__dropout="0.5"
        ),
    )
    assert computed == []
    train_in_process(tmp_path / "split", *overrides(few_pictures, data__split_seed="5", preprocessing="none"))
    computed.clear()
    train_in_process(tmp_path / "other", *overrides(few_pictures, data__split_seed="6", preprocessing="none"))
    assert 0 < sum(computed) <= 2 * 2 + 2


@pytest.mark.parametrize(
    "change",
    [
        {"seed": "1"},
        {"preprocessing": "none"},
        {"model__resize_size": "40"},
        {"model__image_size": "28"},
        {"augmentation": "[random_resized_crop]"},
        {"augmentation": "[random_resized_crop,flip]", "augmentation__flip__p": "0.4"},
        {"augmentation": "[random_resized_crop,flip,noise]"},
        {"speed__precision": "bf16-mixed"},
        {"freeze": "last_block"},
    ],
    ids=lambda change: "-".join(change.values()),
)
def test_everything_that_features_depend_on_is_in_the_key(tmp_path, few_pictures, full_cache, computed, change):
    """Weights (drawn by the seed), preprocessing, both sizes, augmentation, precision and cut."""
    train_in_process(tmp_path / "second", *overrides(few_pictures, trainer__max_epochs="1", **change))
    evaluation_stays = set(change) <= {"augmentation", "augmentation__flip__p"}
    assert sum(computed) == 18 + (0 if evaluation_stays else 2)


def test_library_versions_are_in_the_key(tmp_path, few_pictures, full_cache, computed, monkeypatch):
    monkeypatch.setattr("cnnlab.data.store.version_of", lambda package: "0.0")
    train_in_process(tmp_path / "second", *overrides(few_pictures))
    assert sum(computed) == 2 * 18 + 2


def test_changed_image_is_computed_again_and_no_other(tmp_path, few_pictures, computed):
    given = overrides(few_pictures, preprocessing="none")
    record = train_in_process(tmp_path / "first", *given)
    validated = (tmp_path / "first" / "splits" / "val.txt").read_text().split()
    path = next(
        path for path in sorted(few_pictures.rglob("*.png")) if f"{path.parent.name}/{path.name}" not in validated
    )
    pixels = np.asarray(Image.open(path)).copy()
    pixels[20, 20] = 255 - pixels[20, 20]
    Image.fromarray(pixels).save(path)
    computed.clear()
    again = train_in_process(tmp_path / "second", *given)
    assert sum(computed) == 2
    assert again["split_hash"] == record["split_hash"]


def test_views_come_in_order_and_then_in_an_order_of_the_seed(tmp_path, few_pictures):
    def order(seed: int) -> list[int]:
        _, _, data = with_cache(tmp_path, overrides(few_pictures, freeze__cache_views="5", seed=str(seed)))
        return [data.cached.view(epoch) for epoch in range(20)]

    first, second = order(0), order(1)
    for found in (first, second):
        assert found[:5] == [0, 1, 2, 3, 4]
        assert all(sorted(found[start : start + 5]) == [0, 1, 2, 3, 4] for start in (5, 10, 15))
    assert first == order(0)
    assert first != second


def test_views_differ_and_do_not_depend_on_the_seed(tmp_path, few_pictures):
    pixels = []
    for seed in ("0", "1"):
        _, _, data = with_cache(tmp_path, overrides(few_pictures, seed=seed))
        pixels.append([data.cached.images(torch.tensor([[view, 3]])) for view in (0, 1)])
    assert torch.equal(pixels[0][0], pixels[1][0])
    assert not torch.equal(pixels[0][0], pixels[0][1])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"freeze__batch_norm": "train"}, "freeze.batch_norm=train lets the statistics"),
        ({"freeze__cache_views": "null"}, "cache_views=null asks for new views"),
        ({"trainer.limit_train_batches": "1"}, "trainer.limit_train_batches leaves out"),
        ({"regularization": "[dropout]", "regularization__dropout__conv_p": "0.1"}, "random in training"),
        ({"speed__cache_gib": "1e-6"}, "speed.cache_gib"),
    ],
)
def test_cache_says_why_it_is_off(tmp_path, few_pictures, computed, caplog, changes, reason):
    with pytest.raises(InputError, match="freeze.cache=on is not possible: .*" + reason):
        parts_of_a_run(tmp_path / "on", *overrides(few_pictures, **changes, freeze__cache="on"))
    with caplog.at_level(logging.INFO):
        _, _, data = parts_of_a_run(tmp_path / "auto", *overrides(few_pictures, **changes))
    assert data.cached is None
    said = next(record.getMessage() for record in caplog.records if "Feature cache off" in record.getMessage())
    assert reason in said
    assert computed == []


def test_nothing_frozen_is_nothing_to_cache(tmp_path, few_pictures, computed):
    with pytest.raises(InputError, match="the first stage trains from the first epoch"):
        parts_of_a_run(tmp_path / "on", *overrides(few_pictures, freeze="none", freeze__cache="on"))
    train_in_process(tmp_path / "auto", *overrides(few_pictures, freeze="none", trainer__max_epochs="1"))
    assert computed == []


def test_mixed_images_are_not_cached(tmp_path, few_pictures):
    trainer, classifier, data = parts_of_a_run(tmp_path / "run", *overrides(few_pictures))
    object.__setattr__(classifier.recipe, "batch_transforms", [v2.MixUp(num_classes=2)])
    with pytest.raises(InputError, match="MixUp mixes images"):
        build_feature_cache("on", 2, classifier, data, trainer, Store(tmp_path / "cache"), {"augmentation": {}})


@pytest.mark.parametrize(("key", "value"), [("freeze__cache", "yes"), ("freeze__cache_views", "0")])
def test_values_that_there_are_not_are_refused(tmp_path, few_pictures, key, value):
    with pytest.raises(InputError, match=f"{key.replace('__', '.')}={value}: "):
        parts_of_a_run(tmp_path / "run", *overrides(few_pictures, **{key: value}))


def test_cache_ends_where_the_phase_unfreezes(tmp_path, few_pictures, computed, caplog):
    phases = "[{epoch: 0, train: classifier}, {epoch: 1, train: [classifier, last_2]}, {epoch: 2, train: all}]"
    with caplog.at_level(logging.INFO):
        train_in_process(tmp_path / "run", *overrides(few_pictures, freeze="schedule", freeze__phases=phases))
    assert "Features below classifier" in caplog.text
    assert "Features below features.3" in caplog.text
    assert "Feature cache off from epoch 2 on: features.0 trains." in caplog.text
    assert sum(computed) == 2 * (18 + 2)
    shapes = {info.parts["cut"] for info in Store(tmp_path / "cache").infos()}
    assert shapes == {"classifier", "features.3"}


def test_interrupted_run_continues_on_the_same_features(tmp_path, few_pictures, monkeypatch):
    given = overrides(
        few_pictures, trainer__max_epochs="5", model__network__dropout="0.3", augmentation="[random_resized_crop,noise]"
    )
    train_in_process(tmp_path / "whole", *given)
    with pytest.MonkeyPatch.context() as patched, KeptSignals():
        interrupt_at_epoch(patched, 3)
        with pytest.raises(KeyboardInterrupt):
            train_in_process(tmp_path / "twin", *given)
    train_in_process(tmp_path / "twin", *given, resume=True)
    assert largest_difference(state_after(tmp_path / "whole"), state_after(tmp_path / "twin")) == 0


def test_full_disk_does_not_end_the_run(tmp_path, few_pictures, monkeypatch, caplog):
    def full(*_: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cnnlab.data.store.write_atomically", full)
    record = train_in_process(tmp_path / "run", *overrides(few_pictures))
    assert "No space left on device" in caplog.text
    assert record["status"] == "finished"


def test_prefix_is_not_part_of_the_checkpoint(tmp_path, few_pictures, first_run):
    names = [name for name in state_after(first_run) if name.startswith("network.")]
    _, classifier, _ = parts_of_a_run(tmp_path / "again", *overrides(few_pictures))
    assert names == [f"network.{name}" for name in classifier.network.state_dict()]


def test_pictures_of_the_input_and_of_features_are_drawn_all_the_same(tmp_path, few_pictures):
    changes = {"callbacks": "default", "logger": "tensorboard", "callbacks.progress": "null"}
    changes |= {"trainer.log_every_n_steps": "1"}
    train_in_process(tmp_path / "run", *overrides(few_pictures, **changes))
    events = EventAccumulator(str(next((tmp_path / "run").rglob("events.*")).parent), {"images": 0}).Reload()
    tags = events.Tags()["images"]
    assert "input/train" in tags
    assert "features/features.4/0" in tags
    assert len(events.Images("input/train")) == 1  # every tenth epoch


# --- Engines ---


def test_engine_is_part_of_what_identifies_features(tmp_path, few_pictures, computed, caplog):
    """Logits on features of an engine are those on torch's, which it does not take for its own."""
    losses = {}
    for engine in ("torch", "onnxruntime"):
        given = overrides(few_pictures, speed__engine=engine, trainer__max_epochs="2")
        record = train_in_process(tmp_path / engine, *given)
        assert record["speed"]["engine"] == engine
        losses[engine] = record["last"]["val/loss"]
    assert sum(computed) == 2 * (2 * 18 + 2)
    assert losses["onnxruntime"] == pytest.approx(losses["torch"], rel=1e-4)
    stored = {info.parts["engine"] for info in Store(tmp_path / "cache").infos()}
    assert stored == {"torch", f"onnxruntime {version('onnxruntime')}"}


def test_features_that_are_there_decide_the_engine(tmp_path, few_pictures, computed, caplog):
    """speed.engine=auto neither times nor builds an engine for features that are cached."""
    given = overrides(few_pictures, trainer__max_epochs="2")
    train_in_process(tmp_path / "first", *given, "speed.engine=onnxruntime")
    done = sum(computed)
    record = train_in_process(tmp_path / "second", *given, "speed.engine=auto", "optimizer.lr=0.1")
    assert record["speed"]["engine"] == "onnxruntime"
    assert sum(computed) == done


def test_engine_that_fails_leaves_the_features_to_torch(tmp_path, few_pictures, monkeypatch, caplog):
    """Also in the middle of a run, as for weights whose outputs differ too much."""
    monkeypatch.setattr("cnnlab.training.engine_choice.build_engine", lambda *_: lambda inputs: inputs)
    record = train_in_process(tmp_path / "run", *overrides(few_pictures), "speed.engine=onnxruntime")
    assert record["status"] == "finished"
    monkeypatch.undo()
    monkeypatch.setitem(BUILDERS, "openvino", lambda model, threads: lambda inputs: torch.zeros(len(inputs), 1))
    record = train_in_process(tmp_path / "other", *overrides(few_pictures), "speed.engine=openvino")
    assert "Engine: torch instead of openvino: its outputs differ from torch's by inf of the largest." in caplog.text
    assert record["speed"]["engine"] == "torch"


def test_engines_are_for_float32_on_one_cpu(tmp_path, few_pictures, caplog):
    given = overrides(few_pictures, speed__precision="bf16-mixed")
    _, _, data = with_cache(tmp_path, [*given, "speed.engine=onnxruntime"])
    assert data.cached.engine == "torch"
    assert (
        "Engine: torch instead of onnxruntime, since speed.precision=bf16-mixed, and engines compute in float32."
        in caplog.text
    )
