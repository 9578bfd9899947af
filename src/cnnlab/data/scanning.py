"""Read every image once before the first epoch, to find unreadable files and images with equal contents."""

import hashlib
import json
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from cnnlab.data.decoding import decode_pixels
from cnnlab.data.images import ImageFiles, LabelledImages
from cnnlab.errors import DataError, InputError
from cnnlab.system.files import read_json, write_text

log = logging.getLogger(__name__)
SHOWN = 10
DIGEST = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True)
class Scan:
    """The result of reading every image."""

    images: LabelledImages
    """The images that can be read."""
    digests: list[str]
    """Hash of the content of each of these images."""
    skipped: dict[str, str]
    """Name -> reason of each skipped file."""


def scan(images: LabelledImages, bad_images: str, cache_dir: Path) -> Scan:
    """Read every image and find the unreadable ones.

    bad_images: "error" raises DataError for unreadable images, "skip" skips them. cache_dir: where the sizes and
    modification times of readable files are stored, so that only new or changed files are read again.
    Raises DataError that names the files for unreadable images under "error", or if a class has no image left.
    """
    if bad_images not in ("error", "skip"):
        raise InputError(f"data.bad_images={bad_images}: use error or skip.")
    if not isinstance(images, ImageFiles):
        return Scan(images, [images.digest(index) for index in range(len(images))], {})
    results = _read_all(images, cache_dir)
    bad = {images.name(i): reason for i, (digest, reason) in enumerate(results) if not digest}
    if bad and bad_images == "error":
        ways = "Repair or remove them, or skip them with data.bad_images=skip."
        raise DataError("\n".join([f"{len(bad)} of {len(images)} files cannot be read as images:", *_first(bad), ways]))
    if bad:
        log.warning("\n".join([f"{len(bad)} of {len(images)} files cannot be read and are skipped:", *_first(bad)]))
    good = [index for index, (digest, _) in enumerate(results) if digest]
    kept = images.subset(good)
    gone = set(range(len(images.classes))) - set(kept.labels.tolist())
    if gone:
        names = ", ".join(images.classes[label] for label in sorted(gone))
        raise DataError(f"Class {names} of {images.root} has no readable image. Add some, or remove the class.")
    digests = [results[index][0] for index in good]
    return Scan(replace(kept, digests=digests), digests, bad)


def _first(bad: dict[str, str]) -> list[str]:
    """Return one line for each of the first few reasons, and a line with the number of the others."""
    listed = [f"  {reason}" for reason in list(bad.values())[:SHOWN]]
    return [*listed, f"  ... and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else listed


def _read_all(images: ImageFiles, cache_dir: Path) -> list[tuple[str, str]]:
    """Return (digest, "") for each readable file and ("", reason) for each other file.

    Unreadable files are not cached, because the reason may be temporary: a permission or a lost connection.
    """
    folder_hash = hashlib.blake2b(str(images.root.absolute()).encode(errors="surrogateescape"), digest_size=8)
    cache_file = cache_dir / "scans" / f"{folder_hash.hexdigest()}.json"
    known = _load(cache_file)
    names = [images.name(index) for index in range(len(images))]
    states = [_state(path) for path in images.paths]
    unread = [index for index, name in enumerate(names) if name not in known or known[name][:2] != states[index]]
    reasons: dict[int, str] = {}
    if unread:
        with ThreadPoolExecutor() as pool:
            found = pool.map(lambda index: _read(images.paths[index]), unread)
            for index, (digest, reason) in tqdm(
                zip(unread, found, strict=True),
                "Checking images",
                len(unread),
                leave=False,
                delay=1,
                unit="img",
            ):
                reasons[index] = reason
                known[names[index]] = [*states[index], digest]
        try:
            write_text(cache_file, json.dumps({name: entry for name, entry in known.items() if entry[-1]}))
        except OSError as error:
            log.warning("Cannot store the list of checked images in %s: %s", cache_file, error)
    return [(known[name][-1], reasons.get(index, "")) for index, name in enumerate(names)]


def _state(path: Path) -> list[int]:
    """Return the size in bytes and the modification time in nanoseconds; [-1, -1] for a broken link."""
    try:
        status = path.stat()
    except OSError:
        return [-1, -1]
    return [status.st_size, status.st_mtime_ns]


def _read(path: Path) -> tuple[str, str]:
    name = str(path).encode(errors="backslashreplace").decode()
    if name != str(path):
        return "", f"{name}: the name is not valid UTF-8"
    try:
        decode_pixels(path, channels=3)
        return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest(), ""
    except DataError as error:
        return "", str(error)


def _load(cache_file: Path) -> dict[str, list]:
    """Return name -> [size, modification time, digest] of readable images; empty if the file is missing or damaged."""
    try:
        entries = read_json(cache_file)
        return {
            name: [size, time, digest] for name, (size, time, digest) in entries.items() if DIGEST.fullmatch(digest)
        }
    except (DataError, ValueError, AttributeError, TypeError):
        return {}
