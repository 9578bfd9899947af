"""`cnnlab visualize`: files and numbers against plain torch on the same image and weights."""

import importlib
import json
import shutil

import numpy as np
import pytest
import torch
import torchvision
from in_process import DIGITS, parts_of_a_run
from PIL import Image
from program import draw_picture

from cnnlab.api import load_run
from cnnlab.cli.subjects import ModelSubject
from cnnlab.cli.visualize import known_pictures, visualize
from cnnlab.errors import CnnlabError, InputError
from cnnlab.tasks.classification import Classification
from cnnlab.tasks.detection import Detection
from cnnlab.tasks.moves import Moves
from cnnlab.tasks.recognition import Recognition
from cnnlab.tasks.regression import Regression


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "circle.png"
    draw_picture(path, "circle", 3, size=(80, 60))
    return path


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    """Weights of a small torchvision network without its classifier."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "features.pth"
    torch.save(torchvision.models.squeezenet1_1().features.state_dict(prefix="features."), path)
    return path


@pytest.fixture
def run(quick_run, tmp_path):
    shutil.copytree(quick_run, tmp_path / "run")
    return tmp_path / "run"


def model(weights):
    return ["model=squeezenet1_1", f"model.weights={weights}"]


def test_features_of_weights_without_a_classifier(trunk, photo, tmp_path):
    output = tmp_path / "out"
    paths = visualize([*model(trunk), "what=features", "layer=0,1", f"images={photo}", f"output={output}"])
    network = torchvision.models.squeezenet1_1().eval()
    network.load_state_dict(torch.load(trunk, weights_only=True), strict=False)
    preset = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1.transforms()
    pixels = preset(Image.open(photo))[None]
    conv = network.features[0](pixels)[0].detach()
    for index, expected in enumerate([conv, conv.relu()]):
        numbers = json.loads((output / f"layer_{index}" / "maps.json").read_text())
        assert numbers["shape"] == [64, 111, 111]
        assert numbers["min"] == pytest.approx(float(expected.min()), abs=1e-4)
        assert numbers["max"] == pytest.approx(float(expected.max()), abs=1e-4)
        assert numbers["zeros"] == pytest.approx(float((expected == 0).float().mean()), abs=1e-4)
        assert numbers["dead"] == sum(not channel.any() for channel in expected)
        assert (numbers["stride"], numbers["receptive_field"]) == (2, 3)
        assert sorted(path.name for path in (output / f"layer_{index}").iterdir()) == sorted(
            [*(f"channel_{channel:02d}.png" for channel in range(64)), "grid.png", "maps.json"]
        )
    assert float(conv.min()) < 0
    assert paths == [output / f"layer_{index}" / name for index in (0, 1) for name in ("grid.png", "maps.json")]
    live = int(conv.amax((1, 2)).argmax())
    written = np.asarray(Image.open(output / "layer_1" / f"channel_{live:02d}.png"))
    wanted = conv[live].relu() / conv[live].max() * 255
    np.testing.assert_allclose(written[::2, ::2], wanted.numpy(), atol=0.51)


def test_filters_are_those_of_the_first_convolution(trunk, tmp_path):
    paths = visualize([*model(trunk), "what=filters", f"output={tmp_path / 'out'}"])
    weight = torch.load(trunk, weights_only=True)["features.0.weight"]
    numbers = json.loads(paths[1].read_text())
    assert numbers["shape"] == [64, 3, 3, 3]
    assert [numbers["min"], numbers["max"]] == pytest.approx([float(weight.min()), float(weight.max())])
    assert numbers["filters"][5]["norm"] == pytest.approx(float(weight[5].norm()))
    assert Image.open(paths[0]).width > 900


def test_a_filter_that_is_hardly_there_is_called_dead(trunk, tmp_path):
    state = torch.load(trunk, weights_only=True)
    state["features.0.weight"][7] *= 1e-3
    torch.save(state, tmp_path / "weights.pth")
    paths = visualize([*model(tmp_path / "weights.pth"), "what=filters", f"output={tmp_path / 'out'}"])
    assert json.loads(paths[1].read_text())["dead"] == [7]


def test_run_is_drawn_into_its_own_folder_from_its_validation_images(run):
    paths = visualize([f"run={run}", "what=features", "layer=3", "limit=2"])
    names = sorted(path.relative_to(run / "pictures" / "features").parts[0] for path in paths)
    expected = sorted(line.split(".")[0] for line in (run / "splits" / "val.txt").read_text().splitlines()[:2])
    assert sorted(set(names)) == expected
    loaded = load_run(run)
    numbers = json.loads(paths[1].read_text())
    assert numbers["shape"] == [loaded.network.network.features[3].out_channels, 10, 10]
    assert (numbers["stride"], numbers["receptive_field"]) == (2, 14)


def test_pictures_are_in_tensorboard_and_replace_those_of_the_last_time(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):
        visualize([f"run={run}", "what=filters"])
    folder = run / "pictures" / "filters"
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    assert events.Tags()["images"] == ["filters/features.0", "film_features.0"]
    assert list(run.glob("events.out.tfevents.*")), "the run's own events stay"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "what=... is required"),
        (["what=fetures"], r"Unknown picture fetures\. Did you mean features"),
        (["what"], "takes key=value, not what"),
        (["what=features"], "needs run=FOLDER, or model="),
        (["what=features", "run=nowhere"], "nowhere"),
        (["what=features", "model=lenet5", "limit=many"], "limit=many is not of type int"),
        (
            ["what=features", "model=lenet5", "lyer=3"],
            "Unknown key lyer: it belongs neither to this picture nor to the config. Did you mean layer",
        ),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        visualize(arguments)


def test_wrong_key_for_a_run_names_the_nearest(run):
    with pytest.raises(InputError, match=r"Unknown key lyer of this picture of a run\. Did you mean layer"):
        visualize([f"run={run}", "what=features", "lyer=3"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["what=features"], "images=FILE is required"),
        (["what=features", "images=nowhere.png"], "nowhere.png"),
        (["what=features", "images={one}"], "1 x 1 pixels"),
        (["what=features", "images={text}"], "not an image"),
        (["what=features", "images={photo}", "layer=99"], "'99'.*12 features.12"),
        (["what=features", "images={photo}", "layer=classifier"], "classifier has no maps.*features.12"),
        (["what=features", "images={photo}", "scale=image"], "use channel or layer"),
        (["what=filters", "layer=1"], "not a convolution. Available: features.0, features.3.squeeze"),
    ],
)
def test_what_cannot_be_drawn_is_one_clear_line(arguments, message, trunk, photo, tmp_path):
    Image.new("RGB", (1, 1)).save(tmp_path / "one.png")
    (tmp_path / "text.png").write_text("no picture")
    files = {"one": tmp_path / "one.png", "text": tmp_path / "text.png", "photo": photo}
    given = [argument.format(**files) for argument in arguments]
    with pytest.raises(CnnlabError, match=message) as caught:
        visualize([*model(trunk), f"output={tmp_path / 'out'}", *given])
    assert "\n" not in str(caught.value)


def test_every_picture_has_options_and_draw():
    """Whatever task draws it."""
    tasks = (Classification, Detection, Moves, Recognition, Regression)
    drawn = {(name, module) for task in tasks for name, module in task.pictures.items()}
    assert drawn == {(name, module) for name, modules in known_pictures().items() for module in modules}
    for _, name in sorted(drawn):
        module = importlib.import_module(name)
        assert callable(module.draw)
        assert module.Options()


def test_film_has_a_frame_for_each_time_the_run_logged_its_filters(run):
    paths = visualize([f"run={run}", "what=filters"])
    film = Image.open(run / "pictures" / "filters" / "film_features.0.gif")
    assert run / "pictures" / "filters" / "film_features.0.gif" in paths
    assert film.n_frames == 4, "before training and after each of three epochs"


def test_network_without_weights_is_the_one_that_training_starts_from(tmp_path):
    overrides = [*DIGITS, "init=orthogonal", "regularization=[batch_norm]", "seed=4"]
    _, classifier, _ = parts_of_a_run(tmp_path / "run", *overrides)
    found = ModelSubject([*overrides, f"paths.cache_dir={tmp_path / 'cache'}"])
    expected = classifier.network.state_dict()
    assert found.network.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.network.state_dict().items())
    assert torch.equal(found.preprocessing.mean, classifier.preprocessing.mean)
