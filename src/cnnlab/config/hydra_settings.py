"""Hydra's own settings, in whatever spelling they come: which of them a run accepts, and the folder that they name."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from hydra.conf import HydraConf
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cnnlab.errors import InputError, nearest, several

OWN = {"run.dir": "${paths.output_dir}", "sweep.dir": "${sweep.dir}", "sweep.subdir": "${hydra.job.num}"}
"""Settings that name folders -> their values in train.yaml."""


def check_hydra(hydra: DictConfig) -> None:
    """Raise one InputError for settings by which runs could share folders or write elsewhere, and for unknown keys.

    hydra: Hydra's node of a composed config, not resolved.
    """
    problems = list(_unknown(_plain(hydra), _known(), "hydra"))
    if any(_value(hydra, key) not in (OWN[key], None, "???") for key in ("sweep.dir", "sweep.subdir")):
        problems.append(
            "hydra.sweep.dir and hydra.sweep.subdir cannot be set: name the folder of a sweep (-m) with "
            "sweep.dir=FOLDER; what varies names its jobs."
        )
    if _value(hydra, "job.chdir"):
        problems.append("hydra.job.chdir is not possible: paths are relative to the working directory. Leave it out.")
    if _value(hydra, "output_subdir") is not None:
        problems.append("hydra.output_subdir cannot be set: config.yaml and overrides.yaml are in the run folder.")
    if hydra.get("mode") == RunMode.MULTIRUN:
        problems.append("hydra.mode cannot be set: -m starts a sweep.")
    if _value(hydra, "runtime.output_dir") not in (None, "???"):
        problems.append("hydra.runtime cannot be set: name the run folder with paths.output_dir=FOLDER.")
    levels = logging.getLevelNamesMapping()
    for key in ("job_logging.root.level", "hydra_logging.root.level"):
        if (level := _value(hydra, key)) not in (None, *levels, *levels.values()):
            problems.append(f"hydra.{key}={level} is not a level of logging. {nearest([str(level)], list(levels))}")
    if problems:
        raise several(problems, "These settings of Hydra are not possible:")


def named_folder(cfg: DictConfig) -> str | None:
    """Return the run folder that a composed config names by paths.output_dir or hydra.run.dir; None if it names none.

    Raises InputError for both at once, or a name that does not resolve.
    """
    by_hydra = names_run_folder(cfg.hydra)
    if by_hydra and _value(cfg, "paths.output_dir") is not None:
        raise InputError("hydra.run.dir and paths.output_dir both name the run folder: leave out one of them.")
    try:
        return cfg.hydra.run.dir if by_hydra else cfg.paths.output_dir
    except (OmegaConfBaseException, ValueError) as error:
        name = "hydra.run.dir" if by_hydra else "paths.output_dir"
        raise InputError(f"{name} does not resolve: {str(error).splitlines()[0]}.") from error


def names_run_folder(hydra: DictConfig) -> bool:
    """Return whether hydra.run.dir has another value than in train.yaml."""
    return _value(hydra, "run.dir") not in (OWN["run.dir"], None, "", "???")


def hydra_keys() -> list[str]:
    """Return the dotted names of Hydra's own settings."""
    return list(_dotted(_known(), "hydra"))


def _known() -> dict[str, Any]:
    """Return all settings of Hydra with their default values; its group hydra/env is missing in its schema."""
    return {**_plain(OmegaConf.structured(HydraConf)), "env": {}}


def _dotted(values: Mapping[str, Any], path: str) -> Iterator[str]:
    for key, value in values.items():
        yield f"{path}.{key}"
        if isinstance(value, dict):
            yield from _dotted(value, f"{path}.{key}")


def _unknown(given: Mapping[str, Any], known: Mapping[str, Any], path: str) -> Iterator[str]:
    """Yield a sentence for each key that Hydra does not have; a group that is empty in `known` takes any."""
    for key, value in given.items():
        if key not in known:
            yield f"Unknown key {path}.{key}. {nearest([key], list(known))}".strip()
        elif isinstance(value, dict) and isinstance(known[key], dict) and known[key]:
            yield from _unknown(value, known[key], f"{path}.{key}")


def _value(cfg: DictConfig, key: str) -> Any:
    """Return the unresolved value of a dotted key; None if a part of it is missing."""
    found: Any = _plain(cfg)
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _plain(cfg: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(cfg, resolve=False)  # type: ignore[return-value]
