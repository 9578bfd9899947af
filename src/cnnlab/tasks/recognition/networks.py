"""Readers: networks that map a line of text to the characters in each of its columns."""

import math

import torch
from torch import Tensor, nn

HEIGHT = 32
"""Height of a line in pixels, which all readers take."""


class CRNN(nn.Module):
    """Convolutions, then recurrent layers over the columns (Shi et al. 2015, An End-to-End Trainable Neural Network for
    Image-based Sequence Recognition), with batch normalization in every convolution and two columns for each of theirs.
    """

    def __init__(self, num_classes: int, in_channels: int = 1, width: int = 32, hidden: int = 128, layers: int = 1):
        """width: channels of the first convolution. hidden: units of each LSTM in each direction."""
        super().__init__()
        self.features = trunk(in_channels, width)
        self.classifier = RecurrentHead(8 * width, hidden, layers, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map N x C x 32 x W to logits N x ceil(W / 4) x (1 + num_classes)."""
        return self.classifier(self.features(images))


class ConvTransformer(nn.Module):
    """Convolutions, then self-attention over the columns: a global view at the cost of convolutions.

    The attention layers are those of Vaswani et al. 2017, normalized first (Xiong et al. 2020).
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 1,
        width: int = 32,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
    ):
        """width: channels of the first convolution; the attention has eight times as many."""
        super().__init__()
        self.features = trunk(in_channels, width)
        self.classifier = AttentionHead(8 * width, layers, heads, dropout, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map N x C x 32 x W to logits N x ceil(W / 4) x (1 + num_classes)."""
        return self.classifier(self.features(images))


class RecurrentHead(nn.Module):
    """Bidirectional LSTMs over the columns, and a linear layer for each."""

    def __init__(self, channels: int, hidden: int, layers: int, num_classes: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, hidden, layers, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(2 * hidden, 1 + num_classes)

    def forward(self, maps: Tensor) -> Tensor:
        """Map N x C x h x T to logits N x T x (1 + num_classes)."""
        return self.linear(self.lstm(columns(maps))[0])


class AttentionHead(nn.Module):
    """Transformer layers over the columns, whose places are told by sines, and a linear layer for each column."""

    def __init__(self, channels: int, layers: int, heads: int, dropout: float, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    channels, heads, 2 * channels, dropout, "gelu", batch_first=True, norm_first=True
                )
                for _ in range(layers)
            ),
            nn.LayerNorm(channels),
        )
        self.linear = nn.Linear(channels, 1 + num_classes)

    def forward(self, maps: Tensor) -> Tensor:
        """Map N x C x h x T to logits N x T x (1 + num_classes)."""
        sequence = columns(maps)
        return self.linear(self.layers(sequence + places(sequence.shape[1], sequence.shape[2]).to(sequence)))


def trunk(in_channels: int, width: int) -> nn.Sequential:
    """Return convolutions that map N x C x 32 x W to N x 8 width x 2 x ceil(W / 4)."""
    halve, lower = nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d((2, 1))
    return nn.Sequential(
        block(in_channels, width),
        halve,
        block(width, 2 * width),
        halve,
        block(2 * width, 4 * width),
        lower,
        block(4 * width, 4 * width),
        block(4 * width, 8 * width),
        lower,
    )


def block(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return a convolution with batch normalization and ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def columns(maps: Tensor) -> Tensor:
    """Return the mean over the height as a sequence: N x C x h x T -> N x T x C."""
    return maps.mean(2).transpose(1, 2)


def places(length: int, channels: int) -> Tensor:
    """Return the sines and cosines that tell the place of each column (Vaswani et al. 2017), length x channels."""
    rates = torch.exp(torch.arange(0, channels, 2) * (-math.log(10_000.0) / channels))
    angles = torch.arange(length)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :channels]
