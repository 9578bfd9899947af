"""The settings of a run in readable values: init=orthogonal, regularization=[l2,dropout], optimizer.lr=0.002."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cnnlab.config.overrides import split
from cnnlab.config.overrides import value_of as parsed_value
from cnnlab.errors import InputError

Value = str | int | float | bool
GROUPS = (
    *("task", "model", "data", "preprocessing", "augmentation", "regularization", "init"),
    *("freeze", "loss", "optimizer", "scheduler", "speed"),
)
LISTS = ("augmentation", "regularization")
"""Config groups from which several options can be chosen together."""
NUMBERS = ("optimizer.lr", "data.batch_size", "trainer.max_epochs")
"""The most informative numbers that every run has."""
KEPT_HOW = {"seed", "data.fold", "resume", "trusted_packages", "data.root", "data.num_workers", "data.dataset.root"}
KEPT_HOW_GROUPS = {"paths", "hydra", "logger", "callbacks", "checkpoint", "sweep", "hparams_search"}
"""Keys and groups that say which repeat a run is, or where and how it is stored, not what is tried."""
ABSENT = "-"
"""Placeholder for the value of a key that a run does not have."""


def settings(config: Mapping[str, Any], chosen: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Value]:
    """Return the readable value of each config group, of NUMBERS, and of every other typed key that says what is tried.

    chosen: config group -> the option chosen from it, from Hydra; groups without one are described by their contents.
    """
    known = {key: value_of(key, config, chosen) for key in ("experiment", *GROUPS, *NUMBERS)}
    return known | {key: value_of(key, config, chosen, value) for key, value in typed(overrides).items()}


def typed(overrides: Sequence[str]) -> dict[str, Value]:
    """Return key -> value of the overrides that say what is tried; 0.10 equals 0.1, and 'a' equals a."""
    values = dict(map(_typed, overrides))
    return {key: value for key, value in values.items() if says_what(key)}


def says_what(key: str) -> bool:
    """Return whether a key says what is tried, and not which repeat a run is or where it is stored."""
    return key not in KEPT_HOW and key.split(".")[0] not in KEPT_HOW_GROUPS


def value_of(key: str, config: Mapping[str, Any], chosen: Mapping[str, Any], typed_value: Value | None = None) -> Value:
    """Return the readable value of a key: as typed, else the chosen option, else described by the config.

    A preset of a list group is written out as its entries: augmentation=basic is [random_resized_crop,flip].
    """
    preset = key in LISTS and typed_value is not None and not str(typed_value).startswith(("[", "none"))
    if typed_value is not None and not preset:
        return typed_value
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            found = chosen.get(key)
            return found if found is not None else ABSENT if typed_value is None else typed_value
        node = node[part]
    return described(node, chosen.get(key))


def described(node: Any, option: str | None = None) -> Value:
    """Return a config node as one value: its name, its entries, the option it came from, or the class it builds."""
    if not isinstance(node, Mapping):
        return _plain(node)
    if isinstance(node.get("name"), str):
        return node["name"]
    if "_target_" not in node and all(entry is None or _is_entry(entry) for entry in node.values()):
        names = [name for name, entry in node.items() if entry is not None]
        return f"[{','.join(names)}]" if names else "none"
    if option is not None:
        return option
    if isinstance(node.get("_target_"), str):
        return node["_target_"].rsplit(".", 1)[-1].lower()
    return _plain(dict(node))


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Value]]:
    """Yield every dotted key of a config that says what is tried, with its value."""
    for name, node in config.items():
        key = f"{prefix}{name}"
        if not says_what(key):
            continue
        if isinstance(node, Mapping) and node:
            yield from flat(node, f"{key}.")
        else:
            yield key, _plain(node)


def _is_entry(node: Any) -> bool:
    return isinstance(node, Mapping) and "_target_" in node


def _typed(text: str) -> tuple[str, Value]:
    override = split(text)
    if text.startswith("~"):
        return text.lstrip("~").partition("=")[0], "removed"
    try:
        return override.key, _plain(parsed_value(text))
    except InputError:
        return override.key, override.value


def _plain(value: Any) -> Value:
    """Return numbers, booleans and strings unchanged, None as "null", and lists and dicts as they would be typed."""
    if isinstance(value, bool | int | float):
        return value
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        return f"[{','.join(str(_plain(entry)) for entry in value)}]"
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict) else str(value)
