"""`what=policy`: the probability that a policy network gives to each move in a position of a game.

Example: cnnlab visualize what=policy run=... sgf=game.sgf move=42
"""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import MISSING

from cnnlab.drawing.boards import board_picture
from cnnlab.drawing.sheets import png
from cnnlab.errors import InputError
from cnnlab.explain.subject import Subject
from cnnlab.system.files import write_bytes
from cnnlab.tasks.moves.playing import player_of

if TYPE_CHECKING:
    from cnnlab.go.sgf import Game


@dataclass
class Options:
    """Draw the probability that a policy network gives to each move in a position of a game.

    sgf: SGF file with a game record.
    move: number of the move to predict, from 1; null: the move after the end of the record.
    game: number of the game, from 1, if the file has several.
    symmetries: 1, or 8 to average over the rotations and reflections of the board.
    """

    sgf: str = MISSING
    move: int | None = None
    game: int = 1
    symmetries: int = 1


def draw(subject: Subject, options: Options, output: Path) -> list[Path]:
    """Write `<game>-<move>.png`: the board with the probability of each move, the five most probable ones labelled.

    The last move has a ring, and the move that was played next a frame.
    """
    player = player_of(subject.model, subject.cfg, symmetries=options.symmetries)
    from cnnlab.go.board import Board  # after player_of, which determines where machine code is cached
    from cnnlab.go.positions import vertex

    game = _game(options, subject.spec.image_size)
    number = len(game.moves) + 1 if options.move is None else options.move
    if not 1 <= number <= len(game.moves) + 1:
        raise InputError(f"move={number}: the game has {len(game.moves)} moves; use 1 to {len(game.moves) + 1}.")
    board = Board(game.size, game.setup)
    for colour, point in game.moves[: number - 1]:
        board.play(colour, point)
    followed = game.moves[number - 1] if number <= len(game.moves) else None
    colour = followed[0] if followed else _next(game)
    last = board.moves[-1][1] if board.moves else None
    title = f"{Path(options.sgf).name}, move {number}: {'Black' if colour == 'B' else 'White'} to play"
    if followed:
        title += f", played {vertex(followed[1], game.size)}"
    picture = board_picture(
        board.rows(), player.probabilities(board, colour), title, last, followed[1] if followed else None
    )
    stem = Path(options.sgf).stem + (f"-game{options.game}" if options.game > 1 else "")
    path = output / f"{stem}-{number}.png"
    write_bytes(path, png(picture))
    return [path]


def _game(options: Options, size: int) -> "Game":
    from cnnlab.go.sgf import read

    games = read(Path(options.sgf))
    game = next(islice(games, max(options.game, 1) - 1, None), None)
    if options.game < 1 or game is None:
        reasons = "".join(f"\n  {skipped.name}: {skipped.reason}" for skipped in games.skipped[:5])
        raise InputError(f"game={options.game}: {options.sgf} has {games.read} playable games.{reasons}")
    if game.size != size:
        raise InputError(
            f"{options.sgf}: the network plays on boards of {size} x {size}, this game is on {game.size} x {game.size}."
        )
    return game


def _next(game: "Game") -> str:
    """Return the colour to move after the end of the record, "B" or "W"."""
    if not game.moves:
        return game.to_play
    return "W" if game.moves[-1][0] == "B" else "B"
