"""`what=explore`: one HTML page in which a small network can be explored: draw, and see every layer compute.

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
from cnnlab.models.building import InputSpec
from cnnlab.system.files import write_text

LARGEST_NETWORK = 2_500_000
"""Parameters that a page can hold: 13 MB, and a forward pass that keeps up with the pen."""
SCRIPTS = (
    *("network.js", "images.js", "pad.js", "display.js", "rows.js"),
    *("inspector.js", "computations.js", "page.js"),
)


@dataclass
class Options:
    """examples: how many images of the run's data to offer as a start, one of each class; 0 for none.

    title: the heading of the page; null is the name of the run and of its data.
    """

    examples: int = 10
    title: str | None = None


def draw(subject: Subject, options: Options, output: Path) -> list[Path]:
    """Write the page to `output` if that ends in .html, else to explore.html in that folder.

    Raises InputError if the network is too large or of layers that the page cannot compute.
    """
    if options.examples < 0:
        raise InputError(f"examples={options.examples}: a count of images is at least 0.")
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
    """The HTML of the page.

    images: of the network's data, best those it was not trained on. The page starts from `examples` of them, and brings
    drawings into their size, place and polarity; without images it must guess these from the preprocessing.

    The page offers `window.cnnlab.forward(pixels)` for checks: pixels is a Float32Array of the C * H * W values in
    [0, 1] of one image of the network's input size; the result has a Float32Array for each layer by its name, in order
    of execution, `preprocessing` first and the logits last. What an in-place layer overwrites in PyTorch is kept.

    Raises InputError, naming the layer, if the network is no chain of the layers that the page can compute, or has more
    than LARGEST_NETWORK parameters.
    """
    name = type(network).__name__
    parameters = sum(parameter.numel() for parameter in network.parameters())
    if parameters > LARGEST_NETWORK:
        raise InputError(
            f"{name} has {parameters:,} parameters; a page can hold {LARGEST_NETWORK:,}. "
            "Explore a smaller network, such as model=lenet5."
        )
    if spec.channels not in (1, 3):
        raise InputError(f"{name} takes {spec.channels} channels; the page can draw grey (1) and colour (3) images.")
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
    """The validation images, where the data of the network are known and still there."""
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
    """Images whose mean is dark are taken to be light on dark."""
    mean = layers[0].description.arrays.get("mean")
    dark = mean is None or float(mean.mean()) < 0.5
    return DrawingStyle(side, background=0.0 if dark else 1.0, ink=1.0 if dark else 0.0)


def _examples(images: LabelledImages, spec: InputSpec, count: int, native: bool) -> list[dict[str, Any]]:
    """Pixels, uint8 C x H x W, and class of the first image of each class; `native`: as published, not resized."""
    prepare = EvalTransform(spec.image_size, spec.resize_size)
    found = []
    for label in np.unique(images.labels)[:count]:
        picture = images.load(int(np.flatnonzero(images.labels == label)[0]), spec.channels)
        pixels = np.asarray(picture)[None] if native else prepare(picture).numpy()
        found.append({"label": images.classes[label], "pixels": _base64(pixels)})
    return found


def _packed(layers: list[Layer]) -> tuple[str, list[dict[str, Any]]]:
    """All arrays in one base64 string of little-endian float32, and the layers with [start, count] of each array."""
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
    """The page's sources in one file; nothing from data can end the element it stands in."""
    sources = files("cnnlab.explain") / "explore_page"
    parts = {
        "title": html.escape(title),
        "style": (sources / "page.css").read_text("utf-8"),
        "description": json.dumps(description, ensure_ascii=False).replace("<", "\\u003c"),
        "weights": blob,
        "script": "\n".join((sources / name).read_text("utf-8") for name in SCRIPTS),
    }
    template = (sources / "page.html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)
