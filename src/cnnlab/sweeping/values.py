"""What an override sweeps, in Hydra's own grammar."""

import math
from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from cnnlab.errors import InputError

MOST = 10_000
"""Jobs of a sweep: each has been composed and checked before the first begins."""


def parse(arguments: Sequence[str]) -> dict[str, Override]:
    """The overrides by key, of which the last counts."""
    return {o.get_key_element(): o for o in OverridesParser.create().parse_overrides(list(arguments))}


def line_of(override: Override) -> str:
    """An override as it was typed."""
    return override.input_line or ""


def first_of(override: str) -> str:
    """The override itself, or with the first of the values it sweeps."""
    (parsed,) = parse([override]).values()
    return values_of(parsed)[0] if parsed.is_sweep_override() else override


def values_of(override: Override) -> list[str]:
    """The override once for each value it sweeps; for both ends of an interval."""
    key, value = override.get_key_element(), override.value()
    if isinstance(value, IntervalSweep):
        return [f"{key}={value.start}", f"{key}={value.end}"]
    if isinstance(value, RangeSweep) and not _is_short(value):
        raise InputError(f"{line_of(override)}: at most {MOST:,} values can be swept.")
    try:
        return [f"{key}={choice}" for choice in override.sweep_string_iterator()]
    except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
        raise InputError(f"{line_of(override)}: its values cannot be listed: {str(error).splitlines()[0]}") from error


def _is_short(values: RangeSweep) -> bool:
    if not values.step:
        raise InputError(f"A range in steps of {values.step} never ends.")
    return ((values.stop or 0) - (values.start or 0)) / values.step <= MOST


def every_combination(arguments: Sequence[str]) -> list[list[str]]:
    """The overrides of each job: every combination, the last key varying fastest."""
    try:
        parsed = list(parse(arguments).values())
    except HydraException:
        return [list(arguments)]  # composing says what cannot be parsed
    intervals = [line_of(o) for o in parsed if o.is_sweep_override() and not o.is_discrete_sweep()]
    if intervals:
        raise InputError(
            f"{', '.join(intervals)}: an interval has no list of values. Search it with hparams_search=optuna."
        )
    swept = [len(values_of(o)) for o in parsed if o.is_sweep_override()]
    if math.prod(swept) > MOST:
        raise InputError(f"{math.prod(swept):,} combinations: at most {MOST:,} jobs make a sweep.")
    return [job for batch in BasicSweeper.split_arguments(parsed, max_batch_size=None) for job in batch]


def every_value(arguments: Sequence[str]) -> list[list[str]]:
    """Jobs in which every value of a search occurs, and both ends of every interval."""
    try:
        parsed = parse(arguments)
    except HydraException:
        return [list(arguments)]
    first = {key: first_of(line_of(override)) for key, override in parsed.items()}
    values = {key: values_of(override) for key, override in parsed.items() if override.is_sweep_override()}
    if not values:
        raise InputError("The search has nothing to vary: give a key an interval, or a list of values.")
    return [list((first | {key: value}).values()) for key, choices in values.items() for value in choices]
