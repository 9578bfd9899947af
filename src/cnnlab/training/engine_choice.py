"""Choose the engine that computes a network without gradients: as asked for, as found before, or by timing."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from cnnlab.models.engines import (
    AUTO,
    RUNTIMES,
    TORCH,
    Engine,
    EngineError,
    build_engine,
    is_installed,
    title_of,
)
from cnnlab.models.modes import evaluating
from cnnlab.system.devices import processor_name
from cnnlab.training.module import TaskModule
from cnnlab.training.race import Race
from cnnlab.training.speed import Memory

log = logging.getLogger(__name__)
TRIED = 8
"""Number of inputs on which engines are compared and timed: more would take longer than some evaluations."""
SHARE = 0.5
"""Largest share of the expected time that building and timing engines may take: the others are 1.5 to 3 times as
fast as torch."""
PREPARATION = 2.0
"""Seconds that exporting a network and building an engine may take."""


class EngineTrial:
    """The engines of a network, each built when it is first needed; takes steps on one batch to time them.

    network: in eval mode, on the CPU. inputs: preprocessed.
    """

    def __init__(self, network: nn.Module, inputs: Tensor) -> None:
        self.network = network
        self.inputs = inputs
        self.engine: Engine = network.forward
        self.reasons: dict[str, str] = {}
        """Engine -> why it cannot compute the network."""
        self._built: dict[str, Engine] = {}

    def switch(self, name: str) -> None:
        """Use an engine from now on; raise EngineError if it cannot be built."""
        if name not in self._built:
            try:
                self._built[name] = build_engine(name, self.network, self.inputs)
            except EngineError as error:
                self.reasons[name] = str(error)
                raise
        self.engine = self._built[name]

    def take(self) -> None:
        """Compute the outputs of the batch."""
        with torch.no_grad():
            self.engine(self.inputs)


def choose_engine(
    setting: str,
    trial: EngineTrial,
    count: int,
    folder: Path | None,
    *,
    keeps: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> str:
    """Return the engine for `count` inputs, to which `trial` is switched, and log in one line how it was chosen.

    setting: the value of speed.engine. folder: of the choices of earlier runs; None if there are none. keeps: whether
    this one is kept there.
    """
    installed = [name for name in RUNTIMES if is_installed(name)]
    if setting != AUTO:
        return _used(setting, trial, "" if setting == TORCH else "as asked for")
    if not installed:
        return _used(TORCH, trial, "")
    options = [TORCH, *installed]
    identity = [
        *(processor_name(torch.device("cpu")), torch.get_num_threads(), torch.__version__),
        *(list(map(title_of, options)), repr(trial.network), list(trial.inputs.shape)),
    ]
    memory = Memory(folder, identity) if folder else None
    if memory and (found := memory.read()) in options:
        return _used(found, trial, f"timed before, {memory.path}")
    race = Race(TORCH, trial, count / len(trial.inputs), clock, share=SHARE, worst=1.0)
    for name in installed:
        race.challenge(name, PREPARATION)
    if len(race.seconds) == 1:
        return _used(TORCH, trial, "; ".join(f"{name}: {reason}" for name, reason in trial.reasons.items()))
    if memory and keeps:
        memory.write(race.best, [{"engine": name, "seconds": value} for name, value in race.seconds.items()])
    speeds = sorted((len(trial.inputs) / seconds, name) for name, seconds in race.seconds.items())
    return _used(race.best, trial, f"timed here: {', '.join(f'{name} {speed:.3g}/s' for speed, name in speeds[::-1])}")


def _used(name: str, trial: EngineTrial, how: str) -> str:
    """Switch to an engine, or to torch if it fails, and return its name; how: nothing is logged if this is empty."""
    try:
        trial.switch(name)
    except EngineError as error:
        log.warning("Engine: torch instead of %s: %s.", name, error)
        trial.switch(TORCH)
        return TORCH
    if how:
        log.info("Engine: %s (%s)", title_of(name), how)
    return name


@contextmanager
def inference_engine(
    module: TaskModule, inputs: Tensor, count: int, setting: str, cache_dir: Path | None
) -> Iterator[None]:
    """Compute the outputs of `module` by the engine that `setting` names, or the fastest, inside the block.

    inputs: some of the `count` inputs, as the module takes them. cache_dir: where the choice is kept; None: nowhere.
    With a GPU, the module itself computes there.
    """
    if torch.cuda.is_available():
        if setting not in (AUTO, TORCH):
            log.warning("Engine: torch instead of %s, since there is a GPU.", setting)
        yield
        return
    with evaluating(module), torch.inference_mode(False), torch.no_grad():
        trial = EngineTrial(module.network, module.preprocessed(inputs[:TRIED].clone()))
        choose_engine(setting, trial, count, cache_dir and cache_dir / "speed")
    module.engine = trial.engine
    try:
        yield
    finally:
        module.engine = None
