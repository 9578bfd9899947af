"""Dropout and batch normalization put into networks."""

import pytest
import torch
import torchvision
from torch import nn

from cnnlab.errors import InputError
from cnnlab.models.alphago_policy import AlphaGoPolicy
from cnnlab.models.building import build_network
from cnnlab.models.lenet5 import LeNet5
from cnnlab.models.surgery import BatchNorm, Dropout


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def test_dropout_sets_the_rate_of_layers_that_exist():
    with torch.device("meta"):
        network = torchvision.models.vgg16()
    Dropout(0.3).operate(network)
    assert [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)] == [0.3, 0.3]


def test_inserted_dropout_zeroes_the_share_p_in_training_only():
    torch.manual_seed(0)
    network = LeNet5()
    keys = list(network.state_dict())
    Dropout(0.25).operate(network)
    assert list(network.state_dict()) == keys
    seen: dict[str, torch.Tensor] = {}
    network.classifier[1].register_forward_pre_hook(lambda layer, inputs: seen.update(dropped=inputs[0].detach()))
    images = torch.rand(64, 1, 32, 32)
    before = network.features(images).flatten(1).detach()
    network.train()(images)
    alive = before > 0
    zeroed = (seen["dropped"] == 0) & alive
    share, count = zeroed.sum().item() / alive.sum().item(), alive.sum().item()
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / count) ** 0.5
    kept = alive & ~zeroed
    torch.testing.assert_close(seen["dropped"][kept], before[kept] / 0.75)
    network.eval()(images)
    assert torch.equal(seen["dropped"], before)


def test_inserted_dropout_covers_every_linear_layer():
    network = torchvision.models.resnet18(num_classes=4)
    Dropout(0.5).operate(network)
    features = torch.ones(1000, 512)
    network.train()
    torch.manual_seed(0)
    assert network.fc(features).std(dim=0).min() > 0
    network.eval()
    assert network.fc(features).std(dim=0).max() < 1e-5


def test_dropout_without_a_linear_layer_is_refused():
    with pytest.raises(InputError, match="AlphaGoPolicy has no linear layer"):
        Dropout(0.5).operate(AlphaGoPolicy(9, k=4))


@pytest.mark.parametrize("p", [-0.1, 1.0, 2.0])
def test_dropout_rate_outside_the_unit_interval_is_refused(p):
    with pytest.raises(InputError, match=f"p={p}"):
        Dropout(p)


def test_batch_norm_makes_vgg16_torchvisions_vgg16_bn():
    with torch.device("meta"):
        network, expected = torchvision.models.vgg16(), torchvision.models.vgg16_bn()
        BatchNorm().operate(network)
    assert shapes(network) == shapes(expected)
    assert [type(layer) for layer in network.features] == [type(layer) for layer in expected.features]


def test_batch_norm_keeps_names_that_are_no_numbers():
    network = AlphaGoPolicy(9, in_channels=3, k=4, layers=2)
    BatchNorm().operate(network)
    assert list(dict(network.features.named_children())) == ["conv1", "conv1_bn", "relu1", "conv2", "conv2_bn", "relu2"]
    assert network(torch.rand(2, 3, 3, 3)).shape == (2, 9)


def test_network_with_surgery_trains_through_its_new_layers():
    network = build_network(LeNet5, num_classes=3, weights=None, surgery=[BatchNorm(), Dropout(0.5)], seed=0)
    network.train()(torch.rand(4, 1, 32, 32)).sum().backward()
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert [layer.num_features for layer in norms] == [6, 16]
    assert all(layer.weight.grad is not None for layer in norms)


def test_batch_norm_is_not_put_in_twice():
    with pytest.raises(InputError, match="MobileNetV2 has batch normalization already"):
        BatchNorm().operate(torchvision.models.mobilenet_v2(num_classes=2))


def test_batch_norm_needs_a_chain_of_convolutions():
    with pytest.raises(InputError, match="no chain of convolutions"):
        BatchNorm().operate(_Tree())


class _Tree(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)))
        self.classifier = nn.Linear(4, 2)
