"""`what=explore`: one HTML page on which to draw an image and see every layer of a small network compute.

After A. W. Harley, "An Interactive Node-Link Visualization of Convolutional Neural Networks" (ISVC 2015), for the
user's own network. The page needs no server, no network and no library.
"""

import base64
import html
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from cnnlab.data.images import LabelledImages
from cnnlab.data.transforms import EvalTransform
from cnnlab.drawing.drawings import SAMPLE, DrawingStyle, drawing_style
from cnnlab.errors import DataError, InputError
from cnnlab.explain.chain import Layer, chain_of
from cnnlab.explain.subject import Subject
from cnnlab.models.inputs import InputSpec
from cnnlab.system.files import write_text

LARGEST_NETWORK = 2_500_000
"""Largest number of parameters: the page is then 13 MB, and a forward pass keeps up with the pen."""
SCRIPTS = (
    *("network.js", "images.js", "pad.js", "display.js", "rows.js"),
    *("inspector.js", "computations.js", "page.js"),
)


@dataclass
class Options:
    """Write one HTML page on which to draw an image and see every layer of a small network compute.

    examples: number of images of the run's data to start from, one per class; 0: none.
    title: heading of the page; null: the name of the run and of its data.
    """

    examples: int = 10
    title: str | None = None


def draw(subject: Subject, options: Options, output: Path) -> list[Path]:
    """Write the page to `output` if it ends in .html, else to explore.html in that folder.

    Raises InputError if the network is too large or has layers that the page cannot compute.
    """
    if options.examples < 0:
        raise InputError(f"examples={options.examples}: it must not be negative.")
    path = output if output.suffix == ".html" else output / "explore.html"
    page = page_of(
        subject.preprocessing,
        subject.network,
        subject.classes,
        subject.spec,
        title=options.title or f"{subject.name}, trained on {subject.cfg['data']['name']}",
        images=_images_of(subject),
        examples=options.examples,
    )
    write_text(path, page)
    return [path]


def page_of(
    preprocessing: nn.Module,
    network: nn.Module,
    classes: Sequence[str],
    spec: InputSpec,
    *,
    title: str,
    images: LabelledImages | None = None,
    examples: int = 0,
) -> str:
    """Return the HTML of the page.

    images: images of the network's data, preferably ones it was not trained on. The page offers `examples` of them to
    start from, and adapts drawings to their size, position and polarity; without images it guesses these from the
    preprocessing.

    The page defines `window.cnnlab.forward(pixels)` for checks: pixels is a Float32Array of the C * H * W values in
    [0, 1] of one image of the network's input size; the result has a Float32Array for each layer by its name, in order
    of execution, `preprocessing` first and the logits last. What an in-place layer overwrites in PyTorch is kept.

    Raises InputError that names the layer if the network is not a chain of layers that the page can compute, or if it
    has more than LARGEST_NETWORK parameters.
    """
    name = type(network).__name__
    parameters = sum(parameter.numel() for parameter in network.parameters())
    if parameters > LARGEST_NETWORK:
        raise InputError(
            f"{name} has {parameters:,} parameters; a page can hold {LARGEST_NETWORK:,}. "
            "Explore a smaller network, such as model=lenet5."
        )
    if spec.channels not in (1, 3):
        raise InputError(f"{name} takes {spec.channels} channels; the page can show grey (1) and colour (3) images.")
    if (spec.interpolation, spec.crop_mode) != ("bilinear", "center"):
        raise InputError(
            f"The page cannot resize images as {name} takes them ({spec.interpolation}, {spec.crop_mode}); "
            "it can only resize them bilinearly and crop the center."
        )
    layers = chain_of(preprocessing, network, (spec.channels, spec.image_size, spec.image_size))
    style = _style_of(images, spec.channels)
    weights, described = _packed(layers)
    description = {
        "title": title,
        "network": name,
        "parameters": parameters,
        "input": {"channels": spec.channels, "side": spec.image_size, "resize": spec.resize_size},
        "classes": list(classes),
        "layers": described,
        "drawing": asdict(style or _guessed_style(layers, spec.image_size)),
        "examples": _examples(images, spec, examples, native=style is not None) if images is not None else [],
    }
    return _page(title, description, weights)


def _images_of(subject: Subject) -> LabelledImages | None:
    """Return the validation images, or None if the network's data are unknown or missing."""
    if not subject.has_data:
        return None
    try:
        parts = subject.data.parts
    except DataError as error:
        print(f"The page has no examples: {error}")
        return None
    return parts.val if parts.val is not None else parts.train


def _style_of(images: LabelledImages | None, channels: int) -> DrawingStyle | None:
    if images is None or channels != 1:
        return None
    return drawing_style([images.load(index, channels) for index in range(min(SAMPLE, len(images)))])


def _guessed_style(layers: list[Layer], side: int) -> DrawingStyle:
    """Guess the style from the preprocessing: images with a dark mean are light on dark."""
    mean = layers[0].description.arrays.get("mean")
    dark = mean is None or float(mean.mean()) < 0.5
    return DrawingStyle(side, background=0.0 if dark else 1.0, ink=1.0 if dark else 0.0)


def _examples(images: LabelledImages, spec: InputSpec, count: int, native: bool) -> list[dict[str, Any]]:
    """Return label and pixels (base64 of uint8 C x H x W) of the first image of each class.

    native: keep the images as published, not resized.
    """
    prepare = EvalTransform(**spec.resizing)
    found = []
    for label in np.unique(images.labels)[:count]:
        picture = images.load(int(np.flatnonzero(images.labels == label)[0]), spec.channels)
        pixels = np.asarray(picture)[None] if native else prepare(picture).numpy()
        found.append({"label": images.classes[label], "pixels": _base64(pixels)})
    return found


def _packed(layers: list[Layer]) -> tuple[str, list[dict[str, Any]]]:
    """Return all arrays as one base64 string of little-endian float32, and the layers with [start, count] of each."""
    arrays: list[np.ndarray] = []
    described = []
    start = 0
    for layer in layers:
        places = {}
        for name, array in layer.description.arrays.items():
            places[name] = [start, array.size]
            arrays.append(array.ravel())
            start += array.size
        own = {"name": layer.name, "kind": layer.description.kind, "text": layer.description.text}
        described.append({**own, "shape": list(layer.shape), **layer.description.settings, "arrays": places})
    return _base64(np.concatenate([*arrays, np.empty(0)]).astype("<f4")), described


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _page(title: str, description: dict[str, Any], blob: str) -> str:
    """Return the page's sources in one file; data are escaped so that they cannot close the element around them."""
    sources = files("cnnlab.explain") / "explore_page"
    contents = {
        "title": html.escape(title),
        "style": (sources / "page.css").read_text("utf-8"),
        "description": json.dumps(description, ensure_ascii=False).replace("<", "\\u003c"),
        "weights": blob,
        "script": "\n".join((sources / name).read_text("utf-8") for name in SCRIPTS),
    }
    template = (sources / "page.html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: contents[match[1]], template)
