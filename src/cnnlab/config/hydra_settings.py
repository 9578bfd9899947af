"""Hydra's own settings, in whatever spelling they come: which of them a run accepts, and the folder that they name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
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
    problems = list(_unknown(hydra, HydraConf, "hydra"))
    if any(_raw(hydra, key) not in (OWN[key], None, "???") for key in ("sweep.dir", "sweep.subdir")):
        problems.append(
            "hydra.sweep.dir and hydra.sweep.subdir cannot be set: name the folder of a sweep (-m) with "
            "sweep.dir=FOLDER; what varies names its jobs."
        )
    if _raw(hydra, "job.chdir"):
        problems.append("hydra.job.chdir is not possible: paths are relative to the working directory. Leave it out.")
    if _raw(hydra, "output_subdir") is not None:
        problems.append("hydra.output_subdir cannot be set: config.yaml and overrides.yaml are in the run folder.")
    if hydra.get("mode") == RunMode.MULTIRUN:
        problems.append("hydra.mode cannot be set: -m starts a sweep.")
    if _raw(hydra, "runtime.output_dir") not in (None, "???"):
        problems.append("hydra.runtime cannot be set: name the run folder with paths.output_dir=FOLDER.")
    for place in _raw(hydra, "searchpath") or ():
        folder = str(place).removeprefix("file://")
        if "://" not in folder and not Path(folder).is_dir():
            problems.append(f"hydra.searchpath: folder {folder} not found.")
    if problems:
        raise several(problems, "These settings of Hydra are not possible:") if problems[1:] else InputError(*problems)


def named_folder(cfg: DictConfig) -> str | None:
    """Return the run folder that a composed config names by paths.output_dir or hydra.run.dir; None if it names none.

    Raises InputError for both at once, or a name that does not resolve.
    """
    by_hydra, own = names_run_folder(cfg.hydra), OmegaConf.to_container(cfg.paths).get("output_dir")
    if by_hydra and own is not None:
        raise InputError("hydra.run.dir and paths.output_dir both name the run folder: leave out one of them.")
    try:
        return cfg.hydra.run.dir if by_hydra else cfg.paths.output_dir
    except (OmegaConfBaseException, ValueError) as error:
        name = "hydra.run.dir" if by_hydra else "paths.output_dir"
        raise InputError(f"{name} does not resolve: {str(error).splitlines()[0]}.") from error


def names_run_folder(hydra: DictConfig) -> bool:
    """Return whether hydra.run.dir has another value than in train.yaml."""
    return _raw(hydra, "run.dir") not in (OWN["run.dir"], None, "", "???")


def hydra_keys() -> list[str]:
    """Return the dotted names of Hydra's own settings."""
    return list(_keys(HydraConf, "hydra"))


def _keys(schema: Any, path: str) -> Iterator[str]:
    for field in fields(schema):
        name = f"{path}.{field.name}"
        yield name
        if is_dataclass(kind := _type_of(schema, field.name)):
            yield from _keys(kind, name)


def _unknown(node: DictConfig, schema: Any, path: str) -> Iterator[str]:
    """Yield a sentence for each key below `node` that Hydra does not have."""
    names = [field.name for field in fields(schema)]
    for key in node:
        if key not in names:
            yield f"Unknown key {path}.{key}. {nearest([str(key)], names)}".strip()
        elif is_dataclass(kind := _type_of(schema, key)) and isinstance(node._get_node(key), DictConfig):
            yield from _unknown(node._get_node(key), kind, f"{path}.{key}")


def _type_of(schema: Any, name: str) -> Any:
    """Return the type of an entry of a structured config; those of Hydra are built by their default factories."""
    default = OmegaConf.get_type(OmegaConf.structured(schema)._get_node(name))
    return default if is_dataclass(default) else None


def _raw(hydra: DictConfig, key: str) -> Any:
    """Return the unresolved value of a dotted key; None if a part of it is missing."""
    found: Any = OmegaConf.to_container(hydra, resolve=False)
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found
