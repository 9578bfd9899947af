"""Text that fits beside pictures: lines in words or, without spaces, in letters."""

import pytest
from PIL import Image

from cnnlab.drawing.sheets import CAPTION, captioned, shortened, wrapped
from cnnlab.system.fonts import text_width

WORDS = "the network sees a long caption of several words"
CHINESE = "很长的说明文字没有空格所以必须断行"


@pytest.mark.parametrize("text", [WORDS, CHINESE, f"猫 {CHINESE}", "Donaudampfschifffahrtsgesellschaft", "a", ""])
def test_lines_fit_and_lose_nothing(text):
    lines = wrapped(text, CAPTION, 90)
    assert all(text_width(line, CAPTION) <= 90 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert len(lines) <= -(-text_width(text, CAPTION) // 45) or text in ("a", "")


def test_words_stay_whole_where_they_fit():
    assert [word for line in wrapped(WORDS, CAPTION, 90) for word in line.split(" ")] == WORDS.split(" ")


def test_captions_are_cut_at_the_width_of_their_picture():
    assert shortened("short", CAPTION, 90) == "short"
    cut = shortened(CHINESE, CAPTION, 90)
    assert cut.endswith("…")
    assert cut[:-1] == CHINESE[: len(cut) - 1]
    assert text_width(cut, CAPTION) <= 90 < text_width(CHINESE[: len(cut)] + "…", CAPTION)
    sheet = captioned([Image.new("L", (10, 10))] * 2, ["W" * 40, ""], side=100)
    below_second = sheet.crop((120, 112, sheet.width, sheet.height)).convert("L")
    assert below_second.getextrema() == (255, 255)  # no letter of the first one's caption
