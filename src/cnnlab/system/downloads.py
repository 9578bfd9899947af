"""Downloads from fixed addresses: checksum, size limit, safe extraction."""

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
    """Fetch `url` to `path` unless it is there; `sha256` may be a prefix of the hexadecimal digest.

    Raises DataError if the address cannot be reached, sends more than `max_bytes` or fails the checksum, and leaves
    nothing behind then; also if the file that is there fails it.
    """
    if path.is_file():
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if not found.startswith(sha256.lower()):
            raise DataError(f"{path} has SHA-256 {found}, expected {sha256}: remove it to fetch it again.")
        return path
    log.info("Downloading %s to %s", url, path)

    def fetch(file: IO[bytes]) -> None:
        digest = hashlib.sha256()
        with urllib.request.urlopen(url, timeout=timeout) as response:
            total = int(response.headers.get("Content-Length") or 0) or None
            with tqdm(total=total, unit="B", unit_scale=True, desc=path.name) as bar:
                while chunk := response.read(CHUNK):
                    bar.update(file.write(chunk))
                    digest.update(chunk)
                    if file.tell() > max_bytes:
                        raise DataError(f"{url} sends more than {max_bytes} bytes: not the expected file.")
        if not digest.hexdigest().startswith(sha256.lower()):
            raise DataError(f"{url} has SHA-256 {digest.hexdigest()}, expected {sha256}: not the expected file.")

    try:
        write_atomically(path, fetch)
    except (OSError, HTTPException) as error:
        raise DataError(f"{url} cannot be downloaded: {error}") from error
    return path


def fetch_folder(url: str, folder: Path, *, inside: str, sha256: str, archive_bytes: int) -> None:
    """Download the tar archive at `url` beside `folder` and unpack the folder `inside` it to `folder`, whole or not.

    An archive that already lies there is used, and kept. Raises DataError if anything fails.
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
    """Unpack a tar archive of plain files below `folder`.

    Raises DataError on links, devices, paths that leave `folder`, more than `max_bytes` of contents, or damage.
    Nothing is unpacked unless every path, kind and size is right.
    """
    try:
        with tarfile.open(archive) as tar:
            members = [member for member in tar if not member.isdir()]
            links = [member.name for member in members if not member.isfile()]
            if links:
                raise DataError(f"{archive} holds a link or device ({links[0]}): refused.")
            strays = [name for name in tar.getnames() if name.startswith("/") or ".." in name.split("/")]
            if strays:
                raise DataError(f"{archive} holds a path that leaves its folder ({strays[0]}): refused.")
            size = sum(member.size for member in members)
            if size > max_bytes:
                raise DataError(f"{archive} would unpack to {size} bytes, more than {max_bytes}: refused.")
            tar.extractall(folder, members=members, filter="data")
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{archive} cannot be unpacked: {error}") from error
