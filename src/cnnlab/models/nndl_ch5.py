"""The convolutional network of the exercise to chapter 5 of Qiu's Neural Networks and Deep Learning (nndl/exercise)."""

from torch import Tensor, nn


class NndlCh5(nn.Module):
    """A 7 x 7 convolution to 32 and a 5 x 5 to 64 channels with ReLU and 2 x 2 pooling, then 1,024 units with dropout.

    dropout: probability that a unit is dropped. The exercise passes its keep probability, 0.7, to torch.nn.Dropout,
        which expects this one.
    dropout_while_testing: drop units in evaluation too, as the exercise does because it never calls `eval()`.
    softmax: output probabilities instead of logits, as the exercise does before a cross entropy that expects logits.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        dropout: float = 0.3,
        dropout_while_testing: bool = False,
        softmax: bool = False,
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 32, kernel_size=7, padding=3),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, kernel_size=5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64 * 7 * 7, 1024),
            nn.ReLU(inplace=True),
            RelentlessDropout(dropout) if dropout_while_testing else nn.Dropout(dropout),
            nn.Linear(1024, num_classes),
            *([nn.Softmax(dim=1)] if softmax else []),
        )

    def forward(self, images: Tensor) -> Tensor:
        """N x in_channels x 28 x 28 -> N x num_classes logits, or probabilities."""
        return self.classifier(self.features(images))


class RelentlessDropout(nn.Dropout):
    """Dropout that is also active in evaluation."""

    def forward(self, units: Tensor) -> Tensor:
        return nn.functional.dropout(units, self.p, training=True)
