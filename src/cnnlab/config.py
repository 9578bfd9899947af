"""Configs: where they are, how they are composed, checked before any work, and made into objects.

Imports nothing heavy: `train.py --help` answers at once.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cnnlab.errors import CnnlabError, InputError, Problems, several

_PACKAGE = Path(__file__).parent
CONFIG_DIR = next(
    (path for path in (_PACKAGE.parents[1] / "configs", _PACKAGE / "configs") if (path / "train.yaml").is_file()),
    _PACKAGE / "configs",
)
TRUSTED_TARGETS = ("cnnlab.", "torch.", "torchvision.", "torchmetrics.", "lightning.", "timm.")
"""Packages whose classes a config may name; a user's own are named by `trusted_packages=[...]`."""
TRUSTED_MODULES = (
    *("cnnlab.data.", "cnnlab.models.", "cnnlab.training.", "cnnlab.runs."),
    *("torch.nn.", "torch.optim.", "torchmetrics."),
    *("torchvision.models.", "torchvision.ops.", "torchvision.transforms."),
    *("timm.layers.", "timm.loss.", "timm.models.", "timm.optim.", "timm.scheduler."),
    *("lightning.pytorch.trainer.", "lightning.pytorch.callbacks.", "lightning.pytorch.loggers."),
    *("lightning.pytorch.strategies.", "lightning.pytorch.plugins.", "lightning.pytorch.profilers."),
)
"""Where what they name must be written: torch.os.system is the system's, torch.hub.load runs what it fetches, and
torchvision.datasets.utils deletes the archives that it extracts."""


# --- The nodes without _target_: one dataclass each. ---


@dataclass
class Target:
    """An entry that names what it builds: `_target_` and its arguments."""


@dataclass
class Entries:
    """Named entries with a `_target_` each; null switches one off."""


@dataclass
class Checkpoints(Entries):
    """Callbacks that write checkpoints."""

    every_n_steps: int | None


@dataclass
class ModelConfig:
    name: str
    network: Target
    weights: str | None
    in_channels: int
    image_size: int | None
    resize_size: int | None


@dataclass
class DataConfig:
    """Pictures."""

    name: str
    dataset: Target
    root: str | None
    channels: int
    batch_size: int
    num_workers: int | None
    record_cache: str
    val_fraction: float
    test_fraction: float
    split_seed: int
    bad_images: str
    classes: Any
    images_per_class: int | None
    train_fraction: float


@dataclass
class GoConfig:
    """Positions of Go games: what a data config with `features` describes."""

    name: str
    root: str
    channels: int
    size: int
    features: int
    capture_encoding: str
    eye: str
    symmetric: bool
    batch_size: int
    num_workers: int | None
    positions_per_epoch: int | None
    val_fraction: float
    test_fraction: float
    split_seed: int
    min_rank: str | None
    max_handicap: int | None
    first_date: str | int | None
    last_date: str | int | None
    results: list[str] | None
    max_games: int | None


def is_go(data: Mapping[str, Any]) -> bool:
    """Whether a config of the group `data` is of Go positions, not of pictures."""
    return "features" in data


@dataclass
class FreezeConfig:
    phases: Any
    batch_norm: str
    cache: str
    cache_views: int | None


@dataclass
class SpeedConfig:
    precision: str
    channels_last: bool
    compile: bool | None
    deterministic: bool
    benchmark: bool
    num_threads: int | None
    cache_gib: float | None


@dataclass
class PathsConfig:
    root: str
    data_dir: str
    cache_dir: str
    output_dir: str | None


@dataclass
class SweepConfig:
    dir: str | None
    resume: bool


@dataclass
class TrainConfig:
    seed: int
    resume: str | None
    sweep: SweepConfig
    trusted_packages: list[str]
    model: ModelConfig
    data: DataConfig
    preprocessing: Target
    augmentation: Entries
    regularization: Entries
    init: Target
    freeze: FreezeConfig
    loss: Target
    optimizer: Target
    scheduler: Target
    speed: SpeedConfig
    trainer: Target
    divergence: Target
    checkpoint: Checkpoints
    callbacks: Entries
    logger: Entries
    paths: PathsConfig


OWN_ARGUMENTS: dict[str, dict[str, Any]] = {
    "trainer": {"scale_lr": str},
    "augmentation.random_crop": {"size": int | list | None},
    "augmentation.random_resized_crop": {"size": int | list | None},
}
"""Arguments beside the target's own, or of other types: node -> name -> type. A size of null is the network's."""
SUPPLIED_ARGUMENTS = {
    "model.network": {"num_classes"},
    "optimizer": {"params"},
    "scheduler": {"optimizer", "total_steps", "steps_per_epoch"},
    "preprocessing": {"images_NCHW"},
    "init": {"module", "only", "images"},
}
"""Arguments that the program gives, so that a config need not."""
OPEN_TARGETS: dict[str, dict[str, Any] | None] = {
    "timm.create_model": None,
    "torchvision.models.get_model": {
        "name": str,
        "dropout": float,
        "stochastic_depth_prob": float,
        "aux_logits": bool,
        "init_weights": bool,
    },
    "torchvision.models.mobilenet_v2": {"width_mult": float, "dropout": float},
    "torchvision.models.resnet18": {"zero_init_residual": bool, "groups": int, "width_per_group": int},
    "torchvision.models.squeezenet1_1": {"dropout": float},
    "cnnlab.models.initialization.initialize": {
        **dict.fromkeys(("a", "b", "mean", "std", "gain", "tolerance"), float),
        **dict.fromkeys(("mode", "nonlinearity"), str),
        "max_iterations": int,
    },
    "cnnlab.models.preprocessing.fit": {
        "per": str,
        "components": float | None,
        "epsilon": float,
        "patch": int | None,
    },
}
"""Targets that take **kwargs -> the names that are meant, with their types (None: any name)."""


# --- Composing ---

PATH_KEYS = {"run", "images", "sgf", "resume", "output", "data.root", "model.weights", "sweep.dir"}
"""Keys whose values are paths: they may hold spaces, commas and any letter without being quoted twice."""
PLAIN = re.compile(r"[A-Za-z0-9_./-]*")
NO_STRING = re.compile(r"[+-]?[0-9_]*\.?[0-9_]*(e[+-]?[0-9_]+)?|[+-]?(inf|nan)|true|false|null", re.IGNORECASE)
"""Folders such as 2024, which Hydra would take for numbers."""
_FAILURES = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError)
"""What Hydra raises for overrides and files that do not compose (ValueError: model=null)."""


def quote_path(override: str, sweeping: bool = False) -> str:
    """`key=value` in Hydra's quotes if the key takes a path whose letters Hydra's grammar would stumble over.

    A path that begins with ~ gets the home folder, which shells put in only where a word begins.
    """
    key, equals, value = override.partition("=")
    takes_path = key.lstrip("+") in PATH_KEYS or key.startswith("paths.")
    if takes_path and value.split("/", 1)[0] == "~":
        value = os.path.expanduser(value)
        override = f"{key}={value}"
    plain = value == "null" or (PLAIN.fullmatch(value) and not NO_STRING.fullmatch(value))
    if not equals or not takes_path or plain or value[:1] in ("'", '"', "[") or "${" in value:
        return override
    swept = sweeping and "," in value and key != "sweep.dir"
    return override if swept else f"{key}={quoted(value)}"


def quoted(value: str) -> str:
    """A value in Hydra's quotes, where backslashes count only before a quote or at the end."""
    return "'" + re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), value) + "'"


def compose(overrides: Sequence[str], config_dir: str | None = None, with_hydra: bool = False) -> DictConfig:
    """The train config with `overrides`; interpolations are left as they are.

    config_dir: a folder of the user's own groups. with_hydra: with Hydra's own node, `hydra`. Raises InputError that
    lists every override that does not fit, or says that there is no such folder.
    """
    if config_dir and not Path(config_dir).is_dir():
        raise InputError(f"--config-dir: there is no folder {config_dir}.")
    folders = [CONFIG_DIR, Path(config_dir).absolute()] if config_dir else [CONFIG_DIR]
    search = [f"hydra.searchpath=[{quoted(f'file://{folder}')}]" for folder in folders[1:]]
    try:
        return _compose([*search, *overrides], with_hydra)
    except _FAILURES as error:
        problems = _composition_problems(search, overrides, folders)
        raise several(problems or [_one_line(error)], "The config does not compose:") from error


def _compose(overrides: Sequence[str], with_hydra: bool = False) -> DictConfig:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return hydra.compose("train", overrides=list(overrides), return_hydra_config=with_hydra)


def _composition_problems(search: list[str], overrides: Sequence[str], folders: list[Path]) -> list[str]:
    """Add the overrides one by one, group choices first: why each that fails does, and what is wrong with the rest."""
    accepted, problems = list(search), []
    try:
        cfg = _compose(accepted)
    except _FAILURES as failure:  # local/default.yaml, which is taken without being chosen
        return [_one_line(failure)]
    for override in sorted(overrides, key=lambda text: not _options(_key(text), folders)):
        try:
            cfg = _compose([*accepted, override])
            accepted.append(override)
        except _FAILURES as failure:
            problems.append(f"{override}: {_explain(override, cfg, failure, folders)}")
    return problems + _problems(cfg)


def _options(group: str, folders: list[Path]) -> list[str]:
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")}) if group else []


def _one_line(failure: Exception) -> str:
    """The message without the pages that Hydra adds to it; of a YAML error with its file and line."""
    text = str(failure) or type(failure).__name__
    return " ".join(text.split()) if isinstance(failure, yaml.YAMLError) else text.splitlines()[0]


def _key(override: str) -> str:
    return override.lstrip("+~").split("=", 1)[0].split("@", 1)[0]


def _explain(override: str, cfg: DictConfig, failure: Exception, folders: list[Path]) -> str:
    key, _, value = override.lstrip("+~").partition("=")
    if isinstance(failure, OverrideParseException) or not key:
        reason = _one_line(failure)
        return f"it cannot be parsed ({reason}). Write key=value, and quote special characters: 'key=\"a b\"'."
    if options := _options(key, folders):
        wanted = [part.strip(" '\"") for part in value.strip("[]").split(",")]
        unknown = [part for part in wanted if part not in options]
        if unknown:
            return f"{', '.join(unknown)} is no option of {key}. {nearest(unknown, options)}"
        return _one_line(failure)  # the option's own file is wrong
    known = [
        *(name for name, _ in _flat(cfg)),
        *(path.name for folder in folders for path in folder.iterdir() if path.is_dir()),
    ]
    return f"there is no key {key}. {nearest([key], known)}" if key not in known else _one_line(failure)


def nearest(wanted: Sequence[str], options: Sequence[str]) -> str:
    """A sentence with the options that look like what was wanted, or with all if they are few."""
    near = [match for word in wanted for match in difflib.get_close_matches(word, options, n=3, cutoff=0.55)]
    if not near:
        near = [option for word in wanted for option in options if option.rsplit(".", 1)[-1] == word.rsplit(".", 1)[-1]]
    if near:
        return f"Nearest: {', '.join(dict.fromkeys(near))}."
    return f"There are: {', '.join(options)}." if len(options) <= 40 else ""


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key with its node, which is not resolved."""
    for key in node:
        child = node._get_node(key)
        yield f"{prefix}{key}", child
        if isinstance(child, DictConfig) and not (child._is_none() or child._is_missing() or child._is_interpolation()):
            yield from _flat(child, f"{prefix}{key}.")


# --- Checking ---


def check(cfg: DictConfig) -> None:
    """Raise one InputError that lists every unknown key, wrong type, and missing or unfit `_target_`.

    Imports what the `_target_` entries name, to check their arguments by signature.
    """
    if problems := _problems(cfg):
        raise several(problems, "The config has problems:")


def _problems(cfg: DictConfig) -> list[str]:
    cfg = cfg.copy()
    try:
        if isinstance(cfg.get("paths"), DictConfig) and cfg.paths.get("output_dir", "") is None:
            cfg.paths.output_dir = ""  # the folder is claimed once everything is known to be right
        missing = [key for key, node in _flat(cfg) if node._is_missing()]
        for key in missing:
            OmegaConf.update(cfg, key, "")  # so that what else is wrong can be seen
        plain: Any = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        return [f"The config does not resolve: {_one_line(error)}."]
    packages = plain.get("trusted_packages")
    trusted = trusted_prefixes(plain if isinstance(packages, list) else {})
    return [f"{key}=... is needed." for key in missing] + _check_node(plain, TrainConfig, "", trusted)


STORED = {"seed": int, "model": ModelConfig, "data": DataConfig, "augmentation": Entries, "paths": PathsConfig}
"""What verbs read of a run's config."""
STORED_NEEDED = (
    *("data.name", "data.dataset", "data.size", "data.features", "data.capture_encoding", "data.eye"),
    *("model.name", "paths.data_dir", "paths.cache_dir"),
)
"""Keys without which there is nothing to work with; others may be newer than the run."""


def stored_problems(plain: Any) -> list[str]:
    """What is wrong with the config that a run folder holds, as far as verbs read it; imports nothing that it names."""
    if not isinstance(plain, dict):
        return [f"It is {plain!r}; keys and values are expected."]
    missing = [f"{name} is missing." for name in STORED if name not in plain]
    nodes = [problem for name in STORED if name in plain for problem in _check_node(plain[name], STORED[name], name)]
    return missing + nodes


def trusted_prefixes(plain: dict[str, Any]) -> tuple[str, ...]:
    """What the name of a `_target_` may begin with under this config."""
    return (*TRUSTED_TARGETS, *(f"{package}." for package in plain.get("trusted_packages") or []))


def _check_node(node: Any, schema: Any, path: str, trusted: tuple[str, ...] | None = None) -> list[str]:
    """trusted: what a `_target_` may begin with; None: of a stored config, whose targets are left alone."""
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
    if schema is DataConfig and isinstance(node, dict) and is_go(node):
        schema = GoConfig
    if is_dataclass(schema):
        if not isinstance(node, dict):
            return [f"{path} is {node!r}; keys and values are expected."]
        hints = typing.get_type_hints(schema)
        names = [field.name for field in fields(schema)]
        dot = f"{path}." if path else ""
        problems = [f"{dot}{key} is no key. {nearest([str(key)], names)}" for key in node if key not in names]
        problems += [
            f"{dot}{name} is missing."
            for name in names
            if name not in node and (trusted is not None or f"{dot}{name}" in STORED_NEEDED)
        ]
        for name in names:
            if name in node:
                problems += _check_node(node[name], hints[name], f"{dot}{name}", trusted)
        return problems
    return [] if _fits(node, schema) else [f"{path}={node!r} is not {_type_name(schema)}."]


def _check_target(node: Any, path: str, trusted: tuple[str, ...]) -> list[str]:
    if not isinstance(node, dict) or not node.get("_target_"):
        return [f"{path} needs a _target_ that says what it builds; it is {node!r}."]
    name = node["_target_"]
    try:
        target = locate(name, trusted)
    except InputError as error:
        return [f"{path}._target_: {error}"]
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
    hints = _hints(target) | (extra or {}) | own
    problems = []
    for key, value in given.items():
        hint = hints.get(key, Any)
        if key not in parameters and key not in own and extra is not None and key not in extra:
            known = [*parameters, *own, *extra]
            problems.append(f"{path}.{key} is no argument of {name}. {nearest([key], known)}")
        elif not (isinstance(value, dict) and "_target_" in value) and not _fits(value, hint):
            problems.append(f"{path}.{key}={value!r} is not {_type_name(hint)}.")
    if not node.get("_args_"):
        problems += [
            f"{path}.{key} is needed by {name}."
            for key, parameter in parameters.items()
            if parameter.default is parameter.empty and key not in given
        ]
    return problems


def _hints(target: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except Exception:  # annotations that only resolve under TYPE_CHECKING: nothing can be said about types then
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a YAML value can be what the annotation says; annotations of other objects accept anything."""
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
    return str(hint).replace("typing.", "").replace("collections.abc.Sequence", "list").replace("Sequence[", "list[")


# --- Objects ---


def locate(name: str, trusted: Sequence[str] = TRUSTED_TARGETS) -> Any:
    """The class or function called `name`; raises InputError if it is of no trusted package or does not exist."""
    if not isinstance(name, str):
        raise InputError(f"{name!r} is no name of a class or function.")
    if not name.startswith(tuple(trusted)):
        raise InputError(
            f"{name} is not of {', '.join(prefix.rstrip('.') for prefix in trusted)}. "
            "To use a package of your own, add it: trusted_packages=[my_package]."
        )
    try:
        found = hydra.utils.get_object(name)
    except Exception as error:  # whatever an import can raise
        reason = str(error.__cause__ or error).splitlines()[0]
        raise InputError(f"{name} cannot be imported: {reason}") from error
    if not callable(found):
        raise InputError(f"{name} is a {type(found).__name__}, no class or function.")
    own = tuple(prefix for prefix in trusted if prefix not in TRUSTED_TARGETS)
    module = getattr(found, "__module__", None)
    if not f"{module}.".startswith((*TRUSTED_MODULES, *own)):
        raise InputError(
            f"{name} is written in {module}, of which a config names nothing; it may name what is in "
            f"{', '.join(prefix.rstrip('.') for prefix in TRUSTED_MODULES)}, and in trusted_packages=[...]."
        )
    return found


def build(node: Any, trusted: Sequence[str] = TRUSTED_TARGETS, **arguments: Any) -> Any:
    """What the plain config node describes: `_target_(**node, **arguments)`, or its partial under `_partial_: true`.

    Raises InputError if the target refuses its arguments.
    """
    target = locate(node["_target_"], trusted)
    given = {key: value for key, value in node.items() if key not in ("_target_", "_partial_")} | arguments
    given = {
        key: build(value, trusted) if isinstance(value, dict) and "_target_" in value else value
        for key, value in given.items()
    }
    if node.get("_partial_"):
        return functools.partial(target, **given)
    try:
        return target(**given)
    except CnnlabError:
        raise
    except ModuleNotFoundError as error:  # the loggers of wandb and MLflow
        raise InputError(
            f"{node['_target_']} needs a package that is not installed: {error}. Install it, or choose another option."
        ) from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{node['_target_']} cannot be built from {given}: {error}") from error


def build_entries(entries: dict[str, Any], trusted: Sequence[str] = TRUSTED_TARGETS) -> dict[str, Any]:
    """The objects of a group of named entries, in order; entries that are null are switched off.

    Raises one InputError for all entries that cannot be built.
    """
    built, problems = {}, Problems()
    for name, entry in entries.items():
        with problems:
            if entry is not None:
                built[name] = build(entry, trusted)
    problems.raise_all("These entries cannot be built:")
    return built
