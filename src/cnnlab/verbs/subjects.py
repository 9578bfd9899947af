"""The network that a verb works with: a run's, or one with pretrained weights or none, and the data it belongs to."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from cnnlab.config import build, build_entries, check, compose, quote_path, trusted_prefixes
from cnnlab.data.datamodule import DataModule
from cnnlab.data.datasets.imagenet_subset import imagenet_classes
from cnnlab.errors import InputError, nearest
from cnnlab.explain.subject import Subject
from cnnlab.loading import LoadedRun, load_run
from cnnlab.models.building import IMAGENET_MEAN, IMAGENET_STD, InputSpec, build_network
from cnnlab.models.preprocessing import fit
from cnnlab.models.stages import head_name
from cnnlab.models.weighted import HEADS
from cnnlab.models.weights import Weights, find_weights
from cnnlab.runs.folder import read_config
from cnnlab.verbs.assembly import (
    Config,
    augmentations_from,
    data_from,
    data_module,
    network_from,
    preprocessing_from,
    spec_from,
    weights_statistics,
)
from cnnlab.verbs.combinations import outline


class RunSubject(Subject):
    """The best network of a run.

    changes: values of the run's config to replace, such as data.root.
    """

    def __init__(self, run: Path, changes: dict[str, str], packages: Sequence[str] = ()) -> None:
        self._loaded: LoadedRun = load_run(run, packages)
        self.run = self._folder = run if run.is_dir() else run.absolute().parents[1]
        self.name = self.run.absolute().name
        self.packages = tuple(packages)
        self.has_data = True
        self._changes = changes

    @cached_property
    def cfg(self) -> Config:
        cfg = read_config(self._folder)
        apply_changes(cfg, self._changes)
        return cfg

    @cached_property
    def outline(self) -> nn.Module:
        return outline(self.cfg, len(self._loaded.classes), trusted_prefixes({"trusted_packages": self.packages}))

    @property
    def spec(self) -> InputSpec:
        return InputSpec(**self._loaded.spec, mean=IMAGENET_MEAN, std=IMAGENET_STD)

    @property
    def network(self) -> nn.Module:
        return self._loaded.network.network

    @property
    def preprocessing(self) -> nn.Module:
        return self._loaded.network.preprocessing

    @property
    def class_names(self) -> list[str] | None:
        return self._loaded.classes

    @cached_property
    def data(self) -> DataModule:
        return data_of_run(self.cfg, self._loaded.spec, self.packages, augmented=True)


class ModelSubject(Subject):
    """The network that overrides of the train config describe, with its pretrained weights if it has some."""

    def __init__(self, overrides: Sequence[str]) -> None:
        self._cfg = checked_config(overrides)
        self.name = self.cfg["model"]["name"]
        self.packages = tuple(self.cfg["trusted_packages"])
        self.has_data = any(override.split("=")[0] in ("data", "data.root", "experiment") for override in overrides)

    @property
    def cfg(self) -> Config:
        return self._cfg

    @cached_property
    def spec(self) -> InputSpec:
        return spec_from(self.cfg["model"])

    @cached_property
    def outline(self) -> nn.Module:
        return outline(self.cfg, 10, trusted_prefixes(self.cfg))

    @cached_property
    def weights(self) -> Weights | None:
        name = self.cfg["model"]["weights"]
        return find_weights(name, self.name, Path(self.cfg["paths"]["data_dir"])) if name else None

    @cached_property
    def network(self) -> nn.Module:
        if self.weights is not None:
            return pretrained_network(self.cfg, self.weights)
        trusted = trusted_prefixes(self.cfg)
        regularizers = build_entries(self.cfg["regularization"], trusted)
        return network_from(self.cfg, None, self.data, self.preprocessing, regularizers, trusted).eval()

    @cached_property
    def preprocessing(self) -> nn.Module:
        if self.weights is not None:
            return fit("weights", [], **weights_statistics(self.weights, self.spec))
        return preprocessing_from(self.cfg, self.spec, None, self.data, trusted_prefixes(self.cfg))

    @cached_property
    def class_names(self) -> list[str] | None:
        if self.weights is None:
            return self.data.classes
        if not has_classifier(self.weights):
            return None
        outputs = outputs_of(self.weights)
        names = list(imagenet_classes().values())
        return names if outputs == len(names) else [f"class {number}" for number in range(outputs)]

    @cached_property
    def data(self) -> DataModule:
        return data_from(self.cfg, self.spec, trusted_prefixes(self.cfg))


def checked_config(overrides: Sequence[str]) -> Config:
    """The composed, checked and resolved train config; raises InputError that lists what is wrong."""
    cfg = compose([quote_path(override) for override in overrides])
    check(cfg)
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def pretrained_network(cfg: Config, weights: Weights) -> nn.Module:
    """In eval mode, with as many outputs as the weights have; without a classifier if they have none."""
    constructor = build({**cfg["model"]["network"], "_partial_": True}, trusted_prefixes(cfg))
    known = has_classifier(weights)
    network = build_network(constructor, num_classes=outputs_of(weights) if known else 1, weights=weights, seed=0)
    if known:
        return network.eval()
    head = head_name(network)
    setattr(network, head, nn.Flatten())
    if head != "classifier":
        object.__setattr__(network, "classifier", network.get_submodule(head))
    return network.eval()


def has_classifier(weights: Weights) -> bool:
    return any(name.split(".")[0] in HEADS and value.ndim for name, value in weights.state.items())


def outputs_of(weights: Weights) -> int:
    """The number of classes that the weights' head scores; raises InputError if they have no head."""
    if not has_classifier(weights):
        names = ", ".join(f"{name}.*" for name in HEADS)
        raise InputError(
            f"{weights.source} has no classifier (none of {names}): it can name no class. "
            "Train one first: python train.py model=... model.weights=... freeze=features"
        )
    heads = [value for name, value in weights.state.items() if name.split(".")[0] in HEADS and value.ndim]
    return heads[-1].shape[0]


def data_of_run(cfg: Config, spec: dict[str, int], packages: Sequence[str], augmented: bool = False) -> DataModule:
    """The data of a run's config at the size of its network.

    packages: trusted_packages, which the run's files cannot choose themselves.
    """
    trusted = trusted_prefixes({"trusted_packages": list(packages)})
    augmentations = list(augmentations_from(cfg, trusted).values()) if augmented else []
    return data_module(cfg, spec, augmentations, trusted)


def apply_changes(cfg: Config, changes: dict[str, str], own: Sequence[str] = ()) -> None:
    """Replace values of a resolved config; a changed paths.data_dir moves the paths below it.

    own: further keys of the verb, which errors name. Raises InputError for an unknown key.
    """
    old_data_dir = cfg["paths"]["data_dir"]
    for key, text in changes.items():
        node, *rest = key.split(".")
        if len(rest) != 1 or node not in ("data", "paths") or rest[0] not in cfg[node]:
            known = [
                *own,
                *(f"{group}.{name}" for group in ("data", "paths") for name in cfg[group] if name != "dataset"),
            ]
            raise InputError(f"{key} of a run cannot be changed. {nearest([key], known)}")
        is_path = node == "paths" or rest == ["root"]
        cfg[node][rest[0]] = text if is_path else value_of(key, text, cfg[node][rest[0]])
    dataset = cfg["data"].get("dataset", cfg["data"])
    if "data.root" in changes and "root" not in dataset:
        raise InputError(f"data.root cannot be changed: {cfg['data']['name']} has no folder.")
    if "data.root" in changes:
        dataset["root"] = cfg["data"]["root"]
    elif "paths.data_dir" in changes and dataset.get("root"):
        root = Path(dataset["root"])
        if not root.is_relative_to(old_data_dir):
            raise InputError(f"The data of this run are in {root}, not below {old_data_dir}: set data.root instead.")
        dataset["root"] = str(Path(cfg["paths"]["data_dir"]) / root.relative_to(old_data_dir))


def value_of(key: str, text: str, old: Any) -> Any:
    """What `text` means in YAML; raises InputError if it is no YAML or of another type than `old`."""
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[index, call-overload]
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise InputError(f"{key}={text} cannot be parsed.") from error
    alike = (int, float) if isinstance(old, int | float) else type(old)
    if None not in (old, value) and not isinstance(value, alike):
        raise InputError(f"{key}={text} is not of the type {type(old).__name__}, as {old!r} is.")
    return value
