"""Draw which part of an image a classifier's prediction is based on, for the worst images of a report."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cnnlab.data.datamodule import DataModule
from cnnlab.data.images import LabelledImages
from cnnlab.drawing.grids import overlaid
from cnnlab.drawing.sheets import tensor_image
from cnnlab.models.grad_cam import cam_layer, grad_cam
from cnnlab.training.module import TaskModule

AT_ONCE = 4
"""Number of images whose gradients are computed together, which takes memory for all activations."""


@dataclass(frozen=True)
class HeatMaps:
    """What the network sees of each image, in grey, with red where a position raises the score of a class."""

    layer: str
    pictures: list[Image.Image]


def heat_maps(
    module: TaskModule, data: DataModule, images: LabelledImages, indices: Sequence[int], targets: Sequence[int]
) -> HeatMaps:
    """Return the Grad-CAM of each image at `indices` for its target class.

    Raises InputError if no layer of the network has maps.
    """
    dataset, network = data.eval_dataset(images), module.network
    device = next(module.parameters()).device
    pixels = torch.stack([dataset[(0, int(index))][0] for index in indices])
    classes = torch.tensor(list(targets))
    found: list[Tensor] = []
    with torch.inference_mode(False), torch.no_grad():
        inputs = [module.preprocessed(batch.to(device)) for batch in pixels.split(AT_ONCE)]
        layer = cam_layer(network, inputs[0], classes[:AT_ONCE])
        for batch, chosen in zip(inputs, classes.split(AT_ONCE), strict=True):
            found += grad_cam(network, batch, layer, chosen).cpu()
    large = [F.interpolate(each[None, None], size=pixels.shape[2:], mode="bilinear")[0, 0] for each in found]
    return HeatMaps(layer, [tensor_image(overlaid(*pair)) for pair in zip(pixels, large, strict=True)])
