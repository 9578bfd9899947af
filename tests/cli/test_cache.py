"""`cnnlab cache` shows what is kept, and removes what it is told to."""

import os
import time
from pathlib import Path

import pytest
import torch

from cnnlab.cli.cache import age, main, size
from cnnlab.data.store import Store
from cnnlab.errors import InputError

FEATURES = {
    "network": "ResNet",
    "cut": "layer4",
    "input": {"image_size": 64},
    "augmentation": {"flip": {"p": 0.5}, "noise": None},
    "view": 2,
    "precision": "32-true",
}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Two entries of features, the second of which was used 40 days ago, and one of records."""
    for kind, parts, days in (
        ("features", FEATURES, 0),
        ("features", FEATURES | {"view": None, "augmentation": None}, 40),
        ("records", {"short_side": 256}, 0),
    ):
        entry = Store(tmp_path).entry(kind, parts)
        for claim in entry.claims(["0" * 32]):
            claim.write({"0" * 32: torch.zeros(1000)})
        long_ago = time.time() - days * 86400 - 1
        os.utime(entry.path / "about.json", (long_ago, long_ago))
    return tmp_path


def left(cache: Path) -> list[tuple[str, int | None]]:
    return sorted((info.kind, info.parts.get("view", -1) or 0) for info in Store(cache).infos())


def test_listing_says_what_entries_are(cache, capsys):
    main(["ls", f"cache_dir={cache}"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    table = "\n".join(lines)
    assert "ResNet below layer4, 64 px, view 2 (flip), 32-true" in table
    assert "40 days ago" in next(line for line in lines if "as evaluation sees them" in line)
    assert "pictures, short side at most 256 pixels" in table
    assert all(info.key in table for info in Store(cache).infos())
    main(["ls", f"cache_dir={cache}", "kind=records"])
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["kind=records"], [("features", 0), ("features", 2)]),
        (["unused_days=30"], [("features", 2), ("records", -1)]),
        (["all=true"], []),
        (["kind=records", "unused_days=30"], [("features", 0), ("features", 2), ("records", -1)]),
    ],
)
def test_removing(cache, capsys, arguments, expected):
    main(["rm", f"cache_dir={cache}", *arguments])
    assert left(cache) == expected
    assert f"Removed {3 - len(expected)} entries" in capsys.readouterr().out


def test_removing_one_by_the_beginning_of_its_key(cache):
    key = next(info.key for info in Store(cache).infos() if info.kind == "records")
    main(["rm", f"cache_dir={cache}", f"key={key[:12]}"])
    assert left(cache) == [("features", 0), ("features", 2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rm"], "choose entries with key=..., kind=..., unused_days=..., or all=true"),
        (["rm", "key=zz"], "Unknown entry key=zz"),
        (["ls", "kind=feature"], "use features or records"),
        (["ls", "kinds=features"], "Did you mean kind"),
        (["clear"], "use cnnlab cache ls, or cnnlab cache rm"),
    ],
)
def test_what_cannot_be_is_named_and_nothing_is_removed(cache, arguments, message):
    with pytest.raises(InputError, match=message):
        main([arguments[0], f"cache_dir={cache}", *arguments[1:]])
    assert len(left(cache)) == 3


def test_sizes_and_ages_are_short():
    assert [size(count) for count in (900, 2048, 5 << 20, 3 << 30)] == ["900 B", "2.0 KiB", "5.0 MiB", "3.0 GiB"]
    assert [age(s) for s in (5, 300, 7200, 10 * 86400)] == ["just now", "5 minutes ago", "2 hours ago", "10 days ago"]
