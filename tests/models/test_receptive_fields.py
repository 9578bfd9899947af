"""Receptive fields against probes: which pixels a unit answers to, found by putting NaN into the input."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from cnnlab.models.alexnet import AlexNet
from cnnlab.models.feature_maps import feature_maps
from cnnlab.models.lenet5 import LeNet5
from cnnlab.models.receptive_fields import receptive_fields


class Branches(nn.Module):
    """A sum and a concatenation of branches with different windows, dilation and a pooling that is a function."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, (3, 5), stride=(2, 1), padding=(1, 0))
        self.left = nn.Conv2d(4, 4, 3, padding=2, dilation=2)
        self.right = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
        self.last = nn.Conv2d(8, 2, 3)

    def forward(self, images: Tensor) -> Tensor:
        stem = nn.functional.max_pool2d(self.stem(images), 2)
        both = self.left(stem) + self.right(stem)
        return self.last(torch.cat([both, stem], dim=1)).mean((2, 3))


def probed(network: nn.Module, layer: str, size: int, unit: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box (top, left, bottom, right) of the pixels that make the unit NaN; every operation hands NaN on."""
    seen = []
    for axis in (0, 1):
        batch = torch.rand(size, 3, size, size)
        for position in range(size):
            batch[position].select(axis + 1, position).fill_(float("nan"))
        parts = [feature_maps(network, part, {layer: network.get_submodule(layer)})[layer] for part in batch.split(32)]
        hit = torch.cat(parts)[:, :, unit[0], unit[1]].isnan().any(dim=1).nonzero().flatten().tolist()
        seen.append((hit[0], hit[-1] + 1))
    (top, bottom), (left, right) = seen
    return top, left, bottom, right


@pytest.mark.parametrize(
    ("build", "layer", "size", "unit"),
    [
        (lambda: LeNet5(in_channels=3), "features.5", 32, (1, 2)),
        (lambda: AlexNet(num_classes=2), "features.4", 65, (3, 3)),
        (lambda: torchvision.models.squeezenet1_1(num_classes=2), "features.5", 47, (2, 2)),
        (lambda: torchvision.models.mobilenet_v2(num_classes=2), "features.4", 38, (2, 2)),
        (lambda: torchvision.models.resnet18(num_classes=2), "layer1.0", 34, (4, 4)),
        (Branches, "left", 40, (5, 15)),
        (Branches, "last", 40, (4, 6)),
    ],
)
def test_field_is_the_box_of_pixels_that_reach_a_unit(build, layer, size, unit):
    torch.manual_seed(0)
    network = build().eval()
    field = receptive_fields(network)[layer]
    box = probed(network, layer, size, unit)
    assert min(box) > 0, "the probe must lie inside the image"
    assert field.box(*unit) == box
    below = probed(network, layer, size, (unit[0] + 1, unit[1] + 1))
    assert (field.rows.stride, field.columns.stride) == (below[0] - box[0], below[1] - box[1])


def test_published_fields():
    """VGG16's last pooling sees 212 pixels at stride 32, ResNet-18's last block 435 (Araujo et al. 2019, table 1)."""
    with torch.device("meta"):
        vgg = receptive_fields(torchvision.models.vgg16(num_classes=2))
        resnet = receptive_fields(torchvision.models.resnet18(num_classes=2))
    assert (vgg["features.0"].size, vgg["features.0"].stride) == (3, 1)
    assert (vgg["features.30"].size, vgg["features.30"].stride) == (212, 32)
    assert resnet["layer4"].size == 435


def test_units_that_see_everything_have_no_field():
    fields = receptive_fields(torchvision.models.resnet18(num_classes=2))
    assert "layer4" in fields
    assert not {"avgpool", "fc"} & set(fields)


def test_network_that_cannot_be_traced_has_none():
    class Undecided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.conv(images) if images.mean() > 0 else images

    assert receptive_fields(Undecided()) == {}
