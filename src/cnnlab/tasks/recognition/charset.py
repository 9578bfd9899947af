"""Character sets: which characters a reader knows, and the one form that texts are brought into."""

import string
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cnnlab.errors import DataError, InputError, nearest

CASES = ("keep", "lower", "upper")
WIDTHS = ("keep", "half")
FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}
"""Full-width forms of ASCII, and the ideographic space -> their usual forms."""


@dataclass(frozen=True)
class Charset:
    """The characters that a reader knows, in the order of its classes.

    case: keep, lower or upper. width: "half" turns full-width letters and digits into ASCII.
    """

    characters: tuple[str, ...]
    case: str = "keep"
    width: str = "keep"

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Character -> its class."""
        return {character: number for number, character in enumerate(self.characters)}

    def normalized(self, text: str) -> str:
        """Return text in Unicode's composed form (NFC), in the chosen case and width, with single spaces inside."""
        text = unicodedata.normalize("NFC", text)
        if self.width == "half":
            text = text.translate(FULL_WIDTH)
        if self.case != "keep":
            text = text.lower() if self.case == "lower" else text.upper()
        return " ".join(text.split())

    def encode(self, text: str) -> list[int]:
        """Return the classes of the characters of a normalized text, all of which must be known."""
        return [self.numbers[character] for character in text]

    def unknown(self, texts: Iterable[str]) -> dict[str, int]:
        """Return character -> how often it occurs in normalized texts, of those that the set does not have."""
        counts: dict[str, int] = {}
        for text in texts:
            for character in text:
                if character not in self.numbers:
                    counts[character] = counts.get(character, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def build_charset(name: str, case: str, width: str) -> Charset:
    """Return the set that data.charset names: one of CHARSETS, or a UTF-8 file with all its characters.

    Raises InputError for unknown names and options, DataError for a file that is not UTF-8 or has no characters.
    """
    for key, value, known in (("case", case, CASES), ("width", width, WIDTHS)):
        if value not in known:
            raise InputError(f"data.{key}={value}: use {', '.join(known)}.")
    characters = CHARSETS[name] if name in CHARSETS else _characters_of(name)
    plain = Charset((), case, width)
    kept = dict.fromkeys(c for character in characters for c in (plain.normalized(character) or " "))
    return Charset(tuple(kept), case, width)


def gb2312_level_1() -> str:
    """Return the 3,755 characters of the first level of GB 2312-80 (rows 16 to 55), in its order."""
    codes = (bytes((0xA0 + row, 0xA0 + cell)) for row in range(16, 56) for cell in range(1, 95))
    return b"".join(codes).decode("gb2312", errors="ignore")


CHARSETS = {
    "digits": string.digits,
    "latin": string.digits + string.ascii_letters,
    "ascii": "".join(map(chr, range(0x20, 0x7F))),
    "gb2312_1": gb2312_level_1(),
    "plates_cn": "京沪津渝冀晋蒙辽吉黑苏浙皖闽赣鲁豫鄂湘粤桂琼川贵云藏陕甘青宁新0123456789ABCDEFGHJKLMNPQRSTUVWXYZ",
}
"""Name -> characters. plates_cn: provinces, digits and letters of Chinese licence plates (GA 36-2018)."""


def _characters_of(name: str) -> str:
    path = Path(name).expanduser()
    if not path.is_file():
        raise InputError(
            f"data.charset={name} is neither a character set nor a file with one. "
            f"{nearest([name], list(CHARSETS))}".rstrip()
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}. Save the character set as UTF-8.") from error
    characters = "".join(dict.fromkeys(unicodedata.normalize("NFC", text).replace("\n", "").replace("\r", "")))
    if not characters:
        raise DataError(f"{path} has no characters: write all characters of the set into it, in any order.")
    return characters
