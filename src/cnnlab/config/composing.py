"""Where the configs are, and how they are composed from what was typed."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from cnnlab.config.checking import flat, one_line, problems_of
from cnnlab.errors import InputError, nearest, several

_PACKAGE = Path(__file__).parents[1]
CONFIG_DIR = next(
    (path for path in (_PACKAGE.parents[1] / "configs", _PACKAGE / "configs") if (path / "train.yaml").is_file()),
    _PACKAGE / "configs",
)
PATH_KEYS = {"run", "images", "sgf", "resume", "output", "data.root", "model.weights", "sweep.dir"}
"""Keys whose values are paths: they may hold spaces, commas and any letter without being quoted twice."""
PLAIN = re.compile(r"[A-Za-z0-9_./-]*")
NO_STRING = re.compile(r"[+-]?[0-9_]*\.?[0-9_]*(e[+-]?[0-9_]+)?|[+-]?(inf|nan)|true|false|null", re.IGNORECASE)
"""Folders such as 2024, which Hydra would take for numbers."""
_FAILURES = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError)
"""What Hydra raises for overrides and files that do not compose (ValueError: model=null)."""


def quote_path(override: str, sweeping: bool = False) -> str:
    """`key=value` in Hydra's quotes if the key takes a path whose letters Hydra's grammar would stumble over.

    A path that begins with ~ gets the home folder, which shells put in only where a word begins.
    """
    key, equals, value = override.partition("=")
    takes_path = key.lstrip("+") in PATH_KEYS or key.startswith("paths.")
    if takes_path and value.split("/", 1)[0] == "~":
        value = os.path.expanduser(value)
        override = f"{key}={value}"
    plain = value == "null" or (PLAIN.fullmatch(value) and not NO_STRING.fullmatch(value))
    if not equals or not takes_path or plain or value[:1] in ("'", '"', "[") or "${" in value:
        return override
    swept = sweeping and "," in value and key != "sweep.dir"
    return override if swept else f"{key}={quoted(value)}"


def quoted(value: str) -> str:
    """A value in Hydra's quotes, where backslashes count only before a quote or at the end."""
    return "'" + re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), value) + "'"


def compose(overrides: Sequence[str], config_dir: str | None = None, with_hydra: bool = False) -> DictConfig:
    """The train config with `overrides`; interpolations are left as they are.

    config_dir: a folder of the user's own groups. with_hydra: with Hydra's own node, `hydra`. Raises InputError that
    lists every override that does not fit, or says that there is no such folder.
    """
    if config_dir and not Path(config_dir).is_dir():
        raise InputError(f"--config-dir: there is no folder {config_dir}.")
    folders = [CONFIG_DIR, Path(config_dir).absolute()] if config_dir else [CONFIG_DIR]
    search = [f"hydra.searchpath=[{quoted(f'file://{folder}')}]" for folder in folders[1:]]
    try:
        return _compose([*search, *overrides], with_hydra)
    except _FAILURES as error:
        problems = _composition_problems(search, overrides, folders)
        raise several(problems or [one_line(error)], "The config does not compose:") from error


def _compose(overrides: Sequence[str], with_hydra: bool = False) -> DictConfig:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return hydra.compose("train", overrides=list(overrides), return_hydra_config=with_hydra)


def _composition_problems(search: list[str], overrides: Sequence[str], folders: list[Path]) -> list[str]:
    """Add the overrides one by one, group choices first: why each that fails does, and what is wrong with the rest."""
    accepted, problems = list(search), []
    try:
        cfg = _compose(accepted)
    except _FAILURES as failure:  # local/default.yaml, which is taken without being chosen
        return [one_line(failure)]
    for override in sorted(overrides, key=lambda text: not _options(_key(text), folders)):
        try:
            cfg = _compose([*accepted, override])
            accepted.append(override)
        except _FAILURES as failure:
            problems.append(f"{override}: {_explain(override, cfg, failure, folders)}")
    return problems + problems_of(cfg)


def _options(group: str, folders: list[Path]) -> list[str]:
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")}) if group else []


def _key(override: str) -> str:
    return override.lstrip("+~").split("=", 1)[0].split("@", 1)[0]


def _explain(override: str, cfg: DictConfig, failure: Exception, folders: list[Path]) -> str:
    key, _, value = override.lstrip("+~").partition("=")
    if isinstance(failure, OverrideParseException) or not key:
        reason = one_line(failure)
        return f"it cannot be parsed ({reason}). Write key=value, and quote special characters: 'key=\"a b\"'."
    if options := _options(key, folders):
        wanted = [part.strip(" '\"") for part in value.strip("[]").split(",")]
        unknown = [part for part in wanted if part not in options]
        if unknown:
            return f"{', '.join(unknown)} is no option of {key}. {nearest(unknown, options)}"
        return one_line(failure)  # the option's own file is wrong
    known = [
        *(name for name, _ in flat(cfg)),
        *(path.name for folder in folders for path in folder.iterdir() if path.is_dir()),
    ]
    return f"there is no key {key}. {nearest([key], known)}" if key not in known else one_line(failure)
