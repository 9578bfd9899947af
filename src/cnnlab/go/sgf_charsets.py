"""Find out in which charset a game record is written.

Chinese, Japanese and Korean charsets have characters whose second byte is a backslash or `]`. Read in a wrong charset,
such a character ends a value too early, or swallows what follows, which may be a move. UTF-8 has no such characters;
records in other charsets often do not declare theirs, or a wrong one.
"""

import codecs
import math
import re
from typing import NamedTuple

DECLARED = re.compile(rb"C[a-z]*A[a-z]*\s*\[([^\]]*)\]|ca\s*\[([^\]]*)\]")
# Codecs that are used for text files; others in Python, such as punycode, are very slow on large input.
FOR_TEXT = re.compile("(ascii|big5|cp|euc|gb|hz|iso|johab|koi|mac|shift|tis|utf-(8|16|32)).*")
SUPERSETS = {
    "ascii": "cp1252",
    "big5": "big5hkscs",
    "cp950": "big5hkscs",
    "euc_kr": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "iso8859-1": "cp1252",
    "shift_jis": "cp932",
}
"""Charset that records declare -> the larger one that programs write under its name (WHATWG Encoding Standard)."""
LATIN = "cp1252"
"""Latin-1, SGF's default, in its superset of the WHATWG Encoding Standard."""


class Script(NamedTuple):
    """What a text in a charset mostly consists of, for guesses."""

    share: float
    """Share of records, of those that are not in UTF-8."""
    basic: str
    """Basic charset that has the common characters."""
    first_bytes: range
    """The first bytes of the common characters in the basic charset."""
    size: int
    """Number of common characters."""


JAPANESE = Script(0.2, "shift_jis", range(0x82, 0x98), 3135)  # kana and the kanji of JIS level 1
CHINESE = Script(0.5, "gb2312", range(0xB0, 0xD8), 3755)  # level 1 of GB 2312
TAIWANESE = Script(0.05, "big5", range(0xA4, 0xC7), 5401)  # level 1 of Big5
KOREAN = Script(0.05, "euc_kr", range(0xB0, 0xC9), 2350)  # hangul
TWO_BYTES = {
    "cp932": JAPANESE,
    "gb18030": CHINESE,
    "big5hkscs": TAIWANESE,
    "cp949": KOREAN,
    "euc_jp": JAPANESE._replace(share=0.01),
}
SEVEN_BITS = {"iso2022_jp_2": JAPANESE, "iso2022_kr": KOREAN, "hz": CHINESE}
LATIN_LETTER = re.compile(r"(?<![^\x00-\x7f])[^\W\x00-\x7f](?![^\x00-\x7f])")
"""A letter beyond ASCII with ASCII around it."""
CONTROL = re.compile("[\x00-\x08\x0e-\x1f\ufffd]")
"""What text does not contain if it is read in the right charset."""
ESCAPES = re.compile(rb"\x1b[$(]|~\{")
"""How SEVEN_BITS announce that ASCII characters stand for others."""
AMBIGUOUS = re.compile(rb"[\x80-\xff][\\\]]|\x1b[$(]|~\{")
"""What some charsets take for one character with a bracket or a backslash in it, and others for two."""
BYTE_ORDERS = {"utf-32-le": 4, "utf-32-be": 4, "utf-16-le": 2, "utf-16-be": 2}
"""Codec -> bytes per character; UTF-32 first, because its byte order mark begins with that of UTF-16."""


def to_8_bits(text: bytes) -> bytes:
    """Return the text in UTF-8 if it is in UTF-16 or UTF-32, with or without a byte order mark; else as it is."""
    for codec, width in BYTE_ORDERS.items():
        start = text[:1000].find("(;".encode(codec))
        if text.startswith("\ufeff".encode(codec)) or (start >= 0 and start % width == 0):
            return text.decode(codec, "replace").removeprefix("\ufeff").encode()
    return text


def declared_charset(text: bytes) -> str | None:
    """Return the charset that the first CA property names; None if there is none or Python does not know it."""
    found = DECLARED.search(text)
    if not found:
        return None
    name = (found.group(1) or found.group(2) or b"").decode("ascii", "replace").strip().lower().removeprefix("x-")
    try:
        codec = codecs.lookup(name).name
    except (LookupError, ValueError):  # ValueError: a name with a zero byte
        return None
    return SUPERSETS.get(codec, codec) if FOR_TEXT.match(codec) else None


def is_utf_8(text: bytes) -> bool:
    """Return whether text is in UTF-8, which includes ASCII; not if it may be in a charset of 7 bits."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return not ESCAPES.search(text)


def is_ambiguous(text: bytes) -> bool:
    """Return whether the brackets and backslashes of a text that is not in UTF-8 depend on its charset."""
    return bool(AMBIGUOUS.search(text))


def readings(text: bytes, declared: str | None) -> dict[str, str]:
    """Return charset -> the text in it, for text that is not in UTF-8, the most plausible first.

    That is the declared charset if every byte is valid in it, or else the one in which such a text is most likely.
    """
    names = [*([declared] if declared else []), LATIN, *TWO_BYTES]
    if ESCAPES.search(text):
        names += ["utf-8", *SEVEN_BITS]
    found = {name: text.decode(name, "replace") for name in dict.fromkeys(names)}
    if declared and declared != LATIN and "\ufffd" not in found[declared]:
        return found
    likely = {name: _log_likelihood(name, text) for name, text in found.items()}
    return dict(sorted(found.items(), key=lambda item: -likely[item[0]]))


def _log_likelihood(charset: str, text: str) -> float:
    """Return how likely a text is if its charset is this: common characters are equally likely, others rare."""
    beyond = [letter for letter in text if letter > "\x7f"]
    if script := (TWO_BYTES | SEVEN_BITS).get(charset):
        codes = [letter.encode(script.basic, "ignore") for letter in beyond]
        common = sum(len(code) == 2 and code[0] in script.first_bytes for code in codes)
        share, size = script.share, script.size
    else:
        common, share, size = len(LATIN_LETTER.findall(text)), 0.2, 64
    rare = len(beyond) - common
    wrong = len(CONTROL.findall(text))
    return math.log(share) + common * math.log(0.95 / size) + rare * math.log(0.05 / 20_000) - 40 * wrong
