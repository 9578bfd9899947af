"""Find the configs and compose one from overrides."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cnnlab.config.checking import flat, one_line, problems_of
from cnnlab.config.hydra_settings import hydra_keys
from cnnlab.config.overrides import quoted, split
from cnnlab.errors import InputError, nearest, several

_PACKAGE = Path(__file__).parents[1]
CONFIG_DIR = next(
    (path for path in (_PACKAGE.parents[1] / "configs", _PACKAGE / "configs") if (path / "train.yaml").is_file()),
    _PACKAGE / "configs",
)
_FAILURES = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, UserWarning)
"""Errors that Hydra raises for overrides and files that do not compose (ValueError: model=null), and its warning about
a folder of hydra.searchpath."""


def compose(overrides: Sequence[str], config_dir: str | None = None, with_hydra: bool = False) -> DictConfig:
    """Compose the train config with `overrides`; interpolations are not resolved.

    config_dir: a folder with the user's own config groups. with_hydra: include Hydra's own node, `hydra`.
    Raises InputError that lists every override that does not fit, or names a missing folder.
    """
    if config_dir and not Path(config_dir).is_dir():
        raise InputError(f"--config-dir: folder {config_dir} not found.")
    folders = [CONFIG_DIR, Path(config_dir).absolute()] if config_dir else [CONFIG_DIR]
    search = [f"hydra.searchpath=[{quoted(f'file://{folder}')}]" for folder in folders[1:]]
    try:
        return _compose([*search, *overrides], with_hydra)
    except _FAILURES as error:
        problems = _composition_problems(search, overrides, folders)
        raise several(problems or [one_line(error)], "The config does not compose:") from error


def _compose(overrides: Sequence[str], with_hydra: bool = False) -> DictConfig:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONFIG_DIR), job_name="train", version_base="1.3"), warnings.catch_warnings():
        warnings.filterwarnings("error", "provider=hydra.searchpath")
        return hydra.compose("train", overrides=list(overrides), return_hydra_config=with_hydra)


def _composition_problems(search: list[str], overrides: Sequence[str], folders: list[Path]) -> list[str]:
    """Find the overrides that do not compose, group choices first, and say why each fails and what else is wrong."""
    accepted = list(search)
    try:
        cfg = _compose(accepted)
    except _FAILURES as failure:  # local/default.yaml, which is always included
        return [one_line(failure)]

    def rejected(untried: list[str]) -> list[str]:
        """Accept what composes; halving finds one wrong override among many in fewer steps than going through them."""
        nonlocal cfg
        if not untried:
            return []
        try:
            cfg = _compose([*accepted, *untried])
        except _FAILURES as failure:
            if len(untried) == 1:
                return [f"{untried[0]}: {_explain(untried[0], cfg, failure, folders)}"]
            middle = len(untried) // 2
            return rejected(untried[:middle]) + rejected(untried[middle:])
        accepted.extend(untried)
        return []

    problems = rejected(sorted(overrides, key=lambda text: not _options(split(text).key, folders)))
    return problems + problems_of(cfg)


def _options(group: str, folders: list[Path]) -> list[str]:
    if group.startswith("hydra/"):  # from Hydra and its plugins
        with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            return GlobalHydra.instance().config_loader().get_group_options(group)
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")}) if group else []


def _explain(override: str, cfg: DictConfig, failure: Exception, folders: list[Path]) -> str:
    key, value = split(override).key, split(override).value
    if isinstance(failure, OverrideParseException) or not key:
        reason = one_line(failure)
        return f"it cannot be parsed ({reason}). Write key=value, and quote special characters: 'key=\"a b\"'."
    if isinstance(failure, UserWarning):
        return "a folder was not found."
    if override.startswith("~") and key.split(".")[0] == "hydra":
        return "settings of Hydra cannot be deleted: leave it out."
    if options := _options(key, folders):
        wanted = [part.strip(" '\"") for part in value.strip("[]").split(",")]
        unknown = [part for part in wanted if part not in options]
        if unknown:
            return f"unknown option {', '.join(unknown)} of {key}. {nearest(unknown, options)}"
        return one_line(failure)  # the option exists, so its file is wrong
    known = [
        *(name for name, _ in flat(cfg)),
        *(hydra_keys() if key.startswith("hydra.") else ()),
        *(path.name for folder in folders for path in folder.iterdir() if path.is_dir()),
    ]
    if key in known:
        return _reason(failure, override)
    if key.startswith("model.network."):
        return f"the config has no such key; if the network's constructor takes it, add it: +{override}."
    return f"unknown key {key}. {nearest([key], known)}"


def _reason(failure: Exception, override: str) -> str:
    """Return why a known key cannot have a value; where Hydra only repeats the override, OmegaConf has said why."""
    text = one_line(failure)
    if text.startswith("Could not override"):
        return f"there is no such key to override. Add it: +{override}"
    if text.startswith("Error merging override") and override.startswith("+"):
        return f"the key exists: leave out the + ({override.lstrip('+')})."
    if text.startswith("Error merging override") and failure.__cause__:
        text = one_line(failure.__cause__)  # type: ignore[arg-type]
    return "it cannot be null: leave it out." if text.endswith("is not Optional") else text


Config = dict[str, Any]
"""A resolved config as plain values."""


def plain_config(cfg: DictConfig, folder: Path) -> Config:
    """Return the resolved config of a run in `folder`, without the keys that concern only one command."""
    cfg.paths.output_dir = str(folder)
    plain: Config = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    for key in ("resume", "sweep"):
        del plain[key]
    return plain
