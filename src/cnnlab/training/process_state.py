"""Restore what training changes in the whole process, for callers that go on using it: notebooks and other programs."""

import logging
import os
import random
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch.utils.data._utils import signal_handling
from tqdm import tqdm

from cnnlab.training.lightning_compat import adopt_messages


@contextmanager
def unchanged_process() -> Iterator[None]:
    """Run with gradients and Lightning's messages as a run needs them; restore the process's state at the end.

    That is the environment, warnings, loggers, signal handlers, torch's threads, modes and algorithms, and the random
    generators of Python, NumPy and torch. No progress bar leaves its thread behind.
    """
    with ExitStack() as stack:
        for restore in (_environment(), _logging(), _signals(), _algorithms(), _generators(), _progress_bars()):
            stack.callback(restore)
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        adopt_messages()
        yield


def _environment() -> Callable[[], None]:
    before = dict(os.environ)

    def restore() -> None:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)

    return restore


def _logging() -> Callable[[], None]:
    loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict)]
    before = [(each, each.level, each.propagate, list(each.handlers)) for each in (logging.root, *loggers)]

    def restore() -> None:
        for each, level, propagate, handlers in before:
            each.setLevel(level)
            each.propagate = propagate
            each.handlers[:] = handlers

    return restore


def _signals() -> Callable[[], None]:
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}

    def restore() -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # where no handler can be set, none has been
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        signal_handling._SIGCHLD_handler_set = False  # torch's next loader sets it again

    return restore


def _algorithms() -> Callable[[], None]:
    threads = torch.get_num_threads()
    cudnn = torch.backends.cudnn
    benchmark, exact = cudnn.benchmark, cudnn.deterministic
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()

    def restore() -> None:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        cudnn.benchmark, cudnn.deterministic = benchmark, exact

    return restore


def _generators() -> Callable[[], None]:
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)

    return restore


def _progress_bars() -> Callable[[], None]:
    before = tqdm.monitor_interval
    tqdm.monitor_interval = 0  # bars then start no thread that watches them

    def restore() -> None:
        tqdm.monitor_interval = before

    return restore
