"""`cnnlab play`: a policy network as a Go engine for Sabaki, GoGui or GNU Go, over GTP."""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import torch
from omegaconf import MISSING

from cnnlab.api import load_run
from cnnlab.config.options import parse_options
from cnnlab.runs.folder import read_config
from cnnlab.tasks.moves.playing import player_of


@dataclass
class Options:
    """Answer GTP commands on stdin with a trained policy network, for Sabaki, GoGui or GNU Go.

    Example: cnnlab play run=outputs/alphago_sl_fast/alphago_policy temperature=0.5

    run: run folder of data=go, or a checkpoint in one.
    temperature: 0 plays the most probable move; T > 0 samples a move by its probability to the power of 1 / T.
    symmetries: 1, or 8 to average over the rotations and reflections of the board.
    seed: seed of the sampling.
    threads: number of CPU threads.
    trusted_packages: your own packages that define the network.
    """

    run: str = MISSING
    temperature: float = 0.0
    symmetries: int = 1
    seed: int = 0
    threads: int = 1
    trusted_packages: list[str] = field(default_factory=list)


def main(arguments: Sequence[str]) -> None:
    play(parse_options(arguments, Options, "play"))


def play(cfg: Options) -> None:
    """Answer GTP commands from stdin on stdout until `quit` or the end of the input; print everything else on stderr.

    Raises InputError or DataError if the run cannot be loaded, or for an invalid option.
    """
    from cnnlab.go.gtp import Engine, serve

    commands, replies = sys.stdin.buffer, sys.stdout.buffer
    with redirect_stdout(sys.stderr):
        run = Path(cfg.run)
        settings = read_config(run if run.is_dir() else run.absolute().parents[1])
        torch.set_num_threads(cfg.threads)
        loaded = load_run(run, cfg.trusted_packages)
        player = player_of(
            loaded.network, settings, temperature=cfg.temperature, symmetries=cfg.symmetries, seed=cfg.seed
        )
        size = settings["data"]["size"]
        serve(Engine(player, size, (size,)), commands, replies)
