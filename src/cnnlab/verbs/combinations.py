"""Settings that are each right and do not go together: all of them named before any work."""

import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cnnlab.config import build
from cnnlab.data.datamodule import ImageDataModule
from cnnlab.errors import InputError, Problems
from cnnlab.models.building import build_network
from cnnlab.models.initialization import check_initialization
from cnnlab.models.stages import stages
from cnnlab.models.surgery import Surgery
from cnnlab.training.freezing import FreezePlan
from cnnlab.training.regularization import check_together
from cnnlab.verbs.assembly import Config, lr_rule


def check_combinations(cfg: Config, regularizers: Config, data: ImageDataModule, trusted: tuple[str, ...]) -> None:
    """Raises one InputError that names every combination of settings that cannot work."""
    problems = Problems()
    with problems:
        lr_rule(cfg["trainer"]["scale_lr"])
    with problems:
        check_together(list(regularizers.values()))
    with problems:
        _check_validation(cfg, regularizers, data)
    network = _outline(cfg, len(data.classes), trusted)
    for entry in regularizers.values():
        if isinstance(entry, Surgery):
            with problems:
                entry.operate(network)
    with problems:
        init = {key: value for key, value in cfg["init"].items() if key not in ("_target_", "_partial_", "bias")}
        check_initialization(network, init.pop("name"), init.pop("modules", None), init)
    with problems:
        plan = FreezePlan(network, cfg["freeze"]["phases"], cfg["freeze"]["batch_norm"])
        _check_batch_norm(network, plan, data.batch_size)
    problems.raise_all("These settings do not go together:")


def _outline(cfg: Config, num_classes: int, trusted: tuple[str, ...]) -> nn.Module:
    """The network without memory for its parameters."""
    network = build({**cfg["model"]["network"], "_partial_": True}, trusted)
    try:
        with torch.device("meta"):
            return build_network(network, num_classes=num_classes, weights=None, seed=0)
    except RuntimeError:  # a constructor that looks at the values of its parameters
        return build_network(network, num_classes=num_classes, weights=None, seed=0)


def _check_validation(cfg: Config, regularizers: Config, data: ImageDataModule) -> None:
    waiting = [f"regularization.{name}" for name, entry in regularizers.items() if isinstance(entry, EarlyStopping)]
    waiting += ["scheduler"] if cfg["scheduler"]["_target_"].endswith(".ReduceLROnPlateau") else []
    if waiting and (data.parts.val is None or not cfg["trainer"]["limit_val_batches"]):
        raise InputError(f"{', '.join(waiting)} follows val/acc, but nothing is validated: raise data.val_fraction.")


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
