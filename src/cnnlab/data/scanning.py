"""Every image is opened once before the first epoch: what cannot be read is known then, and so are equal contents."""

import hashlib
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from cnnlab.data.decoding import decode_pixels
from cnnlab.data.images import ImageFiles, LabelledImages
from cnnlab.errors import DataError, InputError
from cnnlab.files import write_text

log = logging.getLogger(__name__)
SHOWN = 10


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

    Results are kept in `cache_dir` by path, size and time of change, so that only new files are read again.
    Raises DataError, naming the files, for bad images under "error", or if a class has no image left.
    """
    if bad_images not in ("error", "skip"):
        raise InputError(f"data.bad_images={bad_images}: use error or skip.")
    if not isinstance(images, ImageFiles):
        return Scan(images, [images.digest(index) for index in range(len(images))], {})
    results = _read_all(images, cache_dir)
    bad = {images.name(i): reason for i, (digest, reason) in enumerate(results) if not digest}
    if bad and bad_images == "error":
        listed = [f"  {reason}" for reason in list(bad.values())[:SHOWN]]
        more = [f"  ... and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else []
        ways = "Repair or remove them, or leave them out with data.bad_images=skip."
        raise DataError("\n".join([f"{len(bad)} of {len(images)} files are no readable image:", *listed, *more, ways]))
    for reason in bad.values():
        log.warning("Left out: %s", reason)
    good = [index for index, (digest, _) in enumerate(results) if digest]
    kept = images.subset(good)
    gone = set(range(len(images.classes))) - set(kept.labels.tolist())
    if gone:
        names = ", ".join(images.classes[label] for label in sorted(gone))
        raise DataError(f"No readable image is left in class {names} of {images.root}.")
    digests = [results[index][0] for index in good]
    return Scan(replace(kept, digests=digests), digests, bad)


def _read_all(images: ImageFiles, cache_dir: Path) -> list[tuple[str, str]]:
    """(digest, "") of each readable file, ("", reason) of each other."""
    folder_hash = hashlib.blake2b(str(images.root.absolute()).encode(), digest_size=8).hexdigest()
    cache_file = cache_dir / "scans" / f"{folder_hash}.json"
    known = _load(cache_file)
    keys = [f"{images.name(i)}|{(s := path.stat()).st_size}|{s.st_mtime_ns}" for i, path in enumerate(images.paths)]
    unread = [index for index, key in enumerate(keys) if key not in known]
    if unread:
        with ThreadPoolExecutor() as pool:
            found = pool.map(lambda index: _read(images.paths[index]), unread)
            for index, result in tqdm(
                zip(unread, found, strict=True),
                "Checking images",
                len(unread),
                leave=False,
                delay=1,
                unit="img",
            ):
                known[keys[index]] = result
        try:
            write_text(cache_file, json.dumps({key: known[key] for key in keys}))
        except OSError as error:
            log.warning("The list of checked images cannot be kept in %s: %s", cache_file, error)
    return [known[key] for key in keys]


def _read(path: Path) -> tuple[str, str]:
    try:
        decode_pixels(path, channels=3)
        return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest(), ""
    except DataError as error:
        return "", str(error)


def _load(cache_file: Path) -> dict[str, tuple[str, str]]:
    """What earlier scans found; a missing or damaged cache file counts as empty."""
    try:
        entries = json.loads(cache_file.read_text(encoding="utf-8"))
        return {str(key): (str(digest), str(reason)) for key, (digest, reason) in entries.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
