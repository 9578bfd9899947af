"""Subjects of `cnnlab visualize`: the network of a run, or of a config, with its data."""

from collections.abc import Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from cnnlab import experiment
from cnnlab.api import LoadedRun, apply_changes, data_of_run, load_run
from cnnlab.config import (
    CONFIG_DIR,
    Config,
    TrainConfig,
    build,
    check,
    compose,
    plain_config,
    quote_path,
    trusted_prefixes,
)
from cnnlab.config.overrides import keys_of, split
from cnnlab.data.datamodule import DataModule
from cnnlab.data.sources.imagenet_subset import imagenet_classes
from cnnlab.errors import Problems
from cnnlab.explain.subject import Subject
from cnnlab.models.building import meta_network, weights_preprocessing
from cnnlab.models.inputs import InputSpec, network_node, statistics_by_hand
from cnnlab.models.weights import Weights, has_classifier, outputs_of
from cnnlab.runs.folder import read_config
from cnnlab.system.files import read_yaml
from cnnlab.tasks.base import Task


class RunSubject(Subject):
    """The best network of a run.

    changes: values that replace those of the run's config, such as data.root; set them before the first use of `cfg`.
    """

    def __init__(self, run: Path, changes: dict[str, str], packages: Sequence[str] = ()) -> None:
        self._loaded: LoadedRun = load_run(run, packages)
        self.run = self._folder = run if run.is_dir() else run.absolute().parents[1]
        self.name = self.run.absolute().name
        self.packages = tuple(packages)
        self.has_data = True
        self.changes = changes

    @cached_property
    def cfg(self) -> Config:
        cfg = read_config(self._folder)
        apply_changes(cfg, self.changes)
        return cfg

    @property
    def task(self) -> Task:
        return self._loaded.task

    @cached_property
    def meta_network(self) -> nn.Module:
        trusted = trusted_prefixes({"trusted_packages": self.packages})
        return meta_network(build(self._loaded.network.hparams["network"], trusted), len(self._loaded.classes))

    @property
    def spec(self) -> InputSpec:
        return self._loaded.spec

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
    """The network that overrides of the train config describe, with its pretrained weights if it has any."""

    def __init__(self, overrides: Sequence[str]) -> None:
        self._cfg = checked_config([*data_of_model(overrides), *overrides])
        self._trusted = trusted_prefixes(self.cfg)
        self.name = self.cfg["model"]["name"]
        self.packages = tuple(self.cfg["trusted_packages"])
        self.has_data = any(split(override).key in ("data", "data.root", "experiment") for override in overrides)

    @property
    def cfg(self) -> Config:
        return self._cfg

    @cached_property
    def task(self) -> Task:
        return experiment.build_task(self.cfg, self._trusted)

    @cached_property
    def spec(self) -> InputSpec:
        return self.task.input_spec(self.cfg["model"], self.cfg["preprocessing"])

    @property
    def constructor(self) -> Any:
        """The function of num_classes that builds the network."""
        return build(network_node(self.cfg["model"], self.spec), self._trusted)

    @cached_property
    def meta_network(self) -> nn.Module:
        return meta_network(self.constructor, 10)

    @cached_property
    def weights(self) -> Weights | None:
        return experiment.find_weights_of(self.cfg, self.task)

    @property
    def starts_untrained(self) -> bool:
        return self.weights is None or (self.task.needs_head and not has_classifier(self.weights))

    @cached_property
    def network(self) -> nn.Module:
        if self.weights is not None and not self.starts_untrained:
            return self.task.pretrained_network(self.constructor, self.weights)
        problems = Problems()
        regularizers = experiment.build_regularizers(self.cfg, self._trusted, problems)
        problems.raise_all(experiment.CONFLICT)
        network = experiment.build_filled_network(
            self.cfg, self.constructor, self.weights, self.data, self.preprocessing, regularizers, self._trusted
        ).eval()
        self.task.fit_network(network, self.data)
        return network

    @cached_property
    def preprocessing(self) -> nn.Module:
        if self.weights is not None:
            return weights_preprocessing(
                None if statistics_by_hand(self.cfg["preprocessing"]) else self.weights, self.spec
            )
        return experiment.build_preprocessing(self.cfg, self.spec, None, self.data, self._trusted)

    @cached_property
    def class_names(self) -> list[str] | None:
        if self.weights is None or self.starts_untrained:
            return self.data.classes
        if not has_classifier(self.weights):
            return None
        if self.weights.classes is not None:
            return list(self.weights.classes)
        outputs = outputs_of(self.weights)
        names = list(imagenet_classes().values())
        return names if outputs == len(names) else [f"class {number}" for number in range(outputs)]

    @cached_property
    def data(self) -> DataModule:
        augmentations = experiment.build_augmentations(self.cfg, self.spec, self._trusted)
        return experiment.build_data(self.cfg, self.task, self.spec, augmentations, self._trusted)


def data_of_model(overrides: Sequence[str]) -> list[str]:
    """Return the choice of data for a detector without any: the network needs none, but the data choose its task."""
    keys = keys_of(overrides)
    option = CONFIG_DIR / "model" / f"{keys['model'].value}.yaml" if "model" in keys else None
    if option is None or not option.is_file() or {"data", "experiment"} & set(keys):
        return []
    target = read_yaml(option)["network"]["_target_"]
    return ["data=shapes"] if target.startswith("cnnlab.tasks.detection.") else []


def config_groups() -> list[str]:
    """Return the groups and top-level keys of the train config."""
    keys = [each.name for each in fields(TrainConfig)]
    return keys + [path.name for path in CONFIG_DIR.iterdir() if path.is_dir() and path.name not in keys]


def belongs_to_config(key: str) -> bool:
    """Return whether a key is one of the train config, or of a group of it."""
    return key.lstrip("+~").split(".")[0] in config_groups()


def checked_config(overrides: Sequence[str]) -> Config:
    """Return the composed, checked and resolved train config; raise InputError that lists what is wrong."""
    cfg = compose([quote_path(override) for override in overrides])
    check(cfg)
    return plain_config(cfg, Path(cfg.paths.output_dir or "."))
