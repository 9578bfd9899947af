"""How fast moves become AlphaGo's planes on one core, against plain Python and the goal of 15,000 positions a second.

    python benchmarks/go_planes.py [--games FILE_OR_FOLDER] [--quick] [--json FILE]

reads SGF games (by default those of data/go or of ../shared/data/go), works out the planes of every position several
times, in turn with the plain Python implementation that the tests compare with, and prints a table. Seconds are those
of the processor, not of the wall, so that other programs on the machine change little. The start of a process, with
an empty and with a filled cache of machine code, is timed by the wall.
"""

import argparse
import json
import logging
import os
import platform
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import median

import numba
import numpy as np

from cnnlab.go import sgf
from cnnlab.go.planes import game_planes, planes_at
from cnnlab.go.positions import encode

REPOSITORY = Path(__file__).parents[1]
GOAL = 15_000
PLACES = (REPOSITORY / "data" / "go", REPOSITORY.parent / "shared" / "data" / "go")
REFERENCE = runpy.run_path(str(REPOSITORY / "tests" / "helpers" / "go_reference.py"))["Reference"]
FIRST_PLANES = "from cnnlab.go.planes import game_planes; game_planes([('B', (3, 3))])"
EVERY = 40
"""Plain Python works out the planes of each 40th position: one takes it longer than a whole game takes us."""


def main() -> None:
    options = arguments()
    logging.disable(logging.WARNING)  # the same broken game would be named at every repetition
    count, repetitions = (60, 5) if options.quick else (300, 15)
    games = list(islice(sgf.read(options.games), count))
    codes = [encode(game.moves, game.size) for game in games]
    whole(games[:1], 48)  # compiles, or reads the machine code from the cache
    settings: dict[str, Callable[[int], tuple[int, float]]] = {
        "plain Python, 48 planes": lambda turn: plain(games[turn % len(games)]),
        "moves, 48 planes": lambda turn: whole(games, 48),
        "moves, 20 planes": lambda turn: whole(games, 20),
        "moves, 4 planes": lambda turn: whole(games, 4),
        "SGF, 48 planes": lambda turn: from_sgf(options.games, count),
        "one random position a game": lambda turn: scattered(games, codes, turn),
    }
    speeds: dict[str, list[float]] = {name: [] for name in settings}
    for turn in range(repetitions):
        for name, run in settings.items():
            positions, spent = run(turn)
            speeds[name].append(positions / spent)
    ours, theirs = speeds["moves, 48 planes"], speeds["plain Python, 48 planes"]
    ratios = {
        "planes_to_plain_python": spread([a / b for a, b in zip(ours, theirs, strict=True)]),
        "planes_to_15000_positions_per_second": spread([speed / GOAL for speed in ours]),
        "sgf_and_planes_to_15000_positions_per_second": spread([speed / GOAL for speed in speeds["SGF, 48 planes"]]),
    }
    result = {
        "ratios": ratios,
        "positions_per_second": {name: spread(found) for name, found in speeds.items()},
        "start_seconds": start_seconds(),
        "environment": environment(options.games, len(games), sum(len(game.moves) for game in games)),
    }
    print(report(result))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=Path, help="SGF file, folder or zip archive of real games")
    parser.add_argument("--quick", action="store_true", help="60 games, 5 repetitions: half a minute")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    options.games = options.games or next((place for place in PLACES if place.is_dir()), None)
    if options.games is None:
        parser.error(f"there are no games in {PLACES[0]}: name a file or folder with --games")
    return options


def whole(games: list[sgf.Game], features: int) -> tuple[int, float]:
    """(positions, seconds) of all positions of the games."""
    done = [0]
    spent = seconds(
        lambda: done.extend(len(game_planes(game.moves, game.size, game.setup, features)[1]) for game in games)
    )
    return sum(done), spent


def from_sgf(source: Path, count: int) -> tuple[int, float]:
    """`whole`, with the reading and checking of the SGF."""
    done = [0]
    spent = seconds(
        lambda: done.extend(
            len(game_planes(game.moves, game.size, game.setup)[1]) for game in islice(sgf.read(source), count)
        )
    )
    return sum(done), spent


def scattered(games: list[sgf.Game], codes: list[np.ndarray], turn: int) -> tuple[int, float]:
    """One position of each game by its number, as a shuffled loader asks for them."""
    rng = np.random.default_rng(turn)
    played = [np.flatnonzero(moves & 0x7FFF != 0x7FFF) for moves in codes]
    asked = [
        (moves, [rng.choice(points)], game.size)
        for game, moves, points in zip(games, codes, played, strict=True)
        if len(points) and not game.setup
    ]
    return len(asked), seconds(lambda: [planes_at(*one) for one in asked])


def plain(game: sgf.Game) -> tuple[int, float]:
    """Some positions of a game by the plain implementation, the moves between them not counted."""
    board, positions, spent = REFERENCE(game.size, game.setup), 0, 0.0
    for number, (colour, point) in enumerate(game.moves):
        if number % EVERY == EVERY // 2:
            spent += seconds(lambda mover=colour: board.planes(mover))
            positions += 1
        board.play(colour, point)
    return positions, spent


def start_seconds() -> dict[str, float]:
    """Wall time from the start of Python to the first planes, with an empty and with a filled cache."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for cache in ("empty", "filled"):
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, "-c", FIRST_PLANES], env={**os.environ, "NUMBA_CACHE_DIR": folder}, check=True
            )
            found[cache] = round(time.perf_counter() - start, 2)
    return found


def seconds(work: Callable[[], object]) -> float:
    """Processor time of `work`."""
    start = time.process_time()
    work()
    return time.process_time() - start


def spread(values: list[float]) -> dict[str, float]:
    rounded = {"median": median(values), "min": min(values), "max": max(values)}
    return {**{name: float(f"{value:.4g}") for name, value in rounded.items()}, "n": len(values)}


def environment(source: Path, games: int, moves: int) -> dict[str, object]:
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    versions = {"python": platform.python_version(), "numba": numba.__version__, "numpy": np.__version__}
    where = {"games": f"{games} of {source.name}", "moves": moves}
    return {"hardware": f"{cpu}, {os.cpu_count()} cores", "cores_used": 1, **versions, **where}


def report(result: dict) -> str:
    found = result["environment"]
    lines = [", ".join(f"{name} {value}" for name, value in found.items()), ""]
    lines += [f"{'positions a second':45} {'median':>10} {'min':>10} {'max':>10}"]
    for name, speed in result["positions_per_second"].items():
        lines.append(f"{name:45} {speed['median']:>10,.0f} {speed['min']:>10,.0f} {speed['max']:>10,.0f}")
    lines += ["", f"{'ratio':45} {'median':>10} {'min':>10} {'max':>10}"]
    for name, ratio in result["ratios"].items():
        lines.append(f"{name:45} {ratio['median']:>10.2f} {ratio['min']:>10.2f} {ratio['max']:>10.2f}")
    starts = ", ".join(f"{value} s with the cache {cache}" for cache, value in result["start_seconds"].items())
    return "\n".join([*lines, "", f"start to first planes: {starts}"])


if __name__ == "__main__":
    main()
