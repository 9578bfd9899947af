"""Readable names of runs, and folders that no two runs share."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from cnnlab.errors import InputError

LONGEST = 100
UNNAMED = ("experiment", "data", "debug", "paths", "hydra", "logger", "callbacks", "trusted_packages")
"""Keys that say where or how a run is kept, not what it is."""


def run_name(overrides: Sequence[str], model: str | None = None) -> str:
    """A name made of the overrides' values: model=vgg16 init=orthogonal optimizer.lr=0.1 -> vgg16-orthogonal-lr-0.1.

    model: comes first if no override chooses one. Holds letters, digits, `_`, `.`, `+` and `-` only; a pure function.
    """
    chosen = dict(override.lstrip("+").split("=", 1) for override in overrides if "=" in override)
    chosen = {key: value for key, value in chosen.items() if key.split(".")[0] not in UNNAMED and key != "model"} | (
        {} if "model" not in chosen else {"model": chosen["model"]}
    )
    first = chosen.pop("model", model)
    parts = [_slug(first)] if first else []
    for key, value in chosen.items():
        parts.append(
            _slug(value) if "." not in key and key != "seed" else f"{_slug(key.rsplit('.', 1)[-1])}-{_slug(value)}"
        )
    name = "-".join(part for part in parts if part) or "default"
    if len(name) > LONGEST:
        name = f"{name[: LONGEST - 9]}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"
    return name


def claim(folder: Path) -> Path:
    """Create `folder`, or `folder-2`, `folder-3`, ... if it is taken; atomic, so that two processes get two folders."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            candidate.mkdir()
        except FileExistsError:
            number += 1
        else:
            return candidate.absolute()


def claim_exactly(folder: Path) -> Path:
    """Create the folder that the user named; raises InputError if it holds a run already."""
    if (folder / "run.json").exists():
        raise InputError(
            f"paths.output_dir={folder} holds a run already. Continue it with resume={folder}, or name another folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder.absolute()


def _slug(value: str) -> str:
    value = value.strip("'\"")
    if "/" in value:
        value = Path(value).stem
    return re.sub(r"[^\w.+-]+", "-", value.strip("[]").replace(",", "+")).strip("-.")
