"""Cache on disk for tensors that are expensive to compute from images, shared by concurrent processes.

    <folder>/<kind>/<key>/about.json                what the entry depends on
    <folder>/<kind>/<key>/<bucket>-<n>.safetensors  shards: image -> tensor, read through memory maps
    <folder>/<kind>/<key>/<bucket>.lock             held by the process that fills the bucket (`fill`)
    <folder>/<kind>/<key>/added.lock                held while a shard is added (`add`)

An entry holds one tensor for each image, under a hash of the image's content, so that all splits and subsets of the
data share it. Shards are written atomically and never changed. The locks are those of the operating system, which
releases them when a process is killed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from cnnlab.errors import DataError, InputError
from cnnlab.system.files import MappedTensors, read_json, write_atomically, write_json, write_safetensors
from cnnlab.system.packages import version_of

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)
PACKAGES = ("torch", "torchvision", "pillow", "simplejpeg")
KINDS = ("features", "records")
ABOUT = "about.json"
GIB = 1 << 30
POLL_SECONDS = 0.2
Produce = Callable[[Iterator[Sequence[str]]], Iterable[Sequence["Tensor"]]]


class Store:
    """The entries below `folder`; `shrink` removes the least recently used ones beyond `limit_gib` (None: no limit)."""

    def __init__(self, folder: Path, limit_gib: float | None = None) -> None:
        self.folder = folder
        self.limit_gib = limit_gib
        self._opened: set[Path] = set()

    def entry(self, kind: str, parts: dict[str, Any]) -> Entry:
        """Open the entry that `parts` identify, creating it if necessary.

        parts: plain values, everything that the tensors depend on besides the image. The versions of the libraries that
        turn images into tensors are added.
        """
        entry = self.look(kind, parts)
        entry.describe()
        os.utime(entry.path / ABOUT)
        self._opened.add(entry.path)
        return entry

    def look(self, kind: str, parts: dict[str, Any]) -> Entry:
        """Open an entry only to see what it holds: nothing is created, and it does not count as used."""
        parts = parts | {"versions": library_versions()}
        return Entry(self.folder / kind / key_of(parts), parts)

    def require_room(self, size: float, what: str) -> None:
        """Raise InputError if `size` bytes exceed the limit or the free disk space."""
        self.folder.mkdir(parents=True, exist_ok=True)
        free = float(shutil.disk_usage(self.folder).free)
        room = free if self.limit_gib is None else min(self.limit_gib * GIB, free)
        if size > room:
            sizes = f"{size / GIB:.1f} GiB, but there is room for only {room / GIB:.1f}"
            raise InputError(f"{what} need {sizes} (speed.cache_gib, free disk).")

    def infos(self) -> list[Info]:
        """Return every entry, most recently used first."""
        found = [_info(path) for kind in KINDS for path in (self.folder / kind).glob("*/")]
        return sorted((info for info in found if info), key=lambda info: info.used, reverse=True)

    def shrink(self, wanted: float = 0.0) -> list[Info]:
        """Remove the least recently used entries beyond the limit, except those that this process has opened.

        wanted: bytes that are about to be added. Returns the removed entries.
        """
        if self.limit_gib is None:
            return []
        infos = self.infos()
        excess = sum(info.size for info in infos) + wanted - self.limit_gib * GIB
        removed = []
        for info in reversed(infos):
            if excess > 0 and info.path not in self._opened:
                remove(info.path)
                removed.append(info)
                excess -= info.size
        if removed:
            log.info("Cache: removed the %d least recently used entries.", len(removed))
        if excess > 0:
            log.warning("The cache in %s exceeds speed.cache_gib by %.1f GiB.", self.folder, excess / GIB)
        return removed


@dataclass(frozen=True)
class Info:
    """An entry as listed by `cnnlab cache ls`; size in bytes, used in seconds since 1970."""

    path: Path
    kind: str
    key: str
    size: int
    used: float
    parts: dict[str, Any]


class Entry:
    """Tensors by image; those that other processes add become visible after `refresh`."""

    def __init__(self, path: Path, parts: dict[str, Any]) -> None:
        self.path = path
        self.parts = parts
        self._shards: dict[str, MappedTensors] = {}
        self._shard_of: dict[str, MappedTensors] = {}
        self._changed = 0
        """Modification time of the folder when it was last read, in nanoseconds."""
        self.refresh()

    def describe(self) -> None:
        """Write about.json unless it exists and can be read."""
        if _info(self.path) is None:
            write_json(self.path / ABOUT, self.parts)

    def __reduce__(self) -> tuple:
        """Pickle only path and parts: worker processes that are not forked open the files themselves."""
        return Entry, (self.path, self.parts)

    def refresh(self) -> None:
        """Open new shards; remove damaged ones, so that their images count as missing."""
        from safetensors import SafetensorError

        self._changed = self._last_change()
        for name in sorted(self._names() - self._shards.keys()):
            file = self.path / name
            try:
                shard = MappedTensors(file)
            except (SafetensorError, OSError) as error:
                if file.exists():  # else another process has just removed the entry
                    log.warning("Cache: %s is damaged (%s) and was removed.", file, error)
                    file.unlink(missing_ok=True)
                continue
            self._shards[name] = shard
            for image in shard.names():
                self._shard_of.setdefault(image, shard)

    def refresh_if_changed(self) -> None:
        """Refresh if the folder's modification time has changed.

        A change within one tick of the file system's clock may go unnoticed until the next change.
        """
        if self._last_change() != self._changed:
            self.refresh()

    def _names(self) -> set[str]:
        """Return the file names of the existing shards."""
        try:
            return {name for name in os.listdir(self.path) if name.endswith(".safetensors")}
        except OSError:  # nothing is stored, or another process has removed the entry
            return set()

    def _last_change(self) -> int:
        try:
            return self.path.stat().st_mtime_ns
        except OSError:  # nothing is stored, or another process has removed the entry
            return 0

    def __contains__(self, image: str) -> bool:
        return image in self._shard_of

    def __getitem__(self, image: str) -> Tensor:
        """Return the tensor of an image, a view of the memory map that must not be written to."""
        return self._shard_of[image][image]

    def missing(self, images: Iterable[str]) -> list[str]:
        """Return the images that the entry does not hold, each once, in order."""
        return [image for image in dict.fromkeys(images) if image not in self]

    def add(self, tensors: dict[str, Tensor]) -> None:
        """Store the tensors of images, except those that another process has added in the meantime.

        tensors: contiguous and on the CPU. Raises OSError if the disk is full or cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path / "added.lock", poll_interval=0.002):
            self.refresh()
            if left := {image: tensors[image] for image in self.missing(tensors)}:
                self._write("added", left)

    def claims(self, images: Sequence[str]) -> Iterator[Claim]:
        """Yield portions of the missing `images`, each claimed by this process until it is written or released.

        Portions that another process works on are skipped: call again until nothing is missing.
        """
        count = bucket_count(len(images))
        buckets: dict[int, list[str]] = defaultdict(list)
        for image in self.missing(images):
            buckets[int(image[:8], 16) % count].append(image)
        first = os.getpid() % count  # so that processes started together begin at different buckets
        for bucket in sorted(buckets, key=lambda number: (number - first) % count):
            name = f"{count}-{bucket:04d}"
            lock = FileLock(self.path / f"{name}.lock")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            self.refresh()
            if left := self.missing(buckets[bucket]):
                yield Claim(self, name, lock, left)
            else:
                lock.release()

    def fill(self, images: Sequence[str], produce: Produce, batch_size: int, title: str, show: bool = True) -> None:
        """Compute and add the missing tensors of `images`; processes that fill the same entry share the work.

        Returns when nothing is missing, which may mean waiting for another process.
        produce: takes an iterator of batches of at most `batch_size` images and yields their tensors, in that order.
        title: of the progress bar. Raises OSError if the disk is full or cannot be written.
        """
        missing = self.missing(images)
        with tqdm(
            desc=title, total=len(missing), unit="img", leave=False, disable=None if show and missing else True
        ) as bar:
            while missing:
                if not self._fill_claimed(images, produce, batch_size, bar):
                    time.sleep(POLL_SECONDS)
                    self.refresh()
                missing = self.missing(images)
                bar.update(bar.total - len(missing) - bar.n)

    def _fill_claimed(self, images: Sequence[str], produce: Produce, batch_size: int, bar: tqdm) -> bool:
        """Add the missing tensors that no other process works on; return whether any were added."""
        asked: deque[tuple[Claim, Sequence[str]]] = deque()

        def batches() -> Iterator[Sequence[str]]:
            for claim in self.claims(images):
                for batch in _evenly(claim.images, batch_size):
                    asked.append((claim, batch))
                    yield batch

        rows: dict[str, Tensor] = {}
        wrote = False
        for tensors in produce(batches()):
            claim, batch = asked.popleft()
            rows |= zip(batch, tensors, strict=True)
            if len(rows) == len(claim.images):
                claim.write(rows)
                rows, wrote = {}, True
            bar.update(len(batch))
        return wrote

    def _write(self, name: str, tensors: dict[str, Tensor]) -> None:
        self.describe()  # the entry may have been removed in the meantime
        for other in os.listdir(self.path):
            if other.startswith(f".{name}-"):  # left unfinished by a killed process, whose lock we now hold
                (self.path / other).unlink(missing_ok=True)
        number = sum(shard.startswith(f"{name}-") for shard in self._names())
        path = self.path / f"{name}-{number}.safetensors"
        # No sync to disk: a shard truncated by a power cut is detected as damaged and made again.
        write_atomically(path, lambda file: write_safetensors(file, tensors), durable=False)
        self.refresh()


class Claim:
    """Images that only this process may add to an entry while it holds their lock."""

    def __init__(self, entry: Entry, name: str, lock: FileLock, images: list[str]) -> None:
        self.images = images
        self._entry = entry
        self._name = name
        self._lock = lock

    def write(self, tensors: dict[str, Tensor]) -> None:
        """Add one tensor for each image of the claim, contiguous and on the CPU, and end the claim."""
        try:
            self._entry._write(self._name, tensors)
        finally:
            self._lock.release()

    def release(self) -> None:
        """End the claim without adding anything."""
        self._lock.release()


def key_of(parts: dict[str, Any]) -> str:
    """Return a hash of plain values."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def library_versions() -> dict[str, str | None]:
    """Return the versions of the packages that decode, augment and compute; None for those not installed."""
    return {package: version_of(package) for package in PACKAGES}


def bucket_count(images: int) -> int:
    """Return the number of buckets, a power of two: each holds about 64 images, or up to 1,024 in large data sets."""
    portion = min(max(64, math.isqrt(images)), 1024)
    return 1 << max(0, round(math.log2(max(1, images) / portion)))


def _evenly(images: Sequence[str], size: int) -> list[Sequence[str]]:
    """Split the images into parts of nearly equal length, at most `size`."""
    count = -(-len(images) // size)
    bounds = [len(images) * number // count for number in range(count + 1)]
    return [images[start:stop] for start, stop in pairwise(bounds)]


def remove(path: Path) -> None:
    """Remove an entry atomically; processes that read it keep the shards they have mapped."""
    gone = path.with_name(f".{path.name}-{os.getpid()}-{time.monotonic_ns()}")
    try:
        path.rename(gone)
    except FileNotFoundError:  # another process was faster
        return
    shutil.rmtree(gone, ignore_errors=True)


def _info(path: Path) -> Info | None:
    try:
        about = path / ABOUT
        parts = read_json(about)
        size = sum(file.stat().st_size for file in path.iterdir())
        known = isinstance(parts, dict)
        return Info(path, path.parent.name, path.name, size, about.stat().st_mtime, parts) if known else None
    except (OSError, DataError):  # removed in the meantime, or not an entry of cnnlab
        return None
