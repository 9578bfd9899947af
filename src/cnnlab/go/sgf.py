"""Read game records in SGF, FF[1] to FF[4]: the main line of every game without illegal moves."""

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
from cnnlab.go.sgf_charsets import declared_charset, is_ambiguous, is_utf_8, readings, to_8_bits
from cnnlab.go.sgf_sources import MAX_BYTES, documents
from cnnlab.go.sgf_syntax import BrokenGameError, chunks, count_values, is_collection, main_lines, pieces
from cnnlab.system.processes import can_start_workers

try:
    from sgfmill import sgf as sgfmill
except ModuleNotFoundError as error:
    raise InputError(NEEDS_EXTRA) from error

log = logging.getLogger(__name__)
PIECE = 2**16
"""Size in bytes of the parts of a collection that are parsed separately."""
SHOWN = 10
"""Number of skipped games that are logged one by one; `Games.skipped` has all."""


@dataclass(frozen=True)
class Game:
    """The main line of one record; text fields are empty if the record does not set them."""

    name: str
    """Name of the file, with the number of the game if the file has several."""
    size: int
    setup: list[Move]
    """Stones on the board before the first move: AB and AW of all nodes up to that move."""
    moves: list[Move]
    to_play: str
    """Player who moves first: "B" or "W"."""
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
    is_sgf: bool = True
    """Whether its text is SGF, so that only the game is at fault."""


class Games(Iterator[Game]):
    """Iterator over the games of a source; `skipped` grows as they are read."""

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
    """Read the games of a file, a folder, a zip archive or bytes of SGF, in order; each file may be a collection.

    Games that are truncated, malformed or illegal, and files that are too large or unreadable, are skipped as a whole
    and listed with the reason in `skipped` of the result and in the log. So are games whose handicap stones are not
    placed (HA without AB, White moves first).

    max_bytes: size limit of a file. workers: additional processes that parse; 0 parses in this one, which is faster for
    small collections, because processes take time to start.
    Raises DataError if the path does not exist or the folder has no record.
    """
    found = documents(Path(source) if isinstance(source, str) else source, max_bytes)
    return Games(_read(chain([next(found)], found), workers))  # the first one is read now to raise errors of the path


@dataclass(frozen=True)
class Task:
    """A part of a document to parse, or the reason why it cannot be read."""

    name: str
    collection: bool
    charset: str | None
    """Charset that the document declares, for games that declare none."""
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
            yield Task(name, False, None, b"", contents)
            continue
        text = to_8_bits(contents)
        charset = declared_charset(text)
        collection = is_collection(text)
        for piece in pieces(text, PIECE):
            yield Task(name, collection, charset, piece)


def _parsed(tasks: Iterator[Task], workers: int) -> Iterator[tuple[Task, list[Game | Skipped]]]:
    """Yield each task with its games, in order; at most a few tasks per worker are pending at a time."""
    if not workers or not can_start_workers(workers):
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
    results = [result for chunk in chunks(task.text) for result in _read_chunk(chunk, task.charset)]
    return results or [Skipped("", "it contains no game")]


def _read_chunk(chunk: bytes, charset: str | None) -> list[Game | Skipped]:
    """Return the games in bytes that may be in any charset.

    Where the charset decides about brackets, each that is possible is tried. A wrong one makes the text no SGF, or lets
    a value swallow others; so of the readings that are SGF, those with the most values count. charset: as declared for
    the document.
    """
    if is_utf_8(chunk):
        return _games(chunk)
    declared = declared_charset(chunk) or charset
    texts = {name: text.encode() for name, text in readings(chunk, declared).items()}
    if not is_ambiguous(chunk):
        return _games(next(iter(texts.values())))
    found = {name: _games(text) for name, text in texts.items()}
    sound = [name for name, games in found.items() if all(isinstance(game, Game) or game.is_sgf for game in games)]
    most = max((count_values(texts[name]) for name in sound), default=0)
    best = [name for name in sound if count_values(texts[name]) == most]
    legal = [name for name in best if all(isinstance(game, Game) for game in found[name])]
    if declared in legal or len({_played(found[name]) for name in legal}) == 1:
        return found[declared if declared in legal else legal[0]]
    if not legal:
        return found[(best or list(found))[0]]
    names = " or ".join(legal)
    return [Skipped("", f"it does not declare its charset, and it is a different game in each of {names}")]


def _played(games: list[Game | Skipped]) -> str:
    """Return what identifies games apart from names and comments."""
    return repr([(game.size, game.setup, game.moves, game.komi, game.handicap) for game in games])  # type: ignore[union-attr]


def _games(chunk: bytes) -> list[Game | Skipped]:
    """Return the games in text in UTF-8."""
    results: list[Game | Skipped] = []
    for line in main_lines(chunk):
        try:
            if isinstance(line, BrokenGameError):
                raise line
            results.append(_game(line))
        except BrokenGameError as error:
            results.append(Skipped("", str(error), is_sgf=False))
        except (UnplayableGameError, InputError) as error:
            results.append(Skipped("", str(error)))
    return results


class UnplayableGameError(ValueError):
    """Says why SGF is not a game that can be replayed."""


def _game(line: bytes) -> Game:
    """Parse a main line in UTF-8.

    Raises BrokenGameError, UnplayableGameError or InputError that says why if it is malformed or illegal.
    """
    try:
        record = sgfmill.Sgf_game.from_bytes(line, override_encoding="UTF-8")
    except ValueError as error:
        raise BrokenGameError(f"it is malformed: {error}") from error
    root, size = record.get_root(), record.get_size()
    if root.has_property("GM") and root.get_raw("GM").strip() != b"1":
        raise UnplayableGameError(f"it is not a game of Go: GM[{_text(root, 'GM')}]")
    stones: dict[Point, str] = {}
    moves: list[Move] = []
    to_play = ""
    for node in record.main_sequence_iter():
        names = node.get_raw_property_map().keys()
        if names & {"AB", "AW", "AE"}:
            if moves:
                raise UnplayableGameError(f"stones are set up after move {len(moves)}")
            _set_up(node, stones, size)
        if "PL" in names and not moves:
            to_play = {"b": "B", "w": "W"}.get(_text(node, "PL").strip()[:1].lower(), "")
        if "B" in names or "W" in names:
            moves.append(_move(node, len(moves) + 1, size))
    setup: list[Move] = [(colour, point) for point, colour in stones.items()]
    handicap = _number(root, "HA") or 0
    if handicap >= 2 and not setup and moves and moves[0][0] == "W":
        raise UnplayableGameError(f"its {handicap:g} handicap stones are not placed")
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
        raise UnplayableGameError("it sets up stones off the board") from error
    for colour, points in (("B", black), ("W", white), ("", empty)):
        for row, column in points:
            stones[(size - 1 - row, column)] = colour
    for point in [point for point, colour in stones.items() if not colour]:
        del stones[point]


def _move(node: sgfmill.Node, number: int, size: int) -> Move:
    properties = node.get_raw_property_map()
    values = properties.get("B", []) + properties.get("W", [])
    if len(values) > 1:
        raise UnplayableGameError(f"move {number} has several moves in one node")
    try:
        colour, point = node.get_move()
    except ValueError as error:
        where = values[0].decode("ascii", "replace")
        raise UnplayableGameError(f"move {number} is at {where!r}, which is not a point") from error
    return colour.upper(), None if point is None else (size - 1 - point[0], point[1])


def _check(setup: list[Move], moves: list[Move], size: int) -> None:
    """Play the whole game; raise InputError that says which move is illegal and why."""
    position = new_position(size, encode(setup, size))
    turns = turns_of(encode(moves, size), size)
    played = rules.play_through(position, turns)
    if played < len(moves):
        colour, point = moves[played]
        reason = why_illegal(position, turns[played, 1])
        raise InputError(f"move {played + 1} ({colour} at {vertex(point, size)}) is illegal: {reason}")


def _text(node: sgfmill.Node, name: str) -> str:
    """Return a text property; "" if the node does not have it or its bytes are invalid in the charset."""
    try:
        return node.get(name) if node.has_property(name) else ""
    except ValueError:
        return ""


def _number(node: sgfmill.Node, name: str) -> float | None:
    """Return a number property; None if the node does not have it or it is not a finite number."""
    try:
        value = float(node.get_raw(name)) if node.has_property(name) else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None
