"""What of this process others can see: for tests that a call leaves it as it was."""

import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
import warnings
from typing import Any

import matplotlib
import numpy as np
import torch


def snapshot() -> dict[str, Any]:
    """Everything by name, in values that can be compared; loggers only once they differ from a new one."""
    loggers = [logging.root, *map(logging.getLogger, list(logging.root.manager.loggerDict))]
    described = {each.name: (each.level, each.handlers[:], each.propagate, each.disabled) for each in loggers}
    cudnn = torch.backends.cudnn
    return {
        "arguments": sys.argv[:],
        "working directory": os.getcwd(),
        "environment": {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"},
        "modules' paths": sys.path[:],
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "loggers": {name: state for name, state in described.items() if state != (0, [], True, False)},
        "logging": (logging.root.manager.disable, logging.raiseExceptions),
        "warnings": (warnings.filters[:], warnings.showwarning),
        "hooks": (sys.excepthook, threading.excepthook, sys.displayhook, sys.stdout, sys.stderr),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "processes": multiprocessing.active_children(),
        "torch's threads": torch.get_num_threads(),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()),
        "algorithms": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            *(cudnn.benchmark, cudnn.deterministic, torch.get_float32_matmul_precision()),
        ),
        "random": (torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()),
        "matplotlib": (matplotlib.get_backend(), dict(matplotlib.rcParams)),
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What is not as it was: name -> before, after."""
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}
