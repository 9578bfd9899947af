"""Download files from fixed addresses, with a checksum, a size limit and safe extraction."""

import hashlib
import logging
import stat
import tarfile
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any, NamedTuple

from tqdm import tqdm

from cnnlab.errors import DataError
from cnnlab.system.files import write_atomically

log = logging.getLogger(__name__)
CHUNK = 1 << 20


def download(url: str, path: Path, *, sha256: str, max_bytes: int, timeout: float = 20) -> Path:
    """Download `url` to `path` unless the file already exists, and return `path`.

    sha256: hexadecimal digest or a prefix of it. timeout: seconds.
    Raises DataError if the download fails, sends more than `max_bytes` or fails the checksum; no partial file is left
    behind. Also raises it if an existing file fails the checksum.
    """
    if path.is_file():
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if not found.startswith(sha256.lower()):
            raise DataError(f"{path} has SHA-256 {found}, expected {sha256}. Remove it to download it again.")
        return path
    log.info("Downloading %s to %s", url, path)

    def fetch(file: IO[bytes]) -> None:
        digest = hashlib.sha256()
        with urllib.request.urlopen(url, timeout=timeout) as response:
            total = int(response.headers.get("Content-Length") or 0) or None
            with tqdm(total=total, unit="B", unit_scale=True, desc=path.name, disable=None) as bar:
                while chunk := response.read(CHUNK):
                    bar.update(file.write(chunk))
                    digest.update(chunk)
                    if file.tell() > max_bytes:
                        raise DataError(f"{url} is not the expected file: it sends more than {max_bytes} bytes.")
            if total and file.tell() < total:
                raise DataError(
                    f"{url} cannot be downloaded: the connection ended after {file.tell()} of {total} bytes."
                )
        if not digest.hexdigest().startswith(sha256.lower()):
            raise DataError(f"{url} is not the expected file: SHA-256 {digest.hexdigest()}, expected {sha256}.")

    try:
        write_atomically(path, fetch)
    except (OSError, HTTPException) as error:
        raise DataError(f"{url} cannot be downloaded: {error}") from error
    return path


def fetch_folder(url: str, folder: Path, *, inside: str, sha256: str, archive_bytes: int) -> None:
    """Download the tar or zip archive at `url` and unpack its folder `inside` to `folder`, completely or not at all.

    sha256: see `download`; "" if the publisher gives none. The archive is stored next to `folder` and removed after
    unpacking; one that was already there is used and kept.
    Raises DataError if anything fails.
    """
    archive = folder.parent / url.rsplit("/", 1)[1]
    keep = archive.is_file()
    download(url, archive, sha256=sha256, max_bytes=archive_bytes)
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            extract(archive, Path(scratch), max_bytes=2 * archive_bytes)
            (Path(scratch) / inside).rename(folder)
        if not keep:
            archive.unlink()
    except OSError as error:
        raise DataError(f"{archive} cannot be unpacked to {folder}: {error}") from error
    log.info("Unpacked %s to %s", archive, folder)


def extract(archive: Path, folder: Path, *, max_bytes: int) -> None:
    """Unpack a tar or zip archive of regular files into `folder`.

    Raises DataError if the archive is damaged, contains links, devices or paths outside `folder`, or would unpack to
    more than `max_bytes`. All members are checked before anything is unpacked.
    """
    try:
        with _opened(archive) as opened:
            members = _members(opened)
            _require_harmless(archive, members, max_bytes)
            files = [member.original for member in members if not member.is_folder]
            if isinstance(opened, zipfile.ZipFile):
                opened.extractall(folder, files)
            else:
                opened.extractall(folder, files, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, RuntimeError) as error:  # it needs a password
        raise DataError(f"{archive} cannot be unpacked: {error}") from error


class Member(NamedTuple):
    """A file or folder in an archive; original: what its library calls it."""

    name: str
    size: int
    is_folder: bool
    is_file: bool
    original: Any


def _opened(archive: Path) -> tarfile.TarFile | zipfile.ZipFile:
    return zipfile.ZipFile(archive) if archive.suffix == ".zip" else tarfile.open(archive)


def _members(opened: tarfile.TarFile | zipfile.ZipFile) -> list[Member]:
    if isinstance(opened, tarfile.TarFile):
        return [Member(each.name, each.size, each.isdir(), each.isfile(), each) for each in opened]
    found = []
    for each in opened.infolist():
        kind = stat.S_IFMT(each.external_attr >> 16)  # 0 if the archive was not made on Unix
        is_file = not each.is_dir() and kind in (0, stat.S_IFREG)
        found.append(Member(each.filename, each.file_size, each.is_dir(), is_file, each))
    return found


def _require_harmless(archive: Path, members: Sequence[Member], max_bytes: int) -> None:
    links = [member.name for member in members if not member.is_file and not member.is_folder]
    if links:
        raise DataError(f"{archive} was not unpacked: it contains a link or device ({links[0]}).")
    strays = [member.name for member in members if member.name.startswith("/") or ".." in member.name.split("/")]
    if strays:
        raise DataError(f"{archive} was not unpacked: it contains a path outside its folder ({strays[0]}).")
    size = sum(member.size for member in members if member.is_file)
    if size > max_bytes:
        raise DataError(f"{archive} was not unpacked: it holds {size} bytes, more than {max_bytes}.")
