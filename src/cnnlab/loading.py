"""A trained network back from its checkpoint alone, without the run's other files and without running code from it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from cnnlab.config import build, trusted_prefixes
from cnnlab.data.decoding import decode
from cnnlab.data.transforms import EvalTransform
from cnnlab.errors import DataError, InputError
from cnnlab.files import load_tensors
from cnnlab.models.building import build_network
from cnnlab.models.preprocessing import from_state
from cnnlab.training.classifier import Classifier

LARGEST_SIDE = 10_000
"""Pixels of an input's side; a checkpoint that asks for more is taken to be damaged."""


class LoadedRun:
    """A network with its preprocessing in eval mode, its class names, and `predict`."""

    def __init__(self, classifier: Classifier, spec: dict[str, int]) -> None:
        self.network: Classifier = classifier.eval()
        self.classes = classifier.classes
        self.spec = spec
        self.channels = spec["channels"]
        self.transform = EvalTransform(spec["image_size"], spec["resize_size"])

    @torch.inference_mode()
    def predict(self, images: Sequence[str | Path | Image.Image] | Tensor) -> Tensor:
        """Probabilities N x classes, float32, for files, PIL images, or uint8 N x C x H x W of the network's size.

        Raises DataError, naming the file, for one that is no readable image.
        """
        if not len(images):
            return torch.empty(0, len(self.classes))
        batch = images if isinstance(images, Tensor) else torch.stack([self.prepare(image) for image in images])
        device = next(self.network.parameters()).device
        return self.network(batch.to(device)).softmax(dim=1).cpu()

    def prepare(self, image: str | Path | Image.Image) -> Tensor:
        """uint8 C x H x W, resized and cut as in evaluation."""
        picture = (
            image.convert("L" if self.channels == 1 else "RGB")
            if isinstance(image, Image.Image)
            else decode(Path(image), self.channels)
        )
        return self.transform(picture)


def load_run(folder: str | Path, trusted_packages: Sequence[str] = ()) -> LoadedRun:
    """The best network of a run folder, or that of one `.ckpt` file; needs that file alone.

    trusted_packages: packages of your own that the network's class is from; a checkpoint cannot name them itself.
    Raises InputError or DataError if there is none, or it is damaged or not of cnnlab.
    """
    path = Path(folder)
    if path.is_dir():
        names = [path / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
        path = next((name for name in names if name.is_file()), names[0])
    if not path.is_file():
        raise InputError(f"{folder} holds no run: there is no {path}.")
    contents = load_tensors(path)
    trusted = trusted_prefixes({"trusted_packages": list(trusted_packages)})
    try:
        stored, state = contents["hyper_parameters"], contents["state_dict"]
        spec = stored["input"]
        _require_names_and_sizes(stored["classes"], spec)
        constructor = build(stored["network"], trusted)
        _require_weights_for(constructor, len(stored["classes"]), state)
        network = build_network(
            constructor,
            num_classes=len(stored["classes"]),
            weights=None,
            surgery=[build(node, trusted) for node in stored["surgery"]],
            seed=0,
        )
        classifier = Classifier(from_state(state), network, stored["classes"], stored)
        classifier.load_state_dict(state)
        return LoadedRun(classifier, spec)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise DataError(f"{path} is no checkpoint of cnnlab, or a damaged one: {error}") from error


def _require_names_and_sizes(classes: Any, spec: Any) -> None:
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise TypeError(f"classes {classes!r} are no list of names")
    for key in ("channels", "image_size", "resize_size"):
        if not isinstance(spec[key], int) or not 0 < spec[key] <= LARGEST_SIDE:
            raise ValueError(f"{key} is {spec[key]!r}")


def _require_weights_for(constructor: Callable[..., nn.Module], num_classes: int, state: Mapping[str, Tensor]) -> None:
    """Raises ValueError for a network far larger than its weights, before memory is taken for it."""
    try:
        with torch.device("meta"):
            planned = sum(parameter.numel() for parameter in constructor(num_classes=num_classes).parameters())
    except Exception:  # a network that needs values while it is built; if something is wrong, building tells
        return
    held = sum(value.numel() for value in state.values())
    if planned > 2 * held:  # surgery changes some layers
        raise ValueError(f"its network has {planned:,} parameters, and its file holds {held:,} numbers")


def hyperparameters(
    network: dict[str, Any], surgery: list[dict[str, Any]], classes: Sequence[str], spec: dict[str, int]
) -> dict[str, Any]:
    """What `load_run` needs to rebuild a network: plain values only, kept in every checkpoint."""
    return {"network": network, "surgery": surgery, "classes": list(classes), "input": spec}
