"""A run folder: what one run reads and leaves behind, and how it ended."""

import contextlib
import hashlib
import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from cnnlab.config import stored_problems
from cnnlab.config.overrides import require_harmless
from cnnlab.errors import DataError, InputError, several
from cnnlab.runs.settings import settings
from cnnlab.system.files import read_json, read_yaml, write_json, write_text
from cnnlab.system.processes import this_process

log = logging.getLogger(__name__)
PACKAGES = (
    "cnnlab",
    "torch",
    "torchvision",
    "lightning",
    "hydra-core",
    "omegaconf",
    "torchmetrics",
    "tensorboard",
    "numpy",
)
PLACES = ("paths", "logger")
"""Parts of the config that say where a run reads, writes and logs, not what it is."""
ABSENT = "none"
"""What stands for a key that a config does not have."""
MOST_SHOWN = 5
"""Changed keys that a message names."""
RECORD: dict[str, type | tuple[type, ...]] = {
    "status": str,
    "error": str,
    "exit_code": int,
    "wall_seconds": (int, float),
    "best": dict,
    "process": dict,
    "resumed": list,
}
"""What is read back of run.json, by runs and sweeps that are resumed."""


class RunFolder:
    """The folder of one run: what it was told, where its files are, and its record `run.json`; only rank zero writes.

    Nothing is written before `begin`. `record["status"]` is running, finished, failed or interrupted; of a job that a
    sweep runs again first pending.

    config: plain and resolved. overrides: as typed. chosen: the option taken of each config group. resumes: whether the
    run goes on from its last checkpoint, and keeps its record.
    """

    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        overrides: Sequence[str] = (),
        chosen: Mapping[str, Any] | None = None,
        writes: bool = True,
        resumes: bool = False,
    ) -> None:
        self.path = path
        self.config = config
        self.overrides = list(overrides)
        self.chosen = chosen or {}
        self.writes = writes
        self.resumes = resumes
        self.record: dict[str, Any] = {}
        self._began = time.monotonic()

    @property
    def has_begun(self) -> bool:
        return bool(self.record)

    @property
    def resumes_from(self) -> Path | None:
        """The checkpoint to go on from; None for a run that begins."""
        return self.last_checkpoint if self.resumes else None

    def begin(self) -> None:
        """Write config.yaml, overrides.yaml and run.json."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        old = read_record(self.path) if self.resumes else {}
        old = {key: value for key, value in old.items() if key not in ("error", "exit_code")}
        self._began = time.monotonic() - old.get("wall_seconds", 0.0)
        self.record = old | {
            "status": "running",
            "process": this_process(),
            "config_hash": config_hash(self.config),
            "seed": self.config["seed"],
            "task": self.config["task"]["name"],
            "metric": f"val/{self.config['metric']}",
            "modes": dict(self.config["task"]["metrics"]),
            "settings": settings(self.config, self.chosen, self.overrides),
            "started": old.get("started", now),
            "resumed": [*old.get("resumed", []), now] if self.resumes else [],
            "command": " ".join(sys.argv),
            "git_revision": _git_revision(),
            "python": platform.python_version(),
            "versions": versions(PACKAGES),
        }
        if "SLURM_JOB_ID" in os.environ:
            self.record["slurm_job"] = os.environ["SLURM_JOB_ID"]
        if self.writes:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.path / "config.yaml", yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True))
            write_text(self.path / "overrides.yaml", yaml.safe_dump(self.overrides, allow_unicode=True))
        self.update()

    @property
    def last_checkpoint(self) -> Path:
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def best_checkpoint(self) -> Path:
        """The best epoch's; the last epoch's where there was no validation."""
        best = self.path / "checkpoints" / "best.ckpt"
        return best if best.is_file() else self.last_checkpoint

    def update(self, **entries: Any) -> None:
        """Add entries to run.json, with the seconds since the run began."""
        self.record |= entries
        self.record["wall_seconds"] = round(time.monotonic() - self._began, 2)
        if self.writes:
            write_json(self.path / "run.json", self.record)

    def end(self, **entries: Any) -> None:
        """`update` with how the run ended; a disk that refuses it is no reason to hide why that was."""
        try:
            if not self.has_begun:
                self.begin()
            self.update(**entries)
        except OSError as error:
            log.error("%s could not be written (%s): it says that the run goes on.", self.path / "run.json", error)

    def write_text(self, name: str, text: str) -> None:
        if self.writes:
            write_text(self.path / name, text)

    def append_text(self, name: str, text: str) -> None:
        """Add to a log, as far as the disk lets one."""
        if self.writes:
            with contextlib.suppress(OSError), (self.path / name).open("a", encoding="utf-8") as file:
                file.write(text)

    def write_json(self, name: str, value: Any) -> None:
        if self.writes:
            write_json(self.path / name, value)


def config_hash(config: dict[str, Any]) -> str:
    """16 hexadecimal digits of the resolved config, without where it reads, writes and logs."""
    chosen = {key: value for key, value in config.items() if key not in PLACES}
    return hashlib.blake2b(json.dumps(chosen, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def remove_events(folder: Path) -> None:
    """Remove what TensorBoard shows of a run, which begins anew."""
    for events in folder.glob("events.out.tfevents.*"):
        events.unlink()


def require_same_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises InputError if a run would go on with a resolved config that is not the one it began with.

    Its overrides are the same: then the files in configs/ have changed, or cnnlab itself has.
    """
    changed = list(_differences(read_config(folder), config))
    if changed:
        shown = ", ".join(changed[:MOST_SHOWN]) + (", ..." if len(changed) > MOST_SHOWN else "")
        raise InputError(
            f"The run in {folder} cannot go on as it began, since the configs have changed: {shown}. "
            "Undo that, or begin a new run."
        )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """`key: value then -> value now` of what is not the same, outside of the places."""
    for key in dict.fromkeys([*before, *now]):
        if not prefix and key in PLACES:
            continue
        old, new = (side.get(key, ABSENT) for side in (before, now))
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new and not (old != old and new != new):
            yield f"{prefix}{key}: {old} -> {new}"


def read_config(folder: Path) -> dict[str, Any]:
    """The resolved config of a run; raises InputError if `folder` holds none, or one that no verb can work with."""
    config = _read_yaml(folder, "config.yaml")
    if problems := stored_problems(config):
        raise several(problems, f"{folder / 'config.yaml'} is no config of a run:")
    return config


def read_overrides(folder: Path) -> list[str]:
    """The overrides that a run was started with; raises InputError if they are none, or set more than its config."""
    overrides = _read_yaml(folder, "overrides.yaml")
    if not isinstance(overrides, list) or not all(isinstance(override, str) for override in overrides):
        raise InputError(f"{folder} is no run folder: overrides.yaml holds no list of overrides.")
    for override in overrides:
        require_harmless(override, folder / "overrides.yaml")
    return overrides


def read_record(folder: Path) -> dict[str, Any]:
    """run.json; empty where there is none; raises DataError for one that is no record of a run."""
    path = folder / "run.json"
    record = read_json(path) if path.is_file() else {}
    if not isinstance(record, dict):
        raise DataError(f"{path} is no record of a run: it holds a {type(record).__name__}.")
    best = record.get("best")
    wrong = [key for key, kind in RECORD.items() if key in record and not isinstance(record[key], kind)]
    if isinstance(best, dict) and not all(isinstance(value, int | float) for value in best.values()):
        wrong.append("best")
    if wrong:
        raise DataError(f"{path} is no record of a run: {wrong[0]} is {str(record[wrong[0]])[:80]!r}.")
    return record


def _read_yaml(folder: Path, name: str) -> Any:
    try:
        return read_yaml(folder / name)
    except DataError as error:
        raise InputError(f"{folder} is no run folder: {error}") from error


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Package -> version of those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _git_revision() -> str | None:
    """The revision of the working directory, with "+" if it has changes; None outside a repository."""
    try:
        run = lambda *words: subprocess.run(  # noqa: E731
            ["git", *words], capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()
        return run("rev-parse", "HEAD") + ("+" if run("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
