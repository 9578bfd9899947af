"""Check that the settings go together with the data and the network."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from cnnlab.config import Config
from cnnlab.data.datamodule import DataModule
from cnnlab.errors import Problems
from cnnlab.models.initialization import check_initialization
from cnnlab.models.inputs import require_statistics
from cnnlab.models.preprocessing import check_fit
from cnnlab.training.regularizers import check_regularizers
from cnnlab.training.trainer_checks import require_validation


def check_settings(
    cfg: Config, data: DataModule, meta: nn.Module, regularizers: Mapping[str, Any], problems: Problems
) -> None:
    """Collect what is wrong between the settings, the data and the network, which is without memory here."""
    problems.attempt(require_validation, cfg, regularizers, data)
    shape = (data.channels, data.image_size, data.image_size)
    preprocessing, init = cfg["preprocessing"], cfg["init"]
    problems.attempt(check_fit, preprocessing["name"], options_of(preprocessing), shape, len(data.parts.train))
    problems.attempt(require_statistics, preprocessing, data.channels)
    problems.attempt(data.check_augmentation)
    problems.attempt(check_regularizers, regularizers, meta)
    options = options_of(init, "bias", "modules")
    problems.attempt(check_initialization, meta, init["name"], init.get("modules"), options)


def options_of(node: Mapping[str, Any], *others: str) -> dict[str, Any]:
    """Return the arguments of a node with `name`, without those that are the same for every name."""
    return {key: value for key, value in node.items() if key not in ("_target_", "_partial_", "name", *others)}
