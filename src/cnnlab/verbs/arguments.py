"""The arguments of the verbs that are not Hydra applications: `key=value` against a dataclass."""

from collections.abc import Sequence
from dataclasses import fields

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cnnlab.config import nearest
from cnnlab.errors import several


def parse(arguments: Sequence[str], schema: type, verb: str):
    """An instance of the dataclass `schema`; raises InputError that lists every unknown key and wrong type."""
    names = [field.name for field in fields(schema)]
    problems = []
    values = OmegaConf.structured(schema)
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            problems.append(f"{argument!r} is not of the form key=value.")
        elif key not in names:
            problems.append(f"{key} is no key of {verb}. {nearest([key], names)}")
        else:
            try:
                values[key] = None if value == "null" else value
            except OmegaConfBaseException:
                problems.append(f"{argument} is not of the type {schema.__annotations__[key]}.")
    missing = [name for name in names if OmegaConf.is_missing(values, name)]
    problems += [f"{name}=... is needed." for name in missing]
    if problems:
        raise several(problems, f"cnnlab {verb}:")
    return OmegaConf.to_object(values)
