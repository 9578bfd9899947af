"""Treat many runs as one study: find the keys that vary and the repeats of each setting; refuse unfair comparisons."""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cnnlab.errors import InputError, nearest
from cnnlab.reports.statistics import Cells, Summary, marginal_means, summary
from cnnlab.runs.results import RunResult, bounds_of, smaller_is_better
from cnnlab.runs.settings import ABSENT, GROUPS, Value, flat


@dataclass(frozen=True)
class Setting:
    """One value of every factor, and the finished runs with it: repeats that differ only in the seed or the fold."""

    values: tuple[Value, ...]
    runs: tuple[RunResult, ...]

    def summary(self, metric: str) -> Summary:
        """Return mean and spread of a metric over the repeats that have it, and the interval of a score."""
        return _with_interval_of_score(summary(list(self.repeats(metric).values())), metric)

    def repeats(self, metric: str) -> dict[int, float]:
        """Return seed -> value of a metric; of runs on folds, fold -> its mean over seeds."""
        values: dict[int, list[float]] = {}
        for run in self.runs:
            if metric in run.numbers:
                values.setdefault(run.repeat, []).append(run.numbers[metric])
        return {repeat: float(np.mean(of_repeat)) for repeat, of_repeat in values.items()}


@dataclass(frozen=True)
class Study:
    """Settings in order of the mean of `metric`, best first; every run is in one of them or in `left_out`."""

    metric: str
    monitor: str
    """The metric that chose the best epoch of each run."""
    smaller_is_better: bool
    factors: tuple[str, ...]
    settings: tuple[Setting, ...]
    fixed: dict[str, Value]
    """Keys that were typed with the same value for all runs."""
    left_out: tuple[RunResult, ...]

    @property
    def runs(self) -> list[RunResult]:
        return [run for setting in self.settings for run in setting.runs]

    @property
    def metrics(self) -> list[str]:
        """The metrics that can be compared, `metric` first."""
        return list(dict.fromkeys([self.metric, *in_order(_metrics(self.runs), self.monitor)]))

    @property
    def unit(self) -> str:
        """What the repeats of a setting differ in: "fold", or "seed"."""
        return "seed" if self.runs[0].fold is None else "fold"

    @property
    def cells(self) -> Cells:
        """Values of a setting -> seed or fold -> `metric`, without runs that lack it."""
        by_value = sorted(self.settings, key=lambda setting: _sortable(setting.values))
        cells = {setting.values: setting.repeats(self.metric) for setting in by_value}
        return {values: seeds for values, seeds in cells.items() if seeds}

    @property
    def resolution(self) -> float:
        """The smallest step of an accuracy, 1 / images; 0 for other metrics."""
        split = "test" if self.metric.startswith("test/") else "val"
        images = [run.record.get("images", {}).get(split) or 0 for run in self.runs]
        return 1 / max(images) if self.metric.endswith("/acc") and any(images) else 0.0

    @property
    def span(self) -> float:
        """The largest possible difference between two values of `metric`."""
        low, high = bounds_of(self.metric)
        return high - low

    def marginal_means(self, factor: int) -> dict[Hashable, Summary]:
        """Return level -> its mean over the other factors, with an interval if `metric` is a score."""
        means = marginal_means(self.cells, factor)
        return {level: _with_interval_of_score(it, self.metric) for level, it in means.items()}

    def name(self, values: Sequence[Value]) -> str:
        """Return a setting as text, such as init=orthogonal regularization=[l2]; "the one setting" without factors.

        Keys that the setting does not have are left out, unless it has none of them.
        """
        pairs = list(zip(self.factors, values, strict=True))
        there = [(key, value) for key, value in pairs if value != ABSENT] or pairs
        return " ".join(f"{key}={value}" for key, value in there) or "the one setting"


def _with_interval_of_score(it: Summary, metric: str) -> Summary:
    """Return a summary with its interval within 0 and 1, the bounds of a score; other metrics get none."""
    return it.within((0.0, 1.0)) if bounds_of(metric) == (0.0, 1.0) else it.without_interval()


def study(results: Sequence[RunResult], metric: str | None = None, split: str | None = None) -> Study:
    """Return the study of these runs, sorted into settings.

    metric: what to compare by; None: the best value of the metric that the runs were trained for. split: the beginning
    of the hash of the data split whose runs to compare.
    Raises InputError if no run has finished, if the runs have several splits or metrics, if a setting has two runs with
    the same seed, or if no run has the metric.
    """
    finished = [run for run in results if not run.trouble]
    if not finished:
        counts = ", ".join(f"{count} {status}" for status, count in Counter(run.status for run in results).items())
        first = results[0]
        raise InputError(
            f"No run has finished ({counts}; {first.folder.name}: {first.trouble}), so there is nothing to compare."
        )
    runs = of_one_split(finished, split)
    monitor = of_one_metric(runs, metric)
    metric = known_metric(runs, metric, monitor)
    factors = find_factors(runs)
    repeats: dict[tuple[Value, ...], list[RunResult]] = {}
    for run in runs:
        repeats.setdefault(tuple(run.value(key) for key in factors), []).append(run)
    refuse_equal_seeds(factors, repeats)
    settings = [
        Setting(values, tuple(sorted(group, key=lambda run: (run.repeat, run.seed))))
        for values, group in repeats.items()
    ]
    smaller = smaller_is_better(metric, {name: mode for run in runs for name, mode in run.modes.items()})
    sign = 1 if smaller else -1
    settings.sort(key=lambda it: sign * it.summary(metric).mean if it.summary(metric).n else math.inf)
    fixed = {key: value for key, value in runs[0].typed.items() if all(run.typed.get(key) == value for run in runs)}
    left_out = tuple(run for run in results if run.trouble)
    return Study(metric, monitor, smaller, tuple(factors), tuple(settings), fixed, left_out)


def of_one_split(runs: Sequence[RunResult], split: str | None) -> list[RunResult]:
    """Return the runs of the given split; raise InputError if it has none, or if None is given for several splits."""
    counts = Counter(run.split for run in runs)
    there = ", ".join(f"{name} ({count} run{'s' * (count > 1)})" for name, count in counts.items())
    if split is not None:
        chosen = [run for run in runs if run.split.startswith(str(split))]
        if not chosen:
            raise InputError(f"split={split}: no finished run has this data split. Available: {there}.")
        runs, counts = chosen, Counter(run.split for run in chosen)
    if len(counts) > 1:
        raise InputError(
            f"These runs have {len(counts)} data splits, whose results are not comparable: {there}. "
            f"Choose one: split={next(iter(counts))}"
        )
    return list(runs)


def of_one_metric(runs: Sequence[RunResult], metric: str | None) -> str:
    """Return the metric that chose the best epoch of the runs.

    Raises InputError if it differs between runs and `metric` does not say what to compare by.
    """
    counts = Counter(run.metric for run in runs)
    if len(counts) > 1 and metric is None:
        there = ", ".join(f"{name} ({count} run{'s' * (count > 1)})" for name, count in counts.items())
        raise InputError(f"The runs were trained for different metrics: {there}. Choose one to compare: metric=NAME")
    return counts.most_common(1)[0][0]


def known_metric(runs: Sequence[RunResult], metric: str | None, monitor: str) -> str:
    """Return the full name of the metric to compare by; raise InputError if no run has it.

    metric: as in the tables, or a name such as f1, which stands for best/val/f1; None: best/ of `monitor`.
    """
    known = in_order(_metrics(runs), monitor)
    if not any("/" in key for key in known):
        raise InputError(f"None of the {len(runs)} finished runs has metrics. Train with logger=[tensorboard,csv].")
    if metric is not None and metric not in known and f"best/val/{metric}" in known:
        return f"best/val/{metric}"
    if metric is not None and metric not in known:
        raise InputError(f"metric={metric}: no run has it. {nearest([metric], known)}")
    return metric or known[0]


def find_factors(runs: Sequence[RunResult]) -> list[str]:
    """Return the keys that vary: typed ones first, then config keys that differ between runs with equal typed keys.

    The latter are defaults that somebody changed between runs. A group whose option differs stands for all its keys.
    """
    keys = dict.fromkeys(key for run in runs for key in run.typed)
    varying = [key for key in keys if len({run.value(key) for run in runs}) > 1]
    alike: dict[tuple[Value, ...], list[RunResult]] = {}
    for run in runs:
        if run.config:
            alike.setdefault(tuple(run.value(key) for key in varying), []).append(run)
    hidden: dict[str, None] = {}
    for group in alike.values():
        flats = [dict(flat(run.config)) for run in group]
        for key in dict.fromkeys(key for one in flats for key in one):
            if len({one.get(key, ABSENT) for one in flats}) > 1:
                top = key.split(".")[0]
                option_differs = top in GROUPS and len({run.value(top) for run in group}) > 1
                hidden[top if option_differs else key] = None
    return [*varying, *(key for key in hidden if key not in varying)]


def refuse_equal_seeds(factors: Sequence[str], settings: dict[tuple[Value, ...], list[RunResult]]) -> None:
    """Raise InputError if two runs of a setting have the same seed (and fold): that is one run, not a repeat."""
    for values, group in settings.items():
        known: dict[tuple[int, int | None], RunResult] = {}
        for run in group:
            if (other := known.setdefault((run.seed, run.fold), run)) is not run:
                what = [f"{key}={value}" for key, value in zip(factors, values, strict=True)]
                what += [f"seed={run.seed}"] + ([] if run.fold is None else [f"data.fold={run.fold}"])
                raise InputError(
                    f"Two runs have {' '.join(what)}, and equal seeds are not repeats: "
                    f"{other.folder} and {run.folder}. Remove one, or name the folders to compare."
                )


def confounded(given: Study) -> list[tuple[str, str]]:
    """Return the pairs of factors in which each value of one always occurs with the same value of the other."""
    found = []
    for i, first in enumerate(given.factors):
        for j in range(i + 1, len(given.factors)):
            pairs = {(setting.values[i], setting.values[j]) for setting in given.settings}
            if len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}):
                found.append((first, given.factors[j]))
    return found


def _metrics(runs: Sequence[RunResult]) -> set[str]:
    return {key for run in runs for key in run.numbers}


def _sortable(values: Sequence[Value]) -> list[tuple[bool, float, str]]:
    """Return a sort key that puts numbers by size before words in alphabetical order."""
    return [(isinstance(value, str), 0.0 if isinstance(value, str) else float(value), str(value)) for value in values]


def in_order(metrics: Iterable[str], monitor: str) -> list[str]:
    """Return metrics in the order of the columns: those of the monitored metric, then costs, then the rest."""
    name = monitor.removeprefix("val/")
    first = (
        *(f"best/{monitor}", f"last/{monitor}", f"test/{name}", f"gap/{name}"),
        *("epochs_to_best", "wall_seconds", "images_per_second"),
    )
    return sorted(metrics, key=lambda metric: (first.index(metric) if metric in first else len(first), metric))
