"""Random inputs for parsers: how many, how long one may take, and what they are made of."""

import functools
import os
import signal
import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 60))
"""Inputs of each test: `make fuzz` gives 10,000."""


class HangError(BaseException):
    """An input took too much processor time; no `except Exception` hides it."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises HangError after so many seconds of this process's own work, however busy the machine is."""

    def stop(*arguments: object) -> None:
        raise HangError(f"more than {seconds} s")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def fuzzed(test: Callable, share: float = 1.0, seconds: float = 1.0) -> Callable:
    """Runs a test that Hypothesis gives inputs with `EXAMPLES * share` of them, each for so many seconds at most."""

    @functools.wraps(test)
    def timed(*arguments: Any, **named: Any) -> None:
        try:
            with limited(seconds):
                test(*arguments, **named)
        except HangError as error:
            raise AssertionError(str(error)) from error  # for Hypothesis, which then looks for the smallest input

    checks = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture)
    return settings(max_examples=max(1, int(EXAMPLES * share)), deadline=None, suppress_health_check=checks)(timed)


def damaged(*valid: bytes) -> st.SearchStrategy[bytes]:
    """One of the valid contents with a few places overwritten, cut out or filled in; or any bytes."""
    edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 8), st.binary(max_size=8)), max_size=4)

    def edit(contents: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
        for where, removed, added in changes:
            place = int(where * len(contents))
            contents = contents[:place] + added + contents[place + removed :]
        return contents

    return st.one_of(st.builds(edit, st.sampled_from(valid), edits), st.binary(max_size=200))


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.sampled_from(["", "x", "../x", "\0", "finished", "running", "9" * 5000, "ü", "<b>", "${x}", "?"]),
    st.text(string.printable, max_size=8),
)


def plain_values(keys: list[str] | None = None) -> st.SearchStrategy[Any]:
    """Scalars, and lists and dictionaries of them; `keys` are among the dictionaries' keys."""
    names = st.one_of(st.sampled_from(keys or ["x"]), st.text(max_size=4))
    return st.recursive(
        SCALARS,
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=5)),
        max_leaves=12,
    )


def changed(valid: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A valid record with entries, also of the dictionaries in it, replaced, added or removed."""
    paths = [(key,) for key in valid] + [(k, n) for k, v in valid.items() if isinstance(v, dict) for n in v]
    edits = st.lists(st.tuples(st.sampled_from([*paths, ("x",)]), st.booleans(), plain_values(list(valid))), max_size=4)

    def edit(changes: list[tuple[tuple[str, ...], bool, Any]]) -> dict[str, Any]:
        record = {key: dict(value) if isinstance(value, dict) else value for key, value in valid.items()}
        for path, removes, value in changes:
            node: Any = record
            for key in path[:-1]:
                node = node.get(key) if isinstance(node, dict) else None
            if isinstance(node, dict):
                if removes:
                    node.pop(path[-1], None)
                else:
                    node[path[-1]] = value
        return record

    return edits.map(edit)
