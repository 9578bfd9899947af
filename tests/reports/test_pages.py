"""Tables in the three forms they are read in."""

import csv
import io

from cnnlab.reports.pages import html_page, html_section, html_table, markdown, markdown_table, text_table, write_csv


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


def test_csv_keeps_commas_and_leaves_none_empty(tmp_path):
    write_csv(tmp_path / "t.csv", ["a", "b"], [["[l2,dropout]", None]])
    text = (tmp_path / "t.csv").read_text()
    assert list(csv.reader(io.StringIO(text))) == [["a", "b"], ["[l2,dropout]", ""]]


def test_html_escapes_titles_and_cells():
    page = html_page("<b>", html_section("<i>", html_table([["<u>"]], ["<s>"])))
    assert not any(tag in page for tag in ("<b>", "<i>", "<u>", "<s>"))
    assert all(f"&lt;{letter}&gt;" in page for letter in "bius")
