"""State the results of a comparison in sentences and tables: the answer, the settings, each factor, the interaction."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cnnlab.reports.comparison import Study, confounded
from cnnlab.reports.statistics import (
    Comparison,
    Summary,
    corrected,
    interaction_contrasts,
    interactions,
    level_comparisons,
    levels,
    setting_comparisons,
)

MAIN_COLUMNS = 7
"""Largest number of metrics in a table for reading; comparison.csv has all of them."""
SHORT = {"epochs_to_best": "epochs", "wall_seconds": "s", "images_per_second": "img/s"}
"""Metric -> its column name on the terminal, where only the mean is shown."""


@dataclass(frozen=True)
class Section:
    """A section of the report: lines, then a table; either may be empty."""

    title: str
    lines: list[str] = field(default_factory=list)
    head: list[str] = field(default_factory=list)
    rows: list[list] = field(default_factory=list)
    brief: tuple[list[str], list[list]] | None = None
    """Head and rows of the table on the terminal, if they differ."""


def sections(given: Study) -> list[Section]:
    """Return the report: answer, settings, factors, interaction, best setting against the others, runs left out."""
    compared = setting_comparisons(given.cells, given.resolution)
    report = [_answer(given, compared), _table(given), *_factors(given)]
    if len(given.factors) == 2:
        report.append(_interaction(given))
    if len(given.factors) > 1:
        report.append(_against_best(given, compared))
    report.append(_left_out(given))
    return [section for section in report if section.lines or section.rows]


# --- Sections ---


def _answer(given: Study, compared: Sequence[Comparison]) -> Section:
    leader = given.settings[0]
    runs = len(given.runs)
    lines = [
        f"{runs} run{'s' * (runs != 1)} of {len(given.settings)} setting{'s' * (len(given.settings) != 1)}, by "
        f"{given.metric}{' (smaller is better)' if given.smaller_is_better else ''}."
    ]
    if given.fixed:
        lines.append(f"The same in all: {' '.join(f'{key}={value}' for key, value in given.fixed.items())}")
    lines.append(f"Best: {given.name(leader.values)}, {_interval(leader.summary(given.metric), given.metric)}")
    if max(len(setting.repeats(given.metric)) for setting in given.settings) == 2:
        lines.append(
            f"Two {given.unit}s are few: what they show may be chance, and intervals are wide. {_add(given, 5)}"
        )
    rivals = [it for it in compared if leader.values in (it.first, it.second)]
    worse = [it for it in rivals if it.tells]
    if rivals and len(worse) == len(rivals):
        lines.append("It is better than every other setting.")
    elif rivals:
        untold = [given.name(it.second if it.first == leader.values else it.first) for it in rivals if not it.tells]
        lines.append(f"It is not significantly better than {len(untold)} of {len(rivals)} others: {_some(untold)}")
    for setting in given.settings:
        missing = [run.folder.name for run in setting.runs if given.metric not in run.numbers]
        if missing:
            lines.append(f"Without {given.metric}, so not counted: {_some(missing)}")
    lines += [
        f"{first} and {second} vary together: their effects cannot be separated." for first, second in confounded(given)
    ]
    return Section("Answer", lines)


def _table(given: Study) -> Section:
    first, *others = given.metrics[:MAIN_COLUMNS]
    few = [metric for metric in others if not metric.startswith("test/")]
    rows, brief = [], []
    for setting in given.settings:
        row = [*setting.values, len(setting.runs), _interval(setting.summary(first), first)]
        cells = [*row, *(_interval(setting.summary(metric), metric) for metric in others)]
        rows.append(cells)
        brief.append(
            [*row, *((_mean if metric in SHORT else _spread)(setting.summary(metric), metric) for metric in few)]
        )
    head = [*given.factors, "n", first]
    short = [*head, *(SHORT.get(metric, metric) for metric in few)]
    return Section("Settings, best first", [], [*head, *others], rows, (short, brief))


def _factors(given: Study) -> list[Section]:
    """Return a section for each factor: its marginal means (the other factors averaged out) and its levels compared."""
    cells, found = given.cells, []
    families = {
        factor: level_comparisons(cells, position, given.resolution) for position, factor in enumerate(given.factors)
    }
    tested = iter(corrected([it for family in families.values() for it in family]))
    for position, (factor, family) in enumerate(families.items()):
        comparisons = [next(tested) for _ in family]
        if all(it.difference.n < 2 for it in comparisons):
            text = f"cannot tell with n=1: no two of its values share two {given.unit}s. {_add(given, 3)}"
            lines = [text] if family else []
        else:
            ranked = sorted(comparisons, key=lambda it: (math.isnan(it.p), it.p))
            lines = [_verdict(it, given, f"{factor}={{}}".format) for it in ranked]
        means = given.marginal_means(position) if len(given.factors) > 1 else {}
        centre = sum(it.mean for it in means.values()) / len(means) if means else 0
        rows = [[level, it.n, _interval(it, given.metric), f"{it.mean - centre:+.4f}"] for level, it in means.items()]
        head = [factor, f"{given.unit}s", f"{given.metric}, mean over the others", "effect"] if rows else []
        found.append(Section(f"Factor {factor}", lines, head, rows))
    return found


def _interaction(given: Study) -> Section:
    cells, (first, second) = given.cells, given.factors
    rest = interactions(cells)
    title = f"Interaction of {first} and {second}"
    if not rest:
        return Section(title, ["cannot tell: not every combination was run."])
    contrasts = [it for it in interaction_contrasts(cells, given.resolution) if not math.isnan(it.p)]
    lines = ["The cells show what a combination gains beyond the sum of its two effects."]
    if contrasts:
        it = min(contrasts, key=lambda it: (it.p, -abs(it.difference.mean)))
        it = it if it.difference.mean >= 0 else it.turned()
        (a1, a2), (b1, b2) = it.first, it.second
        lines.append(
            f"{'There is one' if it.tells else 'cannot tell that there is any'}: {first}={a1} minus {first}={a2} is "
            f"{it.difference.mean:.4f} larger with {second}={b1} than with {second}={b2} "
            f"({_range(it, 2 * given.span, given.unit)}; the clearest of {len(contrasts)})"
        )
    else:
        lines.append("cannot tell with n=1 whether any is more than noise.")
    columns = levels(cells, 1)
    rows = [[row, *(f"{rest[row, column]:+.4f}" for column in columns)] for row in levels(cells, 0)]
    return Section(title, lines, [f"{first} \\ {second}", *map(str, columns)], rows)


def _against_best(given: Study, compared: Sequence[Comparison]) -> Section:
    leader = given.settings[0].values
    rivals = [it for it in compared if leader in (it.first, it.second)]
    if all(it.difference.n < 2 for it in rivals):
        return Section("The best setting against the others", ["cannot tell with n=1."] if rivals else [])
    lines = [_verdict(it, given, given.name) for it in sorted(rivals, key=lambda it: (math.isnan(it.p), it.p))]
    return Section("The best setting against the others", lines)


def _left_out(given: Study) -> Section:
    return Section("Not in the tables", [f"{run.folder.name}: {run.trouble}" for run in given.left_out])


# --- Words ---


def _verdict(it: Comparison, given: Study, name: Callable[[Any], str]) -> str:
    """Return one sentence that compares two levels, the better one first."""
    it = it if it.difference.mean >= 0 or not it.difference.n else it.turned()
    gap = it.difference
    better, worse = (
        name(level) for level in ((it.second, it.first) if given.smaller_is_better else (it.first, it.second))
    )
    if gap.n == 0:
        return f"cannot tell {better} from {worse}: they share no {given.unit}"
    if gap.n == 1:
        return f"cannot tell {better} from {worse} with n=1: {gap.mean:.4f} apart in the one {given.unit} they share"
    if math.isnan(it.p):
        return (
            f"cannot tell {better} from {worse}: exactly {gap.mean:.4f} apart in each of {gap.n} {given.unit}s, "
            "which says nothing about how the difference varies"
        )
    if it.tells:
        return f"{better} is better than {worse} by {gap.mean:.4f} ({_range(it, given.span, given.unit)})"
    return f"cannot tell {better} from {worse}: {gap.mean:.4f} apart ({_range(it, given.span, given.unit)})"


def _add(given: Study, count: int) -> str:
    """Return what to type for more repeats."""
    if given.unit == "fold":
        return f"Run more folds: -m 'data.fold=range({given.runs[0].record['folds'].get('of')})'"
    return f"Add seeds: seed={','.join(map(str, range(count)))}"


def _range(it: Comparison, most: float, unit: str) -> str:
    """Return the interval of a difference as text, clipped to the largest possible difference `most`.

    unit: what the repeats differ in, "seed" or "fold".
    """
    gap = it.difference
    low, high = max(gap.low, -most), min(gap.high, most)
    p = f"p = {it.p:.2g}" if it.p >= 0.0001 else "p < 0.0001"
    return f"95 % interval {low:.4f} to {high:.4f}, {gap.n} {unit}s, {p}"


def _interval(it: Summary, metric: str) -> str:
    """Return a summary as text: 0.9489 ± 0.0120 (0.9191 to 0.9787), or what it has of that."""
    if not it.has_interval:
        return _spread(it, metric)
    return f"{_spread(it, metric)} ({_number(it.low, metric)} to {_number(it.high, metric)})"


def _spread(it: Summary, metric: str) -> str:
    return _mean(it, metric) if it.n < 2 else f"{_mean(it, metric)} ± {_number(it.std, metric)}"


def _mean(it: Summary, metric: str) -> str:
    return _number(it.mean, metric) if it.n else "-"


def _number(value: float, metric: str) -> str:
    """Format scores and losses with four decimals; epochs, seconds and speeds with one."""
    return f"{value:.{4 if '/' in metric else 1}f}"


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
