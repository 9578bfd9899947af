"""Read every image once before the first epoch, to find unreadable files and images with equal contents."""

import dataclasses
import hashlib
import json
import logging
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar

import numpy as np
from tqdm import tqdm

from cnnlab.data.decoding import examine, is_picture
from cnnlab.data.images import ImageFiles, LabelledImages
from cnnlab.data.levels import NO_RANGES, Extent, Range, Ranges
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
    """Hash of the pixels of each of these images."""
    skipped: dict[str, str]
    """Name -> reason of each file that is left out."""

    @property
    def ranges(self) -> Ranges:
        """Kind of sample -> the values of black and white."""
        return (self.images.ranges or NO_RANGES) if isinstance(self.images, ImageFiles) else NO_RANGES


@dataclass(frozen=True)
class Reading:
    """What reading a file has given."""

    digest: str = ""
    """Hash of its content; empty if it cannot be read."""
    extent: Extent | None = None
    """Which values its samples have, if they are not unsigned 8-bit numbers."""
    problem: str = ""
    """Why it cannot be read."""
    is_picture: bool = True


def scan(images: LabelledImages, bad_images: str, cache_dir: Path, ranges: Ranges | None = None) -> Scan:
    """Read every image, leave out files that are not pictures, and find the unreadable ones.

    bad_images: "error" raises DataError for unreadable images, "skip" skips them. cache_dir: where the sizes and
    modification times of readable files are stored, so that only new or changed files are read again. ranges: the range
    of each kind of sample that is not an unsigned 8-bit number; None takes the range of the values in these images.
    Raises DataError that names the files for unreadable images under "error", or if a class has no image left.
    """
    if bad_images not in ("error", "skip"):
        raise InputError(f"data.bad_images={bad_images}: use error or skip.")
    if not isinstance(images, ImageFiles):
        return Scan(images, [images.digest(index) for index in range(len(images))], {})
    readings = _read_all(images, cache_dir)
    ranges = next((each for each in (ranges, images.ranges) if each is not None), found_ranges(readings))
    readings = [_scalable(reading, path, ranges) for reading, path in zip(readings, images.paths, strict=True)]
    others = {images.name(i): each.problem for i, each in enumerate(readings) if not each.is_picture}
    bad = {images.name(i): each.problem for i, each in enumerate(readings) if each.problem and each.is_picture}
    found = f"{len(bad)} of {len(images) - len(others)} files cannot be read as images"
    if bad and bad_images == "error":
        ways = "Repair or remove them, or skip them with data.bad_images=skip."
        raise DataError("\n".join([f"{found}:", *_first(bad.values()), ways]))
    if bad:
        log.warning("\n".join([f"{found} and are skipped:", *_first(bad.values())]))
    if others:
        what = "file that is not a picture" if len(others) == 1 else "files that are not pictures"
        log.warning("\n".join([f"Left out {len(others)} {what}:", *_first(others)]))
    good = [index for index, reading in enumerate(readings) if not reading.problem]
    kept = images.subset(good)
    gone = set(range(len(images.classes))) - set(kept.labels.tolist())
    if gone:
        names = ", ".join(images.classes[label] for label in sorted(gone))
        raise DataError(f"Class {names} of {images.root} has no readable image. Add some, or remove the class.")
    report_ranges([readings[index] for index in good], ranges)
    digests = [_digest_of_pixels(readings[index], ranges) for index in good]
    return Scan(replace(kept, digests=digests, ranges=ranges), digests, others | bad)


class FileExamples(Protocol):
    """A dataclass of examples in files, with `digests` and `ranges` to be filled by a scan."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def root(self) -> Path: ...

    @property
    def paths(self) -> list[Path]: ...

    def subset(self, indices: Sequence[int] | np.ndarray) -> Self: ...


E = TypeVar("E", bound=FileExamples)


def scan_files(
    examples: E, bad_images: str, cache_dir: Path, skipped: dict[str, str], ranges: Ranges | None = None
) -> E:
    """Return the examples whose files can be read; name -> reason of the others is added to `skipped`. See `scan`."""
    files = ImageFiles(examples.root, examples.paths, np.zeros(len(examples.paths), int), ["files"])
    found = scan(files, bad_images, cache_dir, ranges)
    skipped |= found.skipped
    place = {path: index for index, path in enumerate(examples.paths)}
    kept = [place[path] for path in found.images.paths]  # type: ignore[attr-defined]
    return replace(examples.subset(kept), digests=found.digests, ranges=found.ranges)


def found_ranges(readings: Sequence[Reading]) -> Ranges:
    """Return the smallest and the largest value of each kind."""
    return {
        kind: (min(each.low for each in extents), max(each.high for each in extents))
        for kind, extents in _by_kind(readings).items()
    }


def report_ranges(readings: Sequence[Reading], ranges: Ranges) -> None:
    """Log which values become black and white, and warn if few outliers decide that or values are clipped."""
    found = found_ranges(readings)
    for kind, extents in _by_kind(readings).items():
        low, high = found[kind]
        black, white = ranges.get(kind, extents[0].range_in(ranges))
        dtypes = ", ".join(sorted({each.dtype for each in extents}))
        log.info(
            "%d of %d images have %s values (%s), from %g to %g: %g becomes black and %g white.",
            *(len(extents), len(readings), kind, dtypes, low, high, black, white),
        )
        bulk = min(each.bulk[0] for each in extents), max(each.bulk[1] for each in extents)
        if bulk[1] - bulk[0] < (white - black) / 4:
            log.warning(
                "All but 0.2 %% of these %s values are between %g and %g, a small part of the range from %g to %g: the "
                "images have little contrast. To choose the range: data.dataset.value_range=[%g,%g]",
                *(kind, *bulk, black, white, *bulk),
            )
        if low < black or high > white:
            log.warning("%s values below %g or above %g are clipped.", kind.capitalize(), black, white)


def _by_kind(readings: Sequence[Reading]) -> dict[str, list[Extent]]:
    kinds: dict[str, list[Extent]] = defaultdict(list)
    for reading in readings:
        if reading.extent:
            kinds[reading.extent.kind].append(reading.extent)
    return kinds


def _scalable(reading: Reading, path: Path, ranges: Ranges) -> Reading:
    """Return the reading, with a problem if the range of its values is unknown."""
    if reading.extent:
        try:
            reading.extent.range_in(ranges)
        except ValueError as error:
            return Reading(problem=f"{path}: {error}")
    return reading


def _digest_of_pixels(reading: Reading, ranges: Ranges) -> str:
    """Return the hash of the content, and of the range by which it is scaled: caches of pixels depend on both."""
    if not reading.extent:
        return reading.digest
    both = f"{reading.digest} {reading.extent.range_in(ranges)}"
    return hashlib.blake2b(both.encode(), digest_size=16).hexdigest()


def _first(lines: Collection[str]) -> list[str]:
    """Return the first few lines, indented, and a line with the number of the others."""
    listed = [f"  {line}" for line in islice(lines, SHOWN)]
    return [*listed, f"  ... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else listed


def _read_all(images: ImageFiles, cache_dir: Path) -> list[Reading]:
    """Read each file, unless the cache knows it.

    Unreadable files are not cached, because the reason may be temporary: a permission or a lost connection.
    """
    folder_hash = hashlib.blake2b(str(images.root.absolute()).encode(errors="surrogateescape"), digest_size=8)
    cache_file = cache_dir / "scans" / f"{folder_hash.hexdigest()}.json"
    known = _load(cache_file)
    names = [images.name(index) for index in range(len(images))]
    states = [_state(path) for path in images.paths]
    same = [name in known and known[name][0] == state for name, state in zip(names, states, strict=True)]
    readings = {name: known[name][1] for name, unchanged in zip(names, same, strict=True) if unchanged}
    unread = [index for index, unchanged in enumerate(same) if not unchanged]
    if unread:
        with ThreadPoolExecutor() as pool:
            found = pool.map(lambda index: _read(images.paths[index]), unread)
            progress = tqdm(found, "Checking images", len(unread), leave=False, delay=1, unit="img", disable=None)
            readings |= {names[index]: reading for index, reading in zip(unread, progress, strict=True)}
        known |= {name: (states[i], readings[name]) for i, name in enumerate(names) if readings[name].digest}
        try:
            write_text(cache_file, json.dumps({name: _packed(*entry) for name, entry in known.items()}))
        except OSError as error:
            log.warning("Cannot store the list of checked images in %s: %s", cache_file, error)
    return [readings[name] for name in names]


def _state(path: Path) -> list[int]:
    """Return the size in bytes and the modification time in nanoseconds; [-1, -1] for a broken link."""
    try:
        status = path.stat()
    except OSError:
        return [-1, -1]
    return [status.st_size, status.st_mtime_ns]


def _read(path: Path) -> Reading:
    name = str(path).encode(errors="backslashreplace").decode()
    if name != str(path):
        return Reading(problem=f"{name}: the name is not valid UTF-8")
    try:
        extent = examine(path)
        return Reading(hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest(), extent)
    except DataError as error:
        return Reading(problem=str(error), is_picture=is_picture(path))
    except OSError as error:
        return Reading(problem=f"{path}: {error.strerror or error}")


def _packed(state: list[int], reading: Reading) -> list:
    return [*state, reading.digest, reading.extent and dataclasses.astuple(reading.extent)]


def _load(cache_file: Path) -> dict[str, tuple[list[int], Reading]]:
    """Return name -> (size and modification time, reading) of readable images; empty if the file is damaged."""
    try:
        return {
            name: ([size, time], Reading(digest, extent and _unpacked(*extent)))
            for name, (size, time, digest, extent) in read_json(cache_file).items()
            if DIGEST.fullmatch(digest)
        }
    except (DataError, ValueError, AttributeError, TypeError):
        return {}


def _unpacked(dtype: str, low: float, high: float, bulk: list[float], declared: list[float] | None) -> Extent:
    return Extent(str(dtype), float(low), float(high), _pair(bulk), None if declared is None else _pair(declared))


def _pair(values: list[float]) -> Range:
    first, second = map(float, values)
    return first, second
