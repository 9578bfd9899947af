"""LeNet-5 (LeCun et al. 1998, Gradient-Based Learning Applied to Document Recognition), in its modern form."""

from torch import Tensor, nn


class LeNet5(nn.Module):
    """LeNet-5 with ReLU and max pooling: two convolution-pooling stages and three linear layers, for 32 x 32 pixels."""

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 6, kernel_size=5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, kernel_size=5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16 * 5 * 5, 120),
            nn.ReLU(inplace=True),
            nn.Linear(120, 84),
            nn.ReLU(inplace=True),
            nn.Linear(84, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """N x in_channels x 32 x 32 -> N x num_classes logits."""
        return self.classifier(self.features(images))
