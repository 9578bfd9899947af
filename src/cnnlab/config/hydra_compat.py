"""All uses of Hydra's private names, to be checked when Hydra is upgraded."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any

from hydra._internal.config_repository import ConfigRepository
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult

BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def parse_command_line(arguments: Sequence[str]) -> Any:
    """Parse arguments as a Hydra application does: `.overrides`, `.multirun`, `.config_dir`, `.cfg`, `.help`, ..."""
    return get_args_parser().parse_intermixed_args(list(arguments))


def split_arguments(overrides: list[Override]) -> list[list[str]]:
    """Return the overrides of each job of a sweep: every combination of values, in Hydra's order."""
    return [job for batch in BasicSweeper.split_arguments(overrides, max_batch_size=None) for job in batch]


_parse = ConfigRepository.load_config
_parsed: dict[tuple[str, str, int, int], ConfigResult] = {}


def _load_config(self: ConfigRepository, config_path: str) -> ConfigResult | None:
    """Parse a config file again only if it has changed; a sweep composes the same files for every job.

    A process that composes several configs takes half the time for each but the first.
    """
    source = self._find_object_source(config_path, ObjectType.CONFIG)
    if source is None or source.scheme() not in ("file", "pkg"):
        return _parse(self, config_path)
    file, changed = f"{source.path}/{config_path}", (0, 0)  # those of packages do not change
    if source.scheme() == "file":
        state = os.stat(file if file.endswith(".yaml") else f"{file}.yaml")
        changed = (state.st_mtime_ns, state.st_size)
    key = (source.provider, file, *changed)
    if key not in _parsed:
        result = _parse(self, config_path)
        assert result is not None
        _parsed[key] = result
    return copy.deepcopy(_parsed[key])  # Hydra changes it while it composes


ConfigRepository.load_config = _load_config  # type: ignore[method-assign]
