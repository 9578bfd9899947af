"""Sweeps inside the test's own process, and what they record."""

import json
import sys
from pathlib import Path

import pytest

from cnnlab.cli import main as cli


def train(*arguments: str) -> int:
    """The exit code of `train.py ARGUMENTS`, in this process; see the fixture `here`."""
    sys.argv = ["train.py", *arguments]
    with pytest.raises(SystemExit) as exit_:
        cli.train()
    return int(exit_.value.code or 0)


def sweep_json(folder: Path) -> dict:
    return json.loads((folder / "sweep.json").read_text(encoding="utf-8"))


def statuses(folder: Path) -> dict[str, str]:
    """The status of each job by its name."""
    return {job["name"]: job["status"] for job in sweep_json(folder)["jobs"]}
