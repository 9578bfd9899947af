"""Tables in the three forms they are read in."""

import csv
import io

from cnnlab.reports.pages import (
    html_page,
    html_paragraphs,
    html_section,
    html_table,
    markdown,
    markdown_table,
    text_table,
    write_csv,
)


def test_markdown_shows_markup_and_does_not_obey_it():
    assert markdown("a|b *c* `d` <e> & [l2,dropout] \\ x\ny") == (
        "a\\|b \\*c\\* \\`d\\` &lt;e&gt; &amp; [l2,dropout] \\\\ x y"
    )
    assert markdown("[text](http://elsewhere)") == "[text]\\(http://elsewhere)"


def test_markdown_table_has_as_many_cells_in_every_line():
    assert markdown_table(["a", "b|c"], [[1, "x|y"]]).splitlines() == [
        "| a | b\\|c |",
        "| --- | --- |",
        "| 1 | x\\|y |",
    ]


def test_text_table_is_aligned():
    assert text_table(["a", "long"], [["wide", 1], ["x", None]]) == "a     long\nwide  1\nx     None"


def test_text_table_is_aligned_in_columns_of_the_terminal():
    """Of which a Chinese letter takes two."""
    assert text_table(["name", "n"], [["猫", 1], ["a\nb", 2]]) == "name  n\n猫    1\na b   2"


def test_html_columns_of_numbers_are_aligned_and_intervals_stand_below():
    table = html_table(
        [["a (b)", "0.5 ± 0.1 (0.4 to 0.6)", "-"], ["1", "-2,000", "5%"]], ["x", "best/val/acc", "share"]
    )
    assert "<td>a (b)</td>" in table
    assert '<td class="number">0.5 ± 0.1<small>(0.4 to 0.6)</small></td>' in table
    assert '<td class="number">-</td>' in table
    assert '<th class="number">best/<wbr>val/<wbr>acc</th>' in table


def test_long_lists_are_folded():
    assert html_paragraphs(["x"] * 12).count("<p>") == 12
    folded = html_paragraphs([str(number) for number in range(15)])
    assert folded.index("<p>11</p>") < folded.index("<summary>3 more</summary>") < folded.index("<p>12</p>")


def test_csv_keeps_commas_and_leaves_none_empty(tmp_path):
    write_csv(tmp_path / "t.csv", ["a", "b"], [["[l2,dropout]", None]])
    text = (tmp_path / "t.csv").read_text()
    assert list(csv.reader(io.StringIO(text))) == [["a", "b"], ["[l2,dropout]", ""]]


def test_html_escapes_titles_and_cells():
    page = html_page("<b>", html_section("<i>", html_table([["<u>"]], ["<s>"])))
    assert not any(tag in page for tag in ("<b>", "<i>", "<u>", "<s>"))
    assert all(f"&lt;{letter}&gt;" in page for letter in "bius")
