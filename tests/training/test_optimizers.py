"""Every parameter in one group, with the right learning rate and weight decay."""

import pytest
import torch
import torchvision
from in_process import quickly_composed
from omegaconf import OmegaConf
from torch import nn

from cnnlab.config import CONFIG_DIR, build
from cnnlab.models.stages import stage_of_parameter
from cnnlab.training.freezing import FreezePlan
from cnnlab.training.optimizers import parameter_groups

PHASES = [
    {"epoch": 0, "train": "classifier"},
    {"epoch": 1, "train": ["classifier", "last_2"], "lr_multiplier": 0.1},
    {"epoch": 2, "train": "all", "lr_multiplier": 0.01},
]


@pytest.fixture
def network() -> nn.Module:
    return torchvision.models.mobilenet_v2(num_classes=3, width_mult=0.25)


def test_groups_hold_every_parameter_once(network):
    groups = parameter_groups(network, FreezePlan(network, PHASES), lr=1.0, weight_decay=0.05)
    members = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(members) == len(set(members))
    assert set(members) == {id(parameter) for parameter in network.parameters()}


def test_groups_follow_stage_and_kind(network):
    groups = parameter_groups(network, FreezePlan(network, PHASES), lr=0.5, weight_decay=0.05)
    of = {id(parameter): group for group in groups for parameter in group["params"]}
    stage = stage_of_parameter(network)
    multipliers = {"classifier": 1.0, "features.18": 0.1, "features.17": 0.1}
    for name, parameter in network.named_parameters():
        group = of[id(parameter)]
        assert group["lr"] == pytest.approx(0.5 * multipliers.get(stage[name], 0.01)), name
        kind = "weight" if name.endswith("weight") and parameter.ndim in (2, 4) else "bias or norm"
        assert group["weight_decay"] == (0.05 if kind == "weight" else 0.0), name
    assert len(groups) == 6


def test_one_rate_without_decay_is_one_group(network):
    assert len(parameter_groups(network, FreezePlan(network, [{"epoch": 0, "train": "all"}]), 0.1, 0.0)) == 1


@pytest.mark.parametrize("option", sorted(path.stem for path in (CONFIG_DIR / "optimizer").glob("*.yaml")))
def test_optimizer_of_every_option_takes_the_groups_and_leaves_frozen_weights(network, option):
    cfg = OmegaConf.to_container(quickly_composed([f"optimizer={option}"]).optimizer, resolve=True)
    freezing = FreezePlan(network, PHASES)
    freezing.apply(network, 0)
    optimizer = build(cfg)(parameter_groups(network, freezing, cfg["lr"], 0.1), lr=cfg["lr"])
    before = {name: value.clone() for name, value in network.named_parameters()}
    network(torch.rand(2, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    moved = {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"classifier.1.weight", "classifier.1.bias"}


def test_decay_of_sgd_is_the_gradient_of_half_its_square():
    layer = nn.Linear(3, 2)
    network = nn.Module()
    network.features, network.classifier = nn.Sequential(nn.Linear(1, 1)), layer
    groups = parameter_groups(network, FreezePlan(network, [{"epoch": 0, "train": "all"}]), 0.1, 0.2)
    optimizer = torch.optim.SGD(groups, lr=0.1)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), weight * (1 - 0.1 * 0.2))
    assert torch.equal(layer.bias, bias)
