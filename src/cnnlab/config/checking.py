"""Find everything that is wrong with a composed config before any work is done."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cnnlab.config.constructors import LOADING, ask, loading_problems, name_problem
from cnnlab.config.objects import locate, trusted_prefixes
from cnnlab.config.schema import (
    CHECKPOINT_FIXED,
    CHECKPOINT_OPTIONS,
    CHECKPOINTS,
    NEEDED_ARGUMENTS,
    OPEN_TARGETS,
    OWN_ARGUMENTS,
    STORED,
    STORED_NEEDED,
    SUPPLIED_ARGUMENTS,
    DataConfig,
    Entries,
    ModelConfig,
    Target,
    TrainConfig,
)
from cnnlab.errors import InputError, nearest, several

NETWORK = "model.network"
"""The node whose target is asked which arguments it takes."""


def check(cfg: DictConfig, with_targets: bool = True) -> None:
    """Raise one InputError that lists every unknown key, wrong type, and missing or unsuitable `_target_`.

    with_targets: import the targets, which takes seconds, to check their arguments against their signatures. Without,
    values that are still to be given are no problem either.
    """
    if problems := problems_of(cfg, with_targets):
        raise several(problems, "The config has problems:")


def problems_of(cfg: DictConfig, with_targets: bool = True) -> list[str]:
    """Return everything that is wrong with a composed config, one sentence each; see `check`."""
    cfg = cfg.copy()
    try:
        if isinstance(cfg.get("paths"), DictConfig) and cfg.paths.get("output_dir", "") is None:
            cfg.paths.output_dir = ""  # the folder is claimed only after all checks
        missing = [key for key, node in flat(cfg) if node._is_missing()]
        for key in missing:
            OmegaConf.update(cfg, key, "")  # so that the rest resolves and can be checked
        unknown_metric = _replace_unknown_metric(cfg)
        plain: Any = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        return [f"The config does not resolve: {one_line(error)}."]
    packages = plain.get("trusted_packages")
    trusted = trusted_prefixes(plain if isinstance(packages, list) else {}) if with_targets else None
    problems = unknown_metric + [f"{key}=... is required." for key in missing if with_targets]
    problems += _check_node(plain, TrainConfig, "", trusted)
    return problems + _monitor_problems(plain) + _strategy_problems(plain) + _checkpoint_problems(plain)


def stored_problems(plain: Any) -> list[str]:
    """Return what is wrong with the keys of a run's config that verbs read, without importing its targets."""
    if not isinstance(plain, dict):
        return [f"It is {plain!r}; keys and values are expected."]
    if "task" not in plain:
        return ["It has no task: the run was made by an older version of cnnlab. Train it again."]
    missing = [f"{name} is missing." for name in (*STORED, "data") if name not in plain]
    nodes = [problem for name in STORED if name in plain for problem in _check_node(plain[name], STORED[name], name)]
    data = plain.get("data", {"name": ""})
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        nodes.append(f"data is {data!r}; keys and values are expected, a name among them.")
    return missing + nodes


def data_problems(data: Any, schema: type) -> list[str]:
    """Return what is wrong with the stored config of the data, given the task's data schema."""
    needed = getattr(schema, "NEEDED", ())
    missing = [f"data.{name} is missing." for name in needed if name not in data]
    return missing + _check_node(data, schema, "data")


def _replace_unknown_metric(cfg: DictConfig) -> list[str]:
    """Replace an unknown `metric` by the task's default, so that the rest resolves, and return the problem."""
    modes = OmegaConf.select(cfg, "task.metrics")
    if not isinstance(modes, DictConfig) or (name := cfg.get("metric")) in modes:
        return []
    cfg.metric = cfg.task.metric
    return [f"Unknown metric {name} of the task {cfg.task.get('name')}. {nearest([str(name)], list(map(str, modes)))}"]


def _monitor_problems(plain: dict[str, Any]) -> list[str]:
    """Return the entries that monitor another metric than the run's, which decides everything."""
    expected = {"monitor": f"val/{plain.get('metric')}", "mode": plain.get("metric_mode")}
    regularization = plain.get("regularization")
    entries = {f"regularization.{name}": entry for name, entry in regularization.items()} if regularization else {}
    checkpoint = plain.get("checkpoint")
    entries["checkpoint.best"] = checkpoint.get("best") if isinstance(checkpoint, dict) else None
    return [
        f"{path}.{key}={entry[key]} is not the metric of the run ({expected['monitor']}, {expected['mode']}). "
        "Choose one metric for the whole run: metric=NAME."
        for path, entry in entries.items()
        if isinstance(entry, dict) and "monitor" in entry
        for key, value in expected.items()
        if entry.get(key, value) != value
    ]


def _strategy_problems(plain: dict[str, Any]) -> list[str]:
    """Return why the strategy cannot be used, if its processes are copies of this one.

    They would begin with the objects of this process, and it would learn nothing of what they did.
    """
    trainer = plain.get("trainer")
    strategy = trainer.get("strategy") if isinstance(trainer, dict) else None
    text = str(strategy.get("start_method") or strategy.get("_target_") if isinstance(strategy, dict) else strategy)
    if not re.search("spawn|fork|notebook", text):
        return []
    return [
        f"trainer.strategy={strategy}: processes that are copies of this one cannot train its run. "
        "Use ddp, which starts the command once for each device."
    ]


def _checkpoint_problems(plain: dict[str, Any]) -> list[str]:
    """Return the settings with which best.ckpt or last.ckpt would hold something else than the program expects."""
    checkpoint = plain.get("checkpoint")
    entries = checkpoint if isinstance(checkpoint, dict) else {}
    return [
        f"checkpoint.{name}.{key}={value} cannot be set: {what}. Add another checkpoint instead: "
        "+checkpoint.NAME={_target_: lightning.pytorch.callbacks.ModelCheckpoint, filename: NAME}."
        for name, what in CHECKPOINTS.items()
        if isinstance(entry := entries.get(name), dict)
        for key, value in entry.items()
        if key not in CHECKPOINT_OPTIONS[name] and (key, value) not in {"filename": name, **CHECKPOINT_FIXED}.items()
    ]


def _check_node(
    node: Any,
    schema: Any,
    path: str,
    trusted: tuple[str, ...] | None = None,
    task: Any = None,
) -> list[str]:
    """Return what is wrong with `node` and everything below it.

    trusted: prefixes that a `_target_` may have; None for a stored config, whose targets are not checked.
    task: the class of the config's task, which defines the schemas of `data` and `model`; None if it is unknown.
    """
    if schema is Target:
        if trusted is not None:
            return _check_target(node, path, trusted)
        named = isinstance(node, dict) and isinstance(node.get("_target_"), str)
        return [] if named else [f"{path} needs a _target_; it is {node!r}."]
    if inspect.isclass(schema) and issubclass(schema, Entries):
        if not isinstance(node, dict):
            return [f"{path} is {node!r}; named entries are expected."]
        own = typing.get_type_hints(schema)
        return [
            problem
            for name, entry in node.items()
            if entry is not None
            for problem in _check_node(entry, own.get(name, Target), f"{path}.{name}", trusted)
        ]
    if schema in (DataConfig, ModelConfig) and isinstance(node, dict) and trusted is not None:
        if task is None:
            return []
        schema = task.data_schema if schema is DataConfig else task.model_schema
    if is_dataclass(schema):
        if not isinstance(node, dict):
            return [f"{path} is {node!r}; keys and values are expected."]
        hints = typing.get_type_hints(schema)
        if schema is TrainConfig and trusted is not None:
            task = _task_class(node.get("task"), trusted)
        names = [field.name for field in fields(schema)]
        optional = [field.name for field in fields(schema) if field.default is not MISSING]
        dot = f"{path}." if path else ""
        # Model and data have keys of their task's own schema, which is not imported to look at a record.
        known = node if schema in (DataConfig, ModelConfig) and trusted is None else names
        other = f" Is model={node.get('name')} for the task of these data?" if path == "model" else ""
        problems = [f"Unknown key {dot}{key}. {nearest([str(key)], names)}{other}" for key in node if key not in known]
        problems += [
            f"{dot}{name} is missing."
            for name in names
            if name not in [*node, *optional] and (trusted is not None or f"{dot}{name}" in STORED_NEEDED)
        ]
        for name in names:
            if name in node:
                problems += _check_node(node[name], hints[name], f"{dot}{name}", trusted, task)
        return problems
    return [] if _fits(node, schema) else [f"{path}={node!r} is not {_type_name(schema)}."]


def _task_class(task: Any, trusted: tuple[str, ...]) -> Any:
    """Return the class of a task; None if the task's own entry is wrong, which is reported elsewhere."""
    try:
        found = locate(task["implementation"]["_target_"], trusted)
        return found if hasattr(found, "data_schema") and hasattr(found, "model_schema") else None
    except (InputError, TypeError, KeyError, AttributeError):
        return None


def _check_target(node: Any, path: str, trusted: tuple[str, ...]) -> list[str]:
    if not isinstance(node, dict) or not node.get("_target_"):
        return [f"{path} needs a _target_ that says what it builds; it is {node!r}."]
    name = node["_target_"]
    try:
        target = locate(name, trusted)
    except InputError as error:
        return [f"{path}._target_: {error}"]
    if path == NETWORK and (problem := name_problem(target, name, node)):
        return [problem]
    signature = inspect.signature(target)
    supplied = SUPPLIED_ARGUMENTS.get(path, set())
    own = OWN_ARGUMENTS.get(path, {})
    given = {key: value for key, value in node.items() if key not in ("_target_", "_partial_", "_convert_", "_args_")}
    parameters = {
        key: parameter
        for key, parameter in signature.parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and key not in supplied
    }
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    extra = OPEN_TARGETS.get(name, {}) if open_ended else {}
    problems, refusal = [], ""
    if path == NETWORK and open_ended:
        problems = loading_problems(path, given)
        given = {key: value for key, value in given.items() if key not in (*LOADING, *supplied)}
        if not given.keys() <= parameters.keys():
            answer = ask(target, name, given)
            extra, refusal = answer.taken, answer.error
    hints = _hints(target) | extra | own
    for key, value in given.items():
        hint = hints.get(key, Any)
        if key not in parameters and key not in own and key not in extra:
            known = [*parameters, *own, *extra]
            problems.append(f"{path}.{key} is not an argument of {name}. {nearest([key], known)}")
        elif not (isinstance(value, dict) and "_target_" in value) and not _fits(value, hint):
            problems.append(f"{path}.{key}={value!r} is not {_type_name(hint)}.")
    if refusal and not problems:
        problems.append(f"{path}: {name} {refusal}")
    problems += [f"{path}.{key} is missing." for key in NEEDED_ARGUMENTS.get(path, ()) if key not in given]
    if not node.get("_args_"):
        problems += [
            f"{path}.{key} is required by {name}."
            for key, parameter in parameters.items()
            if parameter.default is parameter.empty and key not in given
        ]
    return problems


def _hints(target: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except Exception:  # annotations that resolve only under TYPE_CHECKING: types cannot be checked then
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a YAML value matches the annotation; annotations of other objects match anything."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(hint) if not _is_tensor(member)]
        return any(_fits(value, member) for member in members)
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if hint in (None, type(None)):
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str)
    kind = origin or hint
    if inspect.isclass(kind) and kind is not object:
        if issubclass(kind, Sequence | set):
            return isinstance(value, list)
        if issubclass(kind, dict):
            return isinstance(value, dict)
    return True


def _is_tensor(hint: Any) -> bool:
    return inspect.isclass(hint) and hint.__name__ == "Tensor"


def _type_name(hint: Any) -> str:
    if inspect.isclass(hint):
        return hint.__name__
    if typing.get_origin(hint) is typing.Literal:
        return f"one of {', '.join(map(str, typing.get_args(hint)))}"
    return str(hint).replace("typing.", "").replace("collections.abc.Sequence", "list").replace("Sequence[", "list[")


def flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every dotted key with its unresolved node."""
    for key in node:
        child = node._get_node(key)
        yield f"{prefix}{key}", child
        if isinstance(child, DictConfig) and not (child._is_none() or child._is_missing() or child._is_interpolation()):
            yield from flat(child, f"{prefix}{key}.")


def one_line(failure: Exception) -> str:
    """Return the first line of a message, without the details that Hydra adds; of a YAML error all of it, joined."""
    text = str(failure) or type(failure).__name__
    return " ".join(text.split()) if isinstance(failure, yaml.YAMLError) else text.splitlines()[0]
