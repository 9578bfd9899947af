"""Lines of text drawn from fonts: data without a download and without an end."""

import gzip
import hashlib
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor

from cnnlab.data.sources.image_folder import find_pictures
from cnnlab.errors import DataError, InputError
from cnnlab.seeds import derive
from cnnlab.tasks.recognition.charset import Charset, build_charset
from cnnlab.tasks.recognition.lines import LineSplits
from cnnlab.tasks.recognition.sources.typefaces import characters_of, find_fonts

log = logging.getLogger(__name__)
Colour = tuple[int, ...]
HEIGHT = 48
"""Height in pixels of a drawn line, before it is resized for the network."""


@dataclass(frozen=True)
class Style:
    """How lines are drawn; each line takes random values up to these.

    rotation: degrees. perspective: shift of each corner, as a share of the height. blur: standard deviation in pixels.
    noise: standard deviation, pixels being in [0, 1]. jpeg: lowest quality (1 to 100) at which half of the lines are
    compressed; null: none. spacing: space between characters, as a share of their size. contrast: least difference
    between ink and paper, in [0, 1]. backgrounds: folder of pictures behind the lines; null: plain paper.
    """

    rotation: float = 2.0
    perspective: float = 0.1
    blur: float = 1.2
    noise: float = 0.08
    jpeg: int | None = 40
    spacing: float = 0.2
    contrast: float = 0.35
    backgrounds: str | None = None

    def __post_init__(self) -> None:
        for name in ("rotation", "perspective", "blur", "noise", "spacing"):
            if getattr(self, name) < 0:
                raise InputError(f"data.style.{name}={getattr(self, name)}: use 0 or more.")
        if self.jpeg is not None and not 1 <= self.jpeg <= 100:
            raise InputError(f"data.style.jpeg={self.jpeg}: use a quality from 1 to 100, or null.")
        if not 0 < self.contrast <= 1:
            raise InputError(f"data.style.contrast={self.contrast}: use a number above 0 and at most 1.")


def text_lines(
    *,
    charset: str,
    case: str,
    width: str,
    lines: int,
    val_lines: int,
    test_lines: int,
    length: Sequence[int],
    seed: int,
    words: str | None = None,
    fonts: str | Sequence[str] | None = None,
    test_fonts: str | Sequence[str] | None = None,
    style: Style | None = None,
) -> LineSplits:
    """Return drawn lines: new ones in each epoch of training, always the same for validation and test.

    charset, case, width: see `build_charset`. lines: in an epoch. length: fewest and most characters of a line.
    words: file of words to make lines of, one in a row, perhaps with its frequency after a tab (may be gzipped); None:
    random characters. fonts: see `find_fonts`. test_fonts: fonts of the test lines, which training then should not
    have; None: the same fonts.
    Raises InputError or DataError for values that leave nothing to draw.
    """
    if min(lines, val_lines) < 1 or test_lines < 0:
        raise InputError(
            f"data.lines={lines}, data.val_lines={val_lines}, data.test_lines={test_lines}: training and validation "
            "need at least one line."
        )
    if len(length) != 2 or not 1 <= length[0] <= length[1]:
        raise InputError(f"data.length={list(length)}: give the fewest and the most characters of a line, at least 1.")
    style = style or Style()
    characters = build_charset(charset, case, width)
    chosen = find_fonts(fonts, characters.characters)
    held_out = find_fonts(test_fonts, characters.characters) if test_fonts is not None else chosen
    if twins := sorted({path.name for path in held_out} & {path.name for path in chosen}) if test_fonts else []:
        log.warning("Fonts of both training and test lines: %s.", ", ".join(twins))
    vocabulary = read_words(words, characters) if words else ()
    paper = tuple(map(str, find_pictures(Path(style.backgrounds).expanduser())[1])) if style.backgrounds else ()
    files, size = tuple(map(str, chosen)), (length[0], length[1])
    train = DrawnLines("train", np.arange(lines), characters, files, size, seed, style, vocabulary, paper)
    train.report_coverage()
    val = replace(train, part="val", numbers=np.arange(val_lines))
    test = replace(train, part="test", numbers=np.arange(test_lines), fonts=tuple(map(str, held_out)))
    return LineSplits(train, val, test if test_lines else None, charset=characters)


@dataclass(frozen=True)
class DrawnLines:
    """Lines that are a function of (seed, part, epoch, number); only those of training change from epoch to epoch."""

    part: str
    numbers: np.ndarray
    charset: Charset
    fonts: tuple[str, ...]
    length: tuple[int, int]
    seed: int
    style: Style
    words: tuple[str, ...] = field(repr=False, default=())
    backgrounds: tuple[str, ...] = field(repr=False, default=())

    def __len__(self) -> int:
        return len(self.numbers)

    def text(self, index: int, epoch: int = 0) -> str:
        return self._text(self._random(index, epoch, "text"), int(self.numbers[index]), epoch)

    def tensor(self, index: int, channels: int, epoch: int = 0) -> Tensor:
        random = self._random(index, epoch, "picture")
        text = self.text(index, epoch)
        picture = draw_line(text, self._font_for(text, random), random, self.style, self.backgrounds)
        pixels = torch.from_numpy(np.array(picture if channels == 3 else picture.convert("L")))
        return pixels.permute(2, 0, 1) if channels == 3 else pixels[None]

    def aspect(self, index: int, epoch: int = 0) -> float:
        return 0.7 * len(self.text(index, epoch))  # Chinese characters are about as wide as high, letters half so

    def name(self, index: int) -> str:
        return f"{self.numbers[index]:05d}"

    def digest(self, index: int) -> str:
        what = (self.part, int(self.numbers[index]), self.charset, self._font_names, self.length, self.seed, self.style)
        return hashlib.blake2b(repr(what).encode(), digest_size=16).hexdigest()

    def subset(self, indices: Sequence[int] | np.ndarray) -> "DrawnLines":
        return replace(self, numbers=self.numbers[np.asarray(indices, int)])

    def report_coverage(self) -> None:
        """Log how often the characters occur in the first epoch of training."""
        counts = dict.fromkeys(self.charset.characters, 0)
        for index in range(len(self)):
            for character in self.text(index):
                counts[character] = counts.get(character, 0) + 1
        rarest = min(counts, key=counts.__getitem__)
        seen = sum(count > 0 for count in counts.values())
        log.info(
            "Drawn lines: %d of %d characters occur in an epoch, %d times at the median, %r least often (%d); %d fonts",
            *(seen, len(counts), int(np.median(list(counts.values()))), rarest, counts[rarest], len(self.fonts)),
        )

    @cached_property
    def _font_names(self) -> list[str]:
        return [Path(path).name for path in self.fonts]

    @cached_property
    def _words_with(self) -> dict[str, list[str]]:
        """Character -> the words that it occurs in."""
        found: dict[str, list[str]] = {}
        for word in self.words:
            for character in dict.fromkeys(word):
                found.setdefault(character, []).append(word)
        return found

    def _random(self, index: int, epoch: int, purpose: str) -> np.random.Generator:
        changing = epoch if self.part == "train" else 0
        return np.random.default_rng(derive(self.seed, "line", self.part, changing, int(self.numbers[index]), purpose))

    def _text(self, random: np.random.Generator, number: int, epoch: int) -> str:
        """Return a text whose characters, or one character of each of its words, come in turn from the whole set.

        So all occur equally often, and rare ones too.
        """
        least, most = self.length
        target = int(random.integers(least, most + 1))
        spaced = " " in self.charset.numbers
        text = ""
        for character in self._turn(number, epoch, target):
            words = self._words_with.get(character)
            space = " " if spaced and text and (words or random.integers(4) == 0) else ""
            text += space + (words[int(random.integers(len(words)))] if words else character)
            if len(text) >= target:
                break
        return text[:most].rstrip()

    def _turn(self, number: int, epoch: int, count: int) -> list[str]:
        """Return the characters whose turn it is: positions of a sequence of shuffled sets, without the space."""
        characters = [character for character in self.charset.characters if not character.isspace()]
        size, changing = len(characters), epoch if self.part == "train" else 0
        start = (changing * len(self.numbers) + number) * self.length[1]
        places = range(start, start + count)
        order = [_shuffled(self.seed, self.part, place // size, size)[place % size] for place in places]
        return [characters[number] for number in order]

    @cached_property
    def _characters(self) -> list[frozenset[str]]:
        """The characters of the set that each font has."""
        wanted = frozenset(self.charset.characters)
        return [wanted & characters_of(Path(path)) for path in self.fonts]

    def _font_for(self, text: str, random: np.random.Generator) -> str:
        """Return a random font, one that has the whole text if there is one."""
        needed = set(text) - {" "}
        shared = [len(needed & characters) for characters in self._characters]
        best = [path for path, count in zip(self.fonts, shared, strict=True) if count == max(shared)]
        return best[int(random.integers(len(best)))]


@lru_cache(maxsize=64)
def _shuffled(seed: int, part: str, number: int, size: int) -> np.ndarray:
    return np.random.default_rng(derive(seed, "characters", part, number)).permutation(size)


def read_words(file: str, charset: Charset) -> tuple[str, ...]:
    """Return the words of a file that the character set can spell, without their frequencies.

    Raises DataError if the file does not exist, is not UTF-8, or no word is left.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise DataError(f"data.words={file}: file not found.")
    try:
        contents = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        rows = contents.decode("utf-8-sig").splitlines()
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise DataError(f"data.words={file} cannot be read: {error}. Save it as UTF-8 text.") from error
    words = dict.fromkeys(charset.normalized(row.split("\t")[0]) for row in rows)
    known = tuple(word for word in words if word and not charset.unknown([word]))
    if not known:
        raise DataError(f"No word of data.words={file} consists of characters of data.charset.")
    log.info("Words: %d of %d can be spelt with the character set", len(known), len(words))
    return known


def draw_line(
    text: str, font: str, random: np.random.Generator, style: Style, backgrounds: Sequence[str] = ()
) -> Image.Image:
    """Return a picture of a line, RGB of about HEIGHT pixels, with a random look within the limits of `style`."""
    size = int(random.integers(28, 37))
    mask = ink_mask(text, _font(font, size), size * style.spacing * random.uniform(-0.25, 1))
    mask = _distorted(mask, random, style)
    if (sigma := style.blur * random.uniform() ** 2) > 0.2:
        mask = mask.filter(ImageFilter.GaussianBlur(sigma))
    paper, ink = _colours(random, style.contrast)
    ground = Image.new("RGB", mask.size, paper)
    if backgrounds:
        ground = Image.blend(ground, _background(backgrounds, random, mask.size), 0.5)
    picture = Image.composite(Image.new("RGB", mask.size, ink), ground, mask)
    if (sigma := 255 * style.noise * random.uniform() ** 2) > 0.5:
        noise = sigma * random.standard_normal((mask.height, mask.width, 1), np.float32)
        picture = Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))
    if style.jpeg is not None and random.uniform() < 0.5:
        compressed = io.BytesIO()
        picture.save(compressed, "JPEG", quality=int(random.integers(style.jpeg, 101)))
        picture = Image.open(compressed).convert("RGB")
    return picture


def ink_mask(text: str, font: ImageFont.FreeTypeFont, spacing: float) -> Image.Image:
    """Return the ink of a text as opacity, mode L, HEIGHT pixels high; spacing: pixels between characters."""
    advances = [font.getlength(character) + spacing for character in text]
    ascent, descent = font.getmetrics()
    mask = Image.new("L", (max(4, round(sum(advances)) + 16), HEIGHT))
    pen = ImageDraw.Draw(mask)
    left, baseline = 8.0, (HEIGHT - ascent - descent) / 2 + ascent
    for character, advance in zip(text, advances, strict=True):
        pen.text((left, baseline), character, fill=255, font=font, anchor="ls")
        left += advance
    return mask


def _distorted(mask: Image.Image, random: np.random.Generator, style: Style) -> Image.Image:
    angle = random.uniform(-style.rotation, style.rotation) * min(1.0, 6 * mask.height / mask.width)
    mask = mask.rotate(angle, Image.Resampling.BILINEAR)
    shifts = random.uniform(0, style.perspective * mask.height, 8) * 0.5
    width, height = mask.size
    corners = (0, 0, 0, height, width, height, width, 0)
    signs = (1, 1, 1, -1, -1, -1, -1, 1)
    # Quadrilateral to rectangle: taking the corners outwards keeps all ink in the picture.
    quad = tuple(corner - sign * shift for corner, sign, shift in zip(corners, signs, shifts, strict=True))
    return mask.transform(mask.size, Image.Transform.QUAD, quad, Image.Resampling.BILINEAR)


def _colours(random: np.random.Generator, contrast: float) -> tuple[Colour, Colour]:
    """Return colours of paper and ink whose brightness differs by at least `contrast`, as a share of white."""
    while True:
        paper, ink = random.integers(256, size=(2, 3)).tolist()
        if abs(sum(paper) - sum(ink)) >= 3 * 255 * contrast:
            return tuple(paper), tuple(ink)


def _background(files: Sequence[str], random: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    with Image.open(files[int(random.integers(len(files)))]) as opened:
        picture = opened.convert("RGB")
    scale = max(size[0] / picture.width, size[1] / picture.height, 0.5)
    picture = picture.resize((max(size[0], round(picture.width * scale)), max(size[1], round(picture.height * scale))))
    left = int(random.integers(picture.width - size[0] + 1))
    top = int(random.integers(picture.height - size[1] + 1))
    return picture.crop((left, top, left + size[0], top + size[1]))


@lru_cache(maxsize=256)
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)
