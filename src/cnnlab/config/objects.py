"""Build objects from nodes with a `_target_`, which may name only trusted classes and functions."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import hydra

from cnnlab.errors import CnnlabError, InputError, Problems

TRUSTED_TARGETS = ("cnnlab.", "torch.", "torchvision.", "torchmetrics.", "lightning.", "timm.")
"""Packages whose classes a config may name; `trusted_packages=[...]` adds a user's own."""
TRUSTED_MODULES = (
    *("cnnlab.data.", "cnnlab.models.", "cnnlab.training.", "cnnlab.runs.", "cnnlab.tasks."),
    *("torch.nn.", "torch.optim.", "torchmetrics."),
    *("torchvision.models.", "torchvision.ops.", "torchvision.transforms."),
    *("timm.layers.", "timm.loss.", "timm.models.", "timm.optim.", "timm.scheduler."),
    *("lightning.pytorch.trainer.", "lightning.pytorch.callbacks.", "lightning.pytorch.loggers."),
    *("lightning.pytorch.strategies.", "lightning.pytorch.plugins.", "lightning.pytorch.profilers."),
)
"""Modules in which a target must be defined. A trusted package is not enough: torch.os.system is the system's,
torch.hub.load runs what it downloads, and torchvision.datasets.utils deletes the archives that it extracts."""


def trusted_prefixes(plain: dict[str, Any]) -> tuple[str, ...]:
    """Return the prefixes that a `_target_` may have under this config."""
    return (*TRUSTED_TARGETS, *(f"{package}." for package in plain.get("trusted_packages") or []))


def locate(name: str, trusted: Sequence[str] = TRUSTED_TARGETS) -> Any:
    """Return the class or function called `name`; raise InputError if it is not trusted or does not exist."""
    if not isinstance(name, str):
        raise InputError(f"{name!r} does not name a class or function.")
    if not name.startswith(tuple(trusted)):
        raise InputError(
            f"{name} is not in {', '.join(prefix.rstrip('.') for prefix in trusted)}. "
            "To use a package of your own, add it: trusted_packages=[my_package]."
        )
    try:
        found = hydra.utils.get_object(name)
    except Exception as error:  # whatever an import can raise
        reason = str(error.__cause__ or error).splitlines()[0]
        raise InputError(f"{name} cannot be imported: {reason}") from error
    if not callable(found):
        raise InputError(f"{name} is a {type(found).__name__}, not a class or function.")
    own = tuple(prefix for prefix in trusted if prefix not in TRUSTED_TARGETS)
    module = getattr(found, "__module__", None)
    if not f"{module}.".startswith((*TRUSTED_MODULES, *own)):
        raise InputError(
            f"{name} is defined in {module}, which configs may not reference. Allowed: "
            f"{', '.join(prefix.rstrip('.') for prefix in TRUSTED_MODULES)}, and trusted_packages=[...]."
        )
    return found


def build(node: Any, trusted: Sequence[str] = TRUSTED_TARGETS, **arguments: Any) -> Any:
    """Build the object that a plain config node describes: `_target_(**node, **arguments)`.

    With `_partial_: true` it is a partial of the target. Raises InputError if the target refuses its arguments.
    """
    target = locate(node["_target_"], trusted)
    given = {key: value for key, value in node.items() if key not in ("_target_", "_partial_")} | arguments
    given = {
        key: build(value, trusted) if isinstance(value, dict) and "_target_" in value else value
        for key, value in given.items()
    }
    if node.get("_partial_"):
        return functools.partial(target, **given)
    try:
        return target(**given)
    except CnnlabError:
        raise
    except ModuleNotFoundError as error:  # the loggers of wandb and MLflow
        raise InputError(
            f"{node['_target_']} needs a package that is not installed: {error}. Install it, or choose another option."
        ) from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{node['_target_']} cannot be built from {given}: {error}") from error


def build_entries(entries: dict[str, Any], trusted: Sequence[str] = TRUSTED_TARGETS) -> dict[str, Any]:
    """Build a group of named entries, in order; entries that are null are left out.

    Raises one InputError for all entries that cannot be built.
    """
    built, problems = {}, Problems()
    for name, entry in entries.items():
        with problems:
            if entry is not None:
                built[name] = build(entry, trusted)
    problems.raise_all("These entries cannot be built:")
    return built
