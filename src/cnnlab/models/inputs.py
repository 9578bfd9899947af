"""Find out what input a network takes, and with which arguments it is built for its weights."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from cnnlab.errors import DataError, InputError
from cnnlab.models.published import implied_arguments, origin_of, published_input
from cnnlab.system.files import load_tensors

IMAGENET = {
    "image_size": 224,
    "resize_size": 256,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "interpolation": "bilinear",
    "crop_mode": "center",
}
"""The input of networks about which no library says anything: that of most networks trained on ImageNet."""
LARGEST_SIDE = 10_000
"""Pixels of an input's side; a checkpoint that asks for more is taken to be damaged."""
INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
CROP_MODES = ("center", "squash", "border")
PRETRAINED = ("transform_input", "aux_logits")
"""Arguments that a library sets for its own weights."""
INHERITED = (*PRETRAINED, "image_size", "input_size", "img_size", "in_chans")
"""Arguments that a network takes over from the run whose weights it gets, unless the config has them."""


@dataclass(frozen=True)
class InputSpec:
    """Input of a network: `channels` x `image_size` x `image_size`, cropped after resizing to `resize_size`.

    interpolation, crop_mode: see data.transforms.EvalTransform. mean, std: statistics for preprocessing=weights, one of
    each per channel, of pixels in [0, 1]. Raises ValueError for values that no input has.
    """

    channels: int
    image_size: int
    resize_size: int
    mean: list[float]
    std: list[float]
    interpolation: str = "bilinear"
    crop_mode: str = "center"
    ranges: Mapping[str, Sequence[float]] | None = None
    """Kind of values -> the values of black and white (data.levels); None if they are to be found in the data."""

    def __post_init__(self) -> None:
        for key in ("channels", "image_size", "resize_size"):
            value = getattr(self, key)
            if not isinstance(value, int) or not 0 < value <= LARGEST_SIDE:
                raise ValueError(f"{key} is {value!r}")
        for key, known in (("interpolation", INTERPOLATIONS), ("crop_mode", CROP_MODES)):
            if getattr(self, key) not in known:
                raise ValueError(f"{key} is {getattr(self, key)!r}, which is not one of {', '.join(known)}")
        for key in ("mean", "std"):
            if not isinstance(values := getattr(self, key), list) or not all(map(is_finite, values)):
                raise ValueError(f"{key} is {values!r}")

    @property
    def resizing(self) -> dict[str, Any]:
        """The arguments of EvalTransform."""
        fill = [round(255 * value) for value in self.mean] if self.crop_mode == "border" else None
        names = ("image_size", "resize_size", "interpolation", "crop_mode")
        return {**{name: getattr(self, name) for name in names}, "fill": fill}


def is_finite(value: Any) -> bool:
    """Return whether a value is a number, and neither infinite nor NaN."""
    return isinstance(value, int | float) and math.isfinite(value)


def input_spec(model: Mapping[str, Any], preprocessing: Mapping[str, Any] | None = None) -> InputSpec:
    """Return the input that the config group `model` describes.

    What is null there is asked of the run whose weights are loaded, or else of the library of the network (torchvision,
    timm), for the weights named; without either it is that of most networks trained on ImageNet. A size that is given
    changes resize_size with it, in the published proportion.
    preprocessing: the config group, whose mean and std replace the published ones.
    Raises InputError if something is not what an input can have.
    """
    try:
        known = _known_input(model) | {"channels": model["in_channels"]} | statistics_by_hand(preprocessing)
        if model["resize_size"]:
            known["resize_size"] = max(known["image_size"], model["resize_size"])
        return InputSpec(**known)
    except (ValueError, TypeError) as error:
        raise InputError(f"The input of model.name={model['name']} cannot be used: {error}.") from error


def _known_input(model: Mapping[str, Any]) -> dict[str, Any]:
    sizes = (model["image_size"], *(model["network"].get(name) for name in ("img_size", "image_size")))
    given = next((size for size in sizes if isinstance(size, int)), None)
    stored = stored_description(model["weights"])
    if stored is None and (origin := origin_of(model)):
        return published_input(origin, model["weights"], given)
    known = dict(IMAGENET if stored is None else stored["input"] | {"ranges": stored["ranges"]})
    size, resize = known["image_size"], known["resize_size"]
    if given in (None, size):
        return known
    return known | {"image_size": given, "resize_size": round(given * resize / size)}


def statistics_by_hand(preprocessing: Mapping[str, Any] | None) -> dict[str, list[float]]:
    """Return the mean and std that preprocessing=weights is given; {} without."""
    if preprocessing is None or preprocessing["name"] != "weights":
        return {}
    return {name: preprocessing[name] for name in ("mean", "std") if preprocessing.get(name) is not None}


def require_statistics(preprocessing: Mapping[str, Any], channels: int) -> None:
    """Raise InputError unless the mean and std given by hand can be those of each channel of pixels in [0, 1]."""
    for name, values in statistics_by_hand(preprocessing).items():
        least = 0 if name == "mean" else 1e-6
        fits = len(values) == channels and all(is_finite(value) and least <= value <= 1 for value in values)
        if not fits:
            raise InputError(
                f"preprocessing.{name}={values}: give one number for each of {channels} channels, of pixels between 0 "
                "and 1 (statistics of pixels up to 255 are to be divided by 255)."
            )


def crops_for(spec: InputSpec, augmentations: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of augmentations; a size or interpolation that is null becomes that of the network's input."""
    own = {"size": spec.image_size, "interpolation": spec.interpolation}
    return {
        name: entry and {**entry, **{key: value for key, value in own.items() if entry.get(key, value) is None}}
        for name, entry in augmentations.items()
    }


def network_node(model: Mapping[str, Any], spec: InputSpec) -> dict[str, Any]:
    """Return the config node of the network's constructor, a function of num_classes.

    It has the arguments of `model.network`, and those that its weights and its input imply: what torchvision's and
    timm's own builders pass for these weights, or what the run has whose weights are loaded.
    """
    node, origin = model["network"], origin_of(model)
    implied = implied_arguments(origin, model["weights"], spec.image_size, spec.channels) if origin else {}
    stored = stored_description(model["weights"])
    if stored and stored["network"].get("_target_") == node["_target_"]:
        own = stored["network"]
        implied = {name: value for name, value in implied.items() if name not in PRETRAINED}
        implied = {name: own[name] for name in INHERITED if _is_plain(own.get(name))} | implied
    renamed = {"model_name": origin.name} if origin and origin.library == "timm" else {}
    return {**implied, **node, **renamed, "_partial_": True}


def _is_plain(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, list) and all(isinstance(each, int) for each in value))


def stored_description(weights: str | None) -> dict[str, Any] | None:
    """Return what the run whose checkpoint `weights` names says of its network; None if `weights` is not a run.

    Raises DataError if the run was trained by an older version, or the file is damaged.
    """
    path = checkpoint_of(Path(weights or "").expanduser())
    if not weights or path.suffix != ".ckpt":
        return None
    if not path.is_file():
        raise DataError(f"File not found: {path}.")
    return _description(path, path.stat().st_mtime_ns)


def checkpoint_of(path: Path) -> Path:
    """Return a run's best checkpoint, given its folder or its best_weights.pth, or the file itself.

    The checkpoint has the same weights, and says how the network takes images.
    """
    if path.is_dir():
        kept = [path / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
        return next((checkpoint for checkpoint in kept if checkpoint.is_file()), kept[0])
    beside = path.parent / "checkpoints" / "best.ckpt"
    return beside if path.name == "best_weights.pth" and beside.is_file() else path


@lru_cache(maxsize=8)
def _description(path: Path, changed: int) -> dict[str, Any] | None:
    stored = own_hyperparameters(load_tensors(path, mapped=True))
    if stored is None:
        return None
    try:
        InputSpec(**stored["input"])
        return {"input": stored["input"], "network": dict(stored["network"]), "ranges": dict(stored.get("ranges", {}))}
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path} does not say how its network takes images ({error}): it is damaged, or an older version of cnnlab "
            "wrote it. Train it again."
        ) from error


def own_hyperparameters(contents: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a checkpoint of cnnlab says of its network; None if another program wrote it."""
    stored = contents.get("hyper_parameters")
    return stored if isinstance(stored, dict) and {"network", "input", "classes"} <= set(stored) else None
