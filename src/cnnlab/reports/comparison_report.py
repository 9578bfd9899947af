"""The files of a comparison, and its form for the terminal."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnnlab.reports.comparison import Study
from cnnlab.reports.comparison_figures import pictures
from cnnlab.reports.comparison_sections import Section
from cnnlab.reports.pages import (
    html_page,
    html_paragraphs,
    html_pictures,
    html_section,
    html_table,
    markdown,
    markdown_table,
    text_table,
    write_csv,
)
from cnnlab.system.files import write_bytes, write_text

SHOWN = 12
"""Lines of a section on the terminal; the files have all."""
METHOD = (
    "± is the standard deviation over seeds (n - 1), brackets hold Student's 95 % interval of the mean over seeds. "
    "Intervals are clipped to the range of the metric: an accuracy's to 0 to 1. "
    "Values and settings are compared by paired t tests: runs of equal seeds and equal other factors are subtracted, "
    "averaged within each seed, and tested over seeds. p is corrected after Holm: over all factors, over all pairs of "
    "settings, or over all contrasts of an interaction; a difference is called one below 0.05. Intervals are not "
    "corrected.",
    "gap/<metric> is how much better training was than validation in the last epoch, where training is measured during "
    "the epoch, on augmented images. epochs_to_best counts epochs up to the best one. wall_seconds is the whole run.",
)


def write_comparison(folder: Path, title: str, given: Study, parts: Sequence[Section]) -> list[Path]:
    """Write comparison.csv, comparison_runs.csv, .md, .html and the pictures into `folder`; returns the files."""
    head, rows = settings_table(given)
    write_csv(folder / "comparison.csv", head, rows)
    write_csv(folder / "comparison_runs.csv", *runs_table(given))
    drawn = pictures(given)
    files = {name: folder / f"comparison_{name.lower().replace(' ', '_')}.png" for name in drawn}
    for name, picture in drawn.items():
        write_bytes(files[name], picture)
    write_text(folder / "comparison.md", as_markdown(title, parts, {name: file.name for name, file in files.items()}))
    write_text(folder / "comparison.html", as_html(title, parts, drawn, runs_table(given)))
    names = ("comparison.html", "comparison.md", "comparison.csv", "comparison_runs.csv")
    return [*(folder / name for name in names), *files.values()]


def settings_table(given: Study) -> tuple[list[str], list[list]]:
    """comparison.csv: a row for each setting, best first; mean, std and interval of every metric; NaN is left empty."""
    head, rows = [*given.factors, "n"], []
    for metric in given.metrics:
        head += [f"{metric}_{what}" for what in ("mean", "std", "ci95_low", "ci95_high")]
    for setting in given.settings:
        row: list = [*setting.values, len(setting.runs)]
        for metric in given.metrics:
            it = setting.summary(metric)
            row += [None if math.isnan(value) else value for value in (it.mean, it.std, it.low, it.high)]
        rows.append(row)
    return head, rows


def runs_table(given: Study) -> tuple[list[str], list[list]]:
    """comparison_runs.csv: a row for each run, those left out as well."""
    head = ["run", "status", *given.factors, "seed", *given.metrics, "trouble"]
    return head, [
        [
            run.folder.name,
            run.status,
            *(run.value(key) for key in given.factors),
            run.record.get("seed"),
            *(run.numbers.get(metric) for metric in given.metrics),
            run.trouble or None,
        ]
        for run in [*given.runs, *given.left_out]
    ]


# --- Renderings ---


def as_text(parts: Sequence[Section]) -> str:
    """For the terminal: at most SHOWN lines of each section."""
    blocks = []
    for part in parts:
        lines = part.lines[:SHOWN]
        head, rows = part.brief or (part.head, part.rows)
        table = text_table(head, rows[:SHOWN]).split("\n") if rows else []
        more = max(len(part.lines) - SHOWN, len(part.rows) - SHOWN)
        rest = [f"... and {more} more in comparison.md"] if more > 0 else []
        blocks.append("\n".join([part.title, *(f"  {line}" for line in [*lines, *table, *rest])]))
    return "\n\n".join(blocks)


def as_markdown(title: str, parts: Sequence[Section], files: dict[str, str]) -> str:
    blocks = [f"# {markdown(title)}"]
    for part in parts:
        blocks += [f"## {markdown(part.title)}", *(f"- {markdown(line)}" for line in part.lines)]
        blocks += [markdown_table(part.head, part.rows)] if part.rows else []
    blocks += [f"## {name}\n\n![{name}]({file})" for name, file in files.items()]
    return "\n\n".join([*blocks, "## How this was computed", *map(markdown, METHOD)]).replace("\n\n- ", "\n- ") + "\n"


def as_html(title: str, parts: Sequence[Section], drawn: dict[str, bytes], runs: tuple[list[str], list[list]]) -> str:
    head, rows = runs
    return html_page(
        title,
        *(
            html_section(part.title, html_paragraphs(part.lines), html_table(part.rows, part.head) if part.rows else "")
            for part in parts
        ),
        html_pictures(drawn),
        html_section("Runs", html_table([[_cell(value) for value in row] for row in rows], head)),
        html_section("How this was computed", html_paragraphs(METHOD)),
    )


def _cell(value: Any) -> Any:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else value
