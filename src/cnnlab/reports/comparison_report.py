"""Write the files of a comparison, and render it for the terminal."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnnlab.reports.comparison import Study
from cnnlab.reports.comparison_figures import pictures
from cnnlab.reports.comparison_sections import Section
from cnnlab.reports.pages import (
    html_note,
    html_page,
    html_paragraphs,
    html_picture,
    html_section,
    html_table,
    markdown,
    markdown_table,
    text_table,
    write_csv,
)
from cnnlab.system.files import write_bytes, write_text

SHOWN = 12
"""Number of lines of a section on the terminal; the files have all of them."""
METHOD = (
    "± is the standard deviation over seeds (n - 1), brackets hold Student's 95 % interval of the mean of a score. "
    "Scores lie between 0 and 1, and so do their intervals: what is beyond is cut off. Losses, speeds, times, epochs "
    "and gaps have mean and standard deviation only. "
    "Values and settings are compared by paired t tests: runs of equal seeds and equal other factors are subtracted, "
    "averaged within each seed, and tested over seeds. p is corrected by Holm's method: over all factors, over all "
    "pairs of settings, or over all contrasts of an interaction; a difference is significant if p is below 0.05. "
    "Intervals are not corrected.",
    "Of runs on folds of the data, the folds take the place of the seeds, and several seeds on a fold are averaged. "
    "Folds share training images, which makes intervals over them too narrow (Bengio and Grandvalet 2004).",
    "gap/<metric> is how much better training was than validation in the last epoch, where training is measured during "
    "the epoch, on augmented images. epochs_to_best counts epochs up to the best one. wall_seconds is the whole run.",
)


def write_comparison(folder: Path, title: str, given: Study, report: Sequence[Section]) -> list[Path]:
    """Write comparison.csv, comparison_runs.csv, .md, .html and the pictures into `folder`; return their paths."""
    head, rows = settings_table(given)
    write_csv(folder / "comparison.csv", head, rows)
    write_csv(folder / "comparison_runs.csv", *runs_table(given))
    figures = pictures(given)
    files = {name: folder / f"comparison_{name.lower().replace(' ', '_')}.png" for name in figures}
    for name, picture in figures.items():
        write_bytes(files[name], picture)
    write_text(folder / "comparison.md", as_markdown(title, report, {name: file.name for name, file in files.items()}))
    write_text(folder / "comparison.html", as_html(title, report, figures, runs_table(given)))
    names = ("comparison.html", "comparison.md", "comparison.csv", "comparison_runs.csv")
    return [*(folder / name for name in names), *files.values()]


def settings_table(given: Study) -> tuple[list[str], list[list]]:
    """Return the head and rows of comparison.csv: a row per setting, best first, with every metric; NaN is None."""
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
    """Return the head and rows of comparison_runs.csv: a row per run, including those that were left out."""
    folds = ["fold"] if given.unit == "fold" else []
    head = ["run", "status", *given.factors, "seed", *folds, *given.metrics, "trouble"]
    return head, [
        [
            run.folder.name,
            run.status,
            *(run.value(key) for key in given.factors),
            run.record.get("seed"),
            *(run.fold for _ in folds),
            *(run.numbers.get(metric) for metric in given.metrics),
            run.trouble or None,
        ]
        for run in [*given.runs, *given.left_out]
    ]


# --- Renderings ---


def as_text(report: Sequence[Section]) -> str:
    """Render a report for the terminal, with at most SHOWN lines of each section."""
    blocks = []
    for section in report:
        lines = section.lines[:SHOWN]
        head, rows = section.brief or (section.head, section.rows)
        table = text_table(head, rows[:SHOWN]).split("\n") if rows else []
        more = max(len(section.lines) - SHOWN, len(section.rows) - SHOWN)
        rest = [f"... and {more} more in comparison.md"] if more > 0 else []
        blocks.append("\n".join([section.title, *(f"  {line}" for line in [*lines, *table, *rest])]))
    return "\n\n".join(blocks)


def as_markdown(title: str, report: Sequence[Section], files: dict[str, str]) -> str:
    """Render a report as Markdown; files: title -> file name of each picture."""
    blocks = [f"# {markdown(title)}"]
    for section in report:
        blocks += [f"## {markdown(section.title)}", *(f"- {markdown(line)}" for line in section.lines)]
        blocks += [markdown_table(section.head, section.rows)] if section.rows else []
    blocks += [f"## {name}\n\n![{name}]({file})" for name, file in files.items()]
    return "\n\n".join([*blocks, "## How this was computed", *map(markdown, METHOD)]).replace("\n\n- ", "\n- ") + "\n"


def as_html(
    title: str, report: Sequence[Section], figures: dict[str, bytes], runs: tuple[list[str], list[list]]
) -> str:
    """Render a report as one HTML page; figures: title -> PNG. runs: head and rows of the table of runs."""
    head, rows = runs
    table = html_table([[_cell(value) for value in row] for row in rows], head)
    return html_page(
        title,
        *(
            html_section(
                each.title,
                html_paragraphs(each.lines),
                html_table(each.rows, each.head) if each.rows else "",
                size="half" if each.title.startswith("Factor ") else "wide",
            )
            for each in report
        ),
        *(html_picture(name, data, "colours" if name == "Heat map" else "lines") for name, data in figures.items()),
        html_section("Runs", table),
        html_section("How this was computed", *map(html_note, METHOD)),
    )


def _cell(value: Any) -> Any:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else value
