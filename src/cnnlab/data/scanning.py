"""Every image is opened once before the first epoch: what cannot be read is known then, and so are equal contents."""

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
    """What reading every image found."""

    images: LabelledImages
    """The images that can be read."""
    digests: list[str]
    """A hash of the content of each of them."""
    skipped: dict[str, str]
    """Name -> reason of each file that was left out."""


def scan(images: LabelledImages, bad_images: str, cache_dir: Path) -> Scan:
    """Read every image; `bad_images` says whether one that cannot be read is an "error" or is left out ("skip").

    What was readable is kept in `cache_dir` by size and time of change, so that only other files are read again.
    Raises DataError, naming the files, for bad images under "error", or if a class has no image left.
    """
    if bad_images not in ("error", "skip"):
        raise InputError(f"data.bad_images={bad_images}: use error or skip.")
    if not isinstance(images, ImageFiles):
        return Scan(images, [images.digest(index) for index in range(len(images))], {})
    results = _read_all(images, cache_dir)
    bad = {images.name(i): reason for i, (digest, reason) in enumerate(results) if not digest}
    if bad and bad_images == "error":
        ways = "Repair or remove them, or leave them out with data.bad_images=skip."
        raise DataError("\n".join([f"{len(bad)} of {len(images)} files are no readable image:", *_first(bad), ways]))
    if bad:
        log.warning("\n".join([f"{len(bad)} of {len(images)} files are no readable image and left out:", *_first(bad)]))
    good = [index for index, (digest, _) in enumerate(results) if digest]
    kept = images.subset(good)
    gone = set(range(len(images.classes))) - set(kept.labels.tolist())
    if gone:
        names = ", ".join(images.classes[label] for label in sorted(gone))
        raise DataError(f"No readable image is left in class {names} of {images.root}. Add some, or remove the class.")
    digests = [results[index][0] for index in good]
    return Scan(replace(kept, digests=digests), digests, bad)


def _first(bad: dict[str, str]) -> list[str]:
    """A line for each of the first few reasons, and how many more there are."""
    listed = [f"  {reason}" for reason in list(bad.values())[:SHOWN]]
    return [*listed, f"  ... and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else listed


def _read_all(images: ImageFiles, cache_dir: Path) -> list[tuple[str, str]]:
    """(digest, "") of each readable file, ("", reason) of each other.

    The cache forgets what could not be read: the reason may have been a missing permission or a lost connection.
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
            log.warning("The list of checked images cannot be kept in %s: %s", cache_file, error)
    return [(known[name][-1], reasons.get(index, "")) for index, name in enumerate(names)]


def _state(path: Path) -> list[int]:
    """Size in bytes and time of the last change in nanoseconds; [-1, -1] of a link to nowhere."""
    try:
        status = path.stat()
    except OSError:
        return [-1, -1]
    return [status.st_size, status.st_mtime_ns]


def _read(path: Path) -> tuple[str, str]:
    name = str(path).encode(errors="backslashreplace").decode()
    if name != str(path):
        return "", f"{name}: the name is not in UTF-8"
    try:
        decode_pixels(path, channels=3)
        return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest(), ""
    except DataError as error:
        return "", str(error)


def _load(cache_file: Path) -> dict[str, list]:
    """Name -> [size, time of change, digest] of what could be read; a missing or damaged file counts as empty."""
    try:
        entries = read_json(cache_file)
        return {
            name: [size, time, digest] for name, (size, time, digest) in entries.items() if DIGEST.fullmatch(digest)
        }
    except (DataError, ValueError, AttributeError, TypeError):
        return {}
