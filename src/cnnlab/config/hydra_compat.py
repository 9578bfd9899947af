"""Everything of Hydra that is private to it, in one place: what has to be looked at when Hydra changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Override

BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def parse_command_line(arguments: Sequence[str]) -> Any:
    """Parse arguments as a Hydra application does: `.overrides`, `.multirun`, `.config_dir`, `.cfg`, `.help`, ..."""
    return get_args_parser().parse_intermixed_args(list(arguments))


def split_arguments(overrides: list[Override]) -> list[list[str]]:
    """Return every combination of the values that the overrides sweep, in the order of Hydra's basic sweeper."""
    return [job for batch in BasicSweeper.split_arguments(overrides, max_batch_size=None) for job in batch]
