"""Which processes live, and how many a trainer starts."""

import os
import subprocess
import sys
import threading

import pytest

from cnnlab.errors import InputError
from cnnlab.system.processes import end_with_parent, is_alive, require_one_config, starts_processes, this_process


def test_process_lives_until_it_has_ended():
    assert is_alive(this_process())
    assert not is_alive(None)
    assert not is_alive({**this_process(), "host": "another machine"})
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    described = {**this_process(), "pid": child.pid, "began": _began(child.pid)}
    assert is_alive(described)
    assert not is_alive({**described, "began": described["began"] - 1})  # an older process had its number
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not is_alive(described)  # a zombie
    child.wait()
    assert not is_alive(described)


def _began(pid: int) -> int:
    """Field 22 of /proc/PID/stat (man 5 proc)."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return int(file.read().split()[21])


@pytest.mark.parametrize(
    ("trainer", "several"),
    [
        ({"strategy": "auto", "devices": 1}, False),
        ({"strategy": "auto", "devices": "auto"}, False),
        ({"strategy": "auto", "devices": 2}, True),
        ({"strategy": "auto", "devices": "2"}, True),
        ({"strategy": "auto", "devices": [3]}, False),
        ({"strategy": "auto", "devices": "0,1"}, True),
        ({"strategy": "ddp", "devices": 1}, True),
    ],
)
def test_trainer_that_starts_processes_is_known(monkeypatch, trainer, several):
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    assert starts_processes({"accelerator": "cpu", **trainer}) == several
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert not starts_processes({"accelerator": "cpu", **trainer})  # SLURM has started them


def test_processes_of_one_run_have_one_config(monkeypatch):
    monkeypatch.delenv("CNNLAB_CONFIG_HASH", raising=False)
    require_one_config("a", rank_zero=False)  # started by torchrun, which tells nothing
    require_one_config("a", rank_zero=True)
    require_one_config("a", rank_zero=False)
    with pytest.raises(InputError, match="has config b, but the first process of the run has a"):
        require_one_config("b", rank_zero=False)


def test_process_ends_with_the_one_that_started_it():
    inner = "from cnnlab.system.processes import end_with_parent; end_with_parent(); print(flush=True); input()"
    outer = f"""
import os, subprocess, sys
environment = os.environ | {{"CNNLAB_PARENT": str(os.getpid())}}
pipes = {{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}}
child = subprocess.Popen([sys.executable, "-c", {inner!r}], env=environment, **pipes)
child.stdout.readline()
print(child.pid, flush=True)
input()
"""
    parent = subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    described = {**this_process(), "pid": pid, "began": _began(pid)}
    assert is_alive(described)
    parent.kill()
    parent.wait()
    for _ in range(100):
        if not is_alive(described):
            break
        subprocess.run(["sleep", "0.1"], check=True)
    assert not is_alive(described)


def test_process_that_nobody_watches_goes_on(monkeypatch):
    monkeypatch.delenv("CNNLAB_PARENT", raising=False)
    before = threading.active_count()
    end_with_parent()
    assert threading.active_count() == before
