"""Processes of a run: which one writes, whether it is still alive, and how many there are."""

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from cnnlab.errors import InputError

log = logging.getLogger(__name__)
PARENT = "CNNLAB_PARENT"
CONFIG_HASH = "CNNLAB_CONFIG_HASH"
RUN_FOLDER = "CNNLAB_RUN_FOLDER"
"""Environment variable by which a process tells those that it starts which folder it has claimed for their run."""
SPARE_SEMAPHORES = 16
"""Semaphores of a pool of workers besides those of the queue of each."""
MORE_MEMORY = "In a container, give /dev/shm some memory (docker run --shm-size=64m)."


def this_process() -> dict[str, Any]:
    """Return what identifies this process, even among later processes with the same id."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "began": _began(os.getpid())}


def is_alive(process: dict[str, Any] | None) -> bool:
    """Return whether the process that `this_process` described still runs; False for one on another host."""
    if not process or process.get("host") != socket.gethostname():
        return False
    if process.get("began") is not None:
        return _began(process.get("pid")) == process["began"]
    try:
        os.kill(process["pid"], 0)
    except (OSError, KeyError, TypeError, OverflowError):
        return False
    return True


def _began(pid: object) -> int | None:
    """Return when the process started, in clock ticks after boot; None if it has ended or /proc does not exist."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (OSError, ValueError):  # ValueError: a foreign record whose pid contains a zero byte
        return None
    return None if fields[0] in "ZX" else int(fields[19])  # a zombie has ended


def end_with_parent() -> None:
    """Kill this process when its parent has died, if the parent set CNNLAB_PARENT to its own process id."""
    parent = int(os.environ.pop(PARENT, 0))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)  # safe: checkpoints are written atomically

    if parent:
        threading.Thread(target=watch, daemon=True).start()


def is_rank_zero() -> bool:
    """Return whether this process is the first of its run; only that one writes files."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", os.environ.get("SLURM_PROCID", "0"))) == "0"


def require_one_config(config_hash: str, rank_zero: bool) -> None:
    """Raise InputError if this process of a run has another config than the first process, which started it."""
    if rank_zero:
        os.environ[CONFIG_HASH] = config_hash
    elif (expected := os.environ.get(CONFIG_HASH, config_hash)) != config_hash:
        raise InputError(f"This process has config {config_hash}, but the first process of the run has {expected}.")


def cores() -> int:
    """Return the number of CPU cores that this process may use, by its affinity and its container's quota."""
    from joblib.externals.loky import cpu_count

    return int(cpu_count())  # joblib.cpu_count returns 1 where /dev/shm is read-only


def why_no_workers(count: int) -> str:
    """Return why so many worker processes cannot be sent work; an empty string if they can.

    A queue between processes needs semaphores, which the C library keeps in /dev/shm: a page each, three per queue.
    """
    try:
        held = [multiprocessing.Lock() for _ in range(3 * count + SPARE_SEMAPHORES)]
    except OSError as error:
        return f"/dev/shm: {error.strerror or error}"
    held.clear()
    return ""


def can_start_workers(count: int) -> bool:
    """Return whether so many worker processes can be sent work; say so once if not."""
    if reason := why_no_workers(count):
        _warn_of_missing_workers(reason)
    return not reason


@cache
def _warn_of_missing_workers(reason: str) -> None:
    log.warning("Data are loaded in the main process, since no other can be started (%s). %s", reason, MORE_MEMORY)


def device_count(accelerator: str) -> int:
    """Return how many CUDA devices Lightning would find for `trainer.accelerator`; 0 for one that uses none."""
    if accelerator not in ("auto", "gpu", "cuda"):
        return 0
    import torch

    return torch.cuda.device_count()


def is_started_with_others() -> bool:
    """Return whether torchrun, SLURM or the first process of the run has started this process with others."""
    return int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", 1))) > 1


def starts_processes(trainer: Mapping[Any, Any], when_auto: int | None = None) -> bool:
    """Return whether Lightning would start further processes besides the one it is called in.

    trainer: the config group. when_auto: how many devices `devices=auto` means; None counts those of this machine.
    """
    if int(os.environ.get("SLURM_NTASKS", 1)) > 1:  # Slurm has already started them
        return False
    devices = trainer["devices"]
    if devices in ("auto", -1, "-1"):
        count = device_count(trainer["accelerator"]) if when_auto is None else when_auto
    elif isinstance(devices, str):
        count = int(devices) if devices.isdigit() else len(devices.split(","))
    else:
        count = devices if isinstance(devices, int) else len(devices)
    return trainer["strategy"] != "auto" or count > 1
