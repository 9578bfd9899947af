"""Evaluations against the run's own record, and against a plain torchvision loop."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import torchvision
from in_process import digits_with, train_in_process
from PIL import Image
from program import draw_picture

from cnnlab.api import load_run
from cnnlab.cli.evaluate import evaluate_run, main
from cnnlab.data.sources.imagenet_subset import imagenet_classes
from cnnlab.errors import CnnlabError, InputError
from cnnlab.models.inputs import input_spec
from cnnlab.models.weights import find_weights


@pytest.fixture
def run(quick_run, tmp_path):
    """A copy of the quick run, so that reports do not change it."""
    shutil.copytree(quick_run, tmp_path / "run")
    return tmp_path / "run"


def metrics_of(run: Path, *arguments: str) -> dict:
    """The metrics that `cnnlab evaluate run=RUN ARGUMENTS` writes."""
    return evaluate_run([f"run={run}", *arguments]).metrics


def test_run_is_scored_on_its_test_images(run, capsys):
    main([f"run={run}"])
    numbers = json.loads((run / "report" / "metrics.json").read_text())
    record = json.loads((run / "run.json").read_text())
    assert numbers["n"] == 355
    assert numbers["acc"] == pytest.approx(record["test"]["test/acc"], abs=1e-6)
    assert numbers["loss"] == pytest.approx(record["test"]["test/loss"], rel=1e-4)
    assert numbers["f1"] == pytest.approx(record["test"]["test/f1"], abs=1e-5)
    shown = capsys.readouterr().out
    assert f"acc {numbers['acc']:.4f}" in shown
    assert f"Report: {run / 'report' / 'report.html'}" in shown


def test_validation_accuracy_is_that_of_the_best_epoch(run):
    record = json.loads((run / "run.json").read_text())
    numbers = metrics_of(run, "split=val")
    assert numbers["n"] == 176
    assert numbers["acc"] == pytest.approx(record["best"]["val/acc"], abs=1e-6)


def test_batch_size_and_workers_change_nothing_of_the_result(run):
    expected = metrics_of(run, "split=val")
    found = metrics_of(run, "split=val", "data.batch_size=7", "data.num_workers=0")
    assert found["acc"] == expected["acc"]
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_data_that_have_changed_since_are_told(run, caplog):
    metrics_of(run)
    assert caplog.text == ""
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"split_hash": "another"}))
    metrics_of(run)
    assert f"The data are not those of the run (split {record['split_hash']}, then another)" in caplog.text


def test_report_names_the_images_of_the_split(run):
    metrics_of(run, "split=val")
    lines = (run / "report" / "predictions.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in lines] == (run / "splits" / "val.txt").read_text().split()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("split=validation", "Available: train, val, test"),
        ("data.batchsize=3", "Did you mean data.batch_size"),
        ("optimizer.lr=3", "Unknown key optimizer.lr of evaluate"),
        ("model=vgg16", "Unknown key model of evaluate"),
        ("data.batch_size=many", "data.batch_size=many is not of type int, as 32 is"),
        ("data.batch_size=[1", r"data\.batch_size=\[1 cannot be parsed"),
        ("trusted_packages=[a", r"trusted_packages=\[a is not of type list"),
        ("trusted_packages=my_nets", r"trusted_packages=my_nets is not of type list"),
        ("data.root=elsewhere", "digits has no folder"),
    ],
)
def test_change_that_cannot_be_is_refused(quick_run, change, message):
    with pytest.raises(InputError, match=message):
        evaluate_run([f"run={quick_run}", change])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs run=FOLDER, or model="),
        (["somewhere"], "takes key=value, not somewhere"),
        (["run=nowhere"], "nowhere"),
        (["model=lenet5", "model.weights=null", "data=digits"], "without weights the network is untrained"),
        (["model=vgg16", "preprocessing=zca", "data=digits"], "preprocessing=zca: pretrained weights are scored with"),
    ],
)
def test_wrong_arguments_say_what_is_needed(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        main(arguments)


@pytest.fixture
def folder_run(tmp_path):
    """A run of LeNet-5 on drawn pictures, and the folder above them."""
    for label, shape in enumerate(("circle", "square")):
        for number in range(4):
            draw_picture(tmp_path / "here" / "shapes" / shape / f"{number}.png", shape, 100 * label + number)
    train_in_process(
        tmp_path / "run",
        *digits_with(
            "data=image_folder",
            f"data.root={tmp_path / 'here' / 'shapes'}",
            "data.val_fraction=0.5",
            "trainer.max_epochs=1",
        ),
    )
    return tmp_path


def test_data_may_have_moved(folder_run):
    before = metrics_of(folder_run / "run")
    (folder_run / "here").rename(folder_run / "2024, [new]")
    after = metrics_of(folder_run / "run", f"data.root={folder_run / '2024, [new]' / 'shapes'}")
    assert after == before


def test_new_data_dir_for_data_that_is_not_below_it_is_explained(folder_run):
    with pytest.raises(InputError, match=r"data\.root"):
        metrics_of(folder_run / "run", f"paths.data_dir={folder_run / 'there'}")


def test_data_with_other_classes_are_refused(folder_run):
    (folder_run / "here" / "shapes" / "square").rename(folder_run / "here" / "shapes" / "triangle")
    with pytest.raises(InputError, match=r"circle, triangle.*circle, square"):
        metrics_of(folder_run / "run")


def test_pretrained_weights_score_as_a_plain_loop(shared_data, tmp_path, monkeypatch):
    """SqueezeNet on one photo of every 50th ImageNet class: torchvision's own preset and network, one by one."""
    weights = shared_data / "weights" / "squeezenet1_1.pth"
    names = sorted(path.name for path in (shared_data / "imagenet_samples").glob("*.JPEG"))
    network = torchvision.models.squeezenet1_1()
    network.load_state_dict(torch.load(weights, weights_only=True))
    preset = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1.transforms()
    (tmp_path / "photos").mkdir()
    losses, first, five = [], 0, 0
    with torch.inference_mode():
        for index in range(0, 1000, 50):
            shutil.copy(shared_data / "imagenet_samples" / names[index], tmp_path / "photos")
            image = preset(Image.open(shared_data / "imagenet_samples" / names[index]).convert("RGB"))
            logits = network.eval()(image[None])
            losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor([index])).item())
            first += int(logits.argmax() == index)
            five += int(index in logits.topk(5).indices)
    monkeypatch.chdir(tmp_path)
    main(
        [
            "model=squeezenet1_1",
            f"model.weights={weights}",
            "data=imagenet_subset",
            f"data.root={tmp_path / 'photos'}",
            f"paths.output_dir={tmp_path / 'result'}",
            "data.num_workers=0",
        ]
    )
    numbers = json.loads((tmp_path / "result" / "report" / "metrics.json").read_text())
    assert numbers["n"] == 20
    assert 5 < first < 20
    assert numbers["acc"] == pytest.approx(first / 20, abs=0.051)
    assert numbers["acc_top5"] == pytest.approx(five / 20, abs=0.051)
    assert numbers["loss"] == pytest.approx(sum(losses) / 20, rel=0.03)
    assert set(numbers["per_class"]) == {list(imagenet_classes().values())[index] for index in range(0, 1000, 50)}


def test_weights_for_other_classes_are_refused(shared_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for shape in ("circle", "square"):
        draw_picture(tmp_path / "pictures" / shape / "1.png", shape, 1)
    with pytest.raises(CnnlabError, match="1000 classes, the data 2"):
        main(
            [
                "model=squeezenet1_1",
                f"model.weights={shared_data / 'weights' / 'squeezenet1_1.pth'}",
                "data=image_folder",
                f"data.root={tmp_path / 'pictures'}",
            ]
        )


def scored_with_weights(weights: Path, data: Path, output: Path, *more: str) -> dict:
    """The metrics of `cnnlab evaluate model=lenet5 model.weights=WEIGHTS` on all pictures of a folder."""
    main(
        [
            *("model=lenet5", f"model.weights={weights}", "data=image_folder", f"data.root={data}"),
            *("data.num_workers=0", f"paths.output_dir={output}", f"paths.cache_dir={output}/cache", *more),
        ]
    )
    return json.loads((output / "report" / "metrics.json").read_text())


@pytest.mark.parametrize("weights", ["", "checkpoints/best.ckpt", "best_weights.pth"])
def test_weights_of_a_run_know_classes_by_name_and_images_as_in_training(folder_run, weights):
    """On a part of the classes, in another order of folders: the labels are the run's, the input is standardized."""
    shapes, part = folder_run / "here" / "shapes", folder_run / "part"
    shutil.copytree(shapes / "square", part / "square")
    network = load_run(folder_run / "run")
    pictures = sorted((part / "square").iterdir())
    probabilities = network.predict(pictures)[:, network.classes.index("square")]

    numbers = scored_with_weights(folder_run / "run" / weights, part, folder_run / "out")

    assert network.classes == ["circle", "square"]
    assert list(numbers["per_class"]) == ["square"]
    assert numbers["loss"] == pytest.approx(-probabilities.double().log().mean().item(), rel=1e-4)


def test_weights_of_a_run_on_data_with_other_classes_are_refused(folder_run):
    shapes = folder_run / "here" / "shapes"
    (shapes / "square").rename(shapes / "triangle")
    message = (
        "do not know these classes of the data: triangle. They know circle, square; the data have circle, triangle"
    )
    with pytest.raises(InputError, match=message):
        scored_with_weights(folder_run / "run", shapes, folder_run / "out")


def test_weights_of_a_run_bring_their_size_along_unless_another_is_typed(folder_run, caplog):
    stored = folder_run / "run" / "checkpoints" / "best.ckpt"
    contents = torch.load(stored, weights_only=True)
    contents["hyper_parameters"]["input"] |= {"image_size": 16, "resize_size": 24, "interpolation": "bicubic"}
    torch.save(contents, stored)
    model = {"name": "lenet5", "weights": str(folder_run / "run"), "in_channels": 3}
    model |= {"network": {"_target_": "cnnlab.models.lenet5.LeNet5"}, "image_size": None, "resize_size": None}
    spec = input_spec(model)
    assert (spec.image_size, spec.resize_size, spec.interpolation) == (16, 24, "bicubic")
    find_weights(model, folder_run)
    assert caplog.text == ""
    other = model | {"image_size": 32}
    spec = input_spec(other)
    assert (spec.image_size, spec.resize_size, spec.interpolation) == (32, 48, "bicubic")
    find_weights(other, folder_run)
    assert "was trained on images of 16 pixels; model.image_size is 32" in caplog.text


def test_weights_without_a_classifier_are_refused(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    features = torchvision.models.squeezenet1_1().features.state_dict(prefix="features.")
    torch.save(features, tmp_path / "features.pth")
    weights = f"model.weights={tmp_path / 'features.pth'}"
    with pytest.raises(InputError, match=r"features\.pth has no classifier"):
        main(["model=squeezenet1_1", weights, "data=image_folder", f"data.root={pictures}"])


def test_evaluation_is_of_the_best_network(run):
    expected = metrics_of(run, "split=val")
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    last["state_dict"]["network.classifier.5.weight"].zero_()
    torch.save(last, run / "checkpoints" / "last.ckpt")
    assert metrics_of(run, "split=val") == expected
    assert expected["acc"] > 0.2
