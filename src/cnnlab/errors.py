"""The errors that cnnlab raises on purpose, each with its exit code.

0 finished · 1 a bug · 2 wrong input or config · 3 data or file trouble · 4 diverged · 130 interrupted
"""

import difflib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


class CnnlabError(Exception):
    """Base class of errors that say what went wrong, where, and what to do; shown without a traceback."""

    exit_code = 1


class InputError(CnnlabError):
    """A command line, config or argument that cannot work.

    problems: one sentence for each thing that is wrong; None means the message is the only one.
    """

    exit_code = 2

    def __init__(self, message: str, problems: list[str] | None = None) -> None:
        super().__init__(message)
        self.problems = problems or [message]


class DataError(CnnlabError):
    """Data, weights or another file that is missing, damaged or untrusted."""

    exit_code = 3


class DivergedError(CnnlabError):
    """Training produced a loss that is NaN or infinite."""

    exit_code = 4


def nearest(wanted: Sequence[str], options: Sequence[str]) -> str:
    """Return a sentence that suggests options spelled like the wanted words.

    If none is similar, the sentence lists all options; it is empty if there are more than 40.
    """
    near = [match for word in wanted for match in _similar(word, options)]
    if not near:
        near = [option for word in wanted for option in options if option.rsplit(".", 1)[-1] == word.rsplit(".", 1)[-1]]
    if near:
        *others, last = dict.fromkeys(near)
        return f"Did you mean {', '.join(others)} or {last}?" if others else f"Did you mean {last}?"
    return f"Available: {', '.join(options)}." if 0 < len(options) <= 40 else ""


def _similar(word: str, options: Sequence[str]) -> list[str]:
    """Return the options that are spelled most like the word, at most three."""
    found = difflib.get_close_matches(word, options, n=3, cutoff=0.55)
    scores = [difflib.SequenceMatcher(None, word, option).ratio() for option in found]
    return [option for option, score in zip(found, scores, strict=True) if score > scores[0] - 0.15]


def several(problems: list[str], heading: str) -> InputError:
    """Return one InputError that lists every problem on its own line."""
    return InputError("\n".join([heading, *(f"  - {problem}" for problem in problems)]), problems)


class Problems:
    """Context manager that collects the InputErrors raised in its `with` blocks, so that they can be raised as one."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def __enter__(self) -> "Problems":
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if isinstance(error, InputError):
            self.found += [problem for problem in error.problems if problem not in self.found]
        return isinstance(error, InputError)

    def attempt(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T | None:
        """Call the function and return its result; if it raises InputError, keep the error and return None."""
        with self:
            return function(*arguments, **options)
        return None

    def raise_all(self, heading: str) -> None:
        """Raise InputError if any problem was collected: a single one as it is, several under `heading`."""
        if len(self.found) == 1:
            raise InputError(self.found[0])
        if self.found:
            raise several(self.found, heading)


def listed(names: Sequence[str], shown: int = 12) -> str:
    """Return the first names, and how many there are if that is not all of them."""
    more = f", ... ({len(names):,} in all)" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
