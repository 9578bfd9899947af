"""Find weights by name, file or run, read them without executing anything, and load them key by key."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from cnnlab.errors import DataError, InputError
from cnnlab.models.weighted import HEADS
from cnnlab.system.downloads import download
from cnnlab.system.files import load_tensors

log = logging.getLogger(__name__)
SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")
MAX_BYTES = 4 << 30


@dataclass(frozen=True)
class Weights:
    """A state_dict and its source; `mean` and `std` are set if the file includes the preprocessing."""

    state: Mapping[str, Tensor]
    source: str
    mean: list[float] | None = None
    std: list[float] | None = None


def find_weights(weights: str, model: str, data_dir: Path) -> Weights:
    """Find and read weights for the model `model`.

    weights: a file (.pth, .pt, .safetensors, .ckpt), a run folder, "timm", or a torchvision weight name
        (IMAGENET1K_V1, DEFAULT), downloaded if it is not in torch's cache. If the download fails,
        `data_dir/weights/<model>*` is used.
    Raises InputError for an unknown name or format, DataError for a missing, damaged or untrusted file.
    """
    path = Path(weights).expanduser()
    if path.is_dir():
        return _from_file(path / "checkpoints" / "best.ckpt")
    if path.suffix in SUFFIXES:
        return _from_file(path)
    if path.is_file():
        raise InputError(f"model.weights={weights}: unknown format {path.suffix}. Use {', '.join(SUFFIXES)}.")
    if weights == "timm":
        import timm

        return Weights(timm.create_model(model, pretrained=True).state_dict(), f"timm {model}")
    entry = torchvision_weights(model, weights)
    file_name = entry.url.rsplit("/", 1)[-1]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / file_name
    try:
        sha256 = file_name.rsplit("-", 1)[-1].split(".")[0]
        return _from_file(download(entry.url, cached, sha256=sha256, max_bytes=MAX_BYTES))
    except DataError as error:
        local = _local_file(model, data_dir)
        if local is None:
            raise DataError(
                f"The {weights} weights of {model} could not be downloaded:\n  {error}\n"
                f"Put a file {model}.pth (or .safetensors) into {(data_dir / 'weights').absolute()}, "
                "name one with model.weights=FILE, or train from scratch with model.weights=null."
            ) from error
        log.warning("%s could not be downloaded (%s); using %s instead.", entry.url, error.__cause__ or error, local)
        return _from_file(local)


def torchvision_weights(model: str, weights: str) -> WeightsEnum:
    """Return the entry `weights` of torchvision's model `model`; raise InputError that lists its names if unknown."""
    try:
        return torchvision.models.get_model_weights(model)[weights]
    except (ValueError, KeyError) as error:
        known = list(torchvision.models.get_model_weights(model).__members__) if _is_torchvision(model) else []
        raise InputError(
            f"model.weights={weights} is not a file, a run folder or a torchvision weight name of {model}. "
            f"Use null, a path{''.join(f', {name}' for name in [*known, 'DEFAULT'] if known)}."
        ) from error


def load_weights(network: nn.Module, weights: Weights, own: Mapping[str, Tensor] | None = None) -> set[str]:
    """Copy every weight whose name and shape match one in `network`; return the loaded names and log the others.

    own: name -> parameter or buffer of `network`, if other names than those of its state_dict are to be matched.
    Raises DataError if nothing matches.
    """
    own = network.state_dict(keep_vars=True) if own is None else own
    fits = fitting(weights, own)
    ignored = [f"{name} {tuple(value.shape)}" for name, value in weights.state.items() if name not in fits]
    new = [name for name in own if name not in fits and not name.endswith("num_batches_tracked")]
    if not any(value.is_floating_point() for value in fits.values()):
        raise DataError(
            f"{weights.source} does not match {type(network).__name__}: it has "
            f"{', '.join(ignored[:3]) or 'no tensor'}; "
            f"the network has {', '.join(f'{name} {tuple(own[name].shape)}' for name in list(own)[:3])}."
        )
    with torch.no_grad():
        for name, value in fits.items():
            own[name].copy_(value)
    log.info(
        "Weights from %s: %s",
        weights.source,
        "; ".join(
            [
                f"loaded {_summary(list(fits))}",
                f"new (initialised): {_summary(new)}",
                f"ignored: {_summary(ignored)}",
            ]
        ),
    )
    return set(fits)


def has_classifier(weights: Weights) -> bool:
    """Return whether the weights include a network's head."""
    return any(name.split(".")[0] in HEADS and value.ndim for name, value in weights.state.items())


def outputs_of(weights: Weights) -> int:
    """Return the number of outputs of the weights' head; raise InputError if they have no head."""
    if not has_classifier(weights):
        names = ", ".join(f"{name}.*" for name in HEADS)
        raise InputError(
            f"{weights.source} has no classifier (none of {names}), so it cannot predict classes. "
            "Train one first: python train.py model=... model.weights=... freeze=features"
        )
    heads = [value for name, value in weights.state.items() if name.split(".")[0] in HEADS and value.ndim]
    return heads[-1].shape[0]


def fitting(weights: Weights, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries of `weights` whose name and shape match one in `own`."""
    return {name: value for name, value in weights.state.items() if name in own and own[name].shape == value.shape}


def _from_file(path: Path) -> Weights:
    contents: dict[str, Any] = load_tensors(path)
    state = contents.get("state_dict", contents)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(
            f"{path} holds no state_dict of tensors; its keys are: {', '.join(map(str, list(contents)[:5]))}."
        )
    statistics = [state[f"preprocessing.{name}"] for name in ("mean", "std") if f"preprocessing.{name}" in state]
    of_channels = len(statistics) == 2 and statistics[0].shape[1:] == (1, 1)
    mean, std = [values.flatten().tolist() for values in statistics] if of_channels else (None, None)
    if any(key.startswith("network.") for key in state):
        state = {key.removeprefix("network."): value for key, value in state.items() if key.startswith("network.")}
    state = {key.removeprefix("module."): value for key, value in state.items()}
    return Weights(state, str(path), mean, std)


def _local_file(model: str, data_dir: Path) -> Path | None:
    folder = data_dir / "weights"
    names = [f"{model}{ending}" for ending in (".*", "-*", "_features*")]
    found = [path for name in names for path in sorted(folder.glob(name)) if path.suffix in SUFFIXES]
    return found[0] if found else None


def _is_torchvision(model: str) -> bool:
    return model in torchvision.models.list_models()


def _summary(names: list[str], shown: int = 4) -> str:
    if not names:
        return "none"
    more = f", ... ({len(names)} in all)" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
