"""Images that a table lists with their labels: CSV with any delimiter, perhaps in gzip, or Parquet."""

import csv
import gzip
import io
import logging
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from cnnlab.data.images import ImageFiles, Splits
from cnnlab.data.sources.layouts import PARTS
from cnnlab.errors import DataError, InputError, nearest
from cnnlab.system.files import printable

log = logging.getLogger(__name__)
DELIMITERS = (",", "\t", ";", "|")
GZIP, PARQUET = b"\x1f\x8b", b"PAR1"
"""First bytes of these files."""
UTF16 = (b"\xff\xfe", b"\xfe\xff")
NAMED = 10
"""Number of rows that a message names."""


@dataclass(frozen=True)
class Table:
    """The cells of a table as text, without blanks around them; empty where a value is missing."""

    path: Path
    columns: list[str]
    rows: list[list[str]]
    places: list[str]
    """Where each row is: "line 7"."""

    def column(self, key: str, name: str) -> list[str]:
        """Return the cells of a column; raise InputError, naming `key` of the config, if there is not exactly one."""
        if self.columns.count(name) != 1:
            found = "has no column" if name not in self.columns else "has several columns"
            raise InputError(f"{key}={name}: {self.path} {found} {name}. {nearest([name], self.columns)}")
        place = self.columns.index(name)
        return [row[place] for row in self.rows]


def table(
    file: str,
    root: str | None = None,
    image_column: str = "image",
    label_column: str = "label",
    split_column: str | None = None,
    bad_rows: str = "error",
    groups: str | None = None,
) -> Splits:
    """Return the images that a table lists, with one label each; the classes are the labels of the training images.

    root: folder that the paths in `image_column` are relative to; None: that of the table. split_column: says train,
    val or test; None: all images are one set. bad_rows: "error" raises DataError for rows whose file is missing or
    whose label, part or group is empty, "skip" leaves them out; both name them. groups: data.groups, which may be the
    name of a column.
    Raises InputError for a column that does not exist, and DataError for a table that cannot be read.
    """
    if bad_rows not in ("error", "skip"):
        raise InputError(f"data.bad_rows={bad_rows}: use error or skip.")
    path = Path(file).expanduser()
    found = read_table(path, [image_column, label_column])
    names, labels = found.column("data.image_column", image_column), found.column("data.label_column", label_column)
    parts = found.column("data.split_column", split_column) if split_column is not None else ["train"] * len(names)
    of_group = _group_column(found, groups)
    folder = Path(root).expanduser() if root is not None else path.parent
    paths = [_picture(folder, name) for name in names]
    problems: dict[int, str] = {}
    for index, (name, label, part) in enumerate(zip(names, labels, parts, strict=True)):
        missing = [key for key, value in (("image", name), ("label", label), ("part", part)) if not value]
        missing += ["group"] if of_group is not None and not of_group[index] else []
        if missing:
            problems[index] = f"no {' and no '.join(missing)}"
        elif not paths[index].is_file():
            problems[index] = f"{name} not found in {folder.absolute()}"
    _report(found, problems, bad_rows)
    rows = [index for index in range(len(paths)) if index not in problems]
    part_of = {index: _part_of(parts[index], found.places[index], split_column) for index in rows}
    kept = _without_copies(found, rows, paths, [(labels[index], part_of.get(index)) for index in range(len(paths))])
    return _splits(found, kept, paths, labels, part_of, of_group)


def _splits(
    found: Table,
    kept: Sequence[int],
    paths: Sequence[Path],
    labels: Sequence[str],
    part_of: Mapping[int, str],
    of_group: Sequence[str] | None,
) -> Splits:
    """Return the images of the rows `kept`, by their parts."""
    classes = in_order({labels[index] for index in kept if part_of[index] == "train"})
    if not classes:
        raise DataError(f"{found.path} lists no images to train on.")
    for index in kept:
        if labels[index] not in classes:
            raise DataError(
                f"{found.path}, {found.places[index]}: {labels[index]} is not the label of any training image."
            )
    number = {label: place for place, label in enumerate(classes)}
    root = Path(os.path.commonpath([paths[index].parent for index in kept]))

    def images_of(part: str) -> ImageFiles | None:
        rows = [index for index in kept if part_of[index] == part]
        if not rows:
            return None
        return ImageFiles(
            root,
            [paths[index] for index in rows],
            np.array([number[labels[index]] for index in rows]),
            [printable(label) for label in classes],
            groups=None if of_group is None else [of_group[index] for index in rows],
        )

    train = images_of("train")
    assert train is not None  # they have classes
    return Splits(train, images_of("val"), images_of("test"))


def in_order(labels: set[str]) -> list[str]:
    """Return labels in alphabetical order, or by size if all are whole numbers."""
    are_numbers = all(re.fullmatch(r"-?\d{1,18}", label) for label in labels)
    return sorted(labels, key=lambda label: (int(label), label)) if are_numbers else sorted(labels)


def _group_column(found: Table, groups: str | None) -> list[str] | None:
    """Return the group of each row if data.groups is a column; None if it is an expression for the files' names."""
    if groups is None or (groups not in found.columns and not groups.replace(" ", "_").isidentifier()):
        return None
    return found.column("data.groups", groups)


def _picture(folder: Path, name: str) -> Path:
    """Return the path of a picture; on other systems than Windows, a backslash may stand between folders."""
    path = Path(os.path.abspath(folder / name))
    if "\\" in name and not path.is_file():
        path = Path(os.path.abspath(folder / name.replace("\\", "/")))
    return path


def _report(found: Table, problems: Mapping[int, str], bad_rows: str) -> None:
    """Name the rows that cannot be used in a warning, or raise DataError that does."""
    if not problems:
        return
    lines = [f"  {found.places[index]}: {problem}" for index, problem in list(problems.items())[:NAMED]]
    more = [f"  ... and {len(problems) - NAMED} more"] if len(problems) > NAMED else []
    head = f"{len(problems)} of {len(found.rows)} rows of {found.path} cannot be used"
    if bad_rows == "error" or len(problems) == len(found.rows):
        ways = "Mend them, set data.root, or skip them with data.bad_rows=skip."
        raise DataError("\n".join([f"{head}:", *lines, *more, ways]))
    log.warning("\n".join([f"{head} and are skipped:", *lines, *more]))


def _without_copies(
    found: Table, rows: Sequence[int], paths: Sequence[Path], said: Sequence[tuple[str, str | None]]
) -> list[int]:
    """Return the rows without those that repeat another; raise DataError for a file with two labels or in two parts.

    said: label and part of each row.
    """
    first: dict[Path, int] = {}
    for index in rows:
        other = first.setdefault(paths[index], index)
        for what, one, two in zip(("has two labels", "is in two parts"), said[other], said[index], strict=True):
            if one != two:
                raise DataError(
                    f"{found.path}, {found.places[other]} and {found.places[index]}: {paths[index].name} {what}, "
                    f"{one} and {two}."
                )
    if len(first) < len(rows):
        log.warning("%d rows of %s repeat another row.", len(rows) - len(first), found.path)
    return list(first.values())


def _part_of(word: str, place: str, column: str | None) -> str:
    for part, words in PARTS.items():
        if word.lower() in words:
            return part
    raise DataError(f"data.split_column={column}, {place}: {word!r} is not a part. Use train, val or test.")


# --- Reading ---


def read_table(path: Path, needed: Sequence[str]) -> Table:
    """Return the table in a file, which its first bytes tell: Parquet, or CSV as text or in gzip.

    needed: columns that tell the delimiter of a CSV file. Raises DataError for one that cannot be read.
    """
    if not path.is_file():
        raise DataError(f"{path.absolute()} not found. Set data.file to a table of images and labels.")
    content = path.read_bytes()
    if content.startswith(PARQUET):
        return _parquet(path)
    if content.startswith(GZIP):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} is damaged: {error}.") from error
    text = _decoded(path, content)
    heads = {delimiter: _head(path, text, delimiter) for delimiter in DELIMITERS}
    best = max(heads, key=lambda delimiter: (sum(name in heads[delimiter] for name in needed), len(heads[delimiter])))
    return _checked(path, _separated(path, text, best))


def _head(path: Path, text: str, delimiter: str) -> list[str]:
    """Return the names of the columns if this is the delimiter; [] if the first row cannot be read with it."""
    try:
        return next(_separated(path, text, delimiter), (1, []))[1]
    except DataError:
        return []


def _decoded(path: Path, content: bytes) -> str:
    """Return a file's text: UTF-16 if it begins with its mark, else UTF-8, with a mark or without."""
    encoding = "utf-16" if content.startswith(UTF16) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        name = encoding.removesuffix("-sig").upper()
        raise DataError(f"{path}, line {line}: this is not {name} text. Save the table as UTF-8.") from error
    if "\0" in text:
        raise DataError(f"{path} is not a table: it is neither text nor Parquet.")
    return text


def _separated(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line where each row begins, and its cells; empty rows are left out."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    line = 1
    try:
        for row in reader:
            if any(cells := [cell.strip() for cell in row]):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {line}: {error}.") from error


def _checked(path: Path, rows: Iterator[tuple[int, list[str]]]) -> Table:
    """Return the rows, the first of which is the head, as a Table.

    Raises DataError for a row that has not as many cells as the head.
    """
    _, head = next(rows, (1, []))
    cells, places = [], []
    for line, row in rows:
        if len(row) < len(head) or any(row[len(head) :]):
            raise DataError(f"{path}, line {line}: {len(row)} cells in a table of {len(head)} columns.")
        cells.append(row[: len(head)])
        places.append(f"line {line}")
    if not cells:
        raise DataError(f"{path} has no rows below its head.")
    return Table(path, head, cells, places)


def _parquet(path: Path) -> Table:
    """Return the table in a Parquet file, read by pyarrow or by pandas with any engine."""
    if find_spec("pyarrow"):
        from pyarrow.parquet import read_table as read

        columns: Callable[[], dict[str, list[Any]]] = lambda: read(path).to_pydict()  # noqa: E731
    elif find_spec("pandas"):
        from pandas import read_parquet

        columns = lambda: read_parquet(path).to_dict("list")  # noqa: E731
    else:
        raise InputError(f"{path} is a Parquet file, which pyarrow or pandas reads: pip install pyarrow")
    try:
        found = columns()
    except Exception as error:  # the libraries have errors of their own
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    rows = [[_text(value) for value in row] for row in zip(*found.values(), strict=True)]
    if not rows:
        raise DataError(f"{path} has no rows.")
    places = [f"row {number}" for number in range(1, len(rows) + 1)]
    return Table(path, [str(name).strip() for name in found], rows, places)


def _text(value: Any) -> str:
    """Return a cell as text; empty if it is missing (None or NaN)."""
    return "" if value is None or value != value else str(value).strip()
