"""The Go Text Protocol, version 2 (Farnebäck 2002): an engine that Sabaki, GoGui or GNU Go can control.

Every command gets a reply, and only `quit` or the end of the input stops the engine.
"""

import logging
import math
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cnnlab.errors import CnnlabError, DataError, InputError
from cnnlab.go.board import Board
from cnnlab.go.handicap import fixed_handicap, most_handicap
from cnnlab.go.player import Player
from cnnlab.go.positions import LETTERS, Move, Point, vertex
from cnnlab.go.sgf import read
from cnnlab.system.packages import version_of

log = logging.getLogger(__name__)
LONGEST_LINE = 2**16
"""Longest command line in bytes; longer ones get an error. A handicap of 600 stones takes 2,400 bytes."""
LARGEST_SGF = 2**24
ANALYZE = (
    "dboard/Move probabilities/cnnlab-probabilities %c",
    "pspairs/Most probable moves/cnnlab-top_moves %c",
)
"""Entries of GoGui's Analyze menu; GoGui replaces %c by the player to move."""
TOP_MOVES = 5


class CommandError(Exception):
    """Raised by a command that fails; the message is the reply."""


def serve(engine: "Engine", commands: BinaryIO, replies: BinaryIO) -> None:
    """Answer commands line by line until `quit`, the end of the input, or a closed output."""
    while not engine.finished:
        line = commands.readline(LONGEST_LINE)
        if not line:
            return
        if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = commands.readline(LONGEST_LINE)
            reply = "? line too long\n\n"
        else:
            reply = engine.answer(line)
        try:
            replies.write(reply.encode())
            replies.flush()
        except BrokenPipeError:
            return


class Engine:
    """A GTP engine: the state of a game and the commands that change it."""

    def __init__(self, player: Player, size: int = 19, sizes: Collection[int] = (19,)) -> None:
        """Start a game on an empty board.

        size: lines of the board at the start. sizes: board sizes that the player's policy supports.
        """
        self.player, self.sizes = player, sizes
        self.board = Board(size)
        self.komi = 0.0
        self.finished = False
        self.commands: dict[str, Callable[[list[str]], str]] = {
            "protocol_version": lambda arguments: "2",
            "name": lambda arguments: "cnnlab",
            "version": lambda arguments: version_of("cnnlab") or "unknown",
            "known_command": lambda arguments: "true" if arguments and arguments[0] in self.commands else "false",
            "list_commands": lambda arguments: "\n".join(self.commands),
            "quit": self.quit,
            "boardsize": self.boardsize,
            "clear_board": self.clear_board,
            "komi": self.set_komi,
            "play": self.play,
            "genmove": self.genmove,
            "reg_genmove": self.reg_genmove,
            "undo": self.undo,
            "fixed_handicap": self.fixed_handicap,
            "place_free_handicap": self.place_free_handicap,
            "set_free_handicap": self.set_free_handicap,
            "loadsgf": self.loadsgf,
            "time_settings": self.time_settings,
            "time_left": self.time_left,
            "kgs-time_settings": self.kgs_time_settings,
            "final_score": self.final_score,
            "showboard": self.showboard,
            "gogui-analyze_commands": lambda arguments: "\n".join(ANALYZE),
            "cnnlab-probabilities": self.probabilities,
            "cnnlab-top_moves": self.top_moves,
        }

    def answer(self, line: bytes) -> str:
        """Return the reply to one line; "" if it contains no command."""
        text = line.decode("utf-8", "replace").partition("#")[0].replace("\t", " ")
        words = "".join(letter for letter in text if letter.isprintable()).split()
        number = words.pop(0) if words and re.fullmatch(r"[0-9]{1,18}", words[0]) else ""
        if not words:
            return f"?{number} no command\n\n" if number else ""
        name, arguments = words[0], words[1:]
        try:
            if name not in self.commands:
                raise CommandError("unknown command")
            reply = self.commands[name](arguments)
        except (CommandError, CnnlabError) as error:
            return f"?{number} {_one_line(error)}\n\n"
        except Exception as error:  # the policy's code, or a bug: the game must be able to go on
            log.exception("The command %r failed", name)
            return f"?{number} internal error: {_one_line(error)}\n\n"
        return f"={number} {reply}\n\n"

    def quit(self, arguments: list[str]) -> str:
        self.finished = True
        return ""

    def boardsize(self, arguments: list[str]) -> str:
        size = _integer(arguments, 0)
        if size not in self.sizes:
            raise CommandError("unacceptable size")
        self.board = Board(size)
        return ""

    def clear_board(self, arguments: list[str]) -> str:
        self.board = Board(self.board.size)
        return ""

    def set_komi(self, arguments: list[str]) -> str:
        self.komi = _number(arguments, 0)
        return ""

    def play(self, arguments: list[str]) -> str:
        """Play a move, also out of turn, which the protocol allows."""
        colour, point = _colour(arguments), self._vertex(arguments, 1)
        try:
            self.board.play(colour, point)
        except InputError as error:
            raise CommandError("illegal move") from error
        return ""

    def genmove(self, arguments: list[str]) -> str:
        colour = _colour(arguments)
        point = self.player.choose(self.board, colour)
        self.board.play(colour, point)
        return vertex(point, self.board.size)

    def reg_genmove(self, arguments: list[str]) -> str:
        """Return the move of `genmove` without playing it."""
        return vertex(self.player.choose(self.board, _colour(arguments)), self.board.size)

    def undo(self, arguments: list[str]) -> str:
        try:
            self.board.undo()
        except InputError as error:
            raise CommandError("cannot undo") from error
        return ""

    def fixed_handicap(self, arguments: list[str]) -> str:
        stones = _integer(arguments, 0)
        if not 2 <= stones <= most_handicap(self.board.size):
            raise CommandError("invalid number of stones")
        return self._handicap(fixed_handicap(stones, self.board.size))

    def place_free_handicap(self, arguments: list[str]) -> str:
        """Place handicap stones on the star points; if these are too few, place fewer, as the protocol allows."""
        stones, most = _integer(arguments, 0), most_handicap(self.board.size)
        if not 2 <= stones < self.board.size**2 or not most:
            raise CommandError("invalid number of stones")
        return self._handicap(fixed_handicap(min(stones, most), self.board.size))

    def set_free_handicap(self, arguments: list[str]) -> str:
        points = [self._vertex(arguments, index) for index in range(len(arguments))]
        if len(set(points)) < max(len(points), 2) or None in points or len(points) >= self.board.size**2:
            raise CommandError("bad vertex list")
        self._handicap([point for point in points if point is not None])
        return ""

    def _handicap(self, points: list[Point]) -> str:
        if self.board.moves or self.board.setup:
            raise CommandError("board not empty")
        stones: list[Move] = [("B", point) for point in points]
        self.board = Board(self.board.size, stones)
        return " ".join(vertex(point, self.board.size) for point in points)

    def loadsgf(self, arguments: list[str]) -> str:
        """Load the first game of a file, up to but not including the move of the given number, if any."""
        moves = None
        if len(arguments) > 1 and re.fullmatch(r"[0-9]{1,9}", arguments[-1]):
            moves = max(int(arguments.pop()) - 1, 0)
        if not arguments:
            raise CommandError("syntax error")
        try:
            games = read(Path(" ".join(arguments)), LARGEST_SGF)
        except DataError as error:
            raise CommandError(f"cannot load file: {error}") from error
        game = next(games, None)
        if game is None:
            raise CommandError(f"cannot load file: {games.skipped[0].reason}")
        if game.size not in self.sizes:
            raise CommandError(f"cannot load file: its board has {game.size} lines")
        self.board = Board(game.size, game.setup)
        for colour, point in game.moves[:moves]:
            self.board.play(colour, point)
        self.komi = self.komi if game.komi is None else game.komi
        return ""

    def time_settings(self, arguments: list[str]) -> str:
        """Check the arguments and ignore them, as all time commands do: a move always takes one forward pass."""
        return _check_numbers(arguments, 3)

    def time_left(self, arguments: list[str]) -> str:
        _colour(arguments)
        return _check_numbers(arguments[1:], 2)

    def kgs_time_settings(self, arguments: list[str]) -> str:
        counts = {"none": 0, "absolute": 1, "byoyomi": 3, "canadian": 3}
        if not arguments or arguments[0] not in counts:
            raise CommandError("syntax error")
        return _check_numbers(arguments[1:], counts[arguments[0]])

    def final_score(self, arguments: list[str]) -> str:
        raise CommandError("cannot score: a policy network does not know which stones are dead")

    def showboard(self, arguments: list[str]) -> str:
        size = self.board.size
        letters = "   " + " ".join(LETTERS[:size])
        lines = [f"{size - row:2d} {' '.join(line)} {size - row}" for row, line in enumerate(self.board.rows())]
        moves = f"{len(self.board.moves)} moves"
        for colour, point in self.board.moves[-1:]:
            moves += f", the last {colour} {vertex(point, size)}"
        return "\n".join(["", letters, *lines, letters, f"X is Black, O is White; {moves}; komi {self.komi:g}"])

    def probabilities(self, arguments: list[str]) -> str:
        """Return the probabilities of all points, one line for each line of the board, for GoGui's dboard."""
        shares = self.player.probabilities(self.board, _colour(arguments))
        return "\n" + "\n".join(" ".join(f"{share:.4f}" for share in row) for row in shares)

    def top_moves(self, arguments: list[str]) -> str:
        """Return the most probable points and their percentages, for GoGui's pspairs."""
        shares = self.player.probabilities(self.board, _colour(arguments))
        best = np.argsort(-shares, axis=None, kind="stable")[:TOP_MOVES].tolist()
        size = self.board.size
        return "\n".join(f"{vertex(divmod(index, size), size)} {100 * shares.flat[index]:.1f}%" for index in best)

    def _vertex(self, arguments: list[str], index: int) -> Point | None:
        """Parse an argument as a point on the board, or None for "pass"."""
        word = arguments[index].upper() if index < len(arguments) else ""
        if word == "PASS":
            return None
        size = self.board.size
        if not re.fullmatch("[A-HJ-Z][1-9][0-9]?", word):
            raise CommandError("syntax error")
        column, row = LETTERS.index(word[0]), size - int(word[1:])
        if column >= size or not 0 <= row < size:
            raise CommandError("syntax error")
        return row, column


def _colour(arguments: list[str]) -> str:
    colours = {"b": "B", "black": "B", "w": "W", "white": "W"}
    if not arguments or arguments[0].lower() not in colours:
        raise CommandError("syntax error")
    return colours[arguments[0].lower()]


def _integer(arguments: list[str], index: int) -> int:
    word = arguments[index] if index < len(arguments) else ""
    if not re.fullmatch(r"-?[0-9]{1,9}", word):
        raise CommandError("syntax error")
    return int(word)


def _number(arguments: list[str], index: int) -> float:
    try:
        value = float(arguments[index])
    except (IndexError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise CommandError("syntax error")
    return value


def _check_numbers(arguments: list[str], count: int) -> str:
    for index in range(max(count, len(arguments))):
        _number(arguments[:count], index)
    return ""


def _one_line(error: BaseException) -> str:
    """Return an error's message on one line, because an empty line would end the reply."""
    return " ".join(str(error).split()) or type(error).__name__
