"""Fonts for names in any script: matplotlib's DejaVu Sans and, for letters that it lacks, fonts installed here."""

import dataclasses
import functools
import itertools
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from PIL import ImageDraw, ImageFont

log = logging.getLogger(__name__)
WANTED = ("notosanscjk", "notosanssc", "sourcehansans", "notosans", "wqy", "msyh", "pingfang", "simhei", "sans", "hei")
"""Parts of the file names of fonts to prefer, best first; the first ones have Chinese, Japanese and Korean."""
STYLES = ("italic", "oblique", "bold", "light", "thin", "black", "medium", "condensed", "mono", "serif")
"""Parts of the file names of fonts to avoid."""
ADVICE = "apt install fonts-noto-cjk, or copy a font file into ~/.local/share/fonts"


_missing: list[str] = []
"""Letters that no installed font has."""


class Face(NamedTuple):
    """A font in a file, which may hold several."""

    path: str
    number: int
    family: str
    """Its name for matplotlib."""


DEFAULT = Face(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), 0, "DejaVu Sans")


@functools.cache
def font(size: float, face: Face = DEFAULT) -> ImageFont.FreeTypeFont:
    """Return a font for Pillow, whose own default is hard to read at small sizes; size: in pixels."""
    return ImageFont.truetype(face.path, size, face.number)


def draw_text(pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: float, fill: object) -> None:
    """Draw a line of text with its upper left corner at `place`, each letter in a font that has it."""
    left, baseline = place[0], place[1] + font(size).getmetrics()[0]
    for face, part in runs(text):
        pen.text((left, baseline), part, fill=fill, font=font(size, face), anchor="ls")  # type: ignore[arg-type]
        left += font(size, face).getlength(part)


def text_width(text: str, size: float) -> float:
    """Return the width in pixels of a line that `draw_text` draws."""
    return sum(font(size, face).getlength(part) for face, part in runs(text))


def runs(text: str) -> list[tuple[Face, str]]:
    """Split text into parts with one font each."""
    return [(face, "".join(letters)) for face, letters in itertools.groupby(text, face_of)]


@contextmanager
def fonts_for(figure: Figure) -> Iterator[None]:
    """Give each text of a figure fonts for all its letters, and draw names with $ as they are, for the block's drawing.

    Matplotlib's own warnings of missing letters are silenced in the block: `face_of` has warned.
    """
    for axes in figure.axes:
        axes.get_xticklabels(), axes.get_yticklabels()  # ticks get their texts here
    for text in figure.findobj(Text):
        words = text.get_text()
        if "$" in words and r"\mathdefault" not in words:  # not a power of ten of a logarithmic axis
            text.set_parse_math(False)
        families = dict.fromkeys([DEFAULT.family, *(face_of(letter).family for letter in words)])
        if len(families) > 1:
            text.set_fontfamily(list(families))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


@functools.cache
def face_of(letter: str) -> Face:
    """Return a font that has the letter; DejaVu Sans, with one warning for the whole program, if none is installed."""
    code = ord(letter)
    if letter.isspace() or code in letters_of(DEFAULT.path):
        return DEFAULT
    for path in installed():
        if code in letters_of(path):
            return _face(path)
    _missing.append(letter)
    _warn_once()
    return DEFAULT


@functools.cache
def installed() -> list[str]:
    """Return the font files of this machine, those that fontconfig prefers first."""
    return sorted(font_manager.findSystemFonts(), key=_rank)


@functools.lru_cache(maxsize=64)
def letters_of(path: str) -> frozenset[int]:
    """Return the code points that a font file has; none if it cannot be read."""
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (RuntimeError, OSError):
        return frozenset()


@functools.cache
def _face(path: str) -> Face:
    """Return a font of a file, that for simplified Chinese if it holds several, and make it known to matplotlib."""
    before = len(font_manager.fontManager.ttflist)
    font_manager.fontManager.addfont(path)
    entries = {entry.name: entry for entry in reversed(font_manager.fontManager.ttflist[before:])}
    known = [(number, name) for number, name in enumerate(_names(path)) if name in entries]
    number, name = next((each for each in known if each[1].endswith(" SC")), (known or [(0, next(iter(entries)))])[0])
    # Under a name of its own it is the only choice: matplotlib would warn of a font without a regular weight.
    own = dataclasses.replace(entries[name], name=f"{name} for cnnlab", weight=400, style="normal", stretch="normal")
    font_manager.fontManager.ttflist.append(own)
    return Face(path, number, own.name)


def _names(path: str) -> list[str]:
    """Return the names of the fonts in a file."""
    names: list[str] = []
    while True:
        try:
            names.append(ImageFont.truetype(path, 10, len(names)).getname()[0] or "")
        except OSError:
            return names


def _rank(path: str) -> tuple[int, int, str]:
    name = "".join(letter for letter in Path(path).stem.lower() if letter.isalnum())
    wanted = next((number for number, part in enumerate(WANTED) if part in name), len(WANTED))
    return wanted, sum(part in name for part in STYLES), name


@functools.cache
def _warn_once() -> None:
    log.warning("No installed font has letters such as %s; they are drawn as boxes. Remedy: %s.", _missing[0], ADVICE)
