"""Views: augmented images that are a function of the view's number and the image's content alone."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.utils.data import Dataset

from cnnlab.data.images import LabelledImages
from cnnlab.seeds import derived_rng

EVALUATION = -1
"""The view that evaluation sees: no augmentation."""


class Views(Dataset):
    """(view, index) -> the image augmented as in training, and its label; the same for every seed, split and subset.

    noise: augmentations that otherwise run on the device, batch by batch; here they are part of the view.
    """

    def __init__(self, images: LabelledImages, transform: Callable, channels: int, noise: Sequence[nn.Module]) -> None:
        self.images = images
        self.transform = transform
        self.channels = channels
        self.noise = noise

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: tuple[int, int]) -> tuple[Tensor, int | float]:
        """uint8 C x H x W, or float32 in [0, 1] where there is noise."""
        view, index = draw
        image = self.images.tensor(index, self.channels)
        with derived_rng("view", view, self.images.digest(index)):
            pixels = self.transform(image)
            if self.noise:
                pixels = pixels.float() / 255
            for step in self.noise:
                pixels = step(pixels)
        return pixels, self.images.labels[index].item()
