"""The words, tables and files of a comparison."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnnlab.files import write_bytes, write_text
from cnnlab.runs.comparison import Study, confounded
from cnnlab.runs.comparison_figures import pictures
from cnnlab.runs.pages import (
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
from cnnlab.runs.results import smaller_is_better
from cnnlab.runs.statistics import (
    Comparison,
    Summary,
    corrected,
    interaction_contrasts,
    interactions,
    level_comparisons,
    levels,
    marginal_means,
    setting_comparisons,
)

SHOWN = 12
"""Lines of a section on the terminal; the files have all."""
MAIN_COLUMNS = 7
"""Metrics in the tables for reading; comparison.csv has all."""
SHORT = {"epochs_to_best": "epochs", "wall_seconds": "s", "images_per_second": "img/s"}
"""Names of columns on the terminal, where they hold the mean alone."""
METHOD = (
    "± is the standard deviation over seeds (n - 1), brackets hold Student's 95 % interval of the mean over seeds. "
    "Values and settings are compared by paired t tests: runs of equal seeds and equal other factors are subtracted, "
    "averaged within each seed, and tested over seeds. p is corrected after Holm: over all factors, over all pairs of "
    "settings, or over all contrasts of an interaction; a difference is called one below 0.05. gap/acc is training "
    "minus validation accuracy of the last epoch, where training accuracy is measured during the epoch, on augmented "
    "images. epochs_to_best counts epochs up to the best validation accuracy. wall_seconds is the whole run."
)


@dataclass(frozen=True)
class Section:
    """Lines, then a table; either may be empty."""

    title: str
    lines: list[str] = field(default_factory=list)
    head: list[str] = field(default_factory=list)
    rows: list[list] = field(default_factory=list)
    brief: tuple[list[str], list[list]] | None = None
    """The table of the terminal, if it is another."""


def sections(given: Study) -> list[Section]:
    """The report: answer, table, factors, interaction, what was left out."""
    best = setting_comparisons(given.cells)
    parts = [_answer(given, best), _table(given), *_factors(given)]
    if len(given.factors) == 2:
        parts.append(_interaction(given))
    if len(given.factors) > 1:
        parts.append(_against_best(given, best))
    parts.append(_left_out(given))
    return [part for part in parts if part.lines or part.rows]


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
    return "\n\n".join([*blocks, "## How this was computed", markdown(METHOD)]).replace("\n\n- ", "\n- ") + "\n"


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
        html_section("How this was computed", html_paragraphs([METHOD])),
    )


# --- Sections ---


def _answer(given: Study, best: Sequence[Comparison]) -> Section:
    leader = given.settings[0]
    runs = len(given.runs)
    lines = [
        f"{runs} run{'s' * (runs != 1)} of {len(given.settings)} setting{'s' * (len(given.settings) != 1)}, by "
        f"{given.metric}{' (smaller is better)' if smaller_is_better(given.metric) else ''}."
    ]
    if given.fixed:
        lines.append(f"Alike in all: {' '.join(f'{key}={value}' for key, value in given.fixed.items())}")
    lines.append(f"Best: {given.name(leader.values)}, {_interval(leader.summary(given.metric), given.metric)}")
    rivals = [it for it in best if leader.values in (it.first, it.second)]
    worse = [it for it in rivals if it.tells]
    if rivals and len(worse) == len(rivals):
        lines.append("It is better than every other setting.")
    elif rivals:
        open_ = [given.name(it.second if it.first == leader.values else it.first) for it in rivals if not it.tells]
        lines.append(f"It cannot be told from {len(open_)} of the {len(rivals)} others: {_some(open_)}")
    for setting in given.settings:
        missing = [run.folder.name for run in setting.runs if given.metric not in run.numbers]
        if missing:
            lines.append(f"Without {given.metric}, so not counted: {_some(missing)}")
    lines += [
        f"{first} and {second} vary together: their effects cannot be told apart."
        for first, second in confounded(given)
    ]
    return Section("Answer", lines)


def _table(given: Study) -> Section:
    first, *others = given.metrics[:MAIN_COLUMNS]
    few = [metric for metric in others if not metric.startswith("test/")]
    rows, brief = [], []
    for setting in given.settings:
        row = [*setting.values, len(setting.runs), _interval(setting.summary(first), first)]
        cells = [*row, *(_interval(setting.summary(metric), metric) for metric in others)]
        rows.append([str(cell).replace(" (", "\n(") for cell in cells])  # two lines in HTML
        brief.append(
            [*row, *((_mean if metric in SHORT else _spread)(setting.summary(metric), metric) for metric in few)]
        )
    head = [*given.factors, "n", first]
    short = [*head, *(SHORT.get(metric, metric) for metric in few)]
    return Section("Settings, best first", [], [*head, *others], rows, (short, brief))


def _factors(given: Study) -> list[Section]:
    """Each factor's marginal means (its effect with the others averaged out) and its levels against each other."""
    cells, parts = given.cells, []
    families = {factor: level_comparisons(cells, position) for position, factor in enumerate(given.factors)}
    tested = iter(corrected([it for family in families.values() for it in family]))
    for position, (factor, family) in enumerate(families.items()):
        comparisons = [next(tested) for _ in family]
        if all(it.difference.n < 2 for it in comparisons):
            text = "cannot tell with n=1: no two of its values were run with two equal seeds. Add seeds: seed=0,1,2"
            lines = [text] if family else []
        else:
            ranked = sorted(comparisons, key=lambda it: (math.isnan(it.p), it.p))
            lines = [_verdict(it, given.metric, f"{factor}={{}}".format) for it in ranked]
        means = marginal_means(cells, position) if len(given.factors) > 1 else {}
        centre = sum(it.mean for it in means.values()) / len(means) if means else 0
        rows = [[level, it.n, _interval(it, given.metric), f"{it.mean - centre:+.4f}"] for level, it in means.items()]
        head = [factor, "seeds", f"{given.metric}, mean over the others", "effect"] if rows else []
        parts.append(Section(f"Factor {factor}", lines, head, rows))
    return parts


def _interaction(given: Study) -> Section:
    cells, (first, second) = given.cells, given.factors
    rest = interactions(cells)
    title = f"Interaction of {first} and {second}"
    if not rest:
        return Section(title, ["Not every combination was run: cannot tell."])
    contrasts = [it for it in interaction_contrasts(cells) if not math.isnan(it.p)]
    lines = ["The cells show what a combination gains beyond the sum of its two effects."]
    if contrasts:
        it = min(contrasts, key=lambda it: (it.p, -abs(it.difference.mean)))
        it = it if it.difference.mean >= 0 else it.turned()
        (a1, a2), (b1, b2) = it.first, it.second
        lines.append(
            f"{'There is one' if it.tells else 'cannot tell that there is any'}: {first}={a1} minus {first}={a2} is "
            f"{it.difference.mean:.4f} more with {second}={b1} than with {second}={b2} "
            f"({_range(it)}; the clearest of {len(contrasts)})"
        )
    else:
        lines.append("cannot tell with n=1 whether any is more than noise.")
    columns = levels(cells, 1)
    rows = [[row, *(f"{rest[row, column]:+.4f}" for column in columns)] for row in levels(cells, 0)]
    return Section(title, lines, [f"{first} \\ {second}", *map(str, columns)], rows)


def _against_best(given: Study, best: Sequence[Comparison]) -> Section:
    leader = given.settings[0].values
    rivals = [it for it in best if leader in (it.first, it.second)]
    if all(it.difference.n < 2 for it in rivals):
        return Section("The best setting against the others", ["cannot tell with n=1."] if rivals else [])
    lines = [_verdict(it, given.metric, given.name) for it in sorted(rivals, key=lambda it: (math.isnan(it.p), it.p))]
    return Section("The best setting against the others", lines)


def _left_out(given: Study) -> Section:
    return Section("Not in the tables", [f"{run.folder.name}: {run.trouble}" for run in given.left_out])


# --- Words ---


def _verdict(it: Comparison, metric: str, name: Callable[[Any], str]) -> str:
    """One sentence on two levels, the better one first."""
    it = it if it.difference.mean >= 0 or not it.difference.n else it.turned()
    gap = it.difference
    better, worse = (
        name(level) for level in ((it.second, it.first) if smaller_is_better(metric) else (it.first, it.second))
    )
    if gap.n == 0:
        return f"cannot tell {better} from {worse}: no seed in common"
    if gap.n == 1:
        return f"cannot tell {better} from {worse} with n=1: {gap.mean:.4f} apart in the one seed they share"
    if math.isnan(it.p):
        return (
            f"cannot tell {better} from {worse}: exactly {gap.mean:.4f} apart in each of {gap.n} seeds, "
            "which says nothing of how the difference spreads"
        )
    if it.tells:
        return f"{better} is better than {worse} by {gap.mean:.4f} ({_range(it)})"
    return f"cannot tell {better} from {worse}: {gap.mean:.4f} apart ({_range(it)})"


def _range(it: Comparison) -> str:
    gap = it.difference
    p = f"p = {it.p:.2g}" if it.p >= 0.0001 else "p < 0.0001"
    return f"95 % interval {gap.low:.4f} to {gap.high:.4f}, {gap.n} seeds, {p}"


def _interval(it: Summary, metric: str) -> str:
    """0.9489 ± 0.0120 (0.9191 to 0.9787); of one run its value."""
    if it.n < 2:
        return _mean(it, metric)
    return f"{_spread(it, metric)} ({_number(it.low, metric)} to {_number(it.high, metric)})"


def _spread(it: Summary, metric: str) -> str:
    return _mean(it, metric) if it.n < 2 else f"{_mean(it, metric)} ± {_number(it.std, metric)}"


def _mean(it: Summary, metric: str) -> str:
    return _number(it.mean, metric) if it.n else "-"


def _number(value: float, metric: str) -> str:
    """Scores and losses with four decimals, epochs, seconds and speeds with one."""
    return f"{value:.{4 if '/' in metric else 1}f}"


def _cell(value: Any) -> Any:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else value


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
