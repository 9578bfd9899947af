"""Check the network of a config: whether its library has it, and whether its constructor takes its arguments."""

from __future__ import annotations

import inspect
import json
import re
import typing
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cnnlab.errors import nearest

TIMM, TORCHVISION = "timm.create_model", "torchvision.models.get_model"
NAME_OF = {TIMM: "model_name", TORCHVISION: "name"}
"""Target -> its argument that names a network."""
LOADING = (
    "weights",
    "progress",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
)
"""Arguments by which a builder loads weights itself."""
SUPPLIED = "num_classes"
"""The argument that the data decide."""
UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")


@dataclass(frozen=True)
class Answer:
    """What a constructor says about the arguments that its signature does not name."""

    taken: dict[str, Any]
    """Argument that it takes -> type, as far as it is known."""
    error: str = ""
    """Why it cannot build the network with those that are given; empty if it can."""


_answers: dict[tuple[Callable[..., Any], str], Answer] = {}
"""Constructor and arguments -> its answer; the jobs of a sweep often ask the same."""


def name_problem(target: Callable[..., Any], name: str, node: Mapping[str, Any]) -> str:
    """Return what is wrong with the network's name in its library, as a sentence; empty if nothing is.

    target: of the node, called `name`. Networks that torchvision has for other tasks are refused: building them could
    download a backbone.
    """
    wanted = node.get(NAME_OF.get(name, ""))
    if name in NAME_OF and not wanted:
        return ""  # a name is missing, which is said elsewhere
    if name == TIMM:
        return _timm_problem(str(wanted))
    if name.startswith("torchvision.models."):
        return _torchvision_problem(target, str(wanted) if name == TORCHVISION else "")
    return ""


def _timm_problem(name: str) -> str:
    import timm

    if ":" in name:
        return (
            f"model.name={name}: timm's name of an architecture is needed; weights from elsewhere are a file, "
            "model.weights=FILE."
        )
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        return f"timm has no network {architecture}. {nearest([architecture], timm.list_models())}".rstrip()
    tags = [known.partition(".")[2] for known in timm.list_models(f"{architecture}.*", include_tags=True)]
    if tag and tag not in tags and name not in timm.models.get_deprecated_models():
        there = f"Available: {', '.join(tags)}." if any(tags) else "Leave the tag out."
        return f"timm has no weights {tag} of {architecture}. {nearest([tag], tags) or there}"
    return ""


def _torchvision_problem(target: Callable[..., Any], name: str) -> str:
    """Return what is wrong with a network of torchvision: `name`, or the builder `target` if no name is given."""
    from torchvision import models

    builders = {each: models.get_model_builder(each) for each in models.list_models()}
    classifiers = models.list_models(module=models)
    if not name:
        name = next((each for each, builder in builders.items() if builder is target), "")
    if not name or name.lower() in classifiers:
        return ""
    alike = nearest([name], classifiers) or f"There are {len(classifiers)}, such as resnet50 and efficientnet_b0."
    if name.lower() not in builders:
        return f"torchvision has no network {name}. {alike}"
    task = builders[name.lower()].__module__.split(".")[2].replace("_", " ")
    return f"torchvision's {name} is a network for {task}; use one for classification. {alike}"


def loading_problems(path: str, given: Mapping[str, Any]) -> list[str]:
    """Return the arguments of a library's network that other keys of the config decide, as sentences."""
    problems = [f"{path}.{key} is for loading weights: use model.weights." for key in LOADING if key in given]
    return problems + ([f"{path}.{SUPPLIED} is set by the data."] if SUPPLIED in given else [])


def ask(target: Callable[..., Any], name: str, given: Mapping[str, Any]) -> Answer:
    """Return what a network's constructor says about the arguments that it passes on (**kwargs).

    The network is built with them, without memory for its parameters. target: the constructor, called `name`.
    given: all arguments of the node.
    """
    key = (target, json.dumps(given, sort_keys=True, default=repr))
    if key not in _answers:
        _answers[key] = _answer(target, name, dict(given))
    return _answers[key]


def _answer(target: Callable[..., Any], name: str, given: dict[str, Any]) -> Answer:
    plain = {key: value for key, value in given.items() if key == NAME_OF.get(name)}
    error: Exception | None = None
    network = None
    while network is None:
        try:
            network = _built(target, given)
        except Exception as refusal:  # whatever a constructor raises for arguments that it does not take
            unexpected = UNEXPECTED.search(str(refusal))
            if unexpected and unexpected[1] in given:
                del given[unexpected[1]]
            elif error is None and given != plain:
                error, taken = refusal, given
                given = plain
            else:  # not because of the arguments: building the network says it again
                return Answer(dict.fromkeys(given))
    others = {key: value for key, value in (taken if error else given).items() if key not in plain}
    text = f"cannot be built with {_listed(others)}: {str(error).splitlines()[0].rstrip('.')}." if error else ""
    return Answer(dict.fromkeys(others, Any) | _hints_of(type(network)), text)


def _built(target: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """Build a network on torch's meta device, or with memory if its constructor reads the values of parameters."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are shown when the network of the run is built
        try:
            with torch.device("meta"):
                return target(num_classes=2, **given)
        except RuntimeError:
            return target(num_classes=2, **given)


def _hints_of(network: type) -> dict[str, Any]:
    """Return the arguments of a network's class that a config may set, with their types."""
    try:
        hints = typing.get_type_hints(network.__init__)  # type: ignore[misc]
    except Exception:  # annotations that resolve only under TYPE_CHECKING
        hints = {}
    parameters = list(inspect.signature(network).parameters.values())
    named = [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    return {name: hints.get(name, Any) for name in named if name not in (*LOADING, SUPPLIED)}


def _listed(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items())
