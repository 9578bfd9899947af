"""Read SGF text from bytes, files, folders and zip archives, within size limits and without unpacking to disk."""

import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from cnnlab.errors import DataError
from cnnlab.system.files import files_below

MAX_BYTES = 256 * 2**20
"""Size limit in bytes of a file, also of one inside an archive."""
MAX_RATIO = 100
"""Largest compression ratio of a zip archive, against zip bombs; SGF text compresses five- to tenfold."""


def documents(source: Path | bytes, max_bytes: int = MAX_BYTES) -> Iterator[tuple[str, bytes | str]]:
    """Yield (name, contents as bytes) of each record file of `source`, or (name, reason as str) of one left out.

    source: SGF or zip as bytes; a file of either kind; or a folder with .sgf and .zip files at any depth.
    Raises DataError if the path does not exist or the folder has no such file.
    """
    if isinstance(source, bytes):
        if zipfile.is_zipfile(io.BytesIO(source)):
            yield from _zipped("bytes", io.BytesIO(source), len(source), max_bytes)
        else:
            yield "bytes", source if len(source) <= max_bytes else _too_large(len(source), max_bytes)
    else:
        for path in record_files(source):
            name = path.relative_to(source).as_posix() if path != source else path.name
            yield from _file(path, name, max_bytes)


def record_files(source: Path) -> list[Path]:
    """Return the .sgf and .zip files of a folder at any depth, also in linked folders, or `source` itself if a file.

    Raises DataError if there are none.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise DataError(f"{source.absolute()} does not exist.")
    files = [path for path in files_below(source) if path.suffix.lower() in (".sgf", ".zip")]
    if not files:
        raise DataError(f"{source.absolute()} has no .sgf or .zip file.")
    return files


def _file(path: Path, name: str, max_bytes: int) -> Iterator[tuple[str, bytes | str]]:
    try:
        size = path.stat().st_size
        if zipfile.is_zipfile(path):
            with path.open("rb") as file:
                yield from _zipped(name, file, size, max_bytes)
        elif size > max_bytes:
            yield name, _too_large(size, max_bytes)
        else:
            yield name, path.read_bytes()
    except OSError as error:
        yield name, f"it cannot be read: {error.strerror or error}"


def _zipped(name: str, file: IO[bytes], size: int, max_bytes: int) -> Iterator[tuple[str, bytes | str]]:
    try:
        with zipfile.ZipFile(file) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.lower().endswith(".sgf")]
            unpacked = sum(entry.file_size for entry in entries)
            if unpacked > MAX_RATIO * size:
                yield name, f"it would unpack to {unpacked} bytes, more than {MAX_RATIO} times its size"
                return
            for entry in entries:
                label = f"{name}/{entry.filename}"
                try:
                    with archive.open(entry) as opened:
                        contents = opened.read(max_bytes + 1)
                    yield label, contents if len(contents) <= max_bytes else _too_large(entry.file_size, max_bytes)
                except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
                    yield label, f"it cannot be unpacked: {error}"
                except RuntimeError as error:  # encrypted; an unknown compression
                    yield label, f"it cannot be unpacked: {error}"
    except (zipfile.BadZipFile, ValueError) as error:
        yield name, f"it cannot be unpacked: {error}"


def _too_large(size: int, max_bytes: int) -> str:
    return f"it has {size} bytes, more than {max_bytes}"
