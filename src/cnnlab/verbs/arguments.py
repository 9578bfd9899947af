"""The arguments of the verbs that are not Hydra applications: `key=value` against a dataclass."""

import typing
from collections.abc import Sequence
from dataclasses import fields

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cnnlab.errors import InputError, nearest, several


def parse(arguments: Sequence[str], schema: type, verb: str):
    """An instance of the dataclass `schema`; raises InputError that lists every unknown key and wrong type.

    Lists are written as in YAML; other values are taken as they are, so that paths need no quotes.
    """
    names = [field.name for field in fields(schema)]
    problems = []
    kinds = typing.get_type_hints(schema)
    values = OmegaConf.structured(schema)
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            problems.append(f"{argument!r} is not of the form key=value.")
        elif key not in names:
            problems.append(f"{key} is no key of {verb}. {nearest([key], names)}")
        else:
            try:
                is_list = typing.get_origin(kinds[key]) is list
                values[key] = yaml.safe_load(value) if is_list else None if value == "null" else value
            except (OmegaConfBaseException, yaml.YAMLError, ValueError):  # ValueError: a number of too many digits
                problems.append(f"{argument} is not of the type {type_name(kinds[key])}.")
    missing = [name for name in names if OmegaConf.is_missing(values, name)]
    problems += [f"{name}=... is needed." for name in missing]
    if problems:
        raise several(problems, f"cnnlab {verb}:")
    try:
        return OmegaConf.to_object(values)
    except OmegaConfBaseException as error:  # ${...}, which refers to another value
        raise InputError(f"cnnlab {verb}: {str(error).splitlines()[0]}.") from error


def type_name(kind: object) -> str:
    """int, str | None, list[str]: as it is written in the source."""
    return kind.__name__ if isinstance(kind, type) and not typing.get_origin(kind) else str(kind)
