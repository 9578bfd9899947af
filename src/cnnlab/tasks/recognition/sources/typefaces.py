"""Find fonts by file, folder or name, and which characters they have."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import ImageFont

from cnnlab.errors import DataError, InputError, nearest
from cnnlab.system.fonts import DEFAULT, installed, letters_of

SUFFIXES = (".ttf", ".otf", ".ttc")
ADVICE = "Install some (Debian: apt install fonts-noto-cjk fonts-dejavu; macOS: brew install font-noto-sans-cjk-sc)"


def find_fonts(wanted: str | Sequence[str] | None, characters: Iterable[str]) -> list[Path]:
    """Return font files that together have all the characters.

    wanted: a folder of fonts, or a list of files and of family names as fontconfig knows them; None: every installed
    font that has all the characters, matplotlib's DejaVu Sans among them.
    Raises InputError for unknown names, DataError for files that are not fonts and for characters that no font has.
    """
    letters = {character for character in characters if not character.isspace()}
    if wanted is None:
        known = dict.fromkeys([*installed(), DEFAULT.path])
        found = [Path(path) for path in known if letters <= characters_of(Path(path))]
        if not found:
            raise DataError(
                f"No installed font has all {len(letters)} characters of data.charset. {ADVICE}, or set data.fonts."
            )
        return sorted(found)
    found = fonts_in(wanted) if isinstance(wanted, str) else [path for name in wanted for path in named(name)]
    for path in found:
        require_font(path)
    missing = letters.difference(*(characters_of(path) for path in found))
    if missing:
        raise DataError(
            f"No font of data.fonts has {', '.join(sorted(missing)[:10])}{', ...' if len(missing) > 10 else ''} "
            f"({len(missing)} of {len(letters)} characters){_who_has(missing)}. Add a font that has them, or choose "
            "another data.charset."
        )
    return found


def fonts_in(folder: str) -> list[Path]:
    """Return the font files of a folder, sorted by name."""
    place = Path(folder).expanduser()
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise InputError(f"data.fonts={folder}: folder not found. Give a folder, or a list of names and files.")
    found = sorted(path for path in place.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise DataError(f"{place} has no fonts ({', '.join(SUFFIXES)}). {ADVICE}, or set data.fonts.")
    return found


def named(name: str) -> list[Path]:
    """Return the files of a font that is named by its file, or by its family."""
    path = Path(name).expanduser()
    if path.suffix.lower() in SUFFIXES or path.is_file():
        if not path.is_file():
            raise InputError(f"data.fonts: {name} not found.")
        return [path]
    families: dict[str, list[Path]] = {}
    for file in installed():
        families.setdefault(family_of(Path(file)), []).append(Path(file))
    matching = next((each for each in families if each.casefold() == name.casefold()), None)
    if matching is None:
        raise InputError(
            f"data.fonts: no font named {name} is installed. {nearest([name], sorted(filter(None, families)))}".rstrip()
        )
    return sorted(families[matching])


def family_of(path: Path) -> str:
    """Return the family of a font file; "" if it cannot be read."""
    try:
        return ImageFont.truetype(str(path), 10).getname()[0] or ""
    except OSError:
        return ""


def require_font(path: Path) -> None:
    """Raise DataError if a file is not a font that can be drawn with."""
    try:
        ImageFont.truetype(str(path), 10)
    except OSError as error:
        raise DataError(f"{path} is not a font: {error}. Remove it, or list the fonts in data.fonts.") from error


def characters_of(path: Path) -> frozenset[str]:
    """Return the characters that a font file has, by its character map."""
    return frozenset(map(chr, letters_of(str(path))))


def _who_has(missing: set[str]) -> str:
    having = [family_of(Path(path)) for path in installed() if missing <= characters_of(Path(path))]
    return f"; installed fonts that have them: {', '.join(sorted(set(having))[:5])}" if having else ""
