"""A network that is cut in two computes what it computes whole."""

import pytest
import torch
import torchvision
from torch import nn

from cnnlab.errors import InputError
from cnnlab.models.cutting import Cut, cut_below
from cnnlab.models.lenet5 import LeNet5
from cnnlab.models.stages import stages, with_features_and_classifier
from cnnlab.training.regularizers.surgery import Dropout

NETWORKS = {
    "lenet5": lambda: LeNet5(num_classes=5, in_channels=3),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(num_classes=5, width_mult=0.25),
    "resnet18": lambda: torchvision.models.resnet18(num_classes=5),
    "squeezenet1_1": lambda: torchvision.models.squeezenet1_1(num_classes=5),
    "shufflenet_v2_x0_5": lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=5),
    "regnet_y_400mf": lambda: torchvision.models.regnet_y_400mf(num_classes=5),
}


def build(name: str) -> nn.Module:
    """A network whose batch norm has seen data, so that folding it changes weights."""
    torch.manual_seed(0)
    network = with_features_and_classifier(NETWORKS[name]()).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 2.0)
            layer.weight.data.uniform_(0.5, 1.5)
            layer.bias.data.normal_(0, 0.2)
    return network


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NETWORKS)
def test_prefix_and_tail_give_what_the_network_gives(name):
    network, batch = build(name), images()
    names = list(stages(network))
    with torch.no_grad():
        expected = network(batch)
        for stage in (names[1], names[len(names) // 2], names[-1]):
            cut = Cut(network, stage, images(2))
            found = cut.tail(cut.prefix(batch))
            assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_classifier_takes_pooled_vectors_where_the_network_pools():
    network = build("mobilenet_v2")
    cut = Cut(network, "classifier", images(2))
    assert cut.prefix(images()).shape == (3, 1280)
    assert cut.tail(cut.prefix(images())).shape == (3, 5)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in cut.prefix_network.modules())


def test_tail_trains_the_parameters_of_the_network():
    """Gradients behind the cut are those of the whole network with everything below it frozen."""
    network, batch = build("resnet18"), images(4)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(("layer4", "fc")))
    network(batch).square().sum().backward()
    expected = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    cut = Cut(network, "layer4", images(2))
    cut.tail(cut.prefix(batch)).square().sum().backward()
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-5 * gradient.abs().max().item())


def test_cutting_leaves_the_network_as_it_is():
    network = build("resnet18").train()
    network.bn1.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [layer.training for layer in network.modules()]
    Cut(network, "layer4", images(2))
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert [layer.training for layer in network.modules()] == modes


def test_tail_follows_the_mode_of_the_network():
    network = torchvision.models.mobilenet_v2(num_classes=5, width_mult=0.25, dropout=0.9).eval()
    cut = Cut(network, "classifier", images(2))
    features = cut.prefix(images())
    assert torch.equal(cut.tail(features), cut.tail(features))
    network.train()
    assert not torch.equal(cut.tail(features), cut.tail(features))


class Around(nn.Module):
    """The input of the first stage comes again behind the second."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1))
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(batch) + batch)


def test_branch_around_the_cut_is_noticed():
    with pytest.raises(InputError, match=r"Around cannot be cut before features\.1"):
        Cut(Around(), "features.1", images(2))
    assert Cut(Around(), "classifier", images(2)).prefix(images()).shape == (3, 3, 32, 32)


def test_random_prefix_is_refused():
    network = build("mobilenet_v2")
    Dropout(p=0.2, conv_p=0.1).modify_network(network)
    with pytest.raises(InputError, match="random in training"):
        Cut(network, "classifier", images(2))
    with pytest.raises(InputError, match="random in training"):
        Cut(torchvision.models.efficientnet_b0(num_classes=5).eval(), "classifier", images(2))


class DropsBeforeHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8, 5)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.fc(self.drop(self.pool(self.conv(batch)).flatten(1)))


def test_cut_moves_below_dropout_that_is_a_stage_of_its_own():
    cut = cut_below(with_features_and_classifier(DropsBeforeHead()), "classifier", images(2))
    assert cut.stage == "drop"
    assert cut.prefix(images()).shape == (3, 8)


@pytest.mark.parametrize("change", ["weight", "statistic", "structure", "stage"])
def test_fingerprint_changes_with_what_the_prefix_computes(change):
    network, stage = build("mobilenet_v2"), "classifier"
    before = Cut(network, stage, images(2)).fingerprint()
    if change == "weight":
        network.features[7].conv[0][0].weight.data.flatten()[3] += 1e-3
    elif change == "statistic":
        network.features[7].conv[0][1].running_var[0] *= 1.01
    elif change == "structure":
        network.features[18][2] = nn.ReLU()
    else:
        stage = "features.17"
    assert Cut(network, stage, images(2)).fingerprint() != before


def test_fingerprint_is_blind_to_what_is_above_the_cut():
    network = build("mobilenet_v2")
    before = Cut(network, "classifier", images(2)).fingerprint()
    network.classifier[1] = nn.Linear(1280, 7)
    assert Cut(network, "classifier", images(2)).fingerprint() == before
