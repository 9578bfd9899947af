"""The outputs of layers, against the same computation written out."""

from collections import OrderedDict

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from cnnlab.drawing.confusion import confusion_figure
from cnnlab.errors import InputError
from cnnlab.models.alexnet import AlexNet
from cnnlab.models.feature_maps import (
    feature_maps,
    first_conv,
    layer_maps,
    layer_patterns,
    layers_with_maps,
    require_maps,
    resolve_layers,
    stage_index,
)
from cnnlab.models.lenet5 import LeNet5
from cnnlab.models.stages import with_features_and_classifier


@pytest.fixture
def network() -> LeNet5:
    torch.manual_seed(0)
    return LeNet5().eval()


def test_maps_are_those_of_a_functional_forward(network):
    """The ReLU behind each convolution works in place; the kept output of the convolution has its negative values."""
    images = torch.rand(3, 1, 32, 32)
    maps = feature_maps(network, images, resolve_layers(network, ["features.*"]))
    first, second = network.features[0], network.features[3]
    conv1 = F.conv2d(images, first.weight, first.bias)
    pool1 = F.max_pool2d(F.relu(conv1), 2)
    conv2 = F.conv2d(pool1, second.weight, second.bias)
    expected = [conv1, F.relu(conv1), pool1, conv2, F.relu(conv2), F.max_pool2d(F.relu(conv2), 2)]
    assert list(maps) == [f"features.{index}" for index in range(6)]
    for found, wanted in zip(maps.values(), expected, strict=True):
        torch.testing.assert_close(found, wanted.detach())
    assert maps["features.0"].min() < 0


def test_outputs_that_are_no_maps_are_left_out(network):
    layers = resolve_layers(network, ["features.5", "classifier", "classifier.1"])
    assert list(feature_maps(network, torch.rand(1, 1, 32, 32), layers)) == ["features.5"]


def test_layer_that_returns_several_tensors_is_left_out():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(2), nn.MultiheadAttention(900, 1))
    attention = network[2]
    network.forward = lambda images: attention(*[network[1](network[0](images))] * 3)[0]
    maps = feature_maps(network, torch.rand(2, 1, 32, 32), {"conv": network[0], "attention": attention})
    assert list(maps) == ["conv"]


def test_hooks_are_gone_afterwards_even_after_an_error(network):
    layers = resolve_layers(network, ["features.0"])
    feature_maps(network, torch.rand(1, 1, 32, 32), layers)
    with pytest.raises(RuntimeError):
        feature_maps(network, torch.rand(1, 7, 32, 32), layers)
    assert not network.features[0]._forward_hooks


def test_mode_is_kept():
    network = torchvision.models.resnet18(num_classes=2)
    network.train()
    before = network.bn1.running_mean.clone()
    network.eval()
    feature_maps(network, torch.rand(1, 3, 32, 32), {"conv1": network.conv1})
    assert not network.training
    assert torch.equal(network.bn1.running_mean, before)


def test_auto_is_the_first_a_middle_and_the_last_stage_with_maps(network):
    found = resolve_layers(network, ["auto"], torch.rand(1, 1, 32, 32))
    assert list(found) == ["features.0", "features.3", "features.5"]
    resnet = with_features_and_classifier(torchvision.models.resnet18(num_classes=2).eval())
    assert list(resolve_layers(resnet, ["auto"], torch.rand(1, 3, 64, 64))) == ["conv1", "layer1", "layer4"]
    vit = torchvision.models.VisionTransformer(
        32, 8, num_layers=1, num_heads=2, hidden_dim=12, mlp_dim=24, num_classes=2
    )
    found = resolve_layers(with_features_and_classifier(vit.eval()), ["auto"], torch.rand(1, 3, 32, 32))
    assert list(found) == ["conv_proj", "encoder"]


def test_list_that_the_network_walks_through_stands_for_its_layers():
    class Walk(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Conv2d(1, 2, 3), nn.ModuleList([nn.Conv2d(2, 3, 3), nn.ReLU()])])
            self.fc = nn.Linear(3, 2)

        def forward(self, images):
            for block in [self.blocks[0], *self.blocks[1]]:
                images = block(images)
            return self.fc(images.mean((2, 3)))

    network = with_features_and_classifier(Walk())
    found = layers_with_maps(network, torch.rand(1, 1, 9, 9))
    assert {name: tuple(maps.shape) for name, maps in found.items()} == {
        "blocks.0": (1, 2, 7, 7),
        "blocks.1.0": (1, 3, 5, 5),
        "blocks.1.1": (1, 3, 5, 5),
    }
    with pytest.raises(
        InputError, match=r"layer=blocks has no maps: the network does not call it.*blocks\.0, blocks\.1\.0"
    ):
        require_maps(network, torch.rand(1, 1, 9, 9), resolve_layers(network, ["blocks"]))


def test_channels_of_a_vector_are_maps_of_a_pixel(network):
    images = torch.rand(2, 1, 32, 32)
    found = layer_maps(network, images, {"classifier": network.classifier})
    torch.testing.assert_close(found["classifier"], network(images)[:, :, None, None])


class Shuffled(nn.Module):
    """Puts the positions in an order that nobody can know."""

    def forward(self, positions):
        return positions[..., torch.randperm(positions.shape[-1])]


def test_layer_whose_axes_cannot_be_told_is_named():
    parts = {"conv": nn.Conv2d(1, 4, 1), "rows": nn.Flatten(2), "shuffled": Shuffled(), "all": nn.Flatten(1)}
    network = with_features_and_classifier(nn.Sequential(OrderedDict(parts, fc=nn.Linear(256, 2))))
    message = r"layer=shuffled has no channels: nothing says which axes of its output, N x 4 x 64.*: conv\."
    with pytest.raises(InputError, match=message):
        layer_maps(network, torch.rand(2, 1, 8, 8), {"shuffled": network.shuffled})


def test_names_and_globs_reach_inner_layers():
    resnet = with_features_and_classifier(torchvision.models.resnet18(num_classes=2))
    found = resolve_layers(resnet, ["layer4.1.conv?", "conv1"])
    assert list(found) == ["layer4.1.conv1", "layer4.1.conv2", "conv1"]
    assert found["layer4.1.conv2"] is resnet.layer4[1].conv2


def test_unknown_layer_names_the_stages(network):
    with pytest.raises(InputError, match=r"No layer of LeNet5 is named 'conv9'.*0 features\.0, 1 features\.1"):
        resolve_layers(network, ["features.0", "conv9"])


def test_index_counts_the_stages(network):
    resnet = with_features_and_classifier(torchvision.models.resnet18(num_classes=2))
    assert list(resolve_layers(network, ["3", "0"])) == ["features.3", "features.0"]
    assert list(resolve_layers(resnet, ["4"])) == ["layer1"]
    assert stage_index(resnet, "layer1") == 4
    assert stage_index(resnet, "layer1.0.conv1") is None
    assert len(resolve_layers(resnet, ["all"])) == 10
    with pytest.raises(InputError, match="'10'"):
        resolve_layers(resnet, ["10"])


@pytest.mark.parametrize("text", ["0,features.1*", "[0, features.1*]", "['0', \"features.1*\"]"])
def test_lists_of_layers_are_read_with_and_without_brackets(text):
    assert layer_patterns(text) == ["0", "features.1*"]


def test_first_convolution():
    name, layer = first_conv(AlexNet(num_classes=2))
    assert (name, layer.out_channels) == ("features.0", 96)
    with pytest.raises(InputError, match="no convolution"):
        first_conv(nn.Sequential(nn.Linear(2, 2)))


def test_confusion_figure_shows_shares_of_the_true_class_and_counts():
    counts = torch.tensor([[3, 1, 0], [0, 0, 0], [2, 0, 2]]).numpy()
    axes, *_ = confusion_figure(counts, ["a", "b", "c"]).axes
    expected = [[0.75, 0.25, 0], [0, 0, 0], [0.5, 0, 0.5]]
    assert axes.images[0].get_array().tolist() == expected
    assert [text.get_text() for text in axes.texts] == [str(count) for count in counts.flatten()]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
