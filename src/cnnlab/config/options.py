"""Parse and document the keys of a verb: a dataclass has their types and defaults, its docstring their meanings."""

import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cnnlab.config.overrides import split
from cnnlab.errors import InputError, nearest, several

HELP = ("-h", "--help")
WIDTH = 100


def parse_options(arguments: Sequence[str], schema: type, command: str, others: Sequence[str] = ()) -> Any:
    """Return an instance of the dataclass `schema` with the values of the arguments.

    Lists are written as in YAML; other values are taken literally, so that paths need no quotes.
    others: further keys of the command, suggested for an unknown key.
    Raises InputError that lists every unknown or missing key and every wrong type.
    """
    names = [field.name for field in fields(schema)]
    problems = []
    kinds = typing.get_type_hints(schema)
    values = OmegaConf.structured(schema)
    for argument in arguments:
        override = split(argument)
        key = override.text.partition("=")[0]
        if not override.is_assignment:
            problems.append(f"{argument!r} is not of the form key=value.")
        elif key not in names:
            problems.append(f"Unknown key {key} of {command}. {nearest([key], [*names, *others])}".rstrip())
        else:
            try:
                is_list = typing.get_origin(kinds[key]) is list
                value = override.value
                values[key] = yaml.safe_load(value) if is_list else None if value == "null" else value
            except (OmegaConfBaseException, yaml.YAMLError, ValueError):  # ValueError: a number with too many digits
                problems.append(f"{argument} is not of type {type_name(kinds[key])}.")
    missing = [name for name in names if OmegaConf.is_missing(values, name)]
    problems += [f"{name}=... is required." for name in missing]
    if problems:
        raise several(problems, f"cnnlab {command}:")
    try:
        return OmegaConf.to_object(values)
    except OmegaConfBaseException as error:  # ${...}, which refers to another value
        raise InputError(f"cnnlab {command}: {str(error).splitlines()[0]}.") from error


def type_name(kind: object) -> str:
    """Return a type as written in source code: int, str | None, list[str]."""
    return kind.__name__ if isinstance(kind, type) and not typing.get_origin(kind) else str(kind)


def help_of(schema: type, command: str) -> str:
    """Return the text that `cnnlab COMMAND --help` prints.

    The docstring of `schema` has paragraphs about the verb, one that begins with "Example:", and one with a line
    `key: meaning` for each key.
    """
    about, example, meanings = _sections(schema)
    lines = [f"usage: cnnlab {command} key=value ...", "", about]
    if keys := _keys(schema, meanings):
        lines += ["", *keys]
    if example:
        lines += ["", "example:", *(f"  {line}" for line in example)]
    return "\n".join(lines)


def _keys(schema: type, meanings: dict[str, str]) -> list[str]:
    kinds = typing.get_type_hints(schema)
    heads = {field.name: f"{field.name}={_default(field)}" for field in fields(schema)}
    width = max((len(head) for head in heads.values()), default=0) + 2
    lines = []
    for name, head in heads.items():
        text = f"{meanings.get(name, '')} ({type_name(kinds[name])})".strip()
        wrapped = textwrap.wrap(text, WIDTH - width - 2) or [""]
        lines += [
            f"  {start:<{width}}{part}" for start, part in zip([head, *[""] * len(wrapped)], wrapped, strict=False)
        ]
    return lines


def _default(field: dataclasses.Field) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return "[]"
    if field.default in (MISSING, dataclasses.MISSING):
        return "..."
    if field.default is None or isinstance(field.default, bool):  # 1 equals True
        return {None: "null", True: "true", False: "false"}[field.default]
    return str(field.default)


def _sections(schema: type) -> tuple[str, list[str], dict[str, str]]:
    """Split a docstring into the text about the verb, its example lines, and key -> meaning."""
    names = "|".join(re.escape(field.name) for field in fields(schema)) or "$^"
    about, example = [], []
    meanings: dict[str, str] = {}
    for paragraph in (inspect.getdoc(schema) or "").split("\n\n"):
        if paragraph.startswith("Example:"):
            example = [line.strip() for line in paragraph.removeprefix("Example:").strip().splitlines()]
        elif re.match(rf"({names}): ", paragraph):
            for entry in re.split(rf"\n(?=(?:{names}): )", paragraph):
                key, _, text = entry.partition(": ")
                meanings[key] = " ".join(text.split()).rstrip(".")
        else:
            about.append(paragraph)
    return "\n\n".join(about), example, meanings
