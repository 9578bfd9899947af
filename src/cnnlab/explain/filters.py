"""`what=filters`: the weights of a convolution as pictures."""

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from cnnlab.drawing.album import Album
from cnnlab.drawing.filters import describe_filters, filters_sheet
from cnnlab.errors import InputError
from cnnlab.explain.subject import Subject
from cnnlab.models.feature_maps import first_conv, layer_patterns, resolve_layers


@dataclass
class Options:
    """Draw the weights of a convolution.

    layer: index of a stage, a name or a glob; first: the first convolution.
    scale: filter (each by its largest magnitude) or layer (all by the largest of the layer).
    kernels: largest number of filters (rows) and input channels (columns) shown of a layer without colours.
    """

    layer: str = "first"
    scale: str = "filter"
    kernels: int = 32


def draw(subject: Subject, options: Options, output: Path) -> list[Path]:
    """Write filters_<layer>.png and .json for each selected convolution; return the main files.

    For a layer whose filters the run logged during training, film_<layer>.gif and .png show how they developed.
    """
    if options.kernels < 1:
        raise InputError(f"kernels={options.kernels}: at least 1 is needed.")
    with Album(output) as album:
        for name, conv in convolutions(subject.network, options.layer).items():
            weight = conv.weight.detach().cpu()
            picture = filters_sheet(f"{subject.name} · {name}", weight, options.scale, options.kernels)
            album.add(f"filters_{name}", picture, tag=f"filters/{name}")
            album.numbers(f"filters_{name}", describe_filters(weight))
            if subject.run and len(frames := logged_pictures(subject.run, f"filters/{name}")) > 1:
                album.film(f"film_{name}", frames)
    return album.paths


def convolutions(network: nn.Module, layer: str) -> dict[str, nn.Conv2d]:
    """Return name -> convolution for those that `layer` selects; raise InputError if it selects none."""
    if layer == "first":
        return dict([first_conv(network)])
    found = resolve_layers(network, layer_patterns(layer))
    convs = {name: module for name, module in found.items() if isinstance(module, nn.Conv2d)}
    if not convs:
        names = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
        some = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        raise InputError(f"layer={layer} is not a convolution. Available: {some}.")
    return convs


def logged_pictures(run: Path, tag: str) -> list[Image.Image]:
    """Return the images logged under `tag` in a run's TensorBoard events, in order of their steps."""
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    if tag not in events.Tags()["images"]:
        return []
    by_step = {entry.step: entry.encoded_image_string for entry in events.Images(tag)}
    return [Image.open(io.BytesIO(by_step[step])).convert("RGB") for step in sorted(by_step)]
