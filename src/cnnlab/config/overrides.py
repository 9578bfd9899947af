"""Parse overrides (`key=value`): split them, evaluate them in Hydra's grammar, quote them, and expand sweeps."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, QuotedString, RangeSweep
from hydra.core.override_parser.types import Override as HydraOverride
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from cnnlab.config.hydra_compat import split_arguments
from cnnlab.errors import InputError

MAX_JOBS = 10_000
"""Largest number of jobs in a sweep; each is composed and checked before the first one starts."""
PATH_KEYS = {
    *("run", "images", "sgf", "resume", "output", "data.root", "model.weights", "sweep.dir", "hydra.run.dir"),
    *("data.file", "data.image_column", "data.label_column", "data.split_column"),
}
"""Keys whose values are paths or columns; they may contain spaces, commas and any other character without quotes."""
PATTERN_KEYS = {"data.groups"}
"""Keys whose values are regular expressions, which need no extra quotes either and are never swept."""
OF_ONE_COMMAND = ("resume", "resume_schedule", "sweep")
"""Groups of overrides that concern only the command in which they are typed; a run does not store them."""
PLAIN = re.compile(r"[A-Za-z0-9_./-]*")
NOT_A_STRING = re.compile(r"[+-]?[0-9_]*\.?[0-9_]*(e[+-]?[0-9_]+)?|[+-]?(inf|nan)|true|false|null", re.IGNORECASE)
"""Matches text that Hydra would read as a number, boolean or null, such as the folder name 2024."""


class Override(NamedTuple):
    """One override as it was typed, split into key and value but not parsed."""

    text: str
    key: str
    """The key without `+`, `~` and `@package`."""
    value: str
    """The text after the first "=", quotes included; empty without "="."""

    @property
    def is_assignment(self) -> bool:
        return "=" in self.text

    @property
    def plain(self) -> str:
        """The value without surrounding quotes."""
        return self.value.strip("'\"")

    @property
    def group(self) -> str:
        """The part of the key before the first dot."""
        return self.key.split(".")[0]


def split(text: str) -> Override:
    """Split an override into key and value.

    >>> split("+optimizer.lr=0.1").key
    'optimizer.lr'
    """
    left, _, value = text.partition("=")
    return Override(text, left.lstrip("+~").split("@", 1)[0], value)


def assignments(arguments: Sequence[str], command: str) -> dict[str, str]:
    """Map keys to values as typed; raise InputError for arguments that are not of the form key=value."""
    overrides = [split(argument) for argument in arguments]
    if wrong := [override.text for override in overrides if not override.is_assignment]:
        raise InputError(f"{command} takes key=value, not {', '.join(wrong)}.")
    return {override.text.split("=", 1)[0]: override.value for override in overrides}


def parse(arguments: Sequence[str]) -> dict[str, HydraOverride]:
    """Parse overrides in Hydra's grammar and map their keys to them; the last one of a key counts.

    Raises HydraException if one cannot be parsed.
    """
    return {o.get_key_element(): o for o in OverridesParser.create().parse_overrides(list(arguments))}


@functools.lru_cache(maxsize=4096)
def value_of(text: str) -> Any:
    """Return the plain Python value of one override: a number, bool, str, None, list or dict.

    Raises InputError if Hydra's grammar does not accept it.
    """
    try:
        return _plain(OverridesParser.create().parse_override(text).value())
    except HydraException as error:
        raise InputError(f"{text} cannot be parsed: {str(error).splitlines()[0]}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, dict):
        return {_plain(key): _plain(entry) for key, entry in value.items()}
    return value


# --- Quoting ---


def quote_path(text: str, sweeping: bool = False) -> str:
    """Quote the value of a key that takes a path, if Hydra could not parse it otherwise.

    A leading ~ is expanded to the home folder, because shells expand it only at the beginning of a word.
    """
    override = split(text)
    value = override.value
    if override.key in PATTERN_KEYS and override.is_assignment and value != "null" and value[:1] not in ("'", '"'):
        return f"{text.partition('=')[0]}={quoted(value)}"
    takes_path = override.key in PATH_KEYS or override.key.startswith("paths.")
    left = text.partition("=")[0]
    if takes_path and value.split("/", 1)[0] == "~":
        value = os.path.expanduser(value)
        text = f"{left}={value}"
    plain = value == "null" or (PLAIN.fullmatch(value) and not NOT_A_STRING.fullmatch(value))
    if not override.is_assignment or not takes_path or plain or value[:1] in ("'", '"', "[") or "${" in value:
        return text
    swept = sweeping and "," in value and override.key != "sweep.dir"
    return text if swept else f"{left}={quoted(value)}"


def quoted(value: str) -> str:
    """Return a value in quotes as Hydra reads them: backslashes escape only before a quote or at the end."""
    return "'" + re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), value) + "'"


# --- Overrides from files ---


def require_harmless(text: str, where: Path) -> None:
    """Raise InputError if an override read from a file cannot be parsed or is not a setting of a run.

    It may not set Hydra's own keys, which can import and call anything, or choose options from other folders
    (experiment=../../x), whose files could set anything.
    """
    try:
        parsed = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise InputError(f"{where}: {text!r} cannot be parsed: {str(error).splitlines()[0]}") from error
    key, value = parsed.key_or_group, split(text).value
    names_hydra = any(re.split(r"\W", name or "")[0] == "hydra" for name in (key, parsed.package))
    if names_hydra or ("." not in key and re.search(r"\.\./|/\.\.|\$\{", value)):
        raise InputError(f"{where} contains {text}, which is not a setting of a run and could run code.")


# --- Sweeps ---


def line_of(override: HydraOverride) -> str:
    """Return an override as it was typed."""
    return override.input_line or ""


def first_of(text: str) -> str:
    """Return the override, or with the first of its values if it sweeps several."""
    (parsed,) = parse([text]).values()
    return swept_values(parsed)[0] if parsed.is_sweep_override() else text


def swept_values(override: HydraOverride) -> list[str]:
    """Return one override for each swept value; of an interval, one for each end."""
    key, value = override.get_key_element(), override.value()
    if isinstance(value, IntervalSweep):
        return [f"{key}={value.start}", f"{key}={value.end}"]
    if isinstance(value, RangeSweep) and not _is_short(value):
        raise InputError(f"{line_of(override)}: at most {MAX_JOBS:,} values can be swept.")
    try:
        return [f"{key}={choice}" for choice in override.sweep_string_iterator()]
    except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
        raise InputError(f"The values of {line_of(override)} cannot be listed: {str(error).splitlines()[0]}") from error


def _is_short(values: RangeSweep) -> bool:
    if not values.step:
        raise InputError(f"A range in steps of {values.step} never ends.")
    return ((values.stop or 0) - (values.start or 0)) / values.step <= MAX_JOBS


def every_combination(arguments: Sequence[str]) -> list[list[str]]:
    """Return the overrides of each job: every combination, the last key varying fastest."""
    try:
        parsed = list(parse(arguments).values())
    except HydraException:
        return [list(arguments)]  # composing reports what cannot be parsed
    intervals = [line_of(o) for o in parsed if o.is_sweep_override() and not o.is_discrete_sweep()]
    if intervals:
        raise InputError(
            f"{', '.join(intervals)}: an interval is not a list of values. Search it with hparams_search=optuna."
        )
    swept = [len(swept_values(o)) for o in parsed if o.is_sweep_override()]
    if math.prod(swept) > MAX_JOBS:
        raise InputError(f"{math.prod(swept):,} combinations: a sweep has at most {MAX_JOBS:,} jobs.")
    return split_arguments(parsed)


def every_value(arguments: Sequence[str]) -> list[list[str]]:
    """Return jobs that together cover every value of a search, and both ends of every interval."""
    try:
        parsed = parse(arguments)
    except HydraException:
        return [list(arguments)]
    first = {key: first_of(line_of(override)) for key, override in parsed.items()}
    values = {key: swept_values(override) for key, override in parsed.items() if override.is_sweep_override()}
    if not values:
        raise InputError("The search has nothing to vary. Give a key an interval or a list of values.")
    return [list((first | {key: value}).values()) for key, choices in values.items() for value in choices]


def keys_of(arguments: Sequence[str]) -> Mapping[str, Override]:
    """Map each key to its override as typed; the last override of a key counts."""
    return {override.key: override for override in map(split, arguments)}
