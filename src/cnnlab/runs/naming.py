"""Name runs readably, and claim a folder of its own for each."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnnlab.config.overrides import split
from cnnlab.errors import InputError

LONGEST = 100
"""Bytes of the longest name; longer ones end in a hash."""
UNNAMED = ("experiment", "debug", "hparams_search", "paths", "hydra", "logger", "callbacks", "trusted_packages")
"""Config groups and keys that say where or how a run is stored, not what it is."""
UNNAMED_DATA = ("data", "data.root", "data.num_workers")
"""Keys of the data group that the parent folder already names, or that do not change the run."""


def run_name(overrides: Sequence[str], model: str | None = None) -> str:
    """Return a name from the overrides: model=vgg16 init=orthogonal optimizer.lr=0.1 -> vgg16-orthogonal-lr-0.1.

    model: comes first unless an override chooses another. The name has only letters, digits, `_`, `.`, `+` and `-`.
    """
    chosen = {each.key: each.value for each in map(split, overrides) if each.is_assignment}
    first = chosen.pop("model", model)
    chosen = {
        key: value for key, value in chosen.items() if key.split(".")[0] not in UNNAMED and key not in UNNAMED_DATA
    }
    return _joined([_slug(first) if first else "", *(named(key, value) for key, value in chosen.items())])


def job_names(jobs: Sequence[Sequence[str]]) -> list[str]:
    """Return a unique name for each job of a sweep, made of the overrides that vary between jobs.

    [["init=zero", "seed=0"], ["init=zero", "seed=1"]] -> ["seed-0", "seed-1"].
    """
    varying = [
        override for override in dict.fromkeys(o for job in jobs for o in job) if any(override not in j for j in jobs)
    ]
    names: list[str] = []
    for job in jobs:
        name = job_name([override for override in job if override in varying])
        taken = {other.lower() for other in names}  # file systems that ignore case keep one folder for both
        number = 2
        unique = name
        while unique.lower() in taken:
            unique, number = f"{name}-{number}", number + 1
        names.append(unique)
    return names


def job_name(overrides: Sequence[str]) -> str:
    """Return a name made of all overrides: data=mnist seed=1 -> mnist-seed-1."""
    return _joined([named(each.key, each.value) for each in map(split, overrides)])


def trial_name(number: int, overrides: Sequence[str]) -> str:
    """Return the name of a trial of a search, its number and its values rounded to 4 digits: 007-lr-0.00123."""
    rounded = [f"{each.key}={_rounded(each.value)}" for each in map(split, overrides)]
    return f"{number:03d}-{job_name(rounded)}"


def _rounded(value: str) -> str:
    try:
        return value if len(value) < 7 else f"{float(value):.4g}"
    except ValueError:
        return value


def _joined(words: Sequence[str]) -> str:
    name = "-".join(word for word in words if word) or "default"
    whole = name.encode()  # file systems count bytes
    if len(whole) > LONGEST:
        name = f"{whole[: LONGEST - 9].decode(errors='ignore')}-{hashlib.blake2b(whole, digest_size=4).hexdigest()}"
    return name


def named(key: str, value: str) -> str:
    """Return what an override contributes to a name: orthogonal, lr-0.1, seed-2."""
    return _slug(value) if "." not in key and key != "seed" else f"{_slug(key.rsplit('.', 1)[-1])}-{_slug(value)}"


def folder_of(cfg: Any, overrides: Sequence[str]) -> Path:
    """Return the default folder of a run: <root>/<experiment or data>/<readable name>."""
    experiment = next((each.plain for each in map(split, overrides) if each.key == "experiment"), cfg.data.name)
    return Path(cfg.paths.root) / experiment / run_name(overrides, cfg.model.name)


def claim(folder: Path) -> Path:
    """Create `folder`, or `folder-2`, `folder-3`, ... if it is taken, and return it.

    Atomic: two processes never get the same folder.
    """
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
    """Create the folder that the user named; raise InputError if it already holds a run."""
    if (folder / "run.json").exists():
        raise InputError(
            f"paths.output_dir={folder} already holds a run. Continue it with resume={folder}, or name another folder."
        )
    if part := next((part for part in (folder, *folder.parents) if part.exists() and not part.is_dir()), None):
        raise InputError(f"paths.output_dir={folder}: {part} is a file. Name a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder.absolute()


def _slug(value: str) -> str:
    value = value.strip("'\"")
    if "/" in value:
        value = Path(value).stem
    return re.sub(r"[^\w.+-]+", "-", value.strip("[]").replace(",", "+")).strip("-.")
