"""The interface between a task and the rest of cnnlab."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from cnnlab.config import Config
from cnnlab.config.checking import data_problems
from cnnlab.config.schema import ModelConfig
from cnnlab.data.datamodule import DataModule
from cnnlab.data.transforms import EvalTransform
from cnnlab.errors import InputError, nearest, several
from cnnlab.models.building import pretrained_network
from cnnlab.models.inputs import InputSpec, input_spec
from cnnlab.models.weights import Weights, find_weights
from cnnlab.reports.pages import write_csv
from cnnlab.tasks.scoring import score_metrics
from cnnlab.training.module import TaskModule
from cnnlab.training.recipe import Recipe


@dataclass
class NoOptions:
    """The options of a task whose evaluation or prediction has no keys of its own."""


class Evaluation(Protocol):
    """The scores of a network on a part of its data."""

    @property
    def metrics(self) -> dict[str, Any]:
        """What metrics.json holds."""
        ...

    def summary(self) -> str:
        """Return the scores as text for the terminal."""
        ...

    def write(self, folder: Path, title: str) -> None:
        """Write metrics.json, report.html and the files that belong to them into `folder`."""
        ...


class Prediction(Protocol):
    """A network's prediction for one input."""

    def row(self) -> dict[str, str]:
        """Return column -> cell for predictions.csv."""
        ...

    def draw(self, image: Image.Image) -> Image.Image:
        """Return the picture with the prediction on or below it."""
        ...

    @property
    def caption(self) -> str:
        """A caption of at most two lines, for a sheet of many pictures."""
        ...


class Task(ABC):
    """What a network learns: the task's data, module, scores and predictions.

    metrics: name -> "max" or "min", the metrics that `metric=` may choose.
    """

    model_schema: ClassVar[type] = ModelConfig
    """Dataclass with the keys of the config group `model` and their types."""
    data_schema: ClassVar[type]
    """Dataclass with the keys of the config group `data`; its `NEEDED` lists those that a stored config must have."""
    module_class: ClassVar[type[TaskModule]]
    """The LightningModule with the task's metrics and predictions."""
    pictures: ClassVar[Mapping[str, str]] = {}
    """Value of `cnnlab visualize what=` -> the module with its `Options` and `draw`."""
    capabilities: ClassVar[frozenset[str]] = frozenset()
    """Optional features that the task supports: "engine", "feature_cache", "records"."""
    needs_head: ClassVar[bool] = False
    """Whether a network does nothing without its head; of a classifier, the features can be looked at."""
    max_pixels: ClassVar[int | None] = None
    """Largest number of pixels of a picture to predict; None: that of all images (data.decoding.MAX_PIXELS)."""
    evaluate_options: ClassVar[type] = NoOptions
    """Dataclass with the task's own keys of `cnnlab evaluate`."""
    predict_options: ClassVar[type] = NoOptions
    """Dataclass with the task's own keys of `cnnlab predict`."""

    def __init__(self, name: str, metrics: Mapping[str, str]) -> None:
        self.name = name
        self.metrics = dict(metrics)

    def input_spec(self, model: Mapping[str, Any], preprocessing: Mapping[str, Any] | None = None) -> InputSpec:
        """Return the input of the network that the config groups `model` and `preprocessing` describe."""
        return input_spec(model, preprocessing)

    def find_weights(self, model: Mapping[str, Any], data_dir: Path) -> Weights:
        """Return the weights that model.weights names, under the names that they have in the network."""
        return find_weights(model, data_dir)

    def pretrained_network(self, constructor: Callable[..., nn.Module], weights: Weights) -> nn.Module:
        """Return a network in eval mode with as many outputs as its weights have, and without a head if they lack one.

        constructor: a function of num_classes.
        """
        return pretrained_network(constructor, weights)

    @abstractmethod
    def build_data(
        self, cfg: Config, spec: InputSpec, augmentations: Mapping[str, nn.Module], trusted: Sequence[str]
    ) -> DataModule:
        """Return the data of the config group `data` for a network that takes `spec`.

        Raises InputError or DataError if the options or the data do not work.
        """

    def build_module(
        self,
        preprocessing: nn.Module,
        network: nn.Module,
        classes: Sequence[str],
        hyperparameters: dict[str, Any],
        recipe: Recipe | None = None,
    ) -> TaskModule:
        """Return the LightningModule; without a recipe it can only predict."""
        return self.module_class(preprocessing, network, classes, hyperparameters, recipe)

    def fit_network(self, network: nn.Module, data: DataModule) -> None:  # noqa: B027
        """Adapt the network to the training data before the first step, in ways that its checkpoint keeps."""

    def build_batch_transforms(self, augmentations: Mapping[str, nn.Module], num_classes: int) -> list[nn.Module]:
        """Return the augmentations that run on the device, on float batches in [0, 1] and their targets."""
        return []

    def class_weights(self, given: Any, data: DataModule) -> list[float]:
        """Return the weight of each class in the training loss; given: the value of loss.class_weights.

        Raises InputError if it does not fit the data, or the task has no classes to weigh.
        """
        raise InputError(f"loss.class_weights={given} is not possible: the task {self.name} does not weigh classes.")

    def check_recipe(self, recipe: Recipe, augmentations: Mapping[str, nn.Module]) -> None:  # noqa: B027
        """Raise InputError if the loss does not accept the targets that augmentation and regularization produce."""

    def evaluate(self, module: TaskModule, data: DataModule, part: Any, options: Any) -> Evaluation:
        """Score `part` of the data in one pass; `options` is an instance of `evaluate_options`."""
        return score_metrics(module, data, part)

    def prepare(self, pixels: Tensor, spec: InputSpec, options: Any = None) -> Any:
        """Return a picture of any size, uint8 C x H x W, as `stack` takes it: by default resized and cut.

        options: an instance of `predict_options`; None: its defaults.
        """
        return EvalTransform(**spec.resizing)(pixels)

    def stack(self, prepared: Sequence[Any]) -> Any:
        """Return prepared pictures as the inputs of `predict`: by default uint8 N x C x H x W."""
        return torch.stack(list(prepared))

    @abstractmethod
    def predict(self, module: TaskModule, inputs: Any, options: Any) -> Sequence[Prediction]:
        """Return one prediction for each of the inputs, as `stack` returns them.

        options: an instance of `predict_options`.
        """

    def sheet_picture(self, prediction: Prediction, image: Image.Image) -> Image.Image:
        """Return what a sheet of many pictures shows above the caption of a prediction: by default the picture."""
        return image

    def write_predictions(self, folder: Path, predictions: Mapping[str, Any]) -> None:
        """Write predictions.csv; predictions: name of the picture -> its prediction, at least one."""
        rows = {name: prediction.row() for name, prediction in predictions.items()}
        head = ["image", *next(iter(rows.values()))]
        write_csv(folder / "predictions.csv", head, [[name, *row.values()] for name, row in rows.items()])

    def pretrained(self, cfg: Config, trusted: Sequence[str]) -> "Pretrained":
        """Return a network with its pretrained weights, and the whole data set to score it on.

        Raises InputError if the task does not support pretrained weights.
        """
        raise InputError(
            f"cnnlab evaluate model=... is not possible: the task {self.name} has no pretrained weights. "
            "Use run=FOLDER."
        )

    # --- Shared by all tasks ---

    def check_data(self, data: Any) -> None:
        """Raise InputError that lists what is wrong with the stored config group `data`."""
        if problems := data_problems(data, self.data_schema):
            raise several(problems, "The data group of the run's config is damaged:")

    def picture(self, what: str) -> str:
        """Return the module that draws `what`; raise InputError if the task has no such picture."""
        if what not in self.pictures:
            raise InputError(
                f"what={what} is not available for the task {self.name}. "
                f"{nearest([what], list(self.pictures))}".rstrip()
            )
        return self.pictures[what]

    def require_pictures(self) -> None:  # noqa: B027
        """Raise InputError if the task's inputs are not pictures."""

    def require(self, capability: str, setting: str) -> None:
        """Raise InputError that names `setting` if the task lacks a capability."""
        if capability not in self.capabilities:
            raise InputError(f"{setting} is not possible: the task {self.name} has no {capability.replace('_', ' ')}.")


@dataclass(frozen=True)
class Pretrained:
    """A network with pretrained weights, and the part of the data to score it on."""

    module: TaskModule
    data: DataModule
    part: Any
