"""Pictures of lines that a table lists with their texts."""

import csv
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from cnnlab.errors import DataError, InputError
from cnnlab.tasks.recognition.charset import Charset, build_charset
from cnnlab.tasks.recognition.lines import LineFiles, LineSplits

log = logging.getLogger(__name__)
NAMED = 5
"""Number of rows that are named when they are left out."""


@dataclass(frozen=True)
class Row:
    """A row of a table: where it is, the picture and its text as they are written."""

    place: str
    picture: str
    text: str


def text_table(
    *,
    charset: str,
    case: str,
    width: str,
    root: str | None,
    file: str,
    val_file: str | None = None,
    test_file: str | None = None,
    unknown: str = "error",
    bad_rows: str = "error",
) -> LineSplits:
    """Return the pictures of tables: `file` for training, and perhaps one each for validation and test.

    Tables are .tsv (picture, tab, text), .csv (two columns, or with a header that names `file` or `image` and `text`
    or `label`), ICDAR's .txt (picture, comma, quoted text) or IIIT5K's .mat. Pictures are named relative to the table's
    folder. charset, case, width: see `build_charset`. root: folder of the tables; None: the working directory.
    unknown: error or skip, for texts with characters that the set does not have. bad_rows: error or skip, for rows
    without a text or whose picture is missing.
    """
    for key, value in (("unknown_characters", unknown), ("bad_rows", bad_rows)):
        if value not in ("error", "skip"):
            raise InputError(f"data.{key}={value}: use error or skip.")
    characters, folder = build_charset(charset, case, width), Path(root or ".").expanduser()
    train = lines_of(folder / file, characters, unknown, bad_rows)
    val, test = (
        lines_of(folder / name, characters, unknown, bad_rows) if name else None for name in (val_file, test_file)
    )
    return LineSplits(train, val, test, characters)


def lines_of(table: Path, charset: Charset, unknown: str, bad_rows: str) -> LineFiles:
    """Return the lines of one table; what is left out is named in a warning, or refused."""
    if not table.is_file():
        raise DataError(f"{table.absolute()} not found. Set data.root and data.file.")
    rows = list(READERS.get(table.suffix.lower(), tab_separated)(table))
    if not rows:
        raise DataError(f"{table} lists no pictures.")
    texts = [charset.normalized(row.text) for row in rows]
    bad = [
        f"{row.place}: {'no text' if not text else f'{row.picture} not found'}"
        for row, text in zip(rows, texts, strict=True)
        if not text or not (table.parent / row.picture).is_file()
    ]
    leave_out(table, bad, bad_rows, "bad_rows")
    kept = [
        (row, text) for row, text in zip(rows, texts, strict=True) if text and (table.parent / row.picture).is_file()
    ]
    strange = charset.unknown(text for _, text in kept)
    with_strange = [f"{row.place}: {text}" for row, text in kept if charset.unknown([text])]
    names = ", ".join(f"{character!r} ({count})" for character, count in list(strange.items())[:NAMED])
    leave_out(table, with_strange, unknown, "unknown_characters", f"not in data.charset: {names}; ")
    kept = [(row, text) for row, text in kept if not charset.unknown([text])]
    if not kept:
        raise DataError(f"No row of {table} can be used.")
    paths = [table.parent / row.picture for row, _ in kept]
    return LineFiles(table.parent, paths, [text for _, text in kept], [size_of(path) for path in paths])


def leave_out(table: Path, rows: list[str], setting: str, key: str, what: str = "") -> None:
    """Warn of rows that are left out, or raise DataError that names them."""
    if not rows:
        return
    message = (
        f"{table}: {len(rows)} rows cannot be used: {what}{'; '.join(rows[:NAMED])}{'; ...' * (len(rows) > NAMED)}"
    )
    if setting == "error":
        raise DataError(f"{message}. Mend them, or set data.{key}=skip.")
    log.warning("%s.", message)


def tab_separated(table: Path) -> Iterator[Row]:
    """Yield the rows of a table with a tab between picture and text."""
    for number, line in enumerate(read_text(table).splitlines(), start=1):
        if line.strip():
            picture, tab, text = line.partition("\t")
            if not tab:
                raise DataError(f"{table}, line {number}: no tab between picture and text: {line[:60]!r}.")
            yield Row(f"line {number}", picture.strip(), text)


def comma_separated(table: Path) -> Iterator[Row]:
    """Yield the rows of a CSV file, with or without a header, with quotes where needed."""
    rows = list(csv.reader(read_text(table).splitlines(), skipinitialspace=True))
    head = [cell.strip().lower() for cell in rows[0]] if rows else []
    picture = next((head.index(name) for name in ("file", "image", "filename", "path") if name in head), -1)
    text = next((head.index(name) for name in ("text", "label", "transcript", "words") if name in head), -1)
    has_head = min(picture, text) >= 0
    for number, row in enumerate(rows[has_head:], start=1 + has_head):
        if not any(cell.strip() for cell in row):
            continue
        places = (picture, text) if has_head else (0, 1)
        if len(row) <= max(places):
            raise DataError(f"{table}, line {number}: a picture and a text are needed, not {', '.join(row)!r}.")
        yield Row(f"line {number}", row[places[0]].strip(), row[places[1]])


def iiit5k(table: Path) -> Iterator[Row]:
    """Yield the rows of traindata.mat or testdata.mat of IIIT5K (Mishra et al. 2012)."""
    from scipy.io import loadmat

    try:
        contents: dict[str, Any] = loadmat(str(table), squeeze_me=True)
    except (ValueError, OSError, RuntimeError) as error:  # SciPy does not read version 7.3
        raise DataError(f"{table} is not a table of IIIT5K: {error}.") from error
    entries = next((contents[name] for name in contents if name.lower().startswith(("train", "test"))), None)
    if entries is None or not {"ImgName", "GroundTruth"} <= set(entries.dtype.names or ()):
        raise DataError(f"{table} is not a table of IIIT5K: it has no ImgName and GroundTruth.")
    for number, entry in enumerate(entries, start=1):
        yield Row(f"entry {number}", str(entry["ImgName"]), str(entry["GroundTruth"]))


READERS = {".csv": comma_separated, ".txt": comma_separated, ".mat": iiit5k}
"""Suffix of a table -> what reads it; other tables are tab-separated."""


def read_text(table: Path) -> str:
    """Return a table's text; raise DataError if it is not UTF-8."""
    try:
        return table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{table} is not UTF-8 text: {error}. Save it as UTF-8.") from error


def size_of(path: Path) -> tuple[int, int]:
    """Return height and width of a picture, (1, 1) if it cannot be read: scanning the files names it."""
    try:
        with Image.open(path) as picture:
            return picture.height, picture.width
    except (OSError, ValueError):
        return 1, 1
