"""Initialization against the statistics that each scheme promises."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
import torchvision
from in_process import DIGITS, parts_of_a_run
from omegaconf import OmegaConf
from torch import nn

from cnnlab.config import CONFIG_DIR, build
from cnnlab.errors import InputError
from cnnlab.models.building import build_network
from cnnlab.models.initialization import initialize, orthogonal_
from cnnlab.models.lenet5 import LeNet5
from cnnlab.models.weights import Weights

OPTIONS = sorted(path.stem for path in (CONFIG_DIR / "init").glob("*.yaml"))
DRAWN = [option for option in OPTIONS if option not in ("default", "lsuv")]


class Shapes(nn.Module):
    """A convolution and a grouped one, norm layers, and linear layers: one tall, one wide."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 5), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 96, 3, groups=4), nn.GroupNorm(4, 96)
        )
        self.classifier = nn.Sequential(nn.Linear(96, 300), nn.LayerNorm(300), nn.Linear(300, num_classes))


FANS = {
    "features.0": (3 * 25, 64 * 25),
    "features.3": (64 // 4 * 9, 96 * 9),
    "classifier.0": (96, 300),
    "classifier.2": (300, 100),
}
"""Layer -> inputs and outputs of a weight: what a unit sums over, and filters times the kernel's area."""


def scheme(option: str, *overrides: str) -> Callable[..., None]:
    """The option's file with overrides in place; to compose a whole config takes a hundred times as long."""
    node = OmegaConf.load(CONFIG_DIR / "init" / f"{option}.yaml")
    changed = OmegaConf.from_dotlist([override.removeprefix("init.") for override in overrides])
    assert set(changed) <= set(node)
    return build(OmegaConf.to_container(OmegaConf.merge(node, changed), resolve=True))


def initialized(option: str, *overrides: str) -> nn.Module:
    return build_network(Shapes, num_classes=100, weights=None, init=scheme(option, *overrides), seed=0)


def layers_of(option: str, *overrides: str) -> dict[str, nn.Module]:
    network = initialized(option, *overrides)
    return {name: network.get_submodule(name) for name in FANS}


def test_zero():
    assert all(torch.equal(layer.weight, torch.zeros_like(layer.weight)) for layer in layers_of("zero").values())


GAUSSIAN = [
    ("random", [], 0.0, lambda fan_in, fan_out: 0.01),
    ("random", ["init.mean=0.5", "init.std=0.2"], 0.5, lambda fan_in, fan_out: 0.2),
    ("normal", [], 0.0, lambda fan_in, fan_out: 1.0),
    ("xavier_normal", [], 0.0, lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out))),
    ("xavier_normal", ["init.gain=3"], 0.0, lambda fan_in, fan_out: 3 * math.sqrt(2 / (fan_in + fan_out))),
    ("kaiming_normal", [], 0.0, lambda fan_in, fan_out: math.sqrt(2 / fan_in)),
    ("kaiming_normal", ["init.mode=fan_out"], 0.0, lambda fan_in, fan_out: math.sqrt(2 / fan_out)),
    ("kaiming_normal", ["init.nonlinearity=linear"], 0.0, lambda fan_in, fan_out: math.sqrt(1 / fan_in)),
]


@pytest.mark.parametrize(("option", "overrides", "mean", "std"), GAUSSIAN)
def test_gaussian_has_the_mean_and_deviation_of_its_formula(option, overrides, mean, std):
    for name, layer in layers_of(option, *overrides).items():
        found = scipy.stats.kstest(layer.weight.detach().flatten().double().numpy(), "norm", (mean, std(*FANS[name])))
        assert found.pvalue > 1e-3, name


UNIFORM = [
    ("uniform", [], lambda fan_in, fan_out: (-0.05, 0.05)),
    ("uniform", ["init.a=-0.2", "init.b=0.4"], lambda fan_in, fan_out: (-0.2, 0.4)),
    ("xavier_uniform", [], lambda fan_in, fan_out: symmetric(math.sqrt(6 / (fan_in + fan_out)))),
    ("xavier_uniform", ["init.gain=0.5"], lambda fan_in, fan_out: symmetric(0.5 * math.sqrt(6 / (fan_in + fan_out)))),
    ("kaiming_uniform", [], lambda fan_in, fan_out: symmetric(math.sqrt(6 / fan_in))),
    ("kaiming_uniform", ["init.mode=fan_out"], lambda fan_in, fan_out: symmetric(math.sqrt(6 / fan_out))),
]


def symmetric(bound: float) -> tuple[float, float]:
    return -bound, bound


@pytest.mark.parametrize(("option", "overrides", "interval"), UNIFORM)
def test_uniform_fills_the_interval_of_its_formula(option, overrides, interval):
    for name, layer in layers_of(option, *overrides).items():
        low, high = interval(*FANS[name])
        weights = layer.weight.detach().flatten().double().numpy()
        assert low - 1e-6 <= weights.min() < weights.max() <= high + 1e-6
        assert scipy.stats.kstest(weights, "uniform", (low, high - low)).pvalue > 1e-3, name


def test_truncated_gaussian():
    overrides = ["init.mean=0.1", "init.std=0.2", "init.a=-0.1", "init.b=0.5"]
    for option, mean, std, a, b in (([], 0.0, 0.02, -0.04, 0.04), (overrides, 0.1, 0.2, -0.1, 0.5)):
        expected = scipy.stats.truncnorm((a - mean) / std, (b - mean) / std, mean, std)
        for name, layer in layers_of("trunc_normal", *option).items():
            weights = layer.weight.detach().flatten().double().numpy()
            assert scipy.stats.kstest(weights, expected.cdf).pvalue > 1e-3, name


def test_all_schemes_have_a_reference():
    tested = {option for option, *_ in (*GAUSSIAN, *UNIFORM)} | {"zero", "trunc_normal", "orthogonal"}
    assert tested == set(DRAWN)


@pytest.mark.parametrize("gain", [None, 0.5])
def test_orthogonal_rows_or_columns(gain):
    for name, layer in layers_of("orthogonal", *([f"init.gain={gain}"] if gain else [])).items():
        matrix = layer.weight.detach().flatten(1).double()
        gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
        expected = (gain**2 if gain else 2) * torch.eye(len(gram), dtype=torch.float64)
        torch.testing.assert_close(gram, expected, atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("shape", [(3, 12), (12, 3), (12, 3, 2, 2), (1, 5), (5, 1), (4, 4), (17, 40)])
def test_orthogonal_of_any_shape(shape):
    torch.manual_seed(0)
    matrix = orthogonal_(torch.empty(shape), gain=1.0).flatten(1).double()
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    torch.testing.assert_close(gram, torch.eye(len(gram), dtype=torch.float64), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(2, 6), (6, 2)])
def test_orthogonal_is_uniform_among_orthogonal_matrices(shape):
    """Under the Haar measure the square of an entry is Beta(1/2, (n - 1)/2), and its sign a fair coin's."""
    torch.manual_seed(0)
    entries = np.array([orthogonal_(torch.empty(shape), gain=1.0)[-1, -1].item() for _ in range(2000)])
    assert scipy.stats.kstest(entries**2, scipy.stats.beta(0.5, 2.5).cdf).pvalue > 1e-3
    assert scipy.stats.binomtest(int((entries > 0).sum()), len(entries)).pvalue > 1e-3


@pytest.mark.parametrize("option", DRAWN)
def test_norm_layers_stay_one_and_zero_and_biases_get_their_value(option):
    network = initialized(option, "init.bias=0.25")
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm):
            assert torch.equal(layer.weight, torch.ones_like(layer.weight))
            assert torch.equal(layer.bias, torch.zeros_like(layer.bias))
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            assert torch.equal(layer.bias, torch.full_like(layer.bias, 0.25))


def test_default_leaves_the_authors_initialization():
    network = LeNet5()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    initialize(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def output_variances(network: nn.Module, images: torch.Tensor) -> dict[str, float]:
    """The variance of the output of every convolution and linear layer in one pass."""
    found: dict[str, float] = {}
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(
                lambda layer, inputs, output, name=name: found.update({name: output.double().var(correction=0).item()})
            )
    with torch.no_grad():
        network.eval()(images)
    return dict(found)  # the hooks stay, and would change it in the next pass


@pytest.mark.parametrize("model", [[], ["model=plain"]], ids=["lenet5", "plain"])
def test_lsuv_gives_every_layer_unit_variance_on_real_digits(tmp_path, model):
    overrides = (*DIGITS, *model)
    _, classifier, data = parts_of_a_run(tmp_path / "lsuv", *overrides, "init=lsuv")
    images = classifier.preprocessing(torch.cat(list(itertools.islice(data.train_images(), 10))))
    variances = {"lsuv": output_variances(classifier.network, images)}
    initialize(classifier.network, "random")
    variances["random"] = output_variances(classifier.network, images)
    assert len(variances["lsuv"]) == (12 if model else 5)
    assert max(variances["random"].values()) < 0.1
    assert all(0.7 < variance < 1.4 for variance in variances["lsuv"].values()), variances


def test_lsuv_is_as_exact_as_its_tolerance_and_leaves_the_mode_alone():
    torch.manual_seed(0)
    images = torch.rand(32, 1, 32, 32)
    network = LeNet5().train()
    network.features.eval()
    initialize(network, "lsuv", images=images, tolerance=1e-4)
    assert [network.training, network.features[0].training, network.classifier[1].training] == [True, False, True]
    for variance in output_variances(network, images).values():
        assert variance == pytest.approx(1, abs=1e-4)
    directions = network.classifier[3].weight.detach() @ network.classifier[3].weight.detach().T
    torch.testing.assert_close(directions / directions[0, 0], torch.eye(84), atol=1e-5, rtol=0)


def test_lsuv_draws_only_what_is_new_and_needs_images():
    network, images = LeNet5(), torch.rand(8, 1, 32, 32)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    initialize(network, "lsuv", only={"classifier.5.weight", "classifier.5.bias"}, images=images)
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"classifier.5.weight", "classifier.5.bias"}
    assert output_variances(network, images)["classifier.5"] == pytest.approx(1, abs=0.1)
    with pytest.raises(InputError, match="init=lsuv needs images"):
        initialize(network, "lsuv")


@pytest.mark.parametrize("option", ["zero", "random", "orthogonal"])
def test_only_new_parameters_are_drawn_when_weights_are_given(option):
    torch.manual_seed(2)
    given = LeNet5(10).state_dict()
    init = scheme(option, "init.bias=0.5")
    network = build_network(LeNet5, num_classes=4, weights=Weights(given, "here"), init=init, seed=0)
    for name, value in network.state_dict().items():
        if not name.startswith("classifier.5"):
            assert torch.equal(value, given[name]), name
    assert torch.equal(network.classifier[5].bias, torch.full((4,), 0.5))
    if option == "zero":
        assert torch.equal(network.classifier[5].weight, torch.zeros(4, 84))


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        (["features.3"], {"features.3"}),
        (["features"], {"features.0", "features.3"}),
        (["classifier.[35]"], {"classifier.3", "classifier.5"}),
        (["classifier", "features.0"], {"features.0", "classifier.1", "classifier.3", "classifier.5"}),
        (["*"], {"features.0", "features.3", "classifier.1", "classifier.3", "classifier.5"}),
    ],
)
def test_modules_are_drawn_by_name_whatever_weights_fill(modules, expected):
    torch.manual_seed(2)
    given = LeNet5(10).state_dict()
    init = scheme("zero", f"init.modules={modules}")
    network = build_network(LeNet5, num_classes=10, weights=Weights(given, "here"), init=init, seed=0)
    zero = {name.removesuffix(".weight") for name, value in network.named_parameters() if (value == 0).all()}
    assert {name.removesuffix(".bias") for name in zero} == expected
    for name, value in network.state_dict().items():
        assert name.rsplit(".", 1)[0] in expected or torch.equal(value, given[name])


def test_head_is_called_classifier_whatever_the_origin_calls_it():
    network = torchvision.models.resnet18(num_classes=3)
    before = network.conv1.weight.detach().clone()
    initialize(network, "zero", modules=["classifier"], bias=0.5)
    assert torch.equal(network.fc.weight, torch.zeros(3, 512))
    assert torch.equal(network.fc.bias, torch.full((3,), 0.5))
    assert torch.equal(network.conv1.weight, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "xavier"}, "init.name=xavier: use default, zero, random, "),
        ({"name": "zero", "gain": 2.0}, "init=zero has no option gain. Available: none"),
        ({"name": "uniform", "std": 2.0}, "init=uniform has no option std. Available: a, b"),
        ({"name": "orthogonal", "tolerance": 0.1}, "init=orthogonal has no option tolerance. Available: gain"),
        ({"name": "default", "gain": 2.0}, "init=default takes no options"),
        ({"name": "default", "modules": ["features"]}, "init=default takes no options"),
        ({"name": "zero", "modules": ["layer4"]}, r"named 'layer4'\. Available: features\.0, features\.3, "),
    ],
)
def test_what_a_scheme_cannot_take_is_refused_and_nothing_drawn(arguments, message):
    network = LeNet5()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(InputError, match=message):
        initialize(network, **arguments)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
