"""Networks with every layer that the explore page knows, and how PyTorch sees what they compute."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnlab.models.preprocessing import Normalize


class Everything(nn.Module):
    """3 x 33 x 33 -> 4; every layer, with the settings that are easy to get wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, (5, 3), stride=(2, 1), padding=(1, 2), bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU6(inplace=True),
            nn.LocalResponseNorm(4, alpha=0.5, beta=0.6, k=1.5),
            nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
            nn.Conv2d(8, 12, 4, padding="same", groups=2),
            nn.Tanh(),
            nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False, ceil_mode=True),
            nn.Conv2d(12, 6, 2, dilation=(2, 1), groups=3),
            nn.Sigmoid(),
            nn.AvgPool2d(2, stride=1, padding=1, divisor_override=3),
            nn.Identity(),
            nn.AvgPool2d(2, stride=1, padding=(1, 0)),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((2, 3))
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Dropout(), nn.Linear(36, 20, bias=False), nn.ReLU(inplace=True), nn.Linear(20, 4)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(images)))


class Functional(nn.Module):
    """1 x 20 x 20 -> 3; functions instead of layers, and one layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.conv2 = nn.Conv2d(4, 6, 3)
        self.relu = nn.ReLU()
        self.fc1 = nn.Linear(24, 8)
        self.fc2 = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.max_pool2d(self.relu(self.conv1(images)), 2)
        maps = F.avg_pool2d(self.relu(self.conv2(maps)), 2, stride=2, padding=1)
        maps = F.dropout(F.adaptive_avg_pool2d(maps, (2, 2)), 0.5, self.training)
        return self.fc2(torch.tanh(self.fc1(maps.view(maps.size(0), -1))))


def everything() -> tuple[nn.Module, nn.Module]:
    """Preprocessing and network in eval mode, with batch statistics that are not those of a new network."""
    torch.manual_seed(0)
    network = Everything()
    norm = network.features[1]
    nn.init.uniform_(norm.running_mean, -0.5, 0.5)
    nn.init.uniform_(norm.running_var, 0.2, 2)
    nn.init.uniform_(norm.weight, -1, 3)
    nn.init.uniform_(norm.bias, -1, 1)
    return Normalize([0.4, 0.5, 0.3], [0.2, 0.3, 0.25]), network.eval()


def layer_outputs(network: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Name -> output of every module without children, by hooks, before an in-place layer overwrites it."""
    outputs: dict[str, Tensor] = {}

    def hook(name: str):
        return lambda module, arguments, output: outputs.update({name: output.detach().clone()})

    leaves = [(name, module) for name, module in network.named_modules() if next(module.children(), None) is None]
    handles = [module.register_forward_hook(hook(name)) for name, module in leaves]
    with torch.no_grad():
        network(inputs)
    for handle in handles:
        handle.remove()
    return outputs
