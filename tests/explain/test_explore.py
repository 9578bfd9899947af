"""The explore page in a browser, against PyTorch on the same images; and its file without one."""

import base64
import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from explorable import Functional, everything, layer_outputs
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from cnnlab.api import load_run
from cnnlab.cli.subjects import RunSubject
from cnnlab.cli.visualize import visualize
from cnnlab.data.sources.digits import digits
from cnnlab.data.transforms import EvalTransform
from cnnlab.errors import DataError, InputError
from cnnlab.explain import explore
from cnnlab.explain.explore import page_of
from cnnlab.models.alphago_policy import AlphaGoPolicy
from cnnlab.models.inputs import InputSpec

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--window-size=1400,900", "--dump-dom"),
]
FRAMES = "<script>window.requestAnimationFrame = (draw) => draw();</script>"
HARNESS = Path(__file__).with_name("explore_harness.js")
HOSTILE = "</script><script>window.intruder = 1</script><img src=x onerror='window.intruder = 2'>"
UNITS = [("features.0", (2, 0, 27)), ("features.4", (5, 3, 6)), ("features.2", (1, 4, 9)), ("classifier.5", (3, 0, 0))]
SIZES = [(1, 8, 8, 32, 32), (1, 28, 28, 32, 32), (3, 50, 37, 24, 28), (3, 20, 90, 32, 40)]
"""Channels, height and width of pictures, and the network's image and resize size."""


def part(page: str, name: str) -> str:
    return re.search(rf'<script [^>]*id="{name}">(.*?)</script>', page, re.DOTALL)[1]


def encode(values: Tensor) -> str:
    return base64.b64encode(values.numpy().astype("<f4").tobytes()).decode()


def decode(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4")


def page_spec(channels: int, side: int) -> InputSpec:
    return InputSpec(channels, side, side, [], [])


@pytest.fixture(scope="module")
def page(quick_run, tmp_path_factory) -> str:
    """The page of the three-epoch run on digits, made by the verb."""
    path = tmp_path_factory.mktemp("explore") / "lenet5.html"
    written = visualize(["what=explore", f"run={quick_run}", f"output={path}", f"title={HOSTILE}"])
    assert written == [path]
    return path.read_text("utf-8")


@dataclass(frozen=True)
class Visit:
    """What a browser saw, and what PyTorch says of the same images."""

    seen: dict[str, Any]
    classifier: nn.Module
    digits: Tensor
    others: list[tuple[nn.Module, nn.Module, Tensor]]
    pictures: list[Image.Image]


@pytest.fixture(scope="module")
def visit(quick_run, page, tmp_path_factory) -> Visit:
    """One start of the browser for all tests."""
    if BROWSER is None:
        pytest.skip("no chromium or google-chrome is installed")
    run = load_run(quick_run)
    images = digits().train
    hundred = torch.stack([run.prepare(images.load(index, 1)) for index in range(100)]).float() / 255
    torch.manual_seed(1)
    others = [
        (*everything(), torch.rand(5, 3, 33, 33)),
        (nn.Identity(), Functional().eval(), torch.rand(5, 1, 20, 20)),
    ]
    rng = np.random.default_rng(0)
    pictures = [
        Image.fromarray(rng.integers(0, 256, (h, w, 3), np.uint8)).convert("L" if c == 1 else "RGB")
        for c, h, w, _, _ in SIZES
    ]
    given = {
        "digits": {"pixels": encode(hundred), "count": len(hundred)},
        "others": [
            {
                "description": json.loads(part(own, "description")),
                "weights": part(own, "weights"),
                "batch": {"pixels": encode(batch), "count": len(batch)},
            }
            for preprocessing, network, batch in others
            for own in [page_of(preprocessing, network, ["a"] * 4, page_spec(*batch.shape[1:3]), title="")]
        ],
        "resizes": [
            {
                "planes": encode(v2.functional.pil_to_tensor(picture)),
                **dict(zip(("channels", "height", "width", "side", "resize"), size, strict=True)),
            }
            for picture, size in zip(pictures, SIZES, strict=True)
        ],
        "units": [{"name": name, "unit": unit} for name, unit in UNITS],
    }
    folder = tmp_path_factory.mktemp("browser")
    scripts = f'<script type="application/json" id="given">{json.dumps(given)}</script>'
    scripts += f"<script>{HARNESS.read_text()}</script>"
    extended = page.replace("</head>", f"{FRAMES}</head>").replace("</body>", f"{scripts}</body>")
    (folder / "page.html").write_text(extended, encoding="utf-8")
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", (folder / "page.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    seen = json.loads(html.unescape(found[1]))
    assert "error" not in seen, seen["error"]
    return Visit(seen, run.network, hundred, others, pictures)


def expected_outputs(preprocessing: nn.Module, network: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    inputs = preprocessing(batch)
    before = {} if isinstance(preprocessing, nn.Identity) else {"preprocessing": inputs}
    return before | layer_outputs(network, inputs)


def test_every_layer_agrees_with_torch_on_100_digits(visit):
    expected = expected_outputs(visit.classifier.preprocessing, visit.classifier.network, visit.digits)
    assert visit.seen["digits"]["names"] == list(expected)
    found = decode(visit.seen["digits"]["values"]).reshape(100, -1)
    wanted = torch.cat([values.flatten(1) for values in expected.values()], dim=1).numpy()
    assert np.abs(found - wanted).max() < 1e-4
    with torch.no_grad():
        assert np.abs(found[:, -10:] - visit.classifier(visit.digits).numpy()).max() < 1e-4
    assert np.abs(wanted).max() > 1


def test_every_kind_of_layer_agrees_with_torch(visit):
    for (preprocessing, network, batch), seen in zip(visit.others, visit.seen["others"], strict=True):
        with torch.no_grad():
            logits = network(preprocessing(batch)).numpy()
        found = decode(seen["values"]).reshape(len(batch), -1)
        np.testing.assert_allclose(found[:, -logits.shape[1] :], logits, atol=1e-5, rtol=1e-5)
        if isinstance(network, Functional):
            continue  # its functions have no hooks
        expected = expected_outputs(preprocessing, network, batch)
        assert seen["names"] == list(expected)
        wanted = torch.cat([values.flatten(1) for values in expected.values()], dim=1).numpy()
        np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=1e-5)


def test_pictures_are_resized_and_cut_as_in_evaluation(visit):
    for picture, (_, _, _, side, resize), found in zip(visit.pictures, SIZES, visit.seen["resized"], strict=True):
        expected = EvalTransform(side, resize)(picture).numpy().ravel()
        assert np.abs(decode(found) - expected).max() <= 1


def test_input_of_a_wrong_size_is_refused(visit):
    assert visit.seen["wrongSize"] == "The network takes 1024 pixels, not 7."


def test_page_starts_from_a_validation_image(visit, quick_run):
    images = digits().train
    validation = [int(name) for name in (quick_run / "splits" / "val.txt").read_text().split()]
    first = next(index for index in validation if images.labels[index] == 3)
    expected = load_run(quick_run).prepare(images.load(first, 1)).numpy().ravel()
    assert np.abs(decode(visit.seen["start"]["pixels"]) * 255 - expected).max() <= 1.01


def test_names_from_data_stay_text(visit):
    assert visit.seen["title"] == HOSTILE
    assert visit.seen["intruder"] is None
    assert visit.seen["classNames"] == [str(digit) for digit in range(10)]


def probed_box(run: nn.Module, name: str, unit: tuple[int, int, int]) -> list[int]:
    """Top, left, bottom and right of the pixels whose NaN reaches a unit."""
    hit = []
    for axis in (2, 3):
        batch = torch.rand(32, 1, 32, 32)
        for place in range(32):
            batch[place].select(axis - 1, place).fill_(float("nan"))
        values = layer_outputs(run.network, run.preprocessing(batch))[name]
        values = values[:, unit[0]] if values.ndim == 2 else values[:, unit[0], unit[1], unit[2]]
        places = values.isnan().nonzero().flatten().tolist()
        hit.append((places[0], places[-1] + 1))
    return [hit[0][0], hit[1][0], hit[0][1], hit[1][1]]


def number(text: str) -> float:
    return float(text.replace("−", "-"))


def test_a_unit_shows_its_receptive_field_and_its_sum(visit):
    image = torch.from_numpy(decode(visit.seen["start"]["pixels"]).copy()).reshape(1, 1, 32, 32)
    network = visit.classifier.network
    outputs = expected_outputs(visit.classifier.preprocessing, network, image)
    for (name, unit), shown in zip(UNITS, visit.seen["units"], strict=True):
        assert shown["box"] == probed_box(visit.classifier, name, unit)
        steps = dict(shown["steps"])
        value = outputs[name][0][unit[0]] if name == "classifier.5" else outputs[name][0][unit]
        assert float(value) in [pytest.approx(number(text), abs=0.006) for text in steps.values()]
    conv, after_relu, pooled, logit = (dict(shown["steps"]) for shown in visit.seen["units"])
    bias = {name: float(network.get_submodule(name).bias[unit[0]].detach()) for name, unit in [UNITS[0], UNITS[3]]}
    assert number(conv["+ bias"]) == pytest.approx(bias["features.0"], abs=0.001)
    assert number(conv["Σ patch × kernel"]) + number(conv["+ bias"]) == pytest.approx(
        number(conv["= features.0"]), abs=0.01
    )
    assert any(text.startswith("features.4: max(0, ") for text in after_relu)
    assert number(after_relu["= features.3"]) == pytest.approx(float(outputs["features.3"][0, 5, 3, 6]), abs=0.006)
    assert number(pooled["largest of the window"]) == pytest.approx(float(outputs["features.2"][0, 1, 4, 9]), abs=0.006)
    assert number(logit["+ bias"]) == pytest.approx(bias["classifier.5"], abs=0.001)
    probability = float(outputs["classifier.5"][0].softmax(0)[3])
    assert number(logit["softmax: probability"]) == pytest.approx(probability, abs=0.001)
    assert [shown["heading"] for shown in visit.seen["units"]] == [
        "features.0 [2, 0, 27]", "features.4 [5, 3, 6]", "features.2 [1, 4, 9]", "classifier.5 [3]",
    ]  # fmt: skip


def ink(snapshot: dict) -> np.ndarray:
    return decode(snapshot["pixels"]).reshape(32, 32)


def test_stroke_reaches_the_network_in_the_size_and_place_of_the_training_digits(visit):
    assert ink(visit.seen["cleared"]).max() == 0
    drawn = ink(visit.seen["drawn"])
    rows = np.flatnonzero(drawn.max(1) > 0.3)
    centre = (drawn.sum(0) * (np.arange(32) + 0.5)).sum() / drawn.sum()
    assert (rows[0], rows[-1]) == (0, 31)  # scikit-learn's digits fill the frame from top to bottom
    assert abs(centre - 16) < 2  # and stand in the middle, wherever they were drawn
    with torch.no_grad():
        expected = visit.classifier(torch.tensor(drawn)[None, None]).softmax(1)[0]
    np.testing.assert_allclose(visit.seen["drawn"]["probabilities"], expected, atol=1e-5)
    assert visit.seen["drawn"]["first"] == str(int(expected.argmax()))
    assert visit.seen["cleared"]["first"] == "–"


def test_eraser_takes_the_stroke_away_and_keys_draw_one(visit):
    assert ink(visit.seen["erased"]).max() == 0
    assert ink(visit.seen["byKey"]).max() > 0.9


def test_keys_move_over_units_and_pin_one(visit):
    keyboard = visit.seen["keyboard"]
    assert keyboard["selection"] == {"index": 1, "unit": [2, 3, 5], "pinned": True}
    assert keyboard["spoken"].startswith("features.0 map 2, row 3, column 5, value ")
    assert visit.seen["pinned"] == keyboard["selection"]
    assert visit.seen["released"] == {"index": 4, "unit": [0, 0, 0], "pinned": False}


def test_layers_can_be_hidden(visit):
    assert (visit.seen["hidden"], visit.seen["shown"]) == ("none", "block")


def test_the_smallest_values_of_each_sign_have_a_colour_of_their_own(visit):
    def channels(colour: int) -> np.ndarray:
        return np.array([colour >> shift & 255 for shift in (0, 8, 16)])

    zero, positive, negative = (channels(visit.seen["signs"][name]) for name in ("zero", "positive", "negative"))
    assert abs(positive - zero).max() > 20
    assert abs(negative - zero).max() > 20
    assert positive[0] > positive[2]  # towards red
    assert negative[2] > negative[0]  # towards blue


def test_page_is_one_small_file_without_references(page):
    assert len(page) < 1_000_000
    assert not re.search(r"https?:|<link|<script[^>]* src|@import|url\(|fetch\(|XMLHttpRequest", page)
    description = json.loads(part(page, "description"))
    assert description["parameters"] == 61_706
    assert len(decode(part(page, "weights"))) == 61_706 + 2  # and mean and std


def test_examples_are_one_validation_image_of_each_class_as_published(page, quick_run):
    images = digits().train
    validation = [int(name) for name in (quick_run / "splits" / "val.txt").read_text().split()]
    examples = json.loads(part(page, "description"))["examples"]
    assert [example["label"] for example in examples] == [str(digit) for digit in range(10)]
    for label, example in enumerate(examples):
        first = next(index for index in validation if images.labels[index] == label)
        pixels = np.frombuffer(base64.b64decode(example["pixels"]), np.uint8).reshape(8, 8)
        assert np.array_equal(pixels, images.pixels[first])


class WithoutData(RunSubject):
    @property
    def data(self):
        raise DataError("There is no folder data/MNIST.")


def test_page_goes_into_a_folder_and_needs_no_data(quick_run, tmp_path, capsys):
    (path,) = explore.draw(WithoutData(quick_run, {}), explore.Options(), tmp_path / "pages")
    assert path == tmp_path / "pages" / "explore.html"
    assert capsys.readouterr().out == "The page has no examples: There is no folder data/MNIST.\n"
    description = json.loads(part(path.read_text("utf-8"), "description"))
    assert description["examples"] == []
    drawing = description["drawing"]
    assert (drawing["side"], drawing["background"], drawing["ink"], drawing["extent"]) == (32, 0, 1, None)


@pytest.mark.parametrize(
    ("network", "channels", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(1024, 2500)), 1, "Sequential has 2,562,500 parameters; a page can hold"),
        (AlphaGoPolicy(num_classes=1024, k=8), 48, "AlphaGoPolicy takes 48 channels"),
    ],
)
def test_network_that_does_not_fit_into_a_page_is_refused(network, channels, message):
    with pytest.raises(InputError, match=message):
        page_of(nn.Identity(), network.eval(), ["a"], page_spec(channels, 32), title="")


def test_negative_number_of_examples_is_refused(quick_run, tmp_path):
    with pytest.raises(InputError, match=r"examples=-1"):
        visualize(["what=explore", f"run={quick_run}", f"output={tmp_path}", "examples=-1"])
