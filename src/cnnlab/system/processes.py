"""Which process writes a folder, and whether it still lives."""

import os
import signal
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnlab.errors import InputError

PARENT = "CNNLAB_PARENT"
CONFIG_HASH = "CNNLAB_CONFIG_HASH"


def this_process() -> dict[str, Any]:
    """What tells this process from every other, also from a later one with the same number."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "began": _began(os.getpid())}


def is_alive(process: dict[str, Any] | None) -> bool:
    """Whether the process that `this_process` described still runs; nothing is known of one elsewhere: False."""
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
    """Clock ticks from the machine's start to the process's; None if it has ended, or where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (OSError, ValueError):  # ValueError: a record of somebody else's, with a zero byte
        return None
    return None if fields[0] in "ZX" else int(fields[19])  # a zombie has ended


def end_with_parent() -> None:
    """End this process when the one that started it is gone, if that one asked for it by CNNLAB_PARENT."""
    parent = int(os.environ.pop(PARENT, 0))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)  # as its parent was: the last checkpoint is whole

    if parent:
        threading.Thread(target=watch, daemon=True).start()


def is_rank_zero() -> bool:
    """Return whether this process is the first of its run, which alone writes."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", os.environ.get("SLURM_PROCID", "0"))) == "0"


def require_one_config(config_hash: str, rank_zero: bool) -> None:
    """Raises InputError in a process of a run whose config is not that of the first process, which started it."""
    if rank_zero:
        os.environ[CONFIG_HASH] = config_hash
    elif (expected := os.environ.get(CONFIG_HASH, config_hash)) != config_hash:
        raise InputError(f"This process has the config {config_hash}, the first one of its run {expected}.")


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def device_count(accelerator: str) -> int:
    """CUDA devices that `trainer.accelerator` would take; 0 on a machine, or for an accelerator, without them."""
    if accelerator not in ("auto", "gpu", "cuda"):
        return 0
    import torch

    return torch.cuda.device_count()


def starts_processes(trainer: Mapping[Any, Any], when_auto: int | None = None) -> bool:
    """Whether Lightning would start more processes than the one it is called in.

    trainer: the config group. when_auto: the number of devices that `devices=auto` stands for; None asks the machine.
    """
    if int(os.environ.get("SLURM_NTASKS", 1)) > 1:  # they have been started already
        return False
    devices = trainer["devices"]
    if devices in ("auto", -1, "-1"):
        count = device_count(trainer["accelerator"]) if when_auto is None else when_auto
    elif isinstance(devices, str):
        count = int(devices) if devices.isdigit() else len(devices.split(","))
    else:
        count = devices if isinstance(devices, int) else len(devices)
    return trainer["strategy"] != "auto" or count > 1
