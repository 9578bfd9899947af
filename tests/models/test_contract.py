"""What every network keeps to: built for any number of classes, differentiable, and divided into stages."""

import copy
import functools

import pytest
import torch
import torchvision
from omegaconf import OmegaConf
from torch import nn

from cnnlab.config import CONFIG_DIR, build, compose
from cnnlab.errors import InputError
from cnnlab.models.alexnet import AlexNet
from cnnlab.models.alphago_policy import AlphaGoPolicy
from cnnlab.models.building import build_network
from cnnlab.models.feature_maps import resolve_layers
from cnnlab.models.inputs import input_spec
from cnnlab.models.lenet5 import LeNet5
from cnnlab.models.nndl_ch5 import NndlCh5
from cnnlab.models.plain import Plain
from cnnlab.models.stages import stage_of_parameter, stages, with_features_and_classifier
from cnnlab.tasks.regression.polynomial import Polynomial

OPTIONS = sorted(
    path.stem
    for path in (CONFIG_DIR / "model").glob("*.yaml")
    if not any(f"cnnlab.tasks.{task}" in path.read_text() for task in ("detection", "recognition"))
)
"""Those of detectors and readers have contracts of their own, in tests/tasks/."""
LIGHTER = {
    "alphago_policy": ["model.network.k=8"],
    "torchvision": ["model.name=shufflenet_v2_x0_5"],
    "timm": ["model.name=resnet10t"],
}
"""Overrides that choose, or make smaller, the network of an option."""
ORIGINS = {
    "alexnet": AlexNet,
    "alphago_policy": lambda num_classes: AlphaGoPolicy(num_classes, k=8),
    "lenet5": LeNet5,
    "mobilenet_v2": torchvision.models.mobilenet_v2,
    "nndl_ch5": NndlCh5,
    "plain": Plain,
    "polynomial": Polynomial,
    "resnet18": torchvision.models.resnet18,
    "squeezenet1_1": torchvision.models.squeezenet1_1,
    "torchvision": torchvision.models.shufflenet_v2_x0_5,
    "vgg16": torchvision.models.vgg16,
}


def model_config(option: str) -> dict:
    if option == "timm":
        pytest.importorskip("timm", reason="timm is an extra: pip install 'cnnlab[timm]'")
    return copy.deepcopy(composed_model(option))


@functools.cache
def composed_model(option: str) -> dict:
    cfg = compose([f"model={option}", "model.weights=null", "data=digits", *LIGHTER.get(option, [])])
    return OmegaConf.to_container(cfg.model, resolve=True)


def build_for(model: dict, num_classes: int) -> nn.Module:
    constructor = build({**model["network"], "_partial_": True})
    return build_network(constructor, num_classes=num_classes, weights=None, seed=0)


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


@pytest.mark.parametrize("option", OPTIONS)
def test_network_of_every_option_keeps_the_contract(option):
    model = model_config(option)
    if option == "vgg16":
        model["network"]["head"] = "pooled"  # the authors' has 120 million weights; it is tested below
    num_classes = 361 if option == "alphago_policy" else 5
    spec = input_spec(model)
    side = 224 if option == "alexnet" else min(spec.image_size, 64)
    network = build_for(model, num_classes).train()
    torch.manual_seed(0)

    logits = network(torch.rand(2, spec.channels, side, side))
    logits.square().mean().backward()

    assert logits.shape == (2, 1 if option == "polynomial" else num_classes)
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())
    assert isinstance(network.features, nn.Module)
    assert isinstance(network.classifier, nn.Module)
    found = stages(network)
    assert list(found)[-1] == "classifier"
    assert found["classifier"] is network.classifier
    images = torch.rand(1, spec.channels, side, side)
    if option == "polynomial":
        with pytest.raises(InputError, match="no layers with maps"):
            resolve_layers(network, ["auto"], images)
    else:
        assert len(resolve_layers(network.eval(), ["auto"], images)) == 3
    members = [id(parameter) for stage in found.values() for parameter in stage.parameters()]
    assert sorted(members) == sorted(id(parameter) for parameter in network.parameters())


def test_vgg16_with_its_authors_head_is_differentiable_throughout():
    with torch.device("meta"):
        network = build({**model_config("vgg16")["network"], "_partial_": True})(num_classes=5)
        scores = network(torch.rand(2, 3, 224, 224))
        scores.square().mean().backward()
    assert scores.shape == (2, 5)
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("option", sorted(ORIGINS))
def test_state_dict_is_that_of_the_origin(option):
    num_classes = 361 if option == "alphago_policy" else 5
    model = model_config(option)
    with torch.device("meta"):
        built = with_features_and_classifier(build({**model["network"], "_partial_": True})(num_classes=num_classes))
        assert shapes(built) == shapes(ORIGINS[option](num_classes=num_classes))


@pytest.mark.parametrize("option", sorted(set(ORIGINS) - {"polynomial"}))  # its one output is a value
def test_number_of_classes_changes_the_head_only(option):
    few, many = (81, 361) if option == "alphago_policy" else (5, 7)
    model = model_config(option)
    constructor = build({**model["network"], "_partial_": True})
    with torch.device("meta"):
        networks = [with_features_and_classifier(constructor(num_classes=count)) for count in (few, many)]
    first, second = (shapes(network) for network in networks)
    assert list(first) == list(second)
    changed = {name for name in first if first[name] != second[name]}
    head = {name for name, stage in stage_of_parameter(networks[0]).items() if stage == "classifier"}
    assert changed
    assert changed <= head


def test_every_option_has_an_origin_to_compare_with():
    assert set(OPTIONS) - {"timm"} == set(ORIGINS)


def test_alexnet_is_the_published_one():
    with torch.device("meta"):
        network = AlexNet(num_classes=1000)
    convolutions = [layer for layer in network.features if isinstance(layer, nn.Conv2d)]
    assert convolutions[0].weight.shape == (96, 3, 11, 11)
    assert [layer.groups for layer in convolutions] == [1, 2, 1, 2, 2]
    assert [layer.out_channels for layer in convolutions] == [96, 256, 384, 384, 256]
    assert sum(parameter.numel() for parameter in network.parameters()) == 60_965_224


def test_alexnet_normalizes_responses_as_section_3_3_says():
    activity = torch.rand(1, 7, 2, 2, dtype=torch.float64) * 50
    norm = next(layer for layer in AlexNet(num_classes=2).features if isinstance(layer, nn.LocalResponseNorm))
    expected = torch.empty_like(activity)
    for channel in range(7):
        near = activity[:, max(0, channel - 2) : channel + 3].square().sum(1)
        expected[:, channel] = activity[:, channel] / (2 + 1e-4 * near) ** 0.75
    torch.testing.assert_close(norm(activity), expected)


def test_alphago_policy_has_the_parameters_of_the_paper():
    with torch.device("meta"):
        network = AlphaGoPolicy()
    assert sum(parameter.numel() for parameter in network.parameters()) == 3_882_793
    assert [layer.kernel_size for layer in network.features if isinstance(layer, nn.Conv2d)] == [(5, 5)] + [(3, 3)] * 11


def test_alphago_policy_refuses_a_board_that_is_no_square():
    with pytest.raises(InputError, match="360 classes"):
        build_network(AlphaGoPolicy, num_classes=360, weights=None, seed=0)


def test_lenet5_counts_as_its_layers_say():
    expected = (25 + 1) * 6 + (6 * 25 + 1) * 16 + (400 + 1) * 120 + (120 + 1) * 84 + (84 + 1) * 10
    assert sum(parameter.numel() for parameter in LeNet5().parameters()) == expected


def test_vgg16_with_a_pooled_head_keeps_the_features():
    model = model_config("vgg16")
    with torch.device("meta"):
        network = build(model["network"] | {"head": "pooled"}, num_classes=5)
        full = torchvision.models.vgg16()
    own = {name: shape for name, shape in shapes(network).items() if name.startswith("features.")}
    assert own == {name: shape for name, shape in shapes(full).items() if name.startswith("features.")}
    assert sum(parameter.numel() for parameter in network.classifier.parameters()) == 512 * 5 + 5


def test_equal_seeds_give_equal_networks_and_other_seeds_others():
    first, again, other = (build_network(LeNet5, num_classes=10, weights=None, seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())
    assert not torch.equal(first.state_dict()["features.0.weight"], other.state_dict()["features.0.weight"])


def test_building_leaves_the_global_generator_as_it_was():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_network(LeNet5, num_classes=10, weights=None, seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_network_without_a_head_is_refused():
    with pytest.raises(InputError, match=r"no classifier.*fc.*body"):
        with_features_and_classifier(_Headless())


class _Headless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 2)


def test_nndl_ch5_has_the_parameters_of_the_exercise():
    with torch.device("meta"):
        network = NndlCh5()
    assert sum(parameter.numel() for parameter in network.parameters()) == 3_275_402


def test_slips_of_the_exercise_are_switches():
    torch.manual_seed(0)
    digits = torch.rand(4, 1, 28, 28)
    meant, given = NndlCh5().eval(), NndlCh5(dropout=0.7, dropout_while_testing=True, softmax=True).eval()
    assert torch.equal(meant(digits), meant(digits))
    assert not torch.equal(given(digits), given(digits))
    torch.testing.assert_close(given(digits).sum(dim=1), torch.ones(4))
    units = torch.ones(10_000)
    assert (given.classifier[3](units) == 0).float().mean().item() == pytest.approx(0.7, abs=0.02)
