"""Download files from fixed addresses, with a checksum, a size limit and safe extraction."""

import hashlib
import logging
import tarfile
import tempfile
import urllib.request
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import IO

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
        if not digest.hexdigest().startswith(sha256.lower()):
            raise DataError(f"{url} is not the expected file: SHA-256 {digest.hexdigest()}, expected {sha256}.")

    try:
        write_atomically(path, fetch)
    except (OSError, HTTPException) as error:
        raise DataError(f"{url} cannot be downloaded: {error}") from error
    return path


def fetch_folder(url: str, folder: Path, *, inside: str, sha256: str, archive_bytes: int) -> None:
    """Download the tar archive at `url` and unpack its folder `inside` to `folder`, completely or not at all.

    The archive is stored next to `folder` and removed after unpacking; one that was already there is used and kept.
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
    """Unpack a tar archive of regular files into `folder`.

    Raises DataError if the archive is damaged, contains links, devices or paths outside `folder`, or would unpack to
    more than `max_bytes`. All members are checked before anything is unpacked.
    """
    try:
        with tarfile.open(archive) as tar:
            members = [member for member in tar if not member.isdir()]
            links = [member.name for member in members if not member.isfile()]
            if links:
                raise DataError(f"{archive} was not unpacked: it contains a link or device ({links[0]}).")
            strays = [name for name in tar.getnames() if name.startswith("/") or ".." in name.split("/")]
            if strays:
                raise DataError(f"{archive} was not unpacked: it contains a path outside its folder ({strays[0]}).")
            size = sum(member.size for member in members)
            if size > max_bytes:
                raise DataError(f"{archive} was not unpacked: it holds {size} bytes, more than {max_bytes}.")
            tar.extractall(folder, members=members, filter="data")
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{archive} cannot be unpacked: {error}") from error
