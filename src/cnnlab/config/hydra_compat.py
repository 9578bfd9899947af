"""All uses of Hydra's private names, to be checked when Hydra is upgraded."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository, IConfigRepository
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.defaults_list import DefaultsList, create_defaults_list
from hydra._internal.utils import get_args_parser
from hydra.core.default_element import ResultDefault
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig

BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def parse_command_line(arguments: Sequence[str]) -> Any:
    """Parse arguments as a Hydra application does: `.overrides`, `.multirun`, `.config_dir`, `.cfg`, `.help`, ..."""
    return get_args_parser().parse_intermixed_args(list(arguments))


def split_arguments(overrides: list[Override]) -> list[list[str]]:
    """Return the overrides of each job of a sweep: every combination of values, in Hydra's order."""
    return [job for batch in BasicSweeper.split_arguments(overrides, max_batch_size=None) for job in batch]


# A command composes its config up to three times, and a sweep once or twice for each job. Nearly all of Hydra's time is
# spent on parsing and merging files, which depends on the options of groups only; values are put in afterwards. So what
# Hydra makes of the files is kept while none of them changes.
_State = tuple[object, ...]
_files: dict[_State, ConfigResult] = {}
_defaults: dict[_State, DefaultsList] = {}
_configs: dict[_State, DictConfig] = {}
_parse = ConfigRepository.load_config
_merge = ConfigLoaderImpl._compose_config_from_defaults_list


def _state_of(file: Path) -> _State:
    state = file.stat()
    return file, state.st_mtime_ns, state.st_size


def _state(repository: IConfigRepository) -> _State:
    """Return what changes when a file of the search path does; packages and registered configs never do."""
    sources = repository.get_sources()
    folders = [Path(source.path) for source in sources if source.scheme() == "file"]
    files = sorted(file for folder in folders for file in folder.rglob("*.yaml"))
    return *((source.provider, source.path) for source in sources), *map(_state_of, files)


def _create_defaults_list(
    repo: IConfigRepository, config_name: str | None, overrides_list: list[Override], **options: bool
) -> DefaultsList:
    """Choose the files of a config, as Hydra's function of this name does, once for the same options of groups."""
    values = [x for x in overrides_list if not x.is_sweep_override()]
    choices = [x for x in values if repo.group_exists(x.key_or_group) and not isinstance(x.value(), dict)]
    key = (config_name, *(x.input_line for x in choices), *options.items(), *_state(repo))
    if key not in _defaults:
        _defaults[key] = create_defaults_list(repo, config_name, choices, **options)
    return replace(_defaults[key], config_overrides=[x for x in values if x not in choices])


def _compose_config_from_defaults_list(
    self: ConfigLoaderImpl, defaults: list[ResultDefault], repo: IConfigRepository
) -> DictConfig:
    """Merge the files of a config, as Hydra's method of this name does, once for the same files."""
    key = *((default.config_path, default.package, default.primary) for default in defaults), *_state(repo)
    if key not in _configs:
        _configs[key] = _merge(self, defaults, repo)
    return copy.deepcopy(_configs[key])


def _load_config(self: ConfigRepository, config_path: str) -> ConfigResult | None:
    """Parse a file, as Hydra's method of this name does, once."""
    source = self._find_object_source(config_path, ObjectType.CONFIG)
    if source is None or source.scheme() not in ("file", "pkg"):
        return _parse(self, config_path)
    key: _State = (source.provider, source.path, config_path)
    if source.scheme() == "file":
        key += _state_of(Path(source.path, source._normalize_file_name(config_path)))
    if key not in _files:
        result = _parse(self, config_path)
        assert result is not None
        _files[key] = result
    return copy.deepcopy(_files[key])  # Hydra changes it


config_loader_impl.create_defaults_list = _create_defaults_list  # type: ignore[assignment]
ConfigLoaderImpl._compose_config_from_defaults_list = _compose_config_from_defaults_list  # type: ignore[method-assign]
ConfigRepository.load_config = _load_config  # type: ignore[method-assign]
