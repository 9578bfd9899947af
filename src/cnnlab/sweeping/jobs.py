"""Run the jobs of a sweep under Hydra's launchers: in this process, in parallel, or on a cluster."""

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
from cnnlab.runs.sweep import ENDED, NAME, Job, Sweep
from cnnlab.sweeping.console import announce
from cnnlab.system.faults import translate_error
from cnnlab.system.files import read_json
from cnnlab.system.processes import PARENT, cores, device_count

LOOK_EVERY = 1.0
"""Seconds between two checks of the records of running jobs."""


def launch(launcher: Launcher, sweep: Sweep, jobs: Sequence[Job]) -> None:
    """Run the jobs under Hydra's launcher, as many at a time as planned, and keep sweep.json up to date."""
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
                sweep.give_up(job, *_failure(answer))
                announce(sweep, [job])


def _failure(answer: JobReturn | None) -> tuple[str, int]:
    """Return the error and exit code of a job that did not record its own end."""
    if not answer or answer.status != JobStatus.FAILED:
        return "its process ended without a message: it was killed, or memory ran out", 1
    error = answer._return_value
    if own := translate_error(error):
        return str(own), own.exit_code
    return f"{type(error).__name__}: {error}", 1


@contextlib.contextmanager
def _watched(sweep: Sweep) -> Iterator[None]:
    """Print which jobs have ended while others are running."""
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
    """Run a job that starts several processes with its own command, so that its failure does not affect the sweep.

    Lightning starts the other ranks with the command of their process, which must be the job's and not the sweep's.
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
    """Return the config of a job with its share of a machine that runs several jobs of the sweep at a time.

    Under joblib, job `number` gets GPU number modulo the count of GPUs; CPU cores are divided among the jobs.
    """
    sweep = read_json(sweep_folder / NAME)
    if sweep["launcher"] not in ("joblib", "submitit_local"):
        return plain
    trainer, speed = dict(plain["trainer"]), dict(plain["speed"])
    if sweep["launcher"] == "joblib" and (devices := device_count(trainer["accelerator"])):
        trainer["devices"] = [number % devices]
    if speed["num_threads"] in (None, "auto"):
        speed["num_threads"] = max(1, cores() // sweep["at_once"])
    return plain | {"trainer": trainer, "speed": speed}
