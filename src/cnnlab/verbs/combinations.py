"""Settings that are each right and do not go together: all of them named before any work."""

import torch
from lightning.pytorch.callbacks import EarlyStopping
from PIL import Image
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import ReduceLROnPlateau

from cnnlab.config import build, build_entries
from cnnlab.data.datamodule import DataModule, ImageDataModule
from cnnlab.data.transforms import MIXING
from cnnlab.errors import InputError, Problems
from cnnlab.models.building import InputSpec, build_network
from cnnlab.models.initialization import check_initialization
from cnnlab.models.preprocessing import check_fit
from cnnlab.models.stages import stages
from cnnlab.models.surgery import Surgery
from cnnlab.models.weighted import weights_of
from cnnlab.seeds import derived_rng
from cnnlab.training.freezing import FreezePlan
from cnnlab.training.regularization import LabelSmoothing, OnWeights, check_together
from cnnlab.verbs.assembly import Config, augmentations_from, data_from, lr_rule, optimizer_from


def checked_data(cfg: Config, spec: InputSpec, trusted: tuple[str, ...]) -> DataModule:
    """The data of a run whose settings go together; raises one InputError that names all that do not."""
    problems = Problems()
    regularizers: Config = {}
    for name, entry in cfg["regularization"].items():
        with problems:
            regularizers |= build_entries({name: entry}, trusted)
    with problems:
        lr_rule(cfg["trainer"]["scale_lr"])
    with problems:
        check_together(list(regularizers.values()))
    with problems:
        _check_optimizer(cfg, trusted)
    with problems:
        data = data_from(cfg, spec, trusted)
        _check_with_data(cfg, data, regularizers, trusted, problems)
    problems.raise_all("These settings do not go together:")
    return data


def _check_with_data(
    cfg: Config, data: DataModule, regularizers: Config, trusted: tuple[str, ...], problems: Problems
) -> None:
    with problems:
        _check_validation(cfg, regularizers, data)
    with problems:
        options = {key: value for key, value in cfg["preprocessing"].items() if key not in ("_target_", "_partial_")}
        size = data.image_size
        check_fit(options.pop("name"), options, (data.channels, size, size), len(data.parts.train))
    with problems:
        _check_augmentation(data)
    with problems:
        _check_targets(cfg, regularizers, trusted)
    network = outline(cfg, len(data.classes), trusted)
    for name, entry in regularizers.items():
        with problems:
            if isinstance(entry, Surgery):
                entry.operate(network)
            elif isinstance(entry, OnWeights):
                _check_modules(name, entry, network)
    with problems:
        init = {key: value for key, value in cfg["init"].items() if key not in ("_target_", "_partial_", "bias")}
        check_initialization(network, init.pop("name"), init.pop("modules", None), init)
    plan = FreezePlan(network, [{"epoch": 0, "train": "all"}])
    with problems:
        plan = FreezePlan(network, cfg["freeze"]["phases"], cfg["freeze"]["batch_norm"])
    with problems:
        _check_batch_norm(network, plan, data.batch_size)


def _check_optimizer(cfg: Config, trusted: tuple[str, ...]) -> None:
    """Build optimizer and scheduler for a parameter of no meaning: torch checks their numbers, and how they combine."""
    parameter = nn.Parameter(torch.zeros(1))
    group, lr = "optimizer", cfg["optimizer"]["lr"]
    try:
        optimizer = optimizer_from(cfg, trusted)([parameter], lr=lr)
        group, scheduler = "scheduler", build(cfg["scheduler"], trusted)
        if getattr(scheduler, "func", scheduler) is ReduceLROnPlateau:
            scheduler(optimizer, mode="max")
        elif cfg["trainer"]["max_epochs"] == -1 and cfg["trainer"]["max_steps"] == -1:
            raise ValueError("it needs to know when the run ends: set trainer.max_epochs or trainer.max_steps")
        else:
            scheduler(optimizer, total_steps=100, steps_per_epoch=10)
    except (ValueError, TypeError) as error:
        given = ", ".join(f"{key}={value}" for key, value in cfg[group].items() if not key.startswith("_"))
        raise InputError(f"{group}: {error}. It is given {given}.") from error


def outline(cfg: Config, num_classes: int, trusted: tuple[str, ...]) -> nn.Module:
    """The network without memory for its parameters."""
    network = build({**cfg["model"]["network"], "_partial_": True}, trusted)
    try:
        with torch.device("meta"):
            return build_network(network, num_classes=num_classes, weights=None, seed=0)
    except RuntimeError:  # a constructor that looks at the values of its parameters
        return build_network(network, num_classes=num_classes, weights=None, seed=0)


def _check_validation(cfg: Config, regularizers: Config, data: DataModule) -> None:
    waiting = [f"regularization.{name}" for name, entry in regularizers.items() if isinstance(entry, EarlyStopping)]
    waiting += ["scheduler"] if cfg["scheduler"]["_target_"].endswith(".ReduceLROnPlateau") else []
    if waiting and (data.parts.val is None or not cfg["trainer"]["limit_val_batches"]):
        raise InputError(f"{', '.join(waiting)} follows val/acc, but nothing is validated: raise data.val_fraction.")


def _check_augmentation(data: DataModule) -> None:
    """Try the augmentations on the smallest image that can reach them."""
    if not isinstance(data, ImageDataModule):
        return
    side = data.eval_transform.resize.size[0]
    with derived_rng("trial"):
        try:
            data.train_transform(Image.new("L" if data.channels == 1 else "RGB", (side, side)))
        except (ValueError, TypeError, RuntimeError) as error:
            raise InputError(
                f"augmentation: an image of {side} x {side} pixels cannot be augmented: {error}"
            ) from error


def _check_targets(cfg: Config, regularizers: Config, trusted: tuple[str, ...]) -> None:
    """Mixed images and smoothed labels have several classes at once, which not every loss can take."""
    augmentations = augmentations_from(cfg, trusted)
    soft = [f"augmentation={name}" for name, entry in augmentations.items() if isinstance(entry, MIXING)]
    soft += [
        f"regularization={name}"
        for name, entry in regularizers.items()
        if isinstance(entry, LabelSmoothing) and entry.epsilon
    ]
    if soft and not isinstance(build(cfg["loss"], trusted)(), nn.CrossEntropyLoss):
        raise InputError(
            f"{' and '.join(soft)} makes soft targets, which {cfg['loss']['_target_']} does not take. "
            "Use loss=cross_entropy."
        )


def _check_modules(name: str, entry: OnWeights, network: nn.Module) -> None:
    try:
        weights_of(network, entry.modules)
    except InputError as error:
        raise InputError(f"regularization.{name}.modules: {error}") from error


def _check_batch_norm(network: nn.Module, plan: FreezePlan, batch_size: int) -> None:
    if batch_size > 1:
        return
    trained = {name for phase in plan.phases for name in phase.trainable}
    normalized = [
        name
        for name, stage in stages(network).items()
        if (name in trained or plan.batch_norm == "train") and any(isinstance(m, _BatchNorm) for m in stage.modules())
    ]
    if normalized:
        raise InputError(
            f"data.batch_size=1: batch normalization ({normalized[0]}, ...) would take its statistics from one image. "
            "Use at least 2."
        )
