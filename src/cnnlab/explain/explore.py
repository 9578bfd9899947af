"""One HTML page in which a small network can be explored: draw, and see every layer compute.

After A. W. Harley, "An Interactive Node-Link Visualization of Convolutional Neural Networks" (ISVC 2015), for the
user's own network. The page needs no server, no network and no library.
"""

import base64
import html
import json
import re
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from cnnlab.data.images import LabelledImages
from cnnlab.errors import InputError
from cnnlab.explain.chain import Layer, chain_of
from cnnlab.explain.drawings import SAMPLE, DrawingStyle, drawing_style
from cnnlab.files import write_text
from cnnlab.loading import LoadedRun

LARGEST_NETWORK = 2_500_000
"""Parameters that a page can hold: 13 MB, and a forward pass that keeps up with the pen."""
SCRIPTS = ("network.js", "images.js", "pad.js", "rows.js", "inspector.js", "page.js")


@dataclass(frozen=True)
class ExploreOptions:
    """examples: how many images to offer as a start, one of each class as far as they go; 0 for none."""

    examples: int = 10

    def __post_init__(self) -> None:
        if self.examples < 0:
            raise InputError(f"examples={self.examples}: a count of images is at least 0.")


def explore(
    run: LoadedRun,
    output: Path,
    title: str,
    images: LabelledImages | None = None,
    options: ExploreOptions | None = None,
) -> Path:
    """Write the page for `run` to `output`, one HTML file.

    images: of the run's data, best those it was not trained on. The page starts from some of them, and brings drawings
        into their size, place and polarity; without them it must guess these from the preprocessing.

    The page offers `window.cnnlab.forward(pixels)` for checks: pixels is a Float32Array of the C * H * W values in
    [0, 1] of one image of the network's input size; the result has a Float32Array for each layer by its name, in order
    of execution, `preprocessing` first and the logits last. (In-place layers do not overwrite what is before them.)

    Raises InputError, naming the layer, if the network is no chain of the layers that the page can compute, or larger
    than LARGEST_NETWORK.
    """
    options = options or ExploreOptions()
    network, side = run.network.network, run.spec["image_size"]
    parameters = sum(parameter.numel() for parameter in network.parameters())
    if parameters > LARGEST_NETWORK:
        raise InputError(
            f"{type(network).__name__} has {parameters:,} parameters; a page can hold {LARGEST_NETWORK:,}. "
            "Explore a smaller network, such as model=lenet5."
        )
    if run.channels not in (1, 3):
        raise InputError(f"The network takes {run.channels} channels; the page can draw grey (1) and colour (3) images.")
    layers = chain_of(run.network.preprocessing, network, (run.channels, side, side))
    style = _style_of(images, run.channels)
    blob, described = _packed(layers)
    description = {
        "title": title,
        "network": type(network).__name__,
        "parameters": parameters,
        "input": {"channels": run.channels, "side": side, "resize": run.spec["resize_size"]},
        "classes": run.classes,
        "layers": described,
        "drawing": asdict(style or _guessed_style(layers, side)),
        "examples": _examples(run, images, options.examples, native=style is not None) if images else [],
    }
    write_text(output, _page(title, description, blob))
    return output


def _style_of(images: LabelledImages | None, channels: int) -> DrawingStyle | None:
    if images is None or channels != 1:
        return None
    return drawing_style([images.load(index, channels) for index in range(min(SAMPLE, len(images)))])


def _guessed_style(layers: list[Layer], side: int) -> DrawingStyle:
    """Images whose mean is dark are taken to be light on dark."""
    mean = layers[0].description.arrays.get("mean")
    dark = mean is None or float(mean.mean()) < 0.5
    return DrawingStyle(side, background=0.0 if dark else 1.0, ink=1.0 if dark else 0.0)


def _examples(run: LoadedRun, images: LabelledImages, count: int, native: bool) -> list[dict[str, Any]]:
    """uint8 C x H x W and class of the first image of each class; `native`: as published, else as the network takes it."""
    chosen = [int(np.flatnonzero(images.labels == label)[0]) for label in np.unique(images.labels)[:count]]
    examples = []
    for index in chosen:
        picture = images.load(index, run.channels)
        pixels = np.asarray(picture)[None] if native else run.prepare(picture).numpy()
        examples.append({"label": images.classes[images.labels[index]], "pixels": _base64(pixels)})
    return examples


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
