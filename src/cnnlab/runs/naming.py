"""Readable names of runs, and folders that no two runs share."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from cnnlab.errors import InputError

LONGEST = 100
UNNAMED = ("experiment", "debug", "paths", "hydra", "logger", "callbacks", "trusted_packages")
"""Keys, with all below them, that say where or how a run is kept, not what it is."""
UNNAMED_DATA = ("data", "data.root", "data.num_workers")
"""The folder above says the data already; data.split_seed and the like are the run's own."""


def run_name(overrides: Sequence[str], model: str | None = None) -> str:
    """A name made of the overrides' values: model=vgg16 init=orthogonal optimizer.lr=0.1 -> vgg16-orthogonal-lr-0.1.

    model: comes first if no override chooses one. Holds letters, digits, `_`, `.`, `+` and `-` only; a pure function.
    """
    chosen = dict(override.lstrip("+").split("=", 1) for override in overrides if "=" in override)
    first = chosen.pop("model", model)
    chosen = {
        key: value for key, value in chosen.items() if key.split(".")[0] not in UNNAMED and key not in UNNAMED_DATA
    }
    parts = [_slug(first)] if first else []
    for key, value in chosen.items():
        parts.append(named(key, value))
    name = "-".join(part for part in parts if part) or "default"
    whole = name.encode()  # file systems count bytes
    if len(whole) > LONGEST:
        name = f"{whole[: LONGEST - 9].decode(errors='ignore')}-{hashlib.blake2b(whole, digest_size=4).hexdigest()}"
    return name


def named(key: str, value: str) -> str:
    """The part of a name that an override gives: orthogonal, lr-0.1, seed-2."""
    return _slug(value) if "." not in key and key != "seed" else f"{_slug(key.rsplit('.', 1)[-1])}-{_slug(value)}"


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
