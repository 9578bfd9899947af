"""Drawn lines are what (seed, epoch, index) say; tables are read in every form, and bad rows are named."""

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from fontTools.ttLib import TTFont
from matplotlib import get_data_path
from PIL import Image
from scipy.io import savemat

from cnnlab.errors import DataError, InputError
from cnnlab.tasks.recognition.sources.text_lines import Style, read_words, text_lines
from cnnlab.tasks.recognition.sources.text_table import text_table
from cnnlab.tasks.recognition.sources.typefaces import characters_of, find_fonts

DEJAVU = Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
PLAIN = {"charset": "digits", "case": "keep", "width": "keep"}


def drawn(**options):
    defaults = {"lines": 40, "val_lines": 10, "test_lines": 0, "length": [2, 5], "seed": 0, "fonts": [str(DEJAVU)]}
    return text_lines(**PLAIN | defaults | options)


def test_lines_depend_on_seed_epoch_and_number_alone():
    first, again, other = drawn(), drawn(), drawn(seed=1)
    for index in (0, 7):
        assert first.train.text(index, 3) == again.train.text(index, 3)
        assert torch.equal(first.train.tensor(index, 1, 3), again.train.tensor(index, 1, 3))
        assert first.val.text(index, 0) == first.val.text(index, 3)
        assert torch.equal(first.val.tensor(index, 3, 0), first.val.tensor(index, 3, 3))
    kinds = ((first, 0), (first, 1), (other, 0))
    texts = [tuple(splits.train.text(index, epoch) for index in range(40)) for splits, epoch in kinds]
    assert len(set(texts)) == 3
    assert all(2 <= len(text) <= 5 and set(text) <= set("0123456789") for each in texts for text in each)


def test_characters_occur_equally_often():
    lines = drawn(lines=400, length=[4, 4]).train
    counts = Counter(character for index in range(400) for character in lines.text(index))
    assert set(counts.values()) == {160}  # 1,600 of 10 kinds


def test_words_are_made_of_the_file_and_every_character_occurs(tmp_path):
    words = ["ab", "cd", "xyzw", "ж", "e9"]
    (tmp_path / "words.tsv").write_text("".join(f"{word}\t3\n" for word in words), encoding="utf-8")
    options = {"charset": "latin", "words": str(tmp_path / "words.tsv"), "length": [1, 6]}
    lines = drawn(**options).train
    assert lines.words == ("ab", "cd", "xyzw", "e9")
    text = "".join(lines.text(index) for index in range(40))
    assert text.count("ab") >= 2
    with pytest.raises(DataError, match=r"No word of data\.words"):
        read_words(str(tmp_path / "words.tsv"), lines.charset.__class__(("q",)))


def test_ink_is_the_text_that_is_said():
    """Without any distortion the picture is what Pillow draws, but for its colours."""
    plain = Style(rotation=0, perspective=0, blur=0, noise=0, jpeg=None, spacing=0)
    one = drawn(style=plain, length=[1, 1]).val
    by_text: dict[str, list[np.ndarray]] = {}
    for index in range(10):
        pixels = one.tensor(index, 1)[0].float().numpy()
        ink = np.abs(pixels - pixels[0, 0]) > 20
        by_text.setdefault(one.text(index), []).append(ink.sum() / ink.any(0).sum() / ink.any(1).sum())
    assert len(by_text) == 10  # each digit once
    assert by_text["1"] != by_text["8"]


def test_fonts_have_what_their_character_maps_say(tmp_path, monkeypatch):
    assert characters_of(DEJAVU) == {chr(code) for code in TTFont(DEJAVU).getBestCmap()}
    assert DEJAVU in find_fonts([str(DEJAVU)], "abc")
    with pytest.raises(DataError, match=r"No font of data\.fonts has 中, 文 \(2 of 3 characters\)"):
        find_fonts([str(DEJAVU)], "a中文")
    (tmp_path / "broken.ttf").write_bytes(b"not a font")
    with pytest.raises(DataError, match=r"broken\.ttf is not a font"):
        find_fonts(str(tmp_path), "a")
    monkeypatch.setattr("cnnlab.tasks.recognition.sources.typefaces.installed", list)
    assert find_fonts(None, "0123456789") == [DEJAVU]  # matplotlib's own
    with pytest.raises(DataError, match=r"No installed font has all 1 characters of data\.charset\. Install some"):
        find_fonts(None, "中")
    with pytest.raises(InputError, match="no font named Nonexistent Sans is installed"):
        find_fonts(["Nonexistent Sans"], "a")
    with pytest.raises(InputError, match="folder not found"):
        find_fonts(str(tmp_path / "none"), "a")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lines": 0}, "need at least one line"),
        ({"length": [5, 2]}, r"data\.length=\[5, 2\]"),
        ({"style": {"jpeg": 0}}, r"data\.style\.jpeg=0"),
        ({"style": {"blur": -1}}, r"data\.style\.blur=-1"),
    ],
)
def test_values_that_leave_nothing_to_draw_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        drawn(**{key: Style(**value) if key == "style" else value for key, value in options.items()})


# --- Tables ---


@pytest.fixture
def words(tmp_path):
    for name in ("a", "b", "c"):
        Image.new("L", (30, 10), 200).save(tmp_path / f"{name}.png")
    return tmp_path


def read(folder, file, **options):
    latin = {"charset": "latin", "case": "keep", "width": "keep"}
    return text_table(**latin | {"root": str(folder), "file": file} | options).train


def as_mat(path):
    entries = np.array([("a.png", "One"), ("b.png", "Two")], dtype=[("ImgName", "O"), ("GroundTruth", "O")])
    savemat(path, {"testdata": entries})


@pytest.mark.parametrize(
    ("file", "contents"),
    [
        ("words.tsv", "a.png\tOne\nb.png\tTwo\n"),
        ("words.tsv", "\ufeffa.png\tOne\r\n\r\nb.png\tTwo"),
        ("words.csv", "a.png,One\nb.png,Two\n"),
        ("words.csv", 'text,extra,file\n"One",x,a.png\nTwo,y,b.png\n'),
        ("gt.txt", 'a.png, "One"\nb.png, "Two"\n'),
        ("testdata.mat", None),
    ],
)
def test_tables_of_every_form_give_the_same_lines(words, file, contents):
    (words / file).write_text(contents, encoding="utf-8") if contents else as_mat(words / file)
    found = read(words, file)
    assert [(path.name, text) for path, text in zip(found.paths, found.texts, strict=True)] == [
        ("a.png", "One"),
        ("b.png", "Two"),
    ]
    assert found.sizes == [(10, 30), (10, 30)]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("a.png\tOne\nb.png\t \n", "1 rows cannot be used: line 2: no text"),
        ("none.png\tOne\n", "line 1: none.png not found"),
        ("a.png\tnaïve\n", r"not in data.charset: 'ï' \(1\); line 1: naïve"),
        ("a.png One\n", "line 1: no tab between picture and text"),
        ("", "lists no pictures"),
    ],
)
def test_bad_rows_are_named(words, contents, message):
    (words / "words.tsv").write_text(contents, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read(words, "words.tsv")


def test_bad_rows_are_skipped_on_demand(words, caplog):
    (words / "words.tsv").write_text("a.png\tOne\nb.png\t\nc.png\tñ\n", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        found = read(words, "words.tsv", bad_rows="skip", unknown="skip")
    assert found.texts == ["One"]
    assert "line 2: no text" in caplog.text
    assert "'ñ' (1)" in caplog.text


def test_table_that_is_missing_or_not_text_is_named(words):
    with pytest.raises(DataError, match=r"absent\.tsv not found"):
        read(words, "absent.tsv")
    (words / "big5.tsv").write_bytes("a.png\t漢字".encode("big5"))
    with pytest.raises(DataError, match="is not UTF-8"):
        read(words, "big5.tsv")
