"""Find the games in SGF text and extract the main line of each, without variations.

sgfmill parses a game's whole tree, gives up a collection at its first broken game, and drops lowercase property names.
So games are first cut out here one by one, and sgfmill gets only their main lines, which are flat however deeply the
variations are nested. All patterns are possessive, so that no input makes them slow.
"""

import re
from collections.abc import Iterator
from itertools import islice, pairwise

VALUE = rb"\[[^\\\]]*+(?:\\.[^\\\]]*+)*+\]"
TOKEN = re.compile(VALUE + rb"|[()\[]", re.DOTALL)
VALUES = re.compile(VALUE, re.DOTALL)
START = re.compile(rb"\(\s*+;")
# A node that starts with a root property is the root of a game: the `]` is not escaped, so it cannot be inside a value.
# After a broken game, reading continues at the next root.
ROOT = re.compile(
    rb"\(\s*+;\s*+(?:[a-z]*(?:F[a-z]*F|G[a-z]*M|S[a-z]*Z|C[a-z]*A|A[a-z]*P)[a-z]*|ff|gm|sz|ca|ap)\s*+\[[^\\\]]*+\]"
)
LEFT_OVER = re.compile(rb";\s*+[A-Za-z]++\s*+\[")
"""A node with a property."""
SMALL_NAME = re.compile(rb"(?<![A-Za-z])[a-z]++(?![A-Za-z])\s*+\[")
NAME_OR_VALUE = re.compile(VALUE + rb"|[A-Za-z]++", re.DOTALL)


class BrokenGameError(ValueError):
    """Says why text that looks like a game is not SGF."""


def pieces(text: bytes, least: int) -> Iterator[bytes]:
    """Cut a collection between games into pieces of at least `least` bytes each, except the last."""
    begin = 0
    for root in ROOT.finditer(text):
        if root.start() - begin >= least:
            yield text[begin : root.start()]
            begin = root.start()
    yield text[begin:]


def is_collection(text: bytes) -> bool:
    """Return whether the text contains more than one game."""
    return len(list(islice(ROOT.finditer(text), 2))) > 1


def chunks(text: bytes) -> Iterator[bytes]:
    """Cut a collection before the root of every game; games without a root property stay with the one before."""
    roots = [root.start() for root in ROOT.finditer(text)]
    return (text[begin:end] for begin, end in pairwise([0, *roots, len(text)]))


def main_lines(chunk: bytes) -> Iterator[bytes | BrokenGameError]:
    """Yield the main line of every game in a chunk as SGF without variations, or the error in that game.

    Nodes after a game are reported as an error too: they may belong to it, if a bracket in a value is not escaped.
    """
    start = START.search(chunk)
    while start:
        line, stop = _main_line(chunk, start.start())
        start = START.search(chunk, stop)
        yield line
        if LEFT_OVER.search(chunk, stop, start.start() if start else len(chunk)):
            yield BrokenGameError("it begins without a parenthesis, or the game before it ends too early")


def count_values(text: bytes) -> int:
    """Return the number of property values in a text."""
    return len(VALUES.findall(text))


def _main_line(text: bytes, start: int) -> tuple[bytes | BrokenGameError, int]:
    """Return the main line of the game that starts at `start`, or the error in it, and where the game ends."""
    depth, opened, closed = 0, [], None
    for token in TOKEN.finditer(text, start):
        kind = token.group()
        if kind == b"(":
            depth += 1
            if closed is None:
                opened.append(token.start())
        elif kind == b")":
            depth -= 1
            if closed is None:
                closed = token.start()
            if depth == 0:
                parts = [text[a + 1 : b] for a, b in zip(opened, [*opened[1:], closed], strict=True)]
                line = b"(" + _capital_names(b"".join(parts)) + b")"
                return _disorder(text[start : token.end()]) or line, token.end()
        elif kind == b"[":
            return BrokenGameError("it ends inside a property value"), len(text)
    return BrokenGameError("it ends before its last parenthesis is closed"), len(text)


def _disorder(game: bytes) -> BrokenGameError | None:
    """Return the error in a game whose variations do not start with a node or are followed by text; None if fine.

    Moves of such a game would be lost.
    """
    bare = VALUES.sub(b"[]", game)
    if re.search(rb"\(\s*+[^;\s]", bare):
        return BrokenGameError("a variation has no node")
    if re.search(rb"\)\s*+[^()\s]", bare):
        return BrokenGameError("text follows a variation")
    return None


def _capital_names(line: bytes) -> bytes:
    """Capitalize property names that are all lowercase, `b[pd]` to `B[pd]`; sgfmill itself reads `Black[pd]`."""
    if not SMALL_NAME.search(VALUES.sub(b"[]", line)):
        return line

    def capital(found: re.Match[bytes]) -> bytes:
        text = found.group()
        return text.upper() if text.islower() and not text.startswith(b"[") else text

    return NAME_OR_VALUE.sub(capital, line)
