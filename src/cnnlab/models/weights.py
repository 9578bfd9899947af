"""Find weights by name, file or run, read them without executing anything, and load them key by key."""

import logging
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from cnnlab.errors import DataError, InputError, nearest
from cnnlab.models.heads import HEADS, published_heads
from cnnlab.models.inputs import checkpoint_of, input_spec, network_node, own_hyperparameters, stored_description
from cnnlab.models.preprocessing import from_state
from cnnlab.models.published import Origin, origin_of, timm_cfg, torchvision_entry
from cnnlab.models.timm_weights import converted, fetched, wnids_of
from cnnlab.system.downloads import download
from cnnlab.system.files import load_tensors

log = logging.getLogger(__name__)
SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")
MAX_BYTES = 4 << 30
RENAMED = (
    (re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12])\."), r"\1\2."),
    (re.compile(r"(\.encoder_layer_\d+\.mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(\.encoder_layer_\d+\.mlp)\.linear_2\."), r"\1.3."),
)
"""Names in torchvision's published files of DenseNet and the Vision Transformer -> the names of their layers today."""


@dataclass(frozen=True)
class Weights:
    """A state_dict, its source, and what is known about it."""

    state: Mapping[str, Tensor]
    source: str
    preprocessing: nn.Module | None = None
    """The layer in front of the network, if a run of cnnlab trained the weights."""
    classes: Sequence[str] | None = None
    """Names of the outputs, if they are known."""
    wnids: Sequence[str] | None = None
    """WordNet ids of the outputs, if they are known."""
    heads: Sequence[str] = HEADS
    """Layers that may be the head, the main one first."""


def find_weights(model: Mapping[str, Any], data_dir: Path) -> Weights:
    """Find and read the weights of the config group `model`, whose `weights` is not null.

    weights: a file (.pth, .pt, .safetensors, .ckpt), a run folder, "timm", or a torchvision weight name
        (IMAGENET1K_V1, DEFAULT). A published file is downloaded if it is not in the library's cache; if that fails,
        `data_dir/weights/<name>*` is used.
    Raises InputError for an unknown name or format, DataError for a missing, damaged or untrusted file.
    """
    weights, origin = model["weights"], origin_of(model)
    path = Path(weights).expanduser()
    if path.is_dir() or path.suffix in SUFFIXES:
        report_other_size(model)
        return for_library(from_file(checkpoint_of(path)), origin, model)
    if path.is_file():
        raise InputError(f"model.weights={weights}: unknown format {path.suffix}. Use {', '.join(SUFFIXES)}.")
    require_published(weights, model, origin)
    assert origin is not None
    found = for_library(published_weights(weights, origin, data_dir), origin, model)
    if origin.library == "timm":
        return replace(
            found, wnids=wnids_of(timm_cfg(origin.name), outputs_of(found)) if has_classifier(found) else None
        )
    return replace(found, classes=torchvision_entry(origin.name, weights).meta["categories"])


def report_other_size(model: Mapping[str, Any]) -> None:
    """Warn if the network is to take images of another size than the run did whose weights it gets."""
    stored = stored_description(model["weights"])
    size = input_spec(model).image_size
    if stored and stored["input"]["image_size"] != size:
        log.warning(
            "%s was trained on images of %d pixels; model.image_size is %d.",
            *(model["weights"], stored["input"]["image_size"], size),
        )


def require_published(weights: str, model: Mapping[str, Any], origin: Origin | None) -> None:
    """Raise InputError, with the names there are, unless the library of the network publishes weights of that name."""
    name = model["name"]
    if origin and origin.library == "timm":
        if weights == "timm" and timm_cfg(origin.name).has_weights:
            return
        ways = "timm has none for it: use null" if weights == "timm" else "use timm, null"
        raise InputError(f"model.weights={weights}: {ways}, a file or a run folder. The network is timm's {name}.")
    known = list(torchvision.models.get_model_weights(origin.name).__members__) if origin else []
    if weights not in known:
        published = f", {', '.join(known)}" if known else ""
        raise InputError(
            f"model.weights={weights} is not a file, a run folder or a torchvision weight name of {name}. "
            f"Use null, a path{published}. {nearest([weights], known)}".rstrip()
        )


def published_weights(weights: str, origin: Origin, data_dir: Path) -> Weights:
    """Return published weights from the library's cache, its server, or a file that lies in `data_dir`."""
    name = origin.name
    try:
        return from_file(fetched(timm_cfg(name)) if origin.library == "timm" else torchvision_file(name, weights))
    except DataError as error:
        local = local_file(origin, weights, data_dir)
        if local is None:
            raise DataError(
                f"The {weights} weights of {name} could not be downloaded:\n  {error}\n"
                f"Put its file, as {local_name(origin)}.pth or .safetensors, into "
                f"{(data_dir / 'weights').absolute()}, name one with model.weights=FILE, or train from scratch with "
                "model.weights=null."
            ) from error
        log.warning("The weights of %s could not be downloaded (%s); using %s instead.", name, error, local)
        return from_file(local)


def torchvision_file(name: str, weights: str) -> Path:
    """Return the file of torchvision's weights in torch's cache; raise DataError if it cannot be downloaded."""
    url, file_name = torchvision_entry(name, weights).url, published_name(name, weights)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / file_name
    return download(url, cached, sha256=file_name.rsplit("-", 1)[-1].split(".")[0], max_bytes=MAX_BYTES)


def published_name(name: str, weights: str) -> str:
    """Return the name of the file in which torchvision publishes weights."""
    return torchvision_entry(name, weights).url.rsplit("/", 1)[-1]


def local_file(origin: Origin, weights: str, data_dir: Path) -> Path | None:
    """Return a file of the network's weights in `data_dir/weights`, None if there is none.

    One of the name that torchvision publishes these weights under comes first.
    """
    name = local_name(origin)
    endings = ("", "-*", "_features*") if origin.library == "torchvision" else ("",)
    patterns = [f"{name}{ending}{suffix}" for ending in endings for suffix in SUFFIXES]
    if origin.library == "torchvision":
        patterns.insert(0, published_name(origin.name, weights))
    patterns += [f"{origin.name}{suffix}" for suffix in SUFFIXES]
    return next((path for pattern in patterns for path in sorted((data_dir / "weights").glob(pattern))), None)


def local_name(origin: Origin) -> str:
    """Return the name, without its ending, of a file of the network's weights; timm's has the tag of the weights."""
    tag = timm_cfg(origin.name).tag if origin.library == "timm" else None
    return f"{origin.name.split('.')[0]}.{tag}" if tag else origin.name


def for_library(weights: Weights, origin: Origin | None, model: Mapping[str, Any]) -> Weights:
    """Return the weights under the names that the layers of the library's network have today."""
    if origin is None:
        return weights
    if origin.library == "torchvision":
        return replace(weights, state={today(name): value for name, value in weights.state.items()})
    cfg = timm_cfg(origin.name)
    weights = replace(weights, heads=published_heads(cfg.classifier) or weights.heads)
    node = network_node(model, input_spec(model))
    arguments: dict[str, Any] = {name: node[name] for name in ("img_size", "in_chans") if name in node}
    outputs = outputs_of(weights) if has_classifier(weights) else 0
    return replace(weights, state=converted(weights.state, origin.name, cfg, arguments, outputs))


def today(name: str) -> str:
    """Return the name that a layer of torchvision has today.

    >>> today("features.denseblock1.denselayer2.norm.1.weight")
    'features.denseblock1.denselayer2.norm1.weight'
    """
    for pattern, replacement in RENAMED:
        name = pattern.sub(replacement, name)
    return name


def load_weights(network: nn.Module, weights: Weights, own: Mapping[str, Tensor] | None = None) -> set[str]:
    """Copy every weight whose name and shape match one in `network`; return the loaded names and log the others.

    own: name -> parameter or buffer of `network`, if other names than those of its state_dict are to be matched.
    Raises DataError if nothing matches.
    """
    own = network.state_dict(keep_vars=True) if own is None else own
    weights = replace(weights, state=_at_size_of(network, weights.state))
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
                f"loaded {summary(list(fits))}",
                f"new (initialised): {summary(new)}",
                f"ignored: {summary(ignored)}",
            ]
        ),
    )
    return set(fits)


def _at_size_of(network: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the state of torchvision's Vision Transformer with position embeddings for the network's image size."""
    if not isinstance(network, VisionTransformer) or "encoder.pos_embedding" not in state:
        return state
    return interpolate_embeddings(network.image_size, network.patch_size, OrderedDict(state))


def has_classifier(weights: Weights) -> bool:
    """Return whether the weights include a network's head."""
    return bool(_head_of(weights))


def for_classes(weights: Weights, classes: Sequence[str]) -> Weights:
    """Return the weights of a run, without the layers of scores if these are for other classes or in another order."""
    if weights.preprocessing is None or weights.classes is None or list(weights.classes) == list(classes):
        return weights
    heads, outputs = tuple(f"{head}." for head in weights.heads), len(weights.classes)
    of_head = [name for name, value in weights.state.items() if name.startswith(heads) and value.ndim]
    scores = {name for name in of_head if weights.state[name].shape[0] == outputs}
    if not scores:
        return weights
    log.info("%s was trained for other classes: its classifier is initialized from scratch.", weights.source)
    return replace(weights, state={name: value for name, value in weights.state.items() if name not in scores})


def outputs_of(weights: Weights) -> int:
    """Return the number of outputs of the weights' head; raise InputError if they have no head."""
    values = _head_of(weights)
    if not values:
        names = ", ".join(f"{name}.*" for name in weights.heads)
        raise InputError(
            f"{weights.source} has no classifier (none of {names}), so it cannot predict classes. "
            "Train one first: python train.py model=... model.weights=... freeze=features"
        )
    return values[-1].shape[0]


def _head_of(weights: Weights) -> list[Tensor]:
    """Return the tensors of the main head, in order."""
    for head in weights.heads:
        values = [value for name, value in weights.state.items() if name.startswith(f"{head}.") and value.ndim]
        if values:
            return values
    return []


def fitting(weights: Weights, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries of `weights` whose name and shape match one in `own`."""
    return {name: value for name, value in weights.state.items() if name in own and own[name].shape == value.shape}


def from_file(path: Path) -> Weights:
    """Read a state_dict, also one that is wrapped; a checkpoint of a run brings its preprocessing and classes along."""
    contents: dict[str, Any] = load_tensors(path)
    state = contents.get("state_dict", contents)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(
            f"{path} holds no state_dict of tensors; its keys are: {', '.join(map(str, list(contents)[:5]))}."
        )
    try:
        stored = own_hyperparameters(contents)
        preprocessing = from_state(state) if stored else None
        classes = list(map(str, stored["classes"])) if stored else None
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{path} is a damaged checkpoint of cnnlab: {error}") from error
    if any(key.startswith("network.") for key in state):
        state = {key.removeprefix("network."): value for key, value in state.items() if key.startswith("network.")}
    state = {key.removeprefix("module."): value for key, value in state.items()}
    return Weights(state, str(path), preprocessing, classes)


def summary(names: Sequence[str], shown: int = 4) -> str:
    """Return the first names, and how many there are if that is not all of them."""
    if not names:
        return "none"
    more = f", ... ({len(names)} in all)" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
