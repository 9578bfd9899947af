"""How a policy network fares against GNU Go, which is also the referee: every move is played on its board.

    python benchmarks/go_match.py GAMES RUN [--level 1] [--temperature 0.2] [--symmetries 1] [--json FILE]

RUN is a run folder of data=go. Colours alternate, komi 7.5, Chinese rules. A game ends by two passes or GNU Go's
resignation; GNU Go scores it. Prints the network's wins with their 95 % Wilson interval, and milliseconds a move.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch
from common import hardware
from scipy.stats import binomtest

from cnnlab.api import load_run
from cnnlab.models.alphago_policy import AlphaGoPolicy
from cnnlab.runs.folder import read_config
from cnnlab.tasks.moves.playing import player_of

GNUGO = shutil.which("gnugo") or shutil.which("gnugo", path="/usr/games")
PAPER_MS = 4.8
"""Milliseconds of a forward pass at k = 192 on a GPU (Silver et al. 2016, Extended Data Table 3)."""
LONGEST = 800
"""Moves after which a game is scored as it stands."""


class Referee:
    """A GNU Go process."""

    def __init__(self, level: int, size: int, seed: int) -> None:
        options = ["--level", str(level), "--seed", str(seed), "--boardsize", str(size), "--komi", "7.5"]
        self.process = subprocess.Popen(
            [str(GNUGO), "--mode", "gtp", "--chinese-rules", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, command: str) -> str:
        """The answer to a command. Raises RuntimeError if it is refused, as an illegal move is."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        lines: list[str] = []
        while (line := self.process.stdout.readline().rstrip("\n")) or not lines:
            lines.append(line)
        if not lines[0].startswith("="):
            raise RuntimeError(f"GNU Go refuses {command!r}: {lines[0]}")
        return lines[0][1:].strip()

    def close(self) -> None:
        self.process.communicate("quit\n", timeout=60)


def main() -> None:
    options = arguments()
    if GNUGO is None:
        sys.exit("GNU Go is not installed: apt-get install gnugo")
    torch.set_num_threads(1)
    settings = read_config(options.run)
    model = load_run(options.run).network
    player = player_of(model, settings, temperature=options.temperature, symmetries=options.symmetries, seed=0)
    size = settings["data"]["size"]
    games = []
    for number in range(options.games):
        games.append(play(player, size, number, options.level))
        won = sum(game["won"] for game in games)
        print(f"game {number + 1}: {games[-1]['colour']} {games[-1]['result']}   {won} of {number + 1} won", flush=True)
    result = summary(games, options, size)
    print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def play(player, size: int, number: int, level: int) -> dict:
    """One game; the network is Black in even ones."""
    from cnnlab.go.board import Board
    from cnnlab.go.gtp import Engine

    ours = "black" if number % 2 == 0 else "white"
    engine = Engine(player, size, (size,))
    engine.board = Board(size)
    gnugo = Referee(level, size, number + 1)
    passes, colour, seconds, result = 0, "black", [], ""
    for _ in range(LONGEST):
        if colour == ours:
            began = time.perf_counter()
            move = engine.answer(f"genmove {colour}".encode())[2:].strip()
            seconds.append(time.perf_counter() - began)
            gnugo(f"play {colour} {move}")
        else:
            move = gnugo(f"genmove {colour}")
            if move.lower() == "resign":
                result = f"{ours[0].upper()}+R"
                break
            engine.answer(f"play {colour} {move}".encode())
        passes = passes + 1 if move.lower() == "pass" else 0
        if passes == 2:
            break
        colour = "white" if colour == "black" else "black"
    result = result or gnugo("final_score")
    gnugo.close()
    won = result.startswith(ours[0].upper())
    return {"colour": ours, "result": result, "won": won, "milliseconds_a_move": 1000 * median(seconds)}


def summary(games: list[dict], options: argparse.Namespace, size: int) -> dict:
    won = sum(game["won"] for game in games)
    interval = binomtest(won, len(games)).proportion_ci(method="wilson")
    return {
        "run": options.run.name,
        "opponent": f"GNU Go level {options.level}, {size} x {size}, komi 7.5, Chinese rules",
        "temperature": options.temperature,
        "symmetries": options.symmetries,
        "games": len(games),
        "won": won,
        "share": won / len(games),
        "interval_95": [interval.low, interval.high],
        "milliseconds_a_move": median(game["milliseconds_a_move"] for game in games),
        "forward_milliseconds_k192": forward_milliseconds(),
        "forward_milliseconds_k192_paper": PAPER_MS,
        "hardware": f"{hardware()}, one used",
        "results": games,
    }


@torch.inference_mode()
def forward_milliseconds() -> float:
    """One position through the network of the paper's size on this processor, the median of 20."""
    model = AlphaGoPolicy().eval().to(memory_format=torch.channels_last)
    planes = torch.rand(1, 48, 19, 19).to(memory_format=torch.channels_last)
    seconds = []
    for _ in range(20):
        began = time.perf_counter()
        model(planes)
        seconds.append(time.perf_counter() - began)
    return 1000 * median(seconds)


def table(result: dict) -> str:
    low, high = result["interval_95"]
    rows = [
        ("run", result["run"]),
        ("opponent", result["opponent"]),
        ("games won", f"{result['won']} of {result['games']}"),
        ("share", f"{result['share']:.3f} (95 % interval {low:.3f} to {high:.3f})"),
        ("a move", f"{result['milliseconds_a_move']:.1f} ms (median)"),
        ("forward pass, k = 192", f"{result['forward_milliseconds_k192']:.1f} ms here, {PAPER_MS} ms in the paper"),
    ]
    return "\n".join(f"{name:24}{value}" for name, value in rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("games", type=int)
    parser.add_argument("run", type=Path)
    parser.add_argument("--level", type=int, default=1)
    parser.add_argument("--temperature", type=float, default=0.2)
    parser.add_argument("--symmetries", type=int, choices=(1, 8), default=1)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
