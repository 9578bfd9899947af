"""The run folder: the config of a run, its files, and the record of how it ended."""

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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cnnlab.config import stored_problems
from cnnlab.config.overrides import OF_ONE_COMMAND, require_harmless
from cnnlab.errors import DataError, InputError, several
from cnnlab.runs.settings import settings
from cnnlab.system.files import (
    load_tensors,
    printable,
    read_json,
    read_yaml,
    write_atomically,
    write_bytes,
    write_json,
    write_text,
)
from cnnlab.system.packages import version_of
from cnnlab.system.processes import is_alive, this_process

if TYPE_CHECKING:
    from torch import Tensor

    from cnnlab.data.datamodule import DataModule

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
START, END = "events.out.tfevents.0000000000.session_start", "events.out.tfevents.9999999999.session_end"
"""Names of the event files that TensorBoard reads first and last: it reads them in the order of their names."""
RECORDS = ("run.json", "config.yaml", "overrides.yaml", "metrics.csv", START, END)
"""Files that say what a run is and how it ended."""
PLACES = ("paths", "logger")
"""Config groups that say where a run reads, writes and logs; they do not change its results."""
ABSENT = "none"
"""Placeholder for the value of a key that a config does not have."""
MOST_SHOWN = 5
"""Number of changed keys that an error names."""
RECORD: dict[str, type | tuple[type, ...]] = {
    "status": str,
    "error": str,
    "exit_code": int,
    "wall_seconds": (int, float),
    "best": dict,
    "process": dict,
    "resumed": list,
    "speed": dict,
}
"""Entries of run.json that resumed runs and sweeps read back -> their types."""


class RunFolder:
    """The folder of one run: its config, the paths of its files, and its record `run.json`. Only rank zero writes.

    Nothing is written before `begin`. `record["status"]` is running, finished, failed or interrupted; a job that a
    sweep runs again is pending first.

    config: plain and resolved. overrides: as typed. chosen: config group -> the option chosen from it. resumes: whether
    the run continues from its last checkpoint and keeps its record.
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
        self._finished: dict[Path, bytes | None] = {}
        """Contents of the files of a finished run that is resumed, until it has a new checkpoint."""
        self._resumed_at = 0

    @property
    def has_begun(self) -> bool:
        return bool(self.record)

    @property
    def resumes_from(self) -> Path | None:
        """The checkpoint to continue from; None for a new run."""
        return self.last_checkpoint if self.resumes else None

    def begin(self) -> None:
        """Create the folder and write config.yaml, overrides.yaml and run.json."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        old = read_record(self.path) if self.resumes else {}
        old = {key: value for key, value in old.items() if key not in ("error", "exit_code")}
        self._began = time.monotonic() - old.get("wall_seconds", 0.0)
        if old.get("status") == "finished" and self.writes:
            files = (self.path / name for name in RECORDS)
            self._finished = {path: path.read_bytes() if path.is_file() else None for path in files}
            self._resumed_at = self._checkpoint_time()
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
        """The checkpoint of the best epoch; without validation, that of the last epoch."""
        best = self.path / "checkpoints" / "best.ckpt"
        return best if best.is_file() else self.last_checkpoint

    def describe(self, data: "DataModule", device: str, world_size: int) -> None:
        """Record what is known before the first step: device, split, classes, files that were left out."""
        parts = {name: part for name in ("train", "val", "test") if (part := getattr(data.parts, name)) is not None}
        counts = {name: len(part) for name, part in parts.items()}
        self.update(
            device=device,
            world_size=world_size,
            images=counts,
            classes=len(data.classes),
            split_hash=data.split_hash,
            **data.division,
            **({"value_ranges": {kind: list(values) for kind, values in data.ranges.items()}} if data.ranges else {}),
        )
        if data.classes:
            self.write_json("class_indices.json", dict(enumerate(data.classes)))
        for name, part in parts.items():
            self.write_text(f"splits/{name}.txt", "".join(f"{entry}\n" for entry in data.listing(part)))
        if data.skipped:
            reasons = "".join(f"{printable(reason)}\n" for reason in data.skipped.values())
            self.write_text(f"skipped_{data.unit}.txt", reasons)
        found = ", ".join(f"{count} {name}" for name, count in counts.items())
        log.info("%s: %s%s", data.examples, found, f" in {len(data.classes)} classes" if data.classes else "")
        if "folds" in data.division:
            log.info("Fold %(fold)d of %(of)d (from 0) is the validation part.", data.division["folds"])
        if "groups" in data.division:
            log.info("Groups: %s.", data.division["groups"])

    def write_weights(self) -> "dict[str, Tensor]":
        """Write the best network's weights as a plain state_dict, best_weights.pth, and return them."""
        import torch

        state = load_tensors(self.best_checkpoint)["state_dict"]
        weights = {key.removeprefix("network."): value for key, value in state.items() if key.startswith("network.")}
        write_atomically(self.path / "best_weights.pth", lambda file: torch.save(weights, file))
        return weights

    def update(self, **entries: Any) -> None:
        """Add entries to run.json, with the seconds since the run began."""
        self.record |= entries
        self.record["wall_seconds"] = round(time.monotonic() - self._began, 2)
        if self.writes:
            write_json(self.path / "run.json", self.record)

    def end(self, **entries: Any) -> None:
        """Record how the run ended; only log an OSError, which must not hide the reason for the end.

        A run that was to be resumed and has no new checkpoint yet keeps the record that it had.
        """
        try:
            if not self.has_begun:
                if self.resumes and read_record(self.path).get("status") != "pending":
                    return
                self.begin()
            if self._finished and self._checkpoint_time() == self._resumed_at:
                self._restore()
            else:
                self.update(**entries)
        except OSError as error:
            log.error("Could not write %s (%s): it still says that the run is running.", self.path / "run.json", error)

    def _restore(self) -> None:
        """Undo an attempt to train a finished run on."""
        for path, contents in self._finished.items():
            if contents is None:
                path.unlink(missing_ok=True)
            else:
                write_bytes(path, contents)
        self.record = read_record(self.path)

    def _checkpoint_time(self) -> int:
        return self.last_checkpoint.stat().st_mtime_ns if self.last_checkpoint.is_file() else 0

    def write_text(self, name: str, text: str) -> None:
        if self.writes:
            write_text(self.path / name, text)

    def append_text(self, name: str, text: str) -> None:
        """Append to a text file such as a log; ignore an OSError."""
        if self.writes:
            with contextlib.suppress(OSError), (self.path / name).open("a", encoding="utf-8") as file:
                file.write(text)

    def write_json(self, name: str, value: Any) -> None:
        if self.writes:
            write_json(self.path / name, value)


def config_hash(config: dict[str, Any]) -> str:
    """Return a hash of the resolved config, 16 hexadecimal digits, that is independent of the groups in PLACES."""
    hashed = {key: value for key, value in config.items() if key not in PLACES}
    return hashlib.blake2b(json.dumps(hashed, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def remove_events(folder: Path) -> None:
    """Remove the event files of a run that starts over."""
    for events in folder.glob("events.out.tfevents.*"):
        events.unlink()


def has_checkpoint_to_resume(folder: Path) -> bool:
    """Return whether a run continues from its last checkpoint; False if it ended before the first, and starts over.

    Raises InputError if it cannot be resumed: it has another process, or has neither a checkpoint nor an end.
    """
    if not folder.exists():
        raise InputError(f"{folder} cannot be resumed: the folder does not exist.")
    record = read_record(folder)
    process = record.get("process")
    if record.get("status") == "running" and process and process != this_process() and is_alive(process):
        raise InputError(f"{folder} is still being run by process {process['pid']}: wait for it, or stop it.")
    if (folder / "checkpoints" / "last.ckpt").is_file():
        return True
    others = [path.name for path in folder.glob("checkpoints/*.ckpt") if path.name != "start.ckpt"]
    if not record or others or record.get("status") == "finished":
        raise InputError(f"{folder} cannot be resumed: it has no checkpoints/last.ckpt.")
    return False


def start_over(folder: Path) -> None:
    """Remove what a run that starts over in its folder would otherwise append to."""
    remove_events(folder)
    (folder / "metrics.csv").unlink(missing_ok=True)


def require_same_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise InputError if the resolved config differs from the one that the run began with.

    The overrides are the same, so the files in configs/ or cnnlab itself must have changed.
    """
    changed = list(_differences(read_config(folder), config))
    if changed:
        shown = ", ".join(changed[:MOST_SHOWN]) + (", ..." if len(changed) > MOST_SHOWN else "")
        raise InputError(
            f"The run in {folder} cannot be resumed because the configs have changed: {shown}. "
            "Undo these changes, or start a new run."
        )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield `key: old value -> new value` for every key that differs, except those in PLACES and OF_ONE_COMMAND."""
    for key in dict.fromkeys([*before, *now]):
        if not prefix and key in (*PLACES, *OF_ONE_COMMAND):
            continue
        old, new = (side.get(key, ABSENT) for side in (before, now))
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new and not (old != old and new != new):
            yield f"{prefix}{key}: {old} -> {new}"


def read_config(folder: Path) -> dict[str, Any]:
    """Return the resolved config of a run; raise InputError if it is missing or damaged."""
    config = _read_yaml(folder, "config.yaml")
    if problems := stored_problems(config):
        raise several(problems, f"{folder / 'config.yaml'} is not the config of a run:")
    return config


def read_overrides(folder: Path) -> list[str]:
    """Return the overrides that a run was started with.

    Raises InputError if the file is missing or damaged, or if an override sets more than the run's config.
    """
    overrides = _read_yaml(folder, "overrides.yaml")
    if not isinstance(overrides, list) or not all(isinstance(override, str) for override in overrides):
        raise InputError(f"{folder} is not a run folder: overrides.yaml is not a list of overrides.")
    for override in overrides:
        require_harmless(override, folder / "overrides.yaml")
    return overrides


def read_record(folder: Path) -> dict[str, Any]:
    """Return the contents of run.json, {} without one; raise DataError if it is not a record of a run."""
    path = folder / "run.json"
    record = read_json(path) if path.is_file() else {}
    if not isinstance(record, dict):
        raise DataError(f"{path} is not a record of a run: it holds a {type(record).__name__}.")
    best = record.get("best")
    wrong = [key for key, kind in RECORD.items() if key in record and not isinstance(record[key], kind)]
    if isinstance(best, dict) and not all(isinstance(value, int | float) for value in best.values()):
        wrong.append("best")
    if wrong:
        raise DataError(f"{path} is not a record of a run: {wrong[0]} is {str(record[wrong[0]])[:80]!r}.")
    return record


def _read_yaml(folder: Path, name: str) -> Any:
    try:
        return read_yaml(folder / name)
    except DataError as error:
        raise InputError(f"{folder} is not a run folder: {error}") from error


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return package -> version for the packages that are installed."""
    return {package: found for package in packages if (found := version_of(package))}


def _git_revision() -> str | None:
    """Return the git revision of the working directory, with "+" if it has changes; None outside a repository."""
    try:
        run = lambda *words: subprocess.run(  # noqa: E731
            ["git", *words], capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()
        return run("rev-parse", "HEAD") + ("+" if run("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
