"""VGG16 (Simonyan and Zisserman 2015, configuration D) from torchvision, with a choice of heads."""

from torch import nn
from torchvision import models

from cnnlab.errors import InputError


def vgg16(num_classes: int = 1000, head: str = "full", dropout: float = 0.5) -> models.VGG:
    """Return a VGG16 that maps N x 3 x 224 x 224 images to N x num_classes logits.

    head: "full" is the published one, three linear layers (119.6 M weights for five classes); "pooled" is global
    average pooling and one linear layer of 512 x num_classes, for few classes or little memory.
    """
    if head not in ("full", "pooled"):
        raise InputError(f"model.network.head={head}: use full or pooled.")
    network = models.vgg16(num_classes=num_classes, dropout=dropout)
    if head == "pooled":
        network.avgpool = nn.AdaptiveAvgPool2d(1)
        network.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(512, num_classes))
    return network
