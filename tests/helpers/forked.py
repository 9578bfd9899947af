"""`train.py` in processes of their own that need not import torch: all are forked from one process that has done so.

Unlike the tests' own process, that one has neither computed gradients nor used a GPU, so that it may be forked.
"""

import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

from program import REPOSITORY

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["cnnlab.experiment", "cnnlab.cli.train", "cnnlab.tasks.classification"])


def start_train(*arguments: str, cwd: Path, output: Path) -> BaseProcess:
    """Start `train.py ARGUMENTS` in `cwd`; what it prints is appended to the file `output`.

    The process's `exitcode` is None until it has ended, and then that of the program.
    """
    process = CONTEXT.Process(target=_train, args=(arguments, cwd, dict(os.environ), output))
    process.start()
    return process


def run_train(*arguments: str, cwd: Path) -> tuple[int, str]:
    """The exit code of `train.py ARGUMENTS` in `cwd`, and what it prints."""
    output = cwd / "output.txt"
    process = start_train(*arguments, cwd=cwd, output=output)
    process.join()
    assert process.exitcode is not None
    return process.exitcode, output.read_text(encoding="utf-8")


def _train(arguments: tuple[str, ...], cwd: Path, environment: dict[str, str], output: Path) -> None:
    from cnnlab.cli import main as cli

    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    sys.path[:0] = [folder for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if folder]
    sys.argv = [str(REPOSITORY / "train.py"), *arguments]
    cli.train()
