"""A checkpoint alone gives back the network that was trained."""

import csv
import inspect
import io
import json
import math
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from in_process import DIGITS, interrupt_at_epoch, parts_of_a_run, train_in_process
from PIL import Image
from process_snapshot import differences, snapshot
from program import draw_picture

import cnnlab
from cnnlab.api import load_run
from cnnlab.cli import predict
from cnnlab.cli.evaluate import evaluate_run
from cnnlab.data.sources.digits import digits
from cnnlab.errors import CnnlabError, DataError, DivergedError, InputError

SHORT = (*DIGITS, "trainer.max_epochs=1", "trainer.limit_train_batches=2")
HEAD_BIAS = "network.classifier.5.bias"


def changed(quick_run: Path, path: Path, change) -> Path:
    contents = torch.load(quick_run / "checkpoints" / "best.ckpt", weights_only=True)
    change(contents)
    torch.save(contents, path)
    return path


@pytest.mark.parametrize(
    "overrides",
    [
        ["preprocessing=standardize"],
        ["preprocessing=none", "regularization=[dropout,batch_norm]"],
        ["model=torchvision", "model.name=shufflenet_v2_x0_5", "model.image_size=32", "preprocessing=zero_mean"],
    ],
)
def test_checkpoint_copied_elsewhere_gives_the_live_logits(tmp_path, overrides):
    weights = ["model.weights=null"] if "model=torchvision" in overrides else []
    trainer, classifier, data = parts_of_a_run(
        tmp_path / "run", *DIGITS, "trainer.max_epochs=1", "trainer.limit_train_batches=4", *overrides, *weights
    )
    trainer.fit(classifier, datamodule=data)
    alone = tmp_path / "elsewhere" / "network.ckpt"
    alone.parent.mkdir()
    shutil.copy(tmp_path / "run" / "checkpoints" / "last.ckpt", alone)
    shutil.rmtree(tmp_path / "run")
    run = load_run(alone)
    images, _ = next(iter(data.val_dataloader()))
    with torch.inference_mode():
        expected, found = classifier.eval()(images), run.network(images)
    assert torch.equal(found, expected)
    assert run.classes == [str(digit) for digit in range(10)]
    assert not run.network.training


def test_probabilities_of_tensors_pictures_and_files_agree(quick_run, tmp_path):
    run = cnnlab.load_run(quick_run)
    images = digits().train
    pictures = [images.load(index, 1) for index in range(5)]
    paths = []
    for index, picture in enumerate(pictures):
        paths.append(tmp_path / f"{index}.png")
        picture.save(paths[-1])
    from_pictures = run.predict(pictures)
    assert from_pictures.shape == (5, 10)
    assert from_pictures.dtype == torch.float32
    torch.testing.assert_close(from_pictures.sum(dim=1), torch.ones(5))
    assert torch.equal(run.predict(paths), from_pictures)
    assert torch.equal(run.predict([str(path) for path in paths]), from_pictures)
    assert torch.equal(run.predict(torch.stack([run.prepare(picture) for picture in pictures])), from_pictures)


def test_colour_pictures_are_made_grey_for_a_grey_network(quick_run):
    run = cnnlab.load_run(quick_run)
    grey = digits().train.load(3, 1)
    assert torch.equal(run.predict([grey.convert("RGB")]), run.predict([grey]))


def test_predictions_are_better_than_chance(quick_run):
    run = cnnlab.load_run(quick_run)
    test = [int(name) for name in (quick_run / "splits" / "test.txt").read_text().split()]
    images = digits().train
    right = (run.predict([images.load(i, 1) for i in test]).argmax(1).numpy() == images.labels[test]).mean()
    assert right > 0.1 + 5 * math.sqrt(0.09 / len(test))


def test_single_picture_gives_one_row(quick_run, tmp_path):
    """Whatever form it has; a name is a path, not a list of letters."""
    run = cnnlab.load_run(quick_run)
    picture = digits().train.load(3, 1)
    picture.save(tmp_path / "a.png")
    expected = run.predict([picture])
    pixels = np.asarray(picture)
    contents = (tmp_path / "a.png").read_bytes()
    forms = (str(tmp_path / "a.png"), tmp_path / "a.png", contents, picture, pixels)
    for form in (*forms, torch.tensor(pixels)[None], torch.tensor(pixels)[None] / 255):
        assert torch.equal(run.predict(form), expected)
        assert torch.equal(run.predict([form]), expected)
    assert torch.equal(run.predict(io.BytesIO(contents)), expected)
    assert torch.equal(run.predict(pixels[None, ..., None]), expected)
    with pytest.raises(DataError, match=r"no\.png: No such file"):
        run.predict("no.png")


def test_loaded_network_can_be_traced_and_its_attributes_read(quick_run):
    run = cnnlab.load_run(quick_run)
    batch = torch.stack([run.prepare(digits().train.load(index, 1)) for index in range(5)])
    traced = torch.jit.trace(run.network, batch[:2])
    with torch.inference_mode():  # of another size than the batch that was traced
        torch.testing.assert_close(traced(batch), run.network(batch))
    assert dict(inspect.getmembers(run.network))["recipe"] is None
    trainer = L.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False)
    outputs = trainer.predict(run.network, torch.utils.data.DataLoader(batch, batch_size=5))
    torch.testing.assert_close(outputs[0], traced(batch))


def test_no_picture_gives_no_row(quick_run):
    assert cnnlab.load_run(quick_run).predict([]).shape == (0, 10)


def test_unreadable_picture_is_named(quick_run, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    draw_picture(tmp_path / "fine.png", "circle", 0)
    with pytest.raises(DataError, match=r"broken\.png"):
        cnnlab.load_run(quick_run).predict([tmp_path / "fine.png", tmp_path / "broken.png"])


@pytest.mark.parametrize(("missing", "expected"), [("none", 0.25), ("best.ckpt", 0.5)])
def test_run_folder_gives_its_best_network_else_its_last(quick_run, tmp_path, missing, expected):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    for name, value in (("best.ckpt", 0.25), ("last.ckpt", 0.5)):
        bias = torch.full((10,), value)
        changed(quick_run, folder / name, lambda contents, b=bias: contents["state_dict"].update({HEAD_BIAS: b}))
    (folder / missing).unlink(missing_ok=True)
    assert load_run(tmp_path / "run").network.state_dict()[HEAD_BIAS].tolist() == [expected] * 10


@pytest.mark.parametrize("place", ["nowhere", "nowhere.ckpt", "."])
def test_no_run_is_an_input_error(tmp_path, place):
    with pytest.raises(InputError, match="is not a run"):
        load_run(tmp_path / place)


def test_random_file_is_a_data_error(tmp_path):
    path = tmp_path / "random.ckpt"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(DataError, match=r"random\.ckpt"):
        load_run(path)


def test_cut_off_checkpoint_is_a_data_error(quick_run, tmp_path):
    whole = (quick_run / "checkpoints" / "best.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.ckpt"):
        load_run(tmp_path / "cut.ckpt")


@pytest.mark.parametrize(
    "change",
    [
        lambda contents: contents.pop("hyper_parameters"),
        lambda contents: contents.pop("state_dict"),
        lambda contents: contents["state_dict"].pop("network.features.0.weight"),
        lambda contents: contents["hyper_parameters"].update(classes=["a", "b"]),
        lambda contents: contents["hyper_parameters"].pop("input"),
        lambda contents: contents["hyper_parameters"].update(classes=None),
    ],
)
def test_checkpoint_with_something_missing_is_a_data_error(quick_run, tmp_path, change):
    with pytest.raises(DataError, match="is not a checkpoint of cnnlab, or a damaged one"):
        load_run(changed(quick_run, tmp_path / "changed.ckpt", change))


@pytest.mark.parametrize("target", ["os.system", "subprocess.run", "builtins.eval"])
def test_checkpoint_cannot_name_code_to_run(quick_run, tmp_path, target):
    witness = tmp_path / "was_run"
    node = {"_target_": target, "_args_": [f"touch {witness}"], "_partial_": True}
    path = changed(quick_run, tmp_path / "bad.ckpt", lambda contents: contents["hyper_parameters"].update(network=node))
    with pytest.raises(CnnlabError, match="is not in cnnlab"):
        load_run(path)
    assert not witness.exists()


def test_picture_of_any_size_is_prepared(quick_run):
    run = cnnlab.load_run(quick_run)
    for size in ((1, 1), (500, 3), (33, 200)):
        assert run.prepare(Image.new("RGB", size)).shape == (1, 32, 32)


@pytest.fixture
def own_run(tmp_path, monkeypatch) -> Path:
    """A run of a network whose class is in a package that is not cnnlab's."""
    (tmp_path / "my_nets.py").write_text(
        "from cnnlab.models.lenet5 import LeNet5\n\n\nclass MyNet(LeNet5):\n    pass\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = ["trusted_packages=[my_nets]", "model.network._target_=my_nets.MyNet"]
    train_in_process(tmp_path / "run", *SHORT, *own)
    return tmp_path / "run"


def test_own_class_is_loaded_if_and_only_if_the_user_says_so(own_run, tmp_path):
    picture = tmp_path / "digit.png"
    digits().train.load(0, 1).save(picture)
    with pytest.raises(InputError, match=r"my_nets\.MyNet is not in cnnlab.*trusted_packages"):
        load_run(own_run)
    run = load_run(own_run, trusted_packages=["my_nets"])
    assert type(run.network.network).__name__ == "MyNet"

    record = json.loads((own_run / "run.json").read_text())
    numbers = evaluate_run([f"run={own_run}", "trusted_packages=[my_nets]"]).metrics
    assert numbers["acc"] == pytest.approx(record["test"]["test/acc"], abs=1e-6)
    predict.main([f"run={own_run}", f"images={picture}", "trusted_packages=[my_nets]", f"output={tmp_path / 'out'}"])
    (row,) = csv.DictReader((tmp_path / "out" / "predictions.csv").read_text().splitlines())
    assert row["class_1"] == run.classes[run.predict([picture]).argmax()]


# --- Training, evaluation and prediction as functions ---


def test_train_evaluate_and_predict_without_a_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = cnnlab.train([*SHORT, "seed=3", f"paths.cache_dir={tmp_path / 'cache'}"])
    assert [Path(run)] == list((tmp_path / "outputs" / "digits").iterdir()) == [run.folder]
    assert json.loads((run.folder / "run.json").read_text()) == run
    assert (run["status"], run["task"], run["metric"]) == ("finished", "classification", "val/acc")
    found = cnnlab.evaluate(run, "val")
    assert found.metrics["acc"] == pytest.approx(run["best"]["val/acc"], abs=1e-6)
    assert json.loads((run.folder / "report" / "metrics.json").read_text())["n"] == 176
    for number in range(2):
        digits().train.load(number, 1).save(tmp_path / f"{number}.png")
    predictions = cnnlab.predict(run, tmp_path / "0.png", top_k=2)
    assert list(predictions) == ["0.png"]
    assert len(predictions["0.png"].row()) == 4
    loaded = cnnlab.load_run(run)
    probabilities = loaded.predict([tmp_path / "0.png"])[0]
    assert predictions["0.png"].row()["class_1"] == loaded.classes[probabilities.argmax()]
    assert cnnlab.predict(run, [tmp_path / "0.png"], top_k=2) == {str(tmp_path / "0.png"): predictions["0.png"]}
    pictures = [Image.open(tmp_path / f"{number}.png") for number in range(2)]
    assert list(cnnlab.predict(run, pictures)) == ["0", "1"]
    assert cnnlab.predict(run, []) == {}


BUSY = (
    "speed=exact",
    "speed.num_threads=2",
    "data.num_workers=1",
    "+callbacks.progress={_target_: cnnlab.training.callbacks.progress.Progress}",
)
"""Settings that change the whole process: algorithms, the environment, threads, a child process, a bar's thread."""


@pytest.fixture
def as_it_was(tmp_path, monkeypatch) -> Iterator[None]:
    """Fails if anything that others can see of the process differs afterwards, where gradients and threads are odd."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    monkeypatch.setattr("sys.argv", ["notebook", "-f", "kernel.json"])
    signal.signal(signal.SIGTERM, lambda *_: None)
    torch.manual_seed(11)
    try:
        with torch.no_grad():
            before = snapshot()
            yield
            assert differences(before, snapshot()) == {}
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.mark.usefixtures("as_it_was")
def test_process_is_as_it_was_after_training(tmp_path):
    run = cnnlab.train([*SHORT, *BUSY, f"paths.cache_dir={tmp_path / 'cache'}"])
    assert run["status"] == "finished"


@pytest.mark.usefixtures("as_it_was")
def test_process_is_as_it_was_after_training_that_fails(tmp_path):
    """The error is kept, as notebooks do, and with it everything that its traceback refers to."""
    with pytest.raises(DivergedError) as error:
        cnnlab.train([*SHORT, *BUSY, "optimizer.lr=1e30", f"paths.cache_dir={tmp_path / 'cache'}"])
    (run,) = (tmp_path / "outputs" / "digits").iterdir()
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], record["exit_code"], record["error"]) == ("failed", 4, str(error.value))


@pytest.mark.usefixtures("as_it_was")
def test_process_is_as_it_was_after_evaluation_and_prediction(quick_run, tmp_path):
    digits().train.load(0, 1).save(tmp_path / "0.png")
    cnnlab.evaluate(quick_run, changes={"data.num_workers": "1"})
    cnnlab.predict(quick_run, "0.png")
    with pytest.raises(InputError):
        cnnlab.evaluate(quick_run, "tset")
    with pytest.raises(InputError):
        cnnlab.predict(quick_run, "1.png")


def test_training_that_is_interrupted_says_so_in_its_record(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    interrupt_at_epoch(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt):
        cnnlab.train([*SHORT, f"paths.cache_dir={tmp_path / 'cache'}"])
    (run,) = (tmp_path / "outputs" / "digits").iterdir()
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"


def test_machine_that_fails_is_an_error_of_cnnlab(tmp_path, monkeypatch):
    (tmp_path / "outputs").write_text("a file where the folder would be")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="outputs") as error:
        cnnlab.train([*SHORT])
    assert isinstance(error.value.__cause__, OSError)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("data=digits", "takes a list of overrides, such as .*, not 'data=digits'"),
        ([3], "takes a list of strings such as 'seed=1', not 3"),
        (["resume=outputs/run"], "resume=outputs/run: cnnlab.train starts one new run"),
        (["-m", "seed=1,2"], "-m: cnnlab.train starts one new run"),
        (["sweep.dir=here"], "sweep.dir=here: cnnlab.train starts one new run"),
        (["hydra.run.dir=here"], "hydra.run.dir=here: cnnlab.train starts one new run"),
        ([*SHORT, "trainer.devices=2"], "needs others, which would run this program again"),
        ([*SHORT, "trainer.strategy=ddp"], "needs others, which would run this program again"),
    ],
)
def test_what_only_the_command_line_can_do_is_refused(tmp_path, monkeypatch, overrides, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        cnnlab.train(overrides)
    assert list(tmp_path.iterdir()) == []


def test_unknown_option_is_named(quick_run):
    with pytest.raises(InputError, match=r"Unknown option topk\. Did you mean top_k"):
        cnnlab.predict(quick_run, [], topk=3)
    with pytest.raises(InputError, match="Unknown option colour"):
        cnnlab.evaluate(quick_run, colour="red")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("seed=x", "seed='x' is not int"),
        ("regularization.dropout.p=2", "must be at least 0 and less than 1"),
        ("loss=mse", "LeNet5 with MSELoss cannot be trained"),
    ],
)
def test_run_that_cannot_work_leaves_no_folder(tmp_path, monkeypatch, wrong, message):
    monkeypatch.chdir(tmp_path)
    own = ["regularization=[dropout]", f"paths.cache_dir={tmp_path / 'cache'}"]
    with pytest.raises(InputError, match=message):
        cnnlab.train([*SHORT, *own, wrong])
    assert list(tmp_path.glob("outputs/*/*")) == []


def test_checkpoint_of_another_format_is_refused(quick_run, tmp_path):
    path = changed(quick_run, tmp_path / "old.ckpt", lambda contents: contents["hyper_parameters"].pop("format"))
    with pytest.raises(InputError, match=r"old\.ckpt has checkpoint format 1, this version of cnnlab reads format 3"):
        load_run(path)
