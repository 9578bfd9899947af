"""Game records in SGF, FF[1] to FF[4]: the main line of every game that keeps to the rules."""

import logging
import math
import multiprocessing
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from cnnlab.errors import InputError
from cnnlab.go import NEEDS_EXTRA, rules
from cnnlab.go.positions import Move, Point, encode, new_position, turns_of, vertex, why_illegal
from cnnlab.go.sgf_sources import MAX_BYTES, as_ascii_superset, documents
from cnnlab.go.sgf_syntax import BrokenGameError, is_collection, main_lines, pieces

try:
    from sgfmill import sgf as sgfmill
except ModuleNotFoundError as error:
    raise InputError(NEEDS_EXTRA) from error

log = logging.getLogger(__name__)
PIECE = 2**16
"""Bytes of a collection that are parsed at a time."""
SHOWN = 10
"""Games left out that the log names one by one; `Games.skipped` has all."""


@dataclass(frozen=True)
class Game:
    """The main line of one record. Text is empty where the record says nothing."""

    name: str
    """The file, and the number of the game if the file has several."""
    size: int
    setup: list[Move]
    """Stones on the board before the first move: AB and AW, also of nodes after the first."""
    moves: list[Move]
    to_play: str
    """Who moves first: "B" or "W"."""
    komi: float | None
    handicap: int
    result: str
    date: str
    black: str
    white: str
    black_rank: str
    white_rank: str


@dataclass(frozen=True)
class Skipped:
    """A game or file that was left out."""

    name: str
    reason: str


class Games(Iterator[Game]):
    """The games of a source, one after another; `skipped` grows as they are read."""

    def __init__(self, games: Iterator[Game | Skipped]) -> None:
        self._games = games
        self._told = False
        self.read = 0
        self.skipped: list[Skipped] = []

    def __next__(self) -> Game:
        for game in self._games:
            if isinstance(game, Game):
                self.read += 1
                return game
            self.skipped.append(game)
            if len(self.skipped) <= SHOWN:
                log.warning("Left out: %s: %s", game.name, game.reason)
        if self.skipped and not self._told:
            log.warning("Left out %d of %d games.", len(self.skipped), self.read + len(self.skipped))
            self._told = True
        raise StopIteration


def read(source: Path | str | bytes, max_bytes: int = MAX_BYTES, workers: int = 0) -> Games:
    """The games of a file, a folder, a zip archive or bytes of SGF, in order; each file may be a collection.

    A game that is cut off, malformed or against the rules, and a file that is too large or unreadable, is left out as a
    whole, and named with the reason in `skipped` of the result and in the log. Handicap stones that a record does not
    place (HA without AB, White to begin) count as missing.

    max_bytes: of a file. workers: processes that parse, beside this one (0: none); worth it from some 10,000 games.
    Raises DataError if a path is not there or a folder has no record.
    """
    found = documents(Path(source) if isinstance(source, str) else source, max_bytes)
    return Games(_read(chain([next(found)], found), workers))  # what is wrong with the path is said now


@dataclass(frozen=True)
class Task:
    """A part of a document to parse, or the reason why there is nothing to parse."""

    name: str
    collection: bool
    charset: str
    text: bytes
    reason: str = ""


def _read(found: Iterator[tuple[str, bytes | str]], workers: int) -> Iterator[Game | Skipped]:
    name, number = "", 0
    for task, results in _parsed(_tasks(found), workers):
        number = number if task.name == name else 0
        name = task.name
        for result in results:
            number += 1
            several = task.collection or len(results) > 1
            yield replace(result, name=f"{name} game {number}" if several else name)


def _tasks(found: Iterator[tuple[str, bytes | str]]) -> Iterator[Task]:
    for name, contents in found:
        if isinstance(contents, str):
            yield Task(name, False, "", b"", contents)
            continue
        text, charset = as_ascii_superset(contents)
        collection = is_collection(text)
        for piece in pieces(text, PIECE):
            yield Task(name, collection, charset, piece)


def _parsed(tasks: Iterator[Task], workers: int) -> Iterator[tuple[Task, list[Game | Skipped]]]:
    """Each task with what is in it, in order; a few tasks for each worker are under way at a time."""
    if not workers:
        yield from ((task, _parse(task)) for task in tasks)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        waiting: deque[tuple[Task, Future[list[Game | Skipped]]]] = deque()
        for task in tasks:
            waiting.append((task, pool.submit(_parse, task)))
            if len(waiting) > 3 * workers:
                task, future = waiting.popleft()
                yield task, future.result()
        yield from ((task, future.result()) for task, future in waiting)


def _parse(task: Task) -> list[Game | Skipped]:
    if task.reason:
        return [Skipped("", task.reason)]
    results: list[Game | Skipped] = []
    for line in main_lines(task.text):
        try:
            if isinstance(line, BrokenGameError):
                raise line
            results.append(_game(line, task.charset))
        except (BrokenGameError, InputError) as error:
            results.append(Skipped("", str(error)))
    return results or [Skipped("", "there is no game in it")]


def _game(line: bytes, charset: str) -> Game:
    """The game of a main line. Raises BrokenGameError or InputError, saying why, if it is malformed or illegal."""
    try:
        record = sgfmill.Sgf_game.from_bytes(line, override_encoding=charset)
    except ValueError as error:
        raise BrokenGameError(f"it is malformed: {error}") from error
    root, size = record.get_root(), record.get_size()
    if root.has_property("GM") and root.get_raw("GM").strip() != b"1":
        raise BrokenGameError(f"it is no game of Go: GM[{_text(root, 'GM')}]")
    stones: dict[Point, str] = {}
    moves: list[Move] = []
    to_play = ""
    for node in record.main_sequence_iter():
        names = node.get_raw_property_map().keys()
        if names & {"AB", "AW", "AE"}:
            if moves:
                raise BrokenGameError(f"stones are set up after move {len(moves)}")
            _set_up(node, stones, size)
        if "PL" in names and not moves:
            to_play = {"b": "B", "w": "W"}.get(_text(node, "PL").strip()[:1].lower(), "")
        if "B" in names or "W" in names:
            moves.append(_move(node, len(moves) + 1, size))
    setup: list[Move] = [(colour, point) for point, colour in stones.items()]
    handicap = _number(root, "HA") or 0
    if handicap >= 2 and not setup and moves and moves[0][0] == "W":
        raise BrokenGameError(f"its {handicap:g} handicap stones are not placed")
    _check(setup, moves, size)
    black_only = bool(setup) and all(colour == "B" for colour, _ in setup)
    return Game(
        name="",
        size=size,
        setup=setup,
        moves=moves,
        to_play=moves[0][0] if moves else to_play or ("W" if black_only else "B"),
        komi=_number(root, "KM"),
        handicap=int(handicap),
        result=_text(root, "RE"),
        date=_text(root, "DT"),
        black=_text(root, "PB"),
        white=_text(root, "PW"),
        black_rank=_text(root, "BR"),
        white_rank=_text(root, "WR"),
    )


def _set_up(node: sgfmill.Node, stones: dict[Point, str], size: int) -> None:
    try:
        black, white, empty = node.get_setup_stones()
    except ValueError as error:
        raise BrokenGameError("it sets up stones off the board") from error
    for colour, points in (("B", black), ("W", white), ("", empty)):
        for row, column in points:
            stones[(size - 1 - row, column)] = colour
    for point in [point for point, colour in stones.items() if not colour]:
        del stones[point]


def _move(node: sgfmill.Node, number: int, size: int) -> Move:
    properties = node.get_raw_property_map()
    values = properties.get("B", []) + properties.get("W", [])
    if len(values) > 1:
        raise BrokenGameError(f"move {number} is several moves in one node")
    try:
        colour, point = node.get_move()
    except ValueError as error:
        where = values[0].decode("ascii", "replace")
        raise BrokenGameError(f"move {number} is at {where!r}, which is no point") from error
    return colour.upper(), None if point is None else (size - 1 - point[0], point[1])


def _check(setup: list[Move], moves: list[Move], size: int) -> None:
    """Play the game through. Raises InputError, saying which move is illegal and why."""
    position = new_position(size, encode(setup, size))
    turns = turns_of(encode(moves, size), size)
    played = rules.play_through(position, turns)
    if played < len(moves):
        colour, point = moves[played]
        reason = why_illegal(position, turns[played, 1])
        raise InputError(f"move {played + 1} ({colour} at {vertex(point, size)}) is illegal: {reason}")


def _text(node: sgfmill.Node, name: str) -> str:
    """A property of a line of text, "" if the node has none or its bytes are no text of the charset."""
    try:
        return node.get(name) if node.has_property(name) else ""
    except ValueError:
        return ""


def _number(node: sgfmill.Node, name: str) -> float | None:
    """A number, None if the node has none or another word."""
    try:
        value = float(node.get_raw(name)) if node.has_property(name) else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None
