"""Many games in two bytes a move: read from records once, kept in files, and mapped into memory ever after."""

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from cnnlab.errors import DataError, InputError
from cnnlab.go.positions import PASS, encode
from cnnlab.go.sgf import Game, read
from cnnlab.go.sgf_sources import record_files
from cnnlab.system.files import read_json, write_json

log = logging.getLogger(__name__)
VERSION = 1
"""Of the files and of how records are read; archives of another version are made anew."""
LARGE = 50 * 2**20
"""Bytes of records from which several processes read them."""
RANK = re.compile(r"(\d+)\s*(k|d|p|级|級|段)", re.IGNORECASE)
DATE = re.compile(r"\d{4}(-\d\d(-\d\d)?)?")
ROW = np.dtype([("start", "<i8"), ("first_move", "<i8"), ("end", "<i8"), ("positions", "<i4")])
"""Of a game: where its set-up stones, its moves and the next game begin in the moves' file; its moves but passes."""


@dataclass(frozen=True)
class Filters:
    """Which games are wanted; None does not ask."""

    size: int = 19
    min_rank: str | None = None
    """Of both players: 6d, 1p, 3k. A game that does not say is not wanted then."""
    max_handicap: int | None = None
    """Stones; 0 wants even games only."""
    first_date: str | None = None
    """2016, 2016-07 or 2016-07-31; a game without a date is not wanted then."""
    last_date: str | None = None
    results: Sequence[str] | None = None
    """How RE may begin: [B+R, W+R] wants games that were resigned."""
    max_games: int | None = None
    """The first so many of those that are wanted."""

    def __post_init__(self) -> None:
        """Raises InputError for a rank, date or number that is none."""
        if self.min_rank is not None and strength(self.min_rank) is None:
            raise InputError(f"data.min_rank={self.min_rank}: use a rank such as 3k, 6d or 1p.")
        for name in ("first_date", "last_date"):
            value = getattr(self, name)
            if value is not None and not DATE.fullmatch(str(value)):
                raise InputError(f"data.{name}={value}: use 2016, 2016-07 or 2016-07-31.")
        if self.max_games is not None and self.max_games < 1:
            raise InputError(f"data.max_games={self.max_games}: at least 1 is needed, or null for all.")

    def refused(self, game: Game) -> str:
        """Why the game is not wanted, "" if it is."""
        if game.size != self.size:
            return f"board of {game.size} lines"
        if self.min_rank is not None:
            ranks = [strength(game.black_rank), strength(game.white_rank)]
            if any(rank is None or rank < (strength(self.min_rank) or 0) for rank in ranks):
                return f"a player below {self.min_rank}"
        if self.max_handicap is not None and game.handicap > self.max_handicap:
            return f"handicap of more than {self.max_handicap}"
        if self.first_date is not None or self.last_date is not None:
            found = DATE.search(game.date)
            date = found[0] if found else ""
            first, last = str(self.first_date or ""), str(self.last_date or "9999")
            if not date or date[: len(first)] < first or date[: len(last)] > last:
                return "date"
        if self.results is not None and not game.result.startswith(tuple(self.results)):
            return "result"
        return ""


def strength(rank: str) -> int | None:
    """A rank on one scale: 1k is 0, 1d is 1, 1p follows 9d; None if the text has none."""
    found = RANK.search(rank)
    if not found:
        return None
    number, kind = int(found[1]), found[2].lower()
    return 1 - number if kind in ("k", "级", "級") else number if kind in ("d", "段") else 9 + number


class Archive:
    """The games in a folder that `open_archive` made, in the order of their records.

    positions: int64 [games], how many moves of each are no passes. skipped: name -> why a record was left out.
    """

    def __init__(self, folder: Path) -> None:
        """Raises DataError if the files are missing, damaged, or do not fit each other."""
        self.folder = folder
        try:
            self._read()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{folder} holds no games, or damaged ones: {error}.") from error

    def _read(self) -> None:
        folder, about = self.folder, read_json(self.folder / "about.json")
        self.names: list[str] = (folder / "names.txt").read_text(encoding="utf-8").split("\n")[:-1]
        self.size: int = about["filters"]["size"]
        self.skipped: dict[str, str] = about["skipped"]
        self.unwanted: dict[str, int] = about["unwanted"]
        self._rows = np.fromfile(folder / "games.bin", ROW)
        self._codes = np.memmap(folder / "moves.bin", "<u2", "r")
        self.positions = self._rows["positions"].astype(np.int64)
        self._require_fit()

    def _require_fit(self) -> None:
        """Raises ValueError unless the rows cut the moves into games one after another, with that many positions."""
        start, first, end = (self._rows[name] for name in ("start", "first_move", "end"))
        borders = np.append(start, len(self._codes))
        if len(self.names) != len(start) or not len(start) or borders[0] != 0:
            raise ValueError("names, games and moves are not of one archive")
        if (start > first).any() or (first >= end).any() or (end != borders[1:]).any():
            raise ValueError("the moves are not one game after another")
        moves = np.add.reduceat(self._codes & PASS != PASS, start, dtype=np.int64)
        if (moves - (first - start) != self.positions).any():
            raise ValueError("the games have other numbers of moves")
        if not all(isinstance(word, str) for entry in self.skipped.items() for word in entry):
            raise ValueError("what was left out has no names and reasons")
        if not all(isinstance(count, int) for count in self.unwanted.values()):
            raise ValueError("what was not wanted has no counts")

    def __reduce__(self) -> Any:
        """A process that gets an archive maps the files itself."""
        return Archive, (self.folder,)

    def __len__(self) -> int:
        return len(self._rows)

    def moves(self, game: int) -> np.ndarray:
        """Encoded as by `positions.encode`: uint16 [n]."""
        row = self._rows[game]
        return self._codes[row["first_move"] : row["end"]]

    def setup(self, game: int) -> np.ndarray:
        """The stones on the board before the first move, encoded likewise."""
        row = self._rows[game]
        return self._codes[row["start"] : row["first_move"]]


def open_archive(source: Path, filters: Filters, cache_dir: Path, workers: int = 0) -> Archive:
    """The wanted games of an SGF file, a zip archive or a folder of them; read at the first call, then kept.

    What is kept below `cache_dir` belongs to the contents of the files and to the filters. Of games with the same
    moves only the first is taken. workers: processes that parse large collections.
    Raises DataError if there are no records, or no game is left.
    """
    files = record_files(source)
    digest = hashlib.blake2b(json.dumps([VERSION, asdict(filters)]).encode(), digest_size=10)
    for path in files:
        digest.update(os.fsencode(path.relative_to(source)) + b"\0")
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest())
        except OSError:
            digest.update(b"unreadable")  # `read` names it
    folder = cache_dir / "go" / digest.hexdigest()
    archive = _kept(folder, filters)
    if archive is None:
        large = sum(path.stat().st_size for path in files) > LARGE
        _build(source, filters, folder, workers if large else 0)
        archive = Archive(folder)
    unwanted = "".join(f", {count} not wanted ({reason})" for reason, count in archive.unwanted.items())
    log.info(
        "Games: %d of %s with %d positions; %d broken or illegal%s",
        *(len(archive), source, archive.positions.sum(), len(archive.skipped), unwanted),
    )
    return archive


def _kept(folder: Path, filters: Filters) -> Archive | None:
    """The archive if it has been made before; a damaged one is removed."""
    if not folder.is_dir():
        return None
    try:
        archive = Archive(folder)
        if archive.size == filters.size:
            return archive
        reason = f"its boards have {archive.size} lines"
    except DataError as error:
        reason = str(error)
    log.warning("Cache: %s was removed: %s", folder, reason)
    shutil.rmtree(folder, ignore_errors=True)
    return None


def _build(source: Path, filters: Filters, folder: Path, workers: int) -> None:
    """Fill a temporary folder and move it to its place; of processes that do so together, the first wins."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        with (temporary / "moves.bin").open("wb") as moves:
            rows, names, about = _fill(source, filters, moves, workers)
        if not rows:
            unwanted = ", ".join(f"{count} ({reason})" for reason, count in about["unwanted"].items()) or "none"
            broken = len(about["skipped"])
            raise DataError(f"No game is left of {source.absolute()}: broken {broken}, not wanted {unwanted}.")
        np.array(rows, ROW).tofile(temporary / "games.bin")
        (temporary / "names.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        write_json(temporary / "about.json", about)
        temporary.chmod(0o755)
        try:
            os.rename(temporary, folder)
        except OSError:
            if not (folder / "about.json").is_file():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fill(source: Path, filters: Filters, moves: BinaryIO, workers: int) -> tuple[list, list[str], dict[str, Any]]:
    """Write the codes of all games to `moves`; returns the rows, the names, and what else is known."""
    rows: list[tuple[int, int, int, int]] = []
    names: list[str] = []
    unwanted: Counter[str] = Counter()
    seen: set[bytes] = set()
    start = 0
    games = read(source, workers=workers)
    with tqdm(games, "Reading games", unit="pos", unit_scale=True, delay=1) as bar:
        for game in games:
            reason = filters.refused(game)
            setup, codes = np.sort(encode(game.setup, game.size)), encode(game.moves, game.size)
            count = int(np.count_nonzero(codes & PASS != PASS))
            code = hashlib.blake2b(setup.tobytes() + b"/" + codes.tobytes(), digest_size=8).digest()
            reason = reason or ("" if count else "no move") or ("the moves of an earlier game" if code in seen else "")
            if reason:
                unwanted[reason] += 1
                continue
            seen.add(code)
            moves.write(setup.astype("<u2").tobytes() + codes.astype("<u2").tobytes())
            first = start + len(setup)
            rows.append((start, first, first + len(codes), count))
            names.append(_printable(game.name))
            start = first + len(codes)
            bar.update(count)
            bar.set_postfix(games=len(rows), refresh=False)
            if len(rows) == filters.max_games:
                break
    skipped = {_printable(game.name): _printable(game.reason) for game in games.skipped}
    return rows, names, {"filters": asdict(filters), "skipped": skipped, "unwanted": dict(unwanted)}


def _printable(text: str) -> str:
    """On one line and in UTF-8, which names of files need not be."""
    return " ".join(text.encode(errors="backslashreplace").decode().splitlines())
