"""Letters that DejaVu Sans lacks, against fonts made here, in which each letter is a filled rectangle."""

import logging

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib.ttCollection import TTCollection
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from cnnlab.drawing.sheets import figure_image
from cnnlab.system import fonts
from cnnlab.system.fonts import DEFAULT, draw_text, face_of, font, runs, text_width

EM = 1000


def made_font(letters: str, family: str, height: int = 800):
    """A font whose letters are rectangles from the baseline up, 600 wide of an advance of 1000."""
    pen = TTGlyphPen(None)
    for place in ((0, 0), (0, height), (600, height), (600, 0)):
        (pen.lineTo if place != (0, 0) else pen.moveTo)(place)
    pen.closePath()
    builder = FontBuilder(EM, isTTF=True)
    builder.setupGlyphOrder([".notdef", "block"])
    builder.setupCharacterMap({ord(letter): "block" for letter in letters})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "block": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (EM, 0), "block": (EM, 0)})
    builder.setupHorizontalHeader(ascent=880, descent=-120)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2(usWeightClass=500)
    builder.setupPost()
    return builder.font


@pytest.fixture
def install(monkeypatch, tmp_path):
    """A function that makes these fonts the only ones on the machine."""

    def forget() -> None:
        fonts._missing.clear()
        for cached in (fonts.face_of, fonts.installed, fonts._face, fonts._warn_once, fonts.letters_of):
            cached.cache_clear()

    def put(**made: object) -> None:
        for name, each in made.items():
            each.save(tmp_path / f"{name}.ttf")
        paths = [str(path) for path in tmp_path.glob("*.ttf")]
        monkeypatch.setattr(fonts.font_manager, "findSystemFonts", lambda: [*paths, DEFAULT.path])
        forget()

    yield put
    forget()


def drawn(text: str, size: int = 40) -> np.ndarray:
    page = Image.new("L", (200, 60), "white")
    draw_text(ImageDraw.Draw(page), (0, 0), text, size, "black")
    return np.asarray(page) < 128


def test_letter_comes_from_the_font_that_has_it(install):
    install(cats=made_font("猫犬", "Cats"))
    assert [(face.family == DEFAULT.family, part) for face, part in runs("a 猫犬 b")] == [
        (True, "a "),
        (False, "猫犬"),
        (True, " b"),
    ]
    ink = drawn("猫")
    baseline = font(40).getmetrics()[0]
    expected = np.zeros_like(ink)
    expected[baseline - 32 : baseline, :24] = True  # 800 and 600 of 1000, at 40 pixels
    assert (ink != expected).sum() <= 60  # antialiased edges
    assert text_width("猫犬", 40) == pytest.approx(80)
    assert text_width("a猫", 40) == pytest.approx(font(40).getlength("a") + 40)


def test_figures_get_the_letters_too(install, recwarn):
    install(cats=made_font("猫", "Cats"))
    figure = Figure(figsize=(4, 4))
    axes = figure.add_subplot(position=(0.5, 0.5, 0.4, 0.4))
    axes.set_xticks([])
    axes.set_yticks([0], ["猫"], fontsize=72)
    ink = np.asarray(figure_image(figure, dpi=100).convert("L"))[:, :180] < 128
    assert ink.sum() == pytest.approx(100 * 72 / 72 * 0.6 * 100 * 0.8, rel=0.1)
    assert not [each for each in recwarn if "Glyph" in str(each.message)]


def test_names_with_dollars_are_no_formulas(install):
    install()
    texts = []
    for name in ("$\\frac$", "$x^2$"):
        figure = Figure(figsize=(2, 2))
        axes = figure.add_subplot()
        axes.set_yscale("log")
        axes.set_title(name)
        figure_image(figure)
        texts.append(axes.title.get_parse_math())
        assert any(label.get_parse_math() for label in axes.get_yticklabels())  # powers of ten stay so
    assert texts == [False, False]


def test_missing_letters_are_told_once(install, caplog):
    install()
    with caplog.at_level(logging.WARNING):
        assert [face_of(letter) for letter in "猫犬a "] == [DEFAULT] * 4
        drawn("猫犬")
    assert [record.getMessage() for record in caplog.records] == [
        "No installed font has letters such as 猫; they are drawn as boxes. Remedy: "
        "apt install fonts-noto-cjk, or copy a font file into ~/.local/share/fonts."
    ]


def test_upright_fonts_of_many_scripts_are_preferred(install):
    install(
        AAA_Bold=made_font("猫", "Bold"),
        NotoSansCJKsc_Bold=made_font("猫", "Noto Bold"),
        NotoSansCJKsc_Regular=made_font("猫", "Noto"),
        ZZZ=made_font("猫犬", "Other"),
    )
    assert face_of("猫").path.endswith("NotoSansCJKsc_Regular.ttf")
    assert face_of("犬").path.endswith("ZZZ.ttf")


def test_simplified_chinese_is_taken_from_a_collection(install, tmp_path):
    collection = TTCollection()
    collection.fonts = [made_font("猫", "Cats JP", 100), made_font("猫", "Cats SC", 800)]
    install(collection=collection)
    assert face_of("猫").number == 1
    assert drawn("猫").sum() == pytest.approx(24 * 32, rel=0.1)


def test_damaged_fonts_are_passed_over(install, tmp_path):
    (tmp_path / "aaa.ttf").write_bytes(b"no font")
    install(cats=made_font("猫", "Cats"))
    assert face_of("猫").path.endswith("cats.ttf")
