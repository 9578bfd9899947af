"""All uses of Hydra's private names, to be checked when Hydra is upgraded."""

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
    """Return the overrides of each job of a sweep: every combination of values, in Hydra's order."""
    return [job for batch in BasicSweeper.split_arguments(overrides, max_batch_size=None) for job in batch]
