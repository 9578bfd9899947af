"""`cnnlab visualize`: draw what a network learned, its input, or its training schedule."""

import functools
import importlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from cnnlab.cli.subjects import ModelSubject, RunSubject, belongs_to_config, config_groups
from cnnlab.config import CONFIG_DIR, locate
from cnnlab.config.options import help_of, parse_options
from cnnlab.config.overrides import assignments, value_of
from cnnlab.errors import InputError, nearest
from cnnlab.explain import PICTURES
from cnnlab.explain.subject import Subject
from cnnlab.system.files import read_yaml

OWN = ("what", "run", "output", "trusted_packages")
ABOUT = """usage: cnnlab visualize what=... run=FOLDER key=value ...
       cnnlab visualize what=... model=... model.weights=... key=value ...

Draw what a network learned, its input, or its training schedule. With run=, data.KEY=... and paths.KEY=... say where
its data are now, and trusted_packages=[...] names your own packages. Without run=, all other keys are overrides of the
train config. output=FOLDER is the folder of the pictures.
"""


def help_text(arguments: Sequence[str]) -> str:
    """Return the help of the picture that `what=` names; without it, the list of pictures."""
    what = assignments([argument for argument in arguments if "=" in argument], "cnnlab visualize").get("what")
    if modules := known_pictures().get(what or ""):
        helps = [help_of(importlib.import_module(module).Options, f"visualize what={what}") for module in modules]
        return "\n\n".join(helps)
    return f"{ABOUT}\n{_listed()}\n\ncnnlab visualize what=features --help lists the keys of a picture."


def main(arguments: Sequence[str]) -> None:
    for path in visualize(arguments):
        print(path)


def visualize(arguments: Sequence[str]) -> list[Path]:
    """Draw `what=...` of a run, or of the model that overrides of the train config describe; return the main files."""
    given = assignments(arguments, "cnnlab visualize")
    what = given.pop("what", None)
    if what is None:
        raise InputError(f"what=... is required.\n{_listed()}")
    if what not in known_pictures() and not given.get("run") and "task" not in given and not given.get("model"):
        raise InputError(f"Unknown picture {what}. {nearest([what], list(known_pictures()))}\n{_listed()}")
    output = given.pop("output", None)
    subject = subject_of(given, what)
    picture = importlib.import_module(subject.task.picture(what))
    names = [field.name for field in fields(picture.Options)]
    if unknown := [key for key in given if key in _keys_of(what) and key not in names]:
        raise InputError(
            f"Unknown key {unknown[0]} of what={what} for the task {subject.task.name}. {nearest(unknown[:1], names)}"
        )
    options = parse_options(
        [f"{name}={given[name]}" for name in names if name in given], picture.Options, f"visualize what={what}"
    )
    return picture.draw(subject, options, Path(output) if output else folder_of(subject, what))


def subject_of(given: dict[str, str], what: str) -> Subject:
    """Return the subject of the picture; raise InputError for keys that belong to neither subject nor picture."""
    names = _keys_of(what)
    rest = {key: value for key, value in given.items() if key not in names}
    if "run" in rest:
        run = Path(rest.pop("run"))
        packages = value_of(f"trusted_packages={rest.pop('trusted_packages', '[]')}")
        subject = RunSubject(run, {}, packages if isinstance(packages, list) else [str(packages)])
        names = _keys_of(what, subject)
        changes = {key: value for key, value in rest.items() if key not in names}
        if unknown := [key for key in changes if not key.startswith(("data.", "paths."))]:
            known = [*OWN, *names, "data.root", "paths.data_dir"]
            raise InputError(f"Unknown key {unknown[0]} of this picture of a run. {nearest(unknown[:1], known)}")
        subject.changes = changes
        return subject
    if "model" not in rest:
        raise InputError("cnnlab visualize needs run=FOLDER, or model=... with model.weights=FILE.")
    if unknown := [key for key in rest if not belongs_to_config(key)]:
        raise InputError(
            f"Unknown key {unknown[0]}: it belongs neither to this picture nor to the config. "
            f"{nearest(unknown[:1], [*OWN, *names, *config_groups()])}"
        )
    return ModelSubject([f"{key}={value}" for key, value in rest.items()])


def _keys_of(what: str, subject: Subject | None = None) -> list[str]:
    """Return the keys of a picture's own options; without `subject` those that it has for any of cnnlab's tasks."""
    modules = [subject.task.picture(what)] if subject is not None else known_pictures().get(what, [])
    options = [importlib.import_module(module).Options for module in modules]
    return list(dict.fromkeys(field.name for each in options for field in fields(each)))


@functools.cache
def known_pictures() -> dict[str, list[str]]:
    """Return what= -> modules of every picture that cnnlab's tasks can draw; tasks may draw one in their own ways."""
    found: dict[str, list[str]] = {}
    for option in sorted((CONFIG_DIR / "task").glob("*.yaml")):
        for what, module in locate(read_yaml(option)["implementation"]["_target_"]).pictures.items():
            modules = found.setdefault(what, [])
            modules += [module] if module not in modules else []
    return found


def _listed() -> str:
    """Return a line for each picture; a task's own picture is described by the first line of its module."""
    lines = []
    for name, modules in known_pictures().items():
        first = (importlib.import_module(modules[0]).__doc__ or "").splitlines()[0]
        text = PICTURES.get(name) or first.rpartition("`: ")[2].rstrip(".")
        lines.append(f"  what={name:<14} {text}")
    return "\n".join(lines)


def folder_of(subject: Subject, what: str) -> Path:
    """Return the default folder of the pictures."""
    return subject.run / "pictures" / what if subject.run else Path("outputs/visualize") / f"{subject.name}-{what}"
