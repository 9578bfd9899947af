"""The jobs of a sweep under Hydra's launchers: in this process, side by side, or on a cluster."""

import contextlib
import itertools
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, env_override
from hydra.plugins.launcher import Launcher

from cnnlab.config import quoted
from cnnlab.errors import CnnlabError
from cnnlab.runs.sweep import ENDED, NAME, Job, Sweep
from cnnlab.sweeping.console import announce
from cnnlab.system.files import read_json
from cnnlab.system.processes import PARENT, cores, device_count

LOOK_EVERY = 1.0
"""Seconds between two looks at the records of running jobs."""


def launch(launcher: Launcher, sweep: Sweep, jobs: Sequence[Job]) -> None:
    """Run the jobs under Hydra's launcher, as many at a time as planned, and keep sweep.json up to date meanwhile."""
    for job in jobs:
        sweep.reopen(job)
    sweep.begin()
    name = sweep.record["launcher"]
    size = {"basic": 1, "submitit_local": sweep.record["at_once"]}.get(name, max(1, len(jobs)))
    for start in range(0, len(jobs), size):
        batch = jobs[start : start + size]
        overrides = [[*job["overrides"], f"hydra.sweep.subdir={quoted(job['name'])}"] for job in batch]
        answers: Sequence[JobReturn] = []
        with _watched(sweep), env_override({PARENT: str(os.getpid())} if name == "joblib" else {}):
            try:
                answers = launcher.launch(overrides, initial_job_idx=batch[0]["number"])
            except Exception as error:  # one job's process was killed, or the cluster refused
                print(f"hydra/launcher={name}: {type(error).__name__}: {error}", flush=True)
        for job, answer in itertools.zip_longest(batch, answers):
            if job["status"] not in ENDED and (answer or sweep.is_lost(job)):
                sweep.give_up(job, *_what_happened(answer))
                announce(sweep, [job])


def _what_happened(answer: JobReturn | None) -> tuple[str, int]:
    """Why a job has no record of its end, and its exit code."""
    if not answer or answer.status != JobStatus.FAILED:
        return "its process ended without a word: killed, or out of memory", 1
    error = answer._return_value
    if isinstance(error, CnnlabError):
        return str(error), error.exit_code
    return f"{type(error).__name__}: {error}", 1


@contextlib.contextmanager
def _watched(sweep: Sweep) -> Iterator[None]:
    """Say which jobs have ended, while others run."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_EVERY):
            announce(sweep, sweep.refresh())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        announce(sweep, sweep.refresh())


def run_apart(command: Sequence[str]) -> None:
    """Run a job that starts processes of its own in a process of its own, which can fail or hang without the sweep.

    Lightning's ranks repeat the command that they are started by: here the job's, not the sweep's.
    """
    process = subprocess.Popen(command, env=os.environ | {PARENT: str(os.getpid())})
    try:
        code = process.wait()
    except BaseException:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    if code == 130:
        raise KeyboardInterrupt


def share(plain: dict[str, Any], sweep_folder: Path, number: int) -> dict[str, Any]:
    """The config of a job, with its part of a machine on which several jobs of its sweep run at a time.

    Under joblib the GPUs take turns (number modulo their count); processor cores are divided among the jobs.
    """
    sweep = read_json(sweep_folder / NAME)
    if sweep["launcher"] not in ("joblib", "submitit_local"):
        return plain
    trainer, speed = dict(plain["trainer"]), dict(plain["speed"])
    if sweep["launcher"] == "joblib" and (devices := device_count(trainer["accelerator"])):
        trainer["devices"] = [number % devices]
    if speed["num_threads"] is None:
        speed["num_threads"] = max(1, cores() // sweep["at_once"])
    return plain | {"trainer": trainer, "speed": speed}
