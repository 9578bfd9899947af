"""The settings of a run's speed: precision, memory format, compilation and CPU threads, and which may win where.

Settings of the config group `speed` that are "auto" are chosen by timing a few steps (training.race) before the trainer
is built; what was found is kept for later runs on the same machine.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from cnnlab.errors import DataError, InputError
from cnnlab.models.engines import AUTO, require_engine
from cnnlab.system.devices import has_bfloat16
from cnnlab.system.files import read_json, write_json

log = logging.getLogger(__name__)
CHOSEN = "CNNLAB_SPEED"
"""Environment variable by which the first process of a run tells those that it starts what it has chosen."""
PRECISIONS: dict[str, torch.dtype | None] = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""Values of speed.precision that can be timed -> the type that autocast computes in."""


@dataclass(frozen=True)
class Speed:
    """How the steps of a run are computed; no setting is "auto"."""

    precision: str
    channels_last: bool
    compile: bool
    num_threads: int

    def words(self) -> dict[str, str]:
        """Return setting -> what it is called."""
        return {
            "precision": self.precision,
            "channels_last": "channels_last" if self.channels_last else "contiguous",
            "compile": "compiled" if self.compile else "",
            "num_threads": "1 thread" if self.num_threads == 1 else f"{self.num_threads} threads",
        }

    def __str__(self) -> str:
        return ", ".join(filter(None, self.words().values()))


Candidates = dict[str, list[Any]]
"""Setting -> its possible values, the one to start from first."""


def check_speed(settings: Mapping[str, Any]) -> None:
    """Raise InputError for a value of the group `speed` that is neither of its type nor "auto", or not installed."""
    require_engine(settings["engine"])
    for name, usual in (("channels_last", "true, false"), ("compile", "true, false"), ("num_threads", "a number")):
        if isinstance(settings[name], str) and settings[name] != AUTO:
            raise InputError(f"speed.{name}={settings[name]}: use {usual} or auto.")
    if isinstance(settings["num_threads"], int) and settings["num_threads"] < 1:
        raise InputError(f"speed.num_threads={settings['num_threads']}: use at least 1, null for all cores, or auto.")


def candidates(settings: Mapping[str, Any], device: torch.device) -> Candidates:
    """Return the values that may win for each setting of the group `speed` on `device`; one where it is not "auto"."""
    threads = torch.get_num_threads()
    cpu, gpu = device.type == "cpu", device.type == "cuda"
    bfloat16 = ["bf16-mixed"] if has_bfloat16(device) else []
    float16 = ["16-mixed"] if gpu and not bfloat16 else []
    every: Candidates = {
        "precision": ["32-true", *bfloat16, *float16],
        "channels_last": [True, False] if cpu or gpu else [True],
        "compile": [False, True] if gpu else [False],
        "num_threads": [threads, 1] if cpu and threads > 1 else [threads],
    }
    chosen = {**settings, "num_threads": settings["num_threads"] or threads}
    return {name: every[name] if chosen[name] == AUTO else [chosen[name]] for name in every}


def untimed(options: Candidates) -> Speed:
    """Return the settings of a run that is too short for timing: the precision that the processor has."""
    return Speed(**{name: values[-1 if name == "precision" else 0] for name, values in options.items()})


def recorded(record: Any, options: Candidates) -> Speed | None:
    """Return what a record says, with the settings of the config that are not "auto"; None if it says nothing valid.

    A run keeps to its record even on a machine where other values would win; it has at most this machine's threads.
    """
    if not isinstance(record, Mapping):
        return None
    found: dict[str, Any] = {
        name: record.get(name) if len(values) > 1 else values[0] for name, values in options.items()
    }
    valid = found["precision"] in PRECISIONS or len(options["precision"]) == 1
    valid &= all(isinstance(found[name], bool) for name in ("channels_last", "compile"))
    if not valid or not isinstance(found["num_threads"], int) or found["num_threads"] < 1:
        return None
    return Speed(**found | {"num_threads": min(found["num_threads"], max(options["num_threads"]))})


def told_by_parent(options: Candidates) -> Speed | None:
    """Return what the process that started this one has chosen for the run, if it has said so."""
    text = os.environ.get(CHOSEN)
    return recorded(json.loads(text), options) if text else None


def tell_children(speed: Speed) -> None:
    """Let processes that this one starts know what it has chosen."""
    os.environ[CHOSEN] = json.dumps(asdict(speed))


@dataclass(frozen=True)
class Memory:
    """A choice for one network, batch and machine, kept in a file of the cache folder.

    identity: plain values that the times depend on.
    """

    folder: Path
    identity: Sequence[Any]

    @property
    def path(self) -> Path:
        text = json.dumps(self.identity, default=str)
        return self.folder / f"{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}.json"

    def read(self) -> Any:
        """Return the choice of an earlier run; None if there is none, or its file is damaged."""
        try:
            return read_json(self.path)["choice"]
        except (DataError, KeyError, TypeError):
            return None

    def write(self, choice: Any, times: Sequence[Mapping[str, Any]]) -> None:
        """Write a choice and all times; a run that cannot write it goes on, and the next one times again."""
        try:
            write_json(self.path, {"choice": choice, "times": times, "for": self.identity})
        except OSError as error:
            log.info("Could not keep the choice of speed in %s (%s).", self.path, error.strerror)

    def recall(self, options: Candidates) -> Speed | None:
        """Return the settings that an earlier run chose, if they are among the candidates."""
        speed = recorded(self.read(), options)
        return speed if speed and all(getattr(speed, name) in values for name, values in options.items()) else None

    def keep(self, best: Speed, seconds: Mapping[Speed, float]) -> None:
        """Write the settings that were chosen, and the times of all."""
        self.write(asdict(best), [{**asdict(speed), "seconds": value} for speed, value in seconds.items()])
