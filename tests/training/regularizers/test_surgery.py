"""Dropout, stochastic depth and batch normalization put into networks."""

import itertools

import pytest
import timm
import torch
import torchvision
from torch import nn

from cnnlab.errors import InputError
from cnnlab.models.alexnet import AlexNet
from cnnlab.models.alphago_policy import AlphaGoPolicy
from cnnlab.models.building import build_network
from cnnlab.models.lenet5 import LeNet5
from cnnlab.models.plain import Plain
from cnnlab.models.stages import with_features_and_classifier
from cnnlab.models.weights import Weights
from cnnlab.training.regularizers.surgery import BatchNorm, Dropout, StochasticDepth


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def test_dropout_sets_the_rate_of_layers_that_exist():
    with torch.device("meta"):
        network = torchvision.models.vgg16()
    Dropout(0.3).modify_network(network)
    assert [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)] == [0.3, 0.3]


def test_inserted_dropout_zeroes_the_share_p_in_training_only():
    torch.manual_seed(0)
    network = LeNet5()
    keys = list(network.state_dict())
    Dropout(0.25).modify_network(network)
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
    Dropout(0.5).modify_network(network)
    features = torch.ones(1000, 512)
    network.train()
    torch.manual_seed(0)
    assert network.fc(features).std(dim=0).min() > 0
    network.eval()
    assert network.fc(features).std(dim=0).max() < 1e-5


def test_channels_of_convolutions_are_dropped_whole_and_in_training_only():
    torch.manual_seed(0)
    network = LeNet5()
    Dropout(0.5, conv_p=0.25).modify_network(network)
    seen: list[torch.Tensor] = []
    network.features[3].register_forward_hook(lambda layer, inputs, output: seen.append(output.detach().clone()))
    network.features[0].register_forward_hook(lambda layer, inputs, output: torch.ones_like(output))
    images = torch.rand(400, 1, 32, 32)
    network.eval()(images)
    network.train()(images)
    whole, dropped = seen
    gone = (dropped == 0).flatten(2).all(dim=2)
    count = gone.numel()
    assert abs(gone.sum().item() / count - 0.25) < 4 * (0.25 * 0.75 / count) ** 0.5
    assert not torch.equal(gone[0], gone[1])
    torch.testing.assert_close(dropped[~gone], whole[~gone] / 0.75)


def test_dropout_without_a_linear_layer_is_refused_unless_it_is_for_convolutions():
    with pytest.raises(InputError, match=r"AlphaGoPolicy has no linear layer.*dropout\.conv_p"):
        Dropout(0.5, conv_p=0.1).modify_network(AlphaGoPolicy(9, k=4))
    network = AlphaGoPolicy(9, in_channels=3, k=4, layers=3)
    Dropout(0.0, conv_p=0.9).modify_network(network)
    boards = torch.rand(16, 3, 3, 3)
    assert not torch.equal(network.train()(boards), network.eval()(boards))


@pytest.mark.parametrize("rates", [{"p": -0.1}, {"p": 1.0}, {"p": 2.0}, {"conv_p": -0.5}, {"conv_p": 1.0}])
def test_dropout_rate_outside_the_unit_interval_is_refused(rates):
    ((name, value),) = rates.items()
    with pytest.raises(InputError, match=rf"regularization\.dropout\.{name}={value}: .* at least 0 and less than 1"):
        Dropout(**rates)


@pytest.mark.parametrize(("name", "blocks"), [("efficientnet_b0", 16), ("convnext_tiny", 18), ("swin_t", 12)])
def test_stochastic_depth_rises_linearly_with_depth(name, blocks):
    """Huang et al. 2016, equation 4: block l of L is skipped with l / L times the last one's rate."""
    with torch.device("meta"):
        network = torchvision.models.get_model(name)
    StochasticDepth(0.4).modify_network(network)
    found = [layer.p for layer in network.modules() if isinstance(layer, torchvision.ops.StochasticDepth)]
    assert found == pytest.approx([0.4 * number / blocks for number in range(1, blocks + 1)])


def test_stochastic_depth_of_timm():
    with torch.device("meta"):
        network = timm.create_model("convnext_atto", drop_path_rate=0.1)
    StochasticDepth(0.3).modify_network(network)
    found = [layer.drop_prob for layer in network.modules() if isinstance(layer, timm.layers.DropPath)]
    assert len(found) > 5
    assert found == pytest.approx([0.3 * number / len(found) for number in range(1, len(found) + 1)])


def test_stochastic_depth_needs_branches_and_a_rate():
    with pytest.raises(InputError, match="ResNet has no residual branch that can be skipped"):
        StochasticDepth(0.2).modify_network(torchvision.models.resnet18(num_classes=2))
    with pytest.raises(InputError, match=r"stochastic_depth\.p=1\.0: must be at least 0 and less than 1"):
        StochasticDepth(1.0)


def test_batch_norm_makes_vgg16_torchvisions_vgg16_bn():
    with torch.device("meta"):
        network, expected = torchvision.models.vgg16(), torchvision.models.vgg16_bn()
        BatchNorm().modify_network(network)
    assert shapes(network) == shapes(expected)
    assert [type(layer) for layer in network.features] == [type(layer) for layer in expected.features]


@pytest.mark.parametrize(("origin", "new"), [("vgg16_bn", 0), ("vgg16", 2 * 13)])
def test_weights_of_either_vgg16_fill_the_one_with_batch_norm(origin, new):
    """On the meta device, which knows names and shapes: every parameter but those of a norm that the weights lack."""
    left: list[set[str]] = []
    with torch.device("meta"):
        network = build_network(
            torchvision.models.vgg16,
            num_classes=1000,
            weights=Weights(torchvision.models.get_model(origin).state_dict(), origin),
            surgery=[BatchNorm().modify_network],
            init=lambda network, only: left.append(only),
            seed=0,
        )
    (names,) = left
    assert len(names) == new
    norms = {name for name, layer in network.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    assert {name.rpartition(".")[0] for name in names} == (norms if new else set())


class SmallVgg(nn.Module):
    """torchvision's VGG with 4, 8 and 8 filters."""

    def __init__(self, num_classes: int = 3, batch_norm: bool = False) -> None:
        super().__init__()
        self.features = torchvision.models.vgg.make_layers([4, "M", 8, 8, "M"], batch_norm=batch_norm)
        self.classifier = nn.Linear(8, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images).mean(dim=(2, 3)))


@pytest.mark.parametrize("batch_norm", [True, False])
def test_network_with_batch_norm_and_weights_computes_what_their_origin_does(batch_norm):
    """Weights with batch norm: the very same; weights without: its fresh statistics, 0 and 1, change nothing."""
    torch.manual_seed(3)
    origin = SmallVgg(batch_norm=batch_norm)
    for _ in range(3):  # statistics that are not those of a new layer
        origin.train()(torch.rand(8, 3, 16, 16))
    network = build_network(
        SmallVgg,
        num_classes=3,
        weights=Weights(origin.state_dict(), "here"),
        surgery=[BatchNorm().modify_network],
        seed=0,
    )
    images = torch.rand(4, 3, 16, 16)
    found, expected = network.eval()(images), origin.eval()(images)
    torch.testing.assert_close(found, expected, rtol=0 if batch_norm else 1e-4, atol=0 if batch_norm else 1e-5)


def test_batch_norm_of_the_courses_example():
    """x1 and x2 have means 1 and 1/2 and biased variances 1 and 3/2."""
    network = nn.Module()
    network.features, network.classifier = nn.Sequential(nn.Conv2d(2, 2, 1)), nn.Linear(2, 2)
    nn.init.dirac_(network.features[0].weight)
    nn.init.zeros_(network.features[0].bias)
    BatchNorm().modify_network(network)
    x1, x2 = torch.tensor([1.0, 1, 1, 2, 0, -1, 2, 2]), torch.tensor([-1.0, 1, 0, 1, 0, -1, 3, 1])
    expected = torch.stack([(x1 - 1) / (1 + 1e-5) ** 0.5, (x2 - 0.5) / (1.5 + 1e-5) ** 0.5], dim=1)
    torch.testing.assert_close(
        network.features.train()(torch.stack([x1, x2], dim=1)[..., None, None])[..., 0, 0], expected
    )
    norm = network.features[1]
    torch.testing.assert_close(norm.running_mean, 0.1 * torch.tensor([1.0, 0.5]))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * torch.tensor([1.0, 1.5]) * 8 / 7)


@pytest.mark.parametrize(
    ("network", "images", "filters"),
    [
        (LeNet5(3), torch.rand(2, 1, 32, 32), [6, 16]),
        (AlexNet(3), torch.rand(2, 3, 96, 96), [96, 256, 384, 384, 256]),
        (AlphaGoPolicy(9, in_channels=3, k=4, layers=3), torch.rand(2, 3, 3, 3), [4, 4, 4]),
        (Plain(3, depth=4, width=5), torch.rand(2, 1, 16, 16), [5, 5, 5]),
        (torchvision.models.squeezenet1_1(num_classes=3), torch.rand(2, 3, 64, 64), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_batch_norm_is_behind_every_convolution_of_the_features(network, images, filters):
    before = [layer for layer in network.features.modules() if isinstance(layer, nn.Conv2d)]
    BatchNorm().modify_network(network)
    ran: list[nn.Module] = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
            layer.register_forward_hook(lambda layer, inputs, output: ran.append(layer))
    logits = network.train()(images)
    assert logits.shape == (2, 9 if isinstance(network, AlphaGoPolicy) else 3)
    behind = {id(layer): following for layer, following in itertools.pairwise([*ran, None])}
    for layer in before:
        assert isinstance(behind[id(layer)], nn.BatchNorm2d)
        assert behind[id(layer)].num_features == layer.out_channels
    if filters:
        assert [layer.num_features for layer in ran if isinstance(layer, nn.BatchNorm2d)] == filters


def test_batch_norm_keeps_names_that_are_no_numbers():
    network = AlphaGoPolicy(9, in_channels=3, k=4, layers=2)
    BatchNorm().modify_network(network)
    assert list(dict(network.features.named_children())) == ["conv1", "conv1_bn", "relu1", "conv2", "conv2_bn", "relu2"]


def test_weights_of_squeezenet_fill_the_convolutions_of_the_one_with_batch_norm():
    left: list[set[str]] = []
    with torch.device("meta"):
        origin = torchvision.models.squeezenet1_1()
        build_network(
            torchvision.models.squeezenet1_1,
            num_classes=1000,
            weights=Weights(origin.state_dict(), "here"),
            surgery=[BatchNorm().modify_network],
            init=lambda network, only: left.append(only),
            seed=0,
        )
    convolutions = sum(isinstance(layer, nn.Conv2d) for layer in origin.features.modules())
    assert len(left[0]) == 2 * convolutions


def test_network_with_surgery_trains_through_its_new_layers():
    network = build_network(
        LeNet5, num_classes=3, weights=None, surgery=[BatchNorm().modify_network, Dropout(0.5).modify_network], seed=0
    )
    network.train()(torch.rand(4, 1, 32, 32)).sum().backward()
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert [layer.num_features for layer in norms] == [6, 16]
    assert all(layer.weight.grad is not None for layer in norms)


@pytest.mark.parametrize(
    ("name", "norm"), [("mobilenet_v2", "MobileNetV2 .* .BatchNorm2d"), ("convnext_tiny", "ConvNeXt .* .LayerNorm2d")]
)
def test_network_with_normalization_gets_no_other(name, norm):
    with torch.device("meta"):
        network = torchvision.models.get_model(name)
    with pytest.raises(InputError, match=norm):
        BatchNorm().modify_network(network)


def test_batch_norm_needs_features_that_the_network_runs_through():
    """A view of the other children is no part of the network: what is put into it would never run."""
    network = nn.Module()
    network.conv1, network.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
    with pytest.raises(InputError, match="Module has no module named features"):
        BatchNorm().modify_network(with_features_and_classifier(network))
