"""Initialization against the statistics that each scheme promises."""

import math

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from cnnlab.config import build, compose
from cnnlab.models.building import build_network
from cnnlab.models.initialization import initialize
from cnnlab.models.lenet5 import LeNet5
from cnnlab.models.weights import Weights


class WithNorm(nn.Module):
    """A convolution, batch norm, and two linear layers, one wide and one tall."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 64, 5), nn.BatchNorm2d(64), nn.ReLU())
        self.classifier = nn.Sequential(nn.Linear(64, 300), nn.LayerNorm(300), nn.Linear(300, num_classes))


def weights_of(network: nn.Module) -> list[torch.Tensor]:
    return [layer.weight.detach() for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def initialized(option: str, *overrides: str) -> nn.Module:
    cfg = compose([f"init={option}", "model=lenet5", "data=digits", *overrides])
    scheme = build(OmegaConf.to_container(cfg.init, resolve=True))
    return build_network(WithNorm, num_classes=100, weights=None, init=scheme, seed=0)


def test_zero():
    assert all(torch.equal(weight, torch.zeros_like(weight)) for weight in weights_of(initialized("zero")))


@pytest.mark.parametrize(("option", "mean", "std"), [("random", 0.0, 0.01), ("normal", 0.0, 1.0)])
def test_gaussian_has_the_mean_and_deviation_of_its_config(option, mean, std):
    for weight in weights_of(initialized(option)):
        error = std / math.sqrt(weight.numel())
        assert abs(weight.mean().item() - mean) < 4 * error
        assert abs(weight.std().item() - std) < 4 * error / math.sqrt(2)
        kurtosis = ((weight - weight.mean()) / weight.std()).pow(4).mean().item()
        assert abs(kurtosis - 3) < 4 * math.sqrt(24 / weight.numel())


def test_uniform_fills_its_interval():
    for weight in weights_of(initialized("uniform", "init.a=-0.2", "init.b=0.4")):
        assert -0.2 <= weight.min() < -0.19
        assert 0.39 < weight.max() <= 0.4
        deviation = 0.6 / math.sqrt(12)
        assert abs(weight.mean().item() - 0.1) < 4 * deviation / math.sqrt(weight.numel())
        assert weight.std().item() == pytest.approx(deviation, rel=0.03)


def test_orthogonal_rows_or_columns():
    for weight in weights_of(initialized("orthogonal")):
        matrix = weight.flatten(1).double()
        gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
        torch.testing.assert_close(gram, 2 * torch.eye(len(gram), dtype=torch.float64), atol=1e-5, rtol=0)


@pytest.mark.parametrize("option", ["zero", "random", "normal", "uniform", "orthogonal"])
def test_norm_layers_stay_one_and_zero_and_biases_get_their_value(option):
    network = initialized(option, "init.bias=0.25")
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.LayerNorm):
            assert torch.equal(layer.weight, torch.ones_like(layer.weight))
            assert torch.equal(layer.bias, torch.zeros_like(layer.bias))
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            assert torch.equal(layer.bias, torch.full_like(layer.bias, 0.25))


def test_default_leaves_the_authors_initialization():
    network = LeNet5()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    initialize(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("option", ["zero", "random", "orthogonal"])
def test_only_new_parameters_are_drawn_when_weights_are_given(option):
    torch.manual_seed(2)
    given = LeNet5(10).state_dict()
    cfg = compose([f"init={option}", "init.bias=0.5", "model=lenet5", "data=digits"])
    scheme = build(OmegaConf.to_container(cfg.init, resolve=True))
    network = build_network(LeNet5, num_classes=4, weights=Weights(given, "here"), init=scheme, seed=0)
    for name, value in network.state_dict().items():
        if not name.startswith("classifier.5"):
            assert torch.equal(value, given[name]), name
    assert torch.equal(network.classifier[5].bias, torch.full((4,), 0.5))
    if option == "zero":
        assert torch.equal(network.classifier[5].weight, torch.zeros(4, 84))
