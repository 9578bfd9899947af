"""Views: augmented images that depend only on the view's number and the image's content."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.utils.data import Dataset

from cnnlab.data.images import LabelledImages
from cnnlab.seeds import derived_rng

EVALUATION = -1
"""Number of the view without augmentation, as evaluation sees the image."""


class Views(Dataset):
    """Dataset of (view, index) -> (image augmented as in training, label), the same for every seed, split and subset.

    noise: augmentations that otherwise run on the device on whole batches; here they are part of the view.
    """

    def __init__(self, images: LabelledImages, transform: Callable, channels: int, noise: Sequence[nn.Module]) -> None:
        self.images = images
        self.transform = transform
        self.channels = channels
        self.noise = noise

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: tuple[int, int]) -> tuple[Tensor, int | float]:
        """Return the image as uint8 C x H x W, or as float32 in [0, 1] if there is noise, and its label."""
        view, index = draw
        image = self.images.tensor(index, self.channels)
        with derived_rng("view", view, self.images.digest(index)):
            pixels = self.transform(image)
            if self.noise:
                pixels = pixels.float() / 255
            for step in self.noise:
                pixels = step(pixels)
        return pixels, self.images.labels[index].item()
