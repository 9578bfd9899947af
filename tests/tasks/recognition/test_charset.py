"""Character sets against the standards that they come from."""

import unicodedata

import pytest

from cnnlab.errors import DataError, InputError
from cnnlab.tasks.recognition.charset import build_charset


def test_level_1_of_gb2312_has_3755_characters_in_the_order_of_pinyin():
    characters = build_charset("gb2312_1", "keep", "keep").characters
    assert (len(characters), len(set(characters)), characters[0], characters[-1]) == (3755, 3755, "啊", "座")
    rows = {character.encode("gb2312")[0] - 0xA0 for character in characters}
    assert rows == set(range(16, 56))
    assert all(unicodedata.name(character).startswith("CJK UNIFIED IDEOGRAPH") for character in characters)


@pytest.mark.parametrize(("name", "count"), [("digits", 10), ("latin", 62), ("ascii", 95), ("plates_cn", 65)])
def test_sizes_of_the_named_sets(name, count):
    assert len(build_charset(name, "keep", "keep").characters) == count


def test_texts_are_composed_narrowed_and_folded():
    charset = build_charset("latin", "lower", "half")
    assert len(charset.characters) == 36
    assert charset.normalized("Ａｂ　１\t2") == "ab 1 2"
    plain = build_charset("latin", "keep", "keep")
    assert (plain.normalized("e\u0301"), plain.normalized("Ａ")) == ("é", "Ａ")


def test_unknown_characters_are_counted_the_most_frequent_first():
    charset = build_charset("digits", "keep", "keep")
    assert list(charset.unknown(["1b2a", "b"]).items()) == [("b", 2), ("a", 1)]
    assert charset.encode("907") == [9, 0, 7]


def test_file_gives_its_characters_once_each(tmp_path):
    (tmp_path / "set.txt").write_text("ab\nba é\n", encoding="utf-8")
    assert build_charset(str(tmp_path / "set.txt"), "keep", "keep").characters == ("a", "b", " ", "é")


def test_what_cannot_be_is_named(tmp_path):
    with pytest.raises(InputError, match=r"data\.charset=latn is neither .* Did you mean latin"):
        build_charset("latn", "keep", "keep")
    with pytest.raises(InputError, match=r"data\.case=title: use keep, lower, upper"):
        build_charset("latin", "title", "keep")
    (tmp_path / "big5.txt").write_bytes("漢字".encode("big5"))
    with pytest.raises(DataError, match="is not UTF-8"):
        build_charset(str(tmp_path / "big5.txt"), "keep", "keep")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match="has no characters"):
        build_charset(str(tmp_path / "empty.txt"), "keep", "keep")
