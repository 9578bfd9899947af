"""Plot a comparison: learning curves, every run with the interval of the mean, effects, and a heat map."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cnnlab.reports.comparison import Setting, Study
from cnnlab.reports.pages import figure_png
from cnnlab.reports.statistics import Summary, levels

MOST_CURVES = 10
"""Largest number of settings in the curves figure, best first; more colours are hard to distinguish."""
MOST_ROWS = 40
"""Largest number of settings in the dots figure, best first."""


def pictures(study: Study) -> dict[str, bytes]:
    """Return title -> PNG: curves if runs have them, effects for crossed factors, a heat map for two factors."""
    figures = {
        "Learning curves": curves_figure(study),
        "Dots": dots_figure(study),
        "Effects": effects_figure(study),
        "Heat map": heat_map_figure(study),
    }
    return {name: figure_png(figure, dpi=110) for name, figure in figures.items() if figure is not None}


def curves_figure(study: Study) -> Figure | None:
    """Plot the metric by epoch for each setting: mean over seeds, and a band from the lowest to the highest seed."""
    key = study.metric.split("/", 1)[1] if study.metric.startswith(("best/", "last/")) else study.monitor
    shown = [setting for setting in study.settings if any(key in run.curves for run in setting.runs)][:MOST_CURVES]
    if not shown:
        return None
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    for number, setting in enumerate(shown):
        epochs, low, mean, high = band(setting, key)
        seeds = sum(key in run.curves for run in setting.runs)
        label = f"{study.name(setting.values)} (n={seeds})"
        axes.plot(epochs, mean, color=f"C{number}", marker="." if len(epochs) < 30 else None, label=label)
        axes.fill_between(epochs, low, high, color=f"C{number}", alpha=0.15, linewidth=0)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(key)
    first = f"the best {len(shown)} of {len(study.settings)} settings: " if len(shown) < len(study.settings) else ""
    axes.set_title(f"{first}mean over {study.unit}s, band from the lowest to the highest {study.unit}", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    return figure


def band(setting: Setting, key: str) -> tuple[list[int], list[float], list[float], list[float]]:
    """Return the epochs, from 1, and the lowest, mean and highest value over the seeds that reached each epoch."""
    curves = [run.curves[key] for run in setting.runs if key in run.curves]
    epochs = sorted({epoch for curve in curves for epoch in curve})
    at = [[curve[epoch] for curve in curves if epoch in curve] for epoch in epochs]
    return (
        [epoch + 1 for epoch in epochs],
        [min(values) for values in at],
        [float(np.mean(values)) for values in at],
        [max(values) for values in at],
    )


def dots_figure(study: Study) -> Figure | None:
    """Plot a row for each setting, best on top: each run as a dot, the mean as a bar with its 95 % interval."""
    metric = study.metric
    shown = [setting for setting in study.settings if setting.summary(metric).n][:MOST_ROWS]
    figure = Figure(figsize=(9, 1.4 + 0.42 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    for row, setting in enumerate(shown):
        values = [run.numbers[metric] for run in setting.runs if metric in run.numbers]
        _mean_with_interval(axes, row, setting.summary(metric))
        axes.plot(values, [row] * len(values), "o", color="black", alpha=0.55, markersize=4, zorder=3)
    axes.set_yticks(range(len(shown)), [f"{study.name(s.values)} (n={s.summary(metric).n})" for s in shown], fontsize=8)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    values = [run.numbers[metric] for setting in shown for run in setting.runs if metric in run.numbers]
    _limit(axes, values, [setting.summary(metric) for setting in shown])
    axes.set_xlabel(metric)
    axes.set_title(f"every run, the mean and its 95 % interval over {study.unit}s", fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    return figure


def effects_figure(study: Study) -> Figure | None:
    """Plot the mean of each level over the other factors, with its 95 % interval; None for a single factor."""
    found = {factor: study.marginal_means(number) for number, factor in enumerate(study.factors)}
    found = {factor: means for factor, means in found.items() if means}
    if len(study.factors) < 2 or not found:
        return None
    rows = sum(len(means) for means in found.values())
    figure = Figure(figsize=(9, 1.2 + 0.35 * rows + 0.4 * len(found)), layout="constrained")
    panels = figure.subplots(
        len(found), sharex=True, squeeze=False, height_ratios=[len(means) for means in found.values()]
    )[:, 0]
    for axes, (factor, means) in zip(panels, found.items(), strict=True):
        for row, it in enumerate(means.values()):
            _mean_with_interval(axes, row, it)
        axes.set_yticks(range(len(means)), list(map(str, means)), fontsize=8)
        axes.set_ylim(len(means) - 0.4, -0.6)
        axes.set_ylabel(factor, fontsize=8)
        axes.grid(axis="x", alpha=0.3)
    summaries = [it for means in found.values() for it in means.values()]
    _limit(panels[-1], [it.mean for it in summaries], summaries)
    panels[-1].set_xlabel(study.metric)
    panels[0].set_title(f"mean of each value over the other factors, 95 % interval over {study.unit}s", fontsize=10)
    return figure


def heat_map_figure(study: Study) -> Figure | None:
    """Plot the mean, standard deviation and n of every combination of two factors (brighter is better), else None."""
    if len(study.factors) != 2:
        return None
    cells = study.cells
    rows, columns = levels(cells, 0), levels(cells, 1)
    summaries = {setting.values: setting.summary(study.metric) for setting in study.settings}
    means = np.array([[summaries[r, c].mean if (r, c) in cells else math.nan for c in columns] for r in rows])  # type: ignore[index]
    figure = Figure(figsize=(3 + 1.3 * len(columns), 1.8 + 0.6 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    colours = "viridis_r" if study.smaller_is_better else "viridis"
    picture = axes.imshow(means, cmap=colours, aspect="auto")
    axes.set_xticks(range(len(columns)), list(map(str, columns)))
    axes.set_yticks(range(len(rows)), list(map(str, rows)))
    axes.set_xlabel(study.factors[1])
    axes.set_ylabel(study.factors[0])
    for (i, row), (j, column) in ((r, c) for r in enumerate(rows) for c in enumerate(columns)):
        if (row, column) in cells:
            it = summaries[row, column]  # type: ignore[index]
            spread = f"± {it.std:.4f}\nn={it.n}" if it.n > 1 else f"n={it.n}"
            red, green, blue, _ = picture.to_rgba(np.array([it.mean]))[0]
            dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
            colour = "white" if dark else "black"
            axes.text(j, i, f"{it.mean:.4f}\n{spread}", ha="center", va="center", fontsize=8, color=colour)
    figure.colorbar(picture, label=study.metric)
    return figure


def _mean_with_interval(axes: Axes, row: int, it: Summary) -> None:
    if it.has_interval:
        axes.plot([it.low, it.high], [row, row], color="C0", linewidth=2, solid_capstyle="butt")
    axes.plot([it.mean], [row], "|", color="C0", markersize=14, markeredgewidth=2.5)


def _limit(axes: Axes, values: Sequence[float], summaries: Sequence[Summary]) -> None:
    """Fit the x axis to the values, and to the intervals up to half their range beyond: with n=2 they are very wide."""
    low, high = min(values), max(values)
    room = (high - low) or max(abs(high) * 0.1, 1e-6)
    lows = [max(it.low, low - room / 2) for it in summaries if it.has_interval]
    highs = [min(it.high, high + room / 2) for it in summaries if it.has_interval]
    axes.set_xlim(min([low, *lows]) - room / 20, max([high, *highs]) + room / 20)
