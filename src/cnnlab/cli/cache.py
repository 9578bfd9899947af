"""`cnnlab cache ls`, `cnnlab cache rm`: list or remove cached features and images."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnlab.config import compose
from cnnlab.config.options import help_of, parse_options
from cnnlab.data.store import KINDS, Info, Store, remove
from cnnlab.errors import InputError, nearest

DAY = 86400.0
ACTIONS = ("ls", "rm")


@dataclass
class Options:
    """List (ls) or remove (rm) the cache: features of frozen stages, and decoded images (records).

    Example:
    cnnlab cache ls
    cnnlab cache rm unused_days=30

    cache_dir: folder of the cache; null: paths.cache_dir of the config.
    kind: features or records.
    key: key of an entry, or the beginning of it.
    unused_days: only entries that no run has used for this many days.
    all: remove every entry.
    """

    cache_dir: str | None = None
    kind: str | None = None
    key: str | None = None
    unused_days: float | None = None
    all: bool = False


def help_text(arguments: Sequence[str]) -> str:
    return help_of(Options, "cache ls|rm")


def main(arguments: Sequence[str]) -> None:
    action, given = (arguments[0], arguments[1:]) if arguments else ("ls", [])
    if action not in ACTIONS:
        raise InputError(f"cnnlab cache {action}: use cnnlab cache ls, or cnnlab cache rm.")
    cfg = parse_options(given, Options, f"cache {action}")
    store = Store(Path(cfg.cache_dir or compose([]).paths.cache_dir))
    infos = chosen(store.infos(), cfg)
    if action == "ls":
        print(listing(infos, store.folder))
        return
    if cfg.kind is cfg.key is cfg.unused_days is None and not cfg.all:
        raise InputError("cnnlab cache rm: choose entries with key=..., kind=..., unused_days=..., or all=true.")
    for info in infos:
        remove(info.path)
    print(f"Removed {len(infos)} entries, {size(sum(info.size for info in infos))}, from {store.folder}.")


def chosen(infos: list[Info], cfg: Options) -> list[Info]:
    """Return the entries that match all options; raise InputError for an unknown kind or key."""
    if cfg.kind not in (None, *KINDS):
        raise InputError(f"kind={cfg.kind}: use {' or '.join(KINDS)}.")
    if cfg.key is not None and not any(info.key.startswith(cfg.key) for info in infos):
        raise InputError(f"Unknown entry key={cfg.key}. {nearest([cfg.key], [info.key for info in infos])}".rstrip())
    oldest = time.time() - (cfg.unused_days or 0.0) * DAY
    return [
        info
        for info in infos
        if (cfg.kind is None or info.kind == cfg.kind)
        and (cfg.key is None or info.key.startswith(cfg.key))
        and info.used <= oldest
    ]


def listing(infos: list[Info], folder: Path) -> str:
    """Return a table of entries (key, kind, size, last use, contents) and their total size."""
    if not infos:
        return f"No entries in {folder}."
    rows = [("key", "kind", "size", "used", "what")]
    rows += [(info.key, info.kind, size(info.size), age(time.time() - info.used), what(info)) for info in infos]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join([*map(str.ljust, row[:4], widths), row[4]]) for row in rows]
    return "\n".join([*lines, f"{len(infos)} entries, {size(sum(info.size for info in infos))}, in {folder}"])


def what(info: Info) -> str:
    """Return one line on the contents of an entry."""
    parts = info.parts
    if info.kind == "records":
        side = parts.get("short_side")
        return f"pictures, {f'short side at most {side}' if side else parts.get('image_size')} pixels"
    augmentation = "+".join(name for name, entry in section(parts, "augmentation").items() if entry)
    view = "as evaluation sees them" if parts.get("view") is None else f"view {parts['view']} ({augmentation})"
    pixels = section(parts, "input").get("image_size")
    return f"{parts.get('network')} below {parts.get('cut')}, {pixels} px, {view}, {parts.get('precision')}"


def section(parts: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the dictionary `parts[name]`; {} if it is something else, as in a file that cnnlab did not write."""
    found = parts.get(name)
    return found if isinstance(found, dict) else {}


def size(count: float) -> str:
    """Format bytes in the largest unit that gives at least 1."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def age(seconds: float) -> str:
    """Format the time since the last use in the largest unit that gives at least 2."""
    for unit, length in (("days", DAY), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"
