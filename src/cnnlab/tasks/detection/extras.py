"""The further, coarser maps that SSD and SSDLite look at."""

from collections import OrderedDict
from functools import partial

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

WIDTHS = (512, 256, 256, 128)
"""Channels of the further maps."""
batch_norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
"""The normalization of SSDLite's own layers, as in torchvision."""


class ExtraMaps(nn.Module):
    """Appends four maps, each at twice the stride of the one before, to the maps of the backbone."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.out_channels = [*channels, *WIDTHS]
        widths = (channels[-1], *WIDTHS)
        self.blocks = nn.ModuleList(self._block(first, second) for first, second in zip(widths, WIDTHS, strict=False))
        for layer in self.blocks.modules():
            if isinstance(layer, nn.Conv2d):
                self._initialize(layer)

    def forward(self, maps: "OrderedDict[str, Tensor]") -> "OrderedDict[str, Tensor]":
        found = OrderedDict(maps)
        last = next(reversed(maps.values()))
        for block in self.blocks:
            last = block(last)
            found[str(len(found))] = last
        return found

    def _block(self, inputs: int, outputs: int) -> nn.Module:
        half = outputs // 2
        return nn.Sequential(
            nn.Conv2d(inputs, half, 1), nn.ReLU(), nn.Conv2d(half, outputs, 3, stride=2, padding=1), nn.ReLU()
        )

    def _initialize(self, layer: nn.Conv2d) -> None:
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class LightExtraMaps(ExtraMaps):
    """The same with depthwise separable convolutions and batch normalization."""

    def _block(self, inputs: int, outputs: int) -> nn.Module:
        half = outputs // 2
        conv = partial(Conv2dNormActivation, norm_layer=batch_norm, activation_layer=nn.ReLU6)
        return nn.Sequential(
            conv(inputs, half, kernel_size=1),
            conv(half, half, kernel_size=3, stride=2, groups=half),
            conv(half, outputs, kernel_size=1),
        )

    def _initialize(self, layer: nn.Conv2d) -> None:
        nn.init.normal_(layer.weight, std=0.03)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
