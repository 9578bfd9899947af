"""`cnnlab visualize`: pictures of what a network learned, of how it is fed and of how it is trained."""

import importlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from cnnlab.config import CONFIG_DIR, TrainConfig
from cnnlab.errors import InputError, nearest
from cnnlab.explain.subject import Subject
from cnnlab.verbs.arguments import parse
from cnnlab.verbs.subjects import ModelSubject, RunSubject, value_of

PICTURES = {
    "filters": "the weights of a convolution",
    "features": "every channel of chosen layers for an image",
    "top_patches": "the patches of a data set to which each channel answers most strongly",
    "attribution": "which pixels a decision rests on, beside the same of a randomised network",
    "maximize": "images grown from noise that a class or channel answers to",
    "dream": "what a layer sees in an image, amplified octave by octave",
    "style": "the content of one image in the style of another",
    "adversarial": "images that a small perturbation makes the network mistake, and accuracy by its size",
    "embedding": "where the images of a data set lie in the space of the network's features",
    "preprocessing": "what every kind of preprocessing makes of the same images and their covariance",
    "augmentation": "one image as training sees it, draw by draw, and every augmentation alone",
    "schedule": "learning rate and freezing over the epochs, without training",
    "explore": "one page in which a small network can be drawn for and looked into",
    "policy": "the moves that a policy network of Go finds probable, on the board: sgf=game.sgf move=42",
}
"""What can be drawn: for each name a module of cnnlab.explain, which has

- `Options`, a dataclass of the picture's own keys with their defaults, and
- `draw(subject, options, output) -> list[Path]`, which writes into the folder `output` and returns the main files.
"""
OWN = ("what", "run", "output", "trusted_packages")


def main(arguments: Sequence[str]) -> None:
    for path in visualize(arguments):
        print(path)


def visualize(arguments: Sequence[str]) -> list[Path]:
    """Draw `what=...` of a run, or of the model that overrides of the train config describe; returns the main files.

    The picture's own keys are those of its Options; with `run`, keys below data. and paths. say where its data are now;
    without, all others are overrides of the train config.
    """
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if wrong := [argument for argument in arguments if "=" not in argument]:
        raise InputError(f"cnnlab visualize takes key=value, not {', '.join(wrong)}.")
    what = given.pop("what", None)
    if what not in PICTURES:
        known = "\n".join(f"  what={name:<14} {text}" for name, text in PICTURES.items())
        problem = f"what={what} is no picture. {nearest([what], list(PICTURES))}" if what else "what=... is needed."
        raise InputError(f"{problem}\n{known}")
    picture = importlib.import_module(f"cnnlab.explain.{what}")
    names = [field.name for field in fields(picture.Options)]
    own = [f"{name}={given.pop(name)}" for name in names if name in given]
    options = parse(own, picture.Options, f"visualize what={what}")
    output = given.pop("output", None)
    subject = _subject(given, names)
    return picture.draw(subject, options, Path(output) if output else _folder(subject, what))


def _subject(given: dict[str, str], names: Sequence[str]) -> Subject:
    if "run" in given:
        run = Path(given.pop("run"))
        packages = value_of("trusted_packages", given.pop("trusted_packages", "[]"), [])
        if unknown := [key for key in given if not key.startswith(("data.", "paths."))]:
            known = [*OWN, *names, "data.root", "paths.data_dir"]
            raise InputError(f"{unknown[0]} is no key of this picture of a run. {nearest(unknown[:1], known)}")
        return RunSubject(run, given, packages)
    if "model" not in given:
        raise InputError("cnnlab visualize needs run=FOLDER, or model=... with model.weights=FILE.")
    groups = [field.name for field in fields(TrainConfig)]
    groups += [path.name for path in CONFIG_DIR.iterdir() if path.is_dir() and path.name not in groups]
    if unknown := [key for key in given if key.lstrip("+~").split(".")[0] not in groups]:
        raise InputError(
            f"{unknown[0]} is neither a key of this picture nor of the config. "
            f"{nearest(unknown[:1], [*OWN, *names, *groups])}"
        )
    return ModelSubject([f"{key}={value}" for key, value in given.items()])


def _folder(subject: Subject, what: str) -> Path:
    return subject.run / "pictures" / what if subject.run else Path("outputs/visualize") / f"{subject.name}-{what}"
