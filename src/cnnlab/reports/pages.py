"""Write tables as CSV, Markdown and HTML, and self-contained HTML pages in which every name is escaped."""

import base64
import csv
import html
import io
import re
import unicodedata
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from cnnlab.system.files import write_text
from cnnlab.system.fonts import fonts_for

SHOWN = 12
"""Number of lines of a section that are not folded away."""
LARGEST, TINY = 400, 64
"""Longer side of an embedded picture in pixels, and up to which its pixels are shown as squares."""
NUMBER = re.compile(r"[-+]?(\d[\d,]*(\.\d*)?|\.\d+)(e[-+]?\d+)?%?( ± \S+)?(\s+\(|$)|nan$")
"""A number, perhaps with its spread, perhaps with its interval in brackets."""


def write_csv(path: Path, head: Sequence[str], rows: Sequence[Sequence]) -> None:
    """Write a table with a header line, atomically; None becomes an empty cell."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    write_text(path, table.getvalue())


def markdown_table(head: Sequence[str], rows: Sequence[Sequence]) -> str:
    """Return a table in GitHub's Markdown; pipes, line breaks and markup in cells are escaped."""

    def line(cells: Sequence) -> str:
        return "| " + " | ".join(markdown(str(cell)) for cell in cells) + " |"

    return "\n".join([line(head), "|" + " --- |" * len(head), *map(line, rows)])


def markdown(text: str) -> str:
    """Return text as one line of Markdown with its markup escaped."""
    for mark in ("\\", "`", "*", "|", "]("):
        text = text.replace(mark, f"{mark[:-1]}\\{mark[-1]}")
    return html.escape(" ".join(text.split()), quote=False)


def text_table(head: Sequence[str], rows: Sequence[Sequence]) -> str:
    """Return a table for the terminal with left-aligned columns."""
    lines = [[" ".join(str(cell).splitlines()) for cell in row] for row in (head, *rows)]
    widths = [max(_columns(line[number]) for line in lines) for number in range(len(head))]
    return "\n".join(
        "  ".join(cell + " " * (width - _columns(cell)) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _columns(text: str) -> int:
    """Return the width of a text on the terminal, where Chinese letters are two columns wide."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def html_table(rows: Sequence[Sequence], head: Sequence[str] = ()) -> str:
    """Return a table as HTML, with its cells escaped; with a head, a click on a column sorts by it.

    Columns of numbers are aligned at the right; what follows a number in brackets stands below it in small type.
    """
    texts = [["" if cell is None else str(cell) for cell in row] for row in rows]
    numeric = [_is_numeric([row[column] for row in texts]) for column in range(len(texts[0]) if texts else len(head))]
    kinds = [' class="number"' if each else "" for each in numeric]
    names = "".join(f"<th{kind}>{_breakable(name)}</th>" for name, kind in zip(head, kinds, strict=False))
    body = "".join(
        f"<tr>{''.join(f'<td{kind}>{_cell(text)}</td>' for text, kind in zip(row, kinds, strict=True))}</tr>"
        for row in texts
    )
    top = f"<thead><tr>{names}</tr></thead>" if head else ""
    kind = ' class="sortable"' if head else ""
    return f'<div class="scroll" tabindex="0"><table{kind}>{top}<tbody>{body}</tbody></table></div>'


def html_tiles(values: Sequence[tuple[str, object, str]]) -> str:
    """Return a few numbers in large type, fractions with four decimals; values: (name, number, note)."""
    tiles = "".join(
        f"<div><dt>{_breakable(name)}</dt><dd>{html.escape(f'{value:.4f}' if isinstance(value, float) else str(value))}"
        f"{f'<small>{html.escape(note)}</small>' if note else ''}</dd></div>"
        for name, value, note in values
    )
    return f'<dl class="tiles">{tiles}</dl>'


def html_section(title: str, *parts: str, size: str = "wide") -> str:
    """Return a section with HTML below its title, which alone is escaped.

    size: "wide", over the full width of the page; "half"; or "tall", half the width beside two other sections.
    """
    heading = f"<h2>{html.escape(title)}</h2>" if title else ""
    return f'<section class="{size}">{heading}{"".join(parts)}</section>'


def html_paragraphs(lines: Sequence[str]) -> str:
    """Return each line as an escaped HTML paragraph; those after the first SHOWN are folded away."""
    found = [f"<p>{html.escape(line)}</p>" for line in lines]
    shown, folded = found[:SHOWN], found[SHOWN:]
    if folded:
        shown.append(f"<details><summary>{len(folded)} more</summary>{''.join(folded)}</details>")
    return "".join(shown)


def html_note(text: str) -> str:
    """Return text as an escaped paragraph in small type."""
    return f'<p class="note">{html.escape(text)}</p>'


def html_picture(title: str, picture: bytes, kind: str = "lines", size: str = "wide") -> str:
    """Return a section with a plot, the bytes of a PNG, that a click enlarges.

    kind: "lines", whose colours may be inverted in the dark, or "colours" that mean values. size: see `html_section`.
    """
    return html_section(title, html_enlargeable([(picture, title)], f"plot {kind}"), size=size)


def html_gallery(cards: Sequence[tuple[Sequence[Image.Image], Sequence[str]]]) -> str:
    """Return pictures side by side in cards, which a click enlarges; cards: (pictures, lines of text)."""
    found = []
    for pictures, lines in cards:
        head, *rest = map(html.escape, lines)
        text = f"<b>{head}</b>{''.join(f'<small>{line}</small>' for line in rest)}"
        alt = ", ".join(lines)
        found.append(html_enlargeable([(embeddable(picture), alt) for picture in pictures], "card", text))
    return f'<div class="gallery">{"".join(found)}</div>'


def html_enlargeable(images: Sequence[tuple[bytes, str]], kind: str, caption: str = "") -> str:
    """Return a figure of images (bytes, alternative text) in a button; caption: HTML."""
    found = "".join(_image(data, alt) for data, alt in images)
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    button = f'<button type="button" class="enlarge" title="Enlarge">{found}</button>'
    return f'<figure class="{kind}">{button}{below}</figure>'


def html_page(title: str, *parts: str) -> str:
    """Return a complete HTML page, which needs nothing from elsewhere; parts: sections of HTML, already escaped."""
    sources = files("cnnlab.reports") / "report_page"
    style, script = ((sources / name).read_text("utf-8") for name in ("page.css", "page.js"))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'; img-src data:\">\n"
        f"<title>{html.escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f'<header><h1>{html.escape(title)}</h1><button id="theme" type="button" hidden></button><nav></nav></header>\n'
        f"<main>\n{''.join(parts)}\n</main>\n"
        '<dialog id="viewer"><div class="images"></div><div class="caption"></div><div class="tools">'
        '<button type="button" class="previous">Previous</button><button type="button" class="next">Next</button>'
        '<button type="button" class="close" autofocus>Close</button></div></dialog>\n'
        f"<script>\n{script}</script>\n</body>\n</html>\n"
    )


def embeddable(picture: Image.Image) -> bytes:
    """Return a picture of at most LARGEST pixels a side as a small file: PNG for few pixels, JPEG for photos."""
    picture = picture.convert("L" if picture.mode in ("1", "L") else "RGB")
    picture.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG" if max(picture.size) <= TINY else "JPEG", quality=88)
    return buffer.getvalue()


def _image(data: bytes, alt: str) -> str:
    width, height = Image.open(io.BytesIO(data)).size
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    tiny = ' class="tiny"' if max(width, height) <= TINY else ""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<img{tiny} width="{width}" height="{height}" alt="{html.escape(alt)}" src="{source}">'


def _cell(text: str) -> str:
    if not NUMBER.match(text):
        return _breakable(text)
    value, *note = re.split(r"\s+\(", text, maxsplit=1)
    return html.escape(value) + "".join(f"<small>({html.escape(each)}</small>" for each in note)


def _breakable(name: str) -> str:
    """Return a name such as best/val/acc, escaped, that may be broken before words after a mark."""
    return "<wbr>".join(map(html.escape, re.split(r"(?<=[/._,])(?=[^\W\d])", name)))


def _is_numeric(texts: Sequence[str]) -> bool:
    return any(map(NUMBER.match, texts)) and all(NUMBER.match(text) or text in ("", "-") for text in texts)


def figure_png(figure: Figure, dpi: int = 80) -> bytes:
    """Render a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    with fonts_for(figure):
        figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
