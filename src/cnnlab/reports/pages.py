"""Write tables as CSV, Markdown and HTML, and self-contained HTML pages in which every name is escaped."""

import base64
import csv
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from cnnlab.system.files import write_text
from cnnlab.system.fonts import fonts_for

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:85em;padding:0 1em}"
    "td,th{text-align:left;padding:.1em 1.2em .1em 0;border-bottom:1px solid #ddd}img{max-width:100%}"
    "td{white-space:pre}div{overflow-x:auto}"
)


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
    lines = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def html_table(rows: Sequence[Sequence], head: Sequence[str] = ()) -> str:
    """Return a table as HTML, with its cells escaped."""

    def line(cells: Sequence, tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    body = (line(head, "th") if head else "") + "".join(line(row, "td") for row in rows)
    return f"<div><table>{body}</table></div>"


def html_section(title: str, *parts: str) -> str:
    """Return a heading with HTML below it; only the title is escaped."""
    return f"<h2>{html.escape(title)}</h2>{''.join(parts)}"


def html_paragraphs(lines: Sequence[str]) -> str:
    """Return each line as an escaped HTML paragraph."""
    return "".join(f"<p>{html.escape(line)}</p>" for line in lines)


def html_pictures(pictures: Mapping[str, bytes]) -> str:
    """Return a section for each picture, with its bytes embedded; pictures: title -> PNG."""
    return "".join(
        html_section(
            name,
            f'<img alt="{html.escape(name)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">',
        )
        for name, data in pictures.items()
    )


def html_page(title: str, *parts: str) -> str:
    """Return a complete HTML page; parts: HTML, already escaped."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style><h1>{html.escape(title)}</h1>"
        f"{''.join(parts)}</html>\n"
    )


def figure_png(figure: Figure, dpi: int = 80) -> bytes:
    """Render a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    with fonts_for(figure):
        figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
