"""Game records for tests: random legal games, written as SGF."""

import random
from pathlib import Path

from cnnlab.go.board import Board
from cnnlab.go.positions import Move

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def random_moves(seed: int, size: int = 9, length: int = 40) -> list[Move]:
    """Legal moves in turn with a pass here and there."""
    rng = random.Random(seed)
    board = Board(size)
    for number in range(length):
        colour = "BW"[number % 2]
        legal = [(int(row), int(column)) for row, column in zip(*board.legal(colour).nonzero(), strict=True)]
        board.play(colour, rng.choice(legal) if legal and rng.random() > 0.05 else None)
    return board.moves


def sgf(moves: list[Move], size: int = 9, **properties: str) -> str:
    root = "".join(f"{name}[{value}]" for name, value in properties.items())
    nodes = (f";{colour}[{'' if p is None else LETTERS[p[1]] + LETTERS[p[0]]}]" for colour, p in moves)
    return f"(;GM[1]FF[4]SZ[{size}]{root}{''.join(nodes)})"


def write_games(folder: Path, count: int, size: int = 9, length: int = 40) -> list[list[Move]]:
    """So many random games in two collections; returns their moves in the order in which they are read."""
    games = [random_moves(seed, size, length) for seed in range(count)]
    folder.mkdir(parents=True, exist_ok=True)
    half = count // 2
    (folder / "a.sgf").write_text("\n".join(sgf(moves, size) for moves in games[:half]))
    (folder / "b.sgf").write_text("\n".join(sgf(moves, size) for moves in games[half:]))
    return games
