"""Archives of games: records are parsed once, stored with two bytes a move, and then memory-mapped."""

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
from cnnlab.system.files import printable, read_json, write_json

log = logging.getLogger(__name__)
VERSION = 2
"""Version of the file format and of the parsing; archives of another version are rebuilt."""
LARGE = 50 * 2**20
"""Size of the records in bytes above which several processes parse them."""
RANK = re.compile(r"(\d+)\s*(k|d|p|级|級|段)", re.IGNORECASE)
DATE = re.compile(r"\d{4}(-\d\d(-\d\d)?)?")
ROW = np.dtype([("start", "<i8"), ("first_move", "<i8"), ("end", "<i8"), ("positions", "<i4")])
"""Row of a game: where its set-up stones, its moves and the next game start in moves.bin; its moves except passes."""


@dataclass(frozen=True)
class Filters:
    """Conditions on the games to keep; None sets no condition."""

    size: int = 19
    min_rank: str | None = None
    """Minimum rank of both players: 6d, 1p, 3k. Excludes games without ranks."""
    max_handicap: int | None = None
    """Maximum number of handicap stones; 0 keeps only even games."""
    first_date: str | None = None
    """Earliest date: 2016, 2016-07 or 2016-07-31. Excludes games without a date."""
    last_date: str | None = None
    """Latest date, in the same form."""
    results: Sequence[str] | None = None
    """Allowed prefixes of the result (RE): [B+R, W+R] keeps games that ended by resignation."""
    max_games: int | None = None
    """Maximum number of games; the first ones that match are kept."""

    def __post_init__(self) -> None:
        """Raise InputError for an invalid rank, date or number of games."""
        if self.min_rank is not None and strength(self.min_rank) is None:
            raise InputError(f"data.min_rank={self.min_rank}: use a rank such as 3k, 6d or 1p.")
        for name in ("first_date", "last_date"):
            value = getattr(self, name)
            if value is not None and not DATE.fullmatch(str(value)):
                raise InputError(f"data.{name}={value}: use 2016, 2016-07 or 2016-07-31.")
        if self.max_games is not None and self.max_games < 1:
            raise InputError(f"data.max_games={self.max_games}: use at least 1, or null for all games.")

    def refused(self, game: Game) -> str:
        """Return why the game does not match; "" if it does."""
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
    """Return a rank as a number: 1k is 0, 1d is 1, 1p follows 9d; None if the text contains no rank."""
    found = RANK.search(rank)
    if not found:
        return None
    number, kind = int(found[1]), found[2].lower()
    return 1 - number if kind in ("k", "级", "級") else number if kind in ("d", "段") else 9 + number


class Archive:
    """The games in a folder written by `open_archive`, in the order of their records.

    positions: int64 [games], number of moves of each game except passes. skipped: name -> why a record was left out.
    unwanted: reason -> number of games that the filters exclude.
    """

    def __init__(self, folder: Path) -> None:
        """Map the files of an archive; raise DataError if they are missing, damaged or inconsistent."""
        self.folder = folder
        try:
            self._read()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{folder} is not an archive of games, or is damaged: {error}.") from error

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
        """Raise ValueError unless the rows split the moves into consecutive games with the stated positions."""
        start, first, end = (self._rows[name] for name in ("start", "first_move", "end"))
        borders = np.append(start, len(self._codes))
        if len(self.names) != len(start) or not len(start) or borders[0] != 0:
            raise ValueError("names, games and moves do not belong together")
        if (start > first).any() or (first >= end).any() or (end != borders[1:]).any():
            raise ValueError("the games do not follow each other in the moves")
        moves = np.add.reduceat(self._codes & PASS != PASS, start, dtype=np.int64)
        if (moves - (first - start) != self.positions).any():
            raise ValueError("the numbers of moves are wrong")
        if not all(isinstance(word, str) for entry in self.skipped.items() for word in entry):
            raise ValueError("the list of skipped records does not map names to reasons")
        if not all(isinstance(count, int) for count in self.unwanted.values()):
            raise ValueError("the list of unwanted games does not map reasons to counts")

    def __reduce__(self) -> Any:
        """Pickle only the folder: each process maps the files itself."""
        return Archive, (self.folder,)

    def __len__(self) -> int:
        return len(self._rows)

    def moves(self, game: int) -> np.ndarray:
        """Return the moves of a game, encoded as by `positions.encode`: uint16 [n]."""
        row = self._rows[game]
        return self._codes[row["first_move"] : row["end"]]

    def setup(self, game: int) -> np.ndarray:
        """Return the stones on the board before the first move, encoded like moves: uint16 [n]."""
        row = self._rows[game]
        return self._codes[row["start"] : row["first_move"]]


def open_archive(source: Path, filters: Filters, cache_dir: Path, workers: int = 0) -> Archive:
    """Return the games of an SGF file, a zip archive or a folder of them that match the filters.

    The first call parses the records and stores the archive below `cache_dir`, under a hash of the files' contents and
    the filters; later calls open it. Of games with the same moves only the first is kept.
    workers: processes that parse large collections.
    Raises DataError without records, or if no game matches.
    """
    files = record_files(source)
    digest = hashlib.blake2b(json.dumps([VERSION, asdict(filters)]).encode(), digest_size=10)
    for path in files:
        digest.update(os.fsencode(path.relative_to(source)) + b"\0")
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest())
        except OSError:
            digest.update(b"unreadable")  # `read` reports the file
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
    """Return the archive if it exists; remove a damaged one and return None."""
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
    """Write the archive to a temporary folder and rename it; if several processes do so, the first one wins."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        with (temporary / "moves.bin").open("wb") as moves:
            rows, names, about = _fill(source, filters, moves, workers)
        if not rows:
            unwanted = ", ".join(f"{count} ({reason})" for reason, count in about["unwanted"].items()) or "none"
            broken = len(about["skipped"])
            raise DataError(f"{source.absolute()} has no game left: broken {broken}, not wanted {unwanted}.")
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
    """Write the encoded moves of all games to `moves`; return the rows, the names, and the contents of about.json."""
    rows: list[tuple[int, int, int, int]] = []
    names: list[str] = []
    unwanted: Counter[str] = Counter()
    seen: set[bytes] = set()
    start = 0
    games = read(source, workers=workers)
    with tqdm(games, "Reading games", unit="pos", unit_scale=True, delay=1, disable=None) as bar:
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
            names.append(printable(game.name))
            start = first + len(codes)
            bar.update(count)
            bar.set_postfix(games=len(rows), refresh=False)
            if len(rows) == filters.max_games:
                break
    skipped = {printable(game.name): printable(game.reason) for game in games.skipped}
    return rows, names, {"filters": asdict(filters), "skipped": skipped, "unwanted": dict(unwanted)}
