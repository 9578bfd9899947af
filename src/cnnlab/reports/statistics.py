"""What repeats over seeds can tell: intervals, effects of factors, and paired tests with Holm's correction.

An experiment is a mapping of cells: the values of the factors -> seed -> the metric. The seed is the unit: whatever is
compared is first averaged within a seed, so that n is always a number of seeds and never a number of runs.
"""

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats

CONFIDENCE = 0.95
ROUNDING = 1e-12
"""Differences of metrics below this are those of floating-point numbers."""
Cells = Mapping[tuple[Hashable, ...], Mapping[int, float]]


@dataclass(frozen=True)
class Summary:
    """Mean, standard deviation (n - 1) and Student's 95 % interval of n values; NaN where n is too small."""

    n: int
    mean: float
    std: float
    low: float
    high: float

    def within(self, bounds: tuple[float, float]) -> "Summary":
        """Clip the interval to the values that the mean can take, which leaves its coverage as it is."""
        least, greatest = bounds
        if self.n < 2:
            return self
        return Summary(self.n, self.mean, self.std, max(self.low, least), min(self.high, greatest))


@dataclass(frozen=True)
class Difference:
    """A paired difference over n seeds with its 95 % interval, and the p value of Student's t test against 0.

    p is NaN where nothing can be told: with n < 2, or if every seed shows the very same difference, which says nothing
    of how it would spread. A difference of 0 in every seed has p = 1.
    """

    n: int
    mean: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Comparison:
    """`first` minus `second`, levels of a factor or whole settings; `p` is corrected over the family of comparisons."""

    first: Any
    second: Any
    difference: Difference
    p: float

    @property
    def tells(self) -> bool:
        """Whether the difference is significant at 5 % over the whole family."""
        return self.p < 1 - CONFIDENCE

    def turned(self) -> "Comparison":
        """`second` minus `first`."""
        it = self.difference
        return Comparison(self.second, self.first, Difference(it.n, -it.mean, -it.high, -it.low, it.p), self.p)


def summary(values: Sequence[float]) -> Summary:
    """Of independent repeats; the interval is mean +- t(n - 1) std / sqrt(n)."""
    n = len(values)
    if n < 2:
        return Summary(n, float(values[0]) if n else math.nan, math.nan, math.nan, math.nan)
    mean, std = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * std / math.sqrt(n)
    return Summary(n, mean, std, mean - half, mean + half)


def difference(values: Sequence[float], resolution: float = 0.0) -> Difference:
    """Paired differences, one for each seed, tested against 0.

    resolution: the step of the metric, 1 / images for an accuracy. The standard deviation counts at least as that which
    rounding two values to this step makes, resolution / sqrt(6): equal accuracies of every seed are no certainty.
    """
    it = summary(values)
    if it.n < 2:
        return Difference(it.n, it.mean, math.nan, math.nan, math.nan)
    if abs(it.mean) <= ROUNDING and it.std <= ROUNDING:
        return Difference(it.n, it.mean, it.low, it.high, 1.0)
    std = max(it.std, resolution / math.sqrt(6))
    if std <= ROUNDING + 1e-9 * abs(it.mean):
        return Difference(it.n, it.mean, it.low, it.high, math.nan)
    error = std / math.sqrt(it.n)
    half = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, it.n - 1)) * error
    p = float(2 * scipy.stats.t.sf(abs(it.mean) / error, it.n - 1))
    return Difference(it.n, it.mean, it.mean - half, it.mean + half, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected so that any false positive among them has the promised rate (Holm 1979); NaN stays NaN."""
    tested = [index for index, p in enumerate(p_values) if not math.isnan(p)]
    corrected = list(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(tested, key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(tested) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def levels(cells: Cells, factor: int) -> list[Hashable]:
    """The values of a factor, in order of appearance."""
    return list(dict.fromkeys(cell[factor] for cell in cells))


def marginal_means(cells: Cells, factor: int) -> dict[Hashable, Summary]:
    """Level -> the metric averaged over the combinations of the other factors that every level was run with.

    Seeds that lack one of these combinations are left out; empty if no combination has every level, or no seed is left.
    """
    by_level = {level: _slice(cells, factor, level) for level in levels(cells, factor)}
    first, *others = by_level.values()
    common = [rest for rest in first if all(rest in other for other in others)]
    if not common:
        return {}
    means = {
        level: summary([float(np.mean(values)) for values in _by_seed([rest_cells[rest] for rest in common]).values()])
        for level, rest_cells in by_level.items()
    }
    return means if all(it.n for it in means.values()) else {}


def level_comparisons(
    cells: Cells, factor: int, resolution: float = 0.0
) -> list[tuple[Hashable, Hashable, Difference]]:
    """Every two levels of a factor: paired where seed and other factors are equal, averaged within each seed."""
    found = []
    for first, second in itertools.combinations(levels(cells, factor), 2):
        ones, others = _slice(cells, factor, first), _slice(cells, factor, second)
        by_seed: dict[int, list[float]] = {}
        for rest in (rest for rest in ones if rest in others):
            for seed in ones[rest].keys() & others[rest].keys():
                by_seed.setdefault(seed, []).append(ones[rest][seed] - others[rest][seed])
        means = [float(np.mean(by_seed[seed])) for seed in sorted(by_seed)]
        found.append((first, second, difference(means, resolution)))
    return found


def corrected(family: Sequence[tuple[Hashable, Hashable, Difference]]) -> list[Comparison]:
    """Comparisons with p values corrected over all of them."""
    p_values = holm([it.p for _, _, it in family])
    return [Comparison(first, second, it, p) for (first, second, it), p in zip(family, p_values, strict=True)]


def setting_comparisons(cells: Cells, resolution: float = 0.0) -> list[Comparison]:
    """Every two cells, paired over the seeds they share; corrected over all pairs, so the best may be picked by eye."""
    return corrected(level_comparisons({(cell,): seeds for cell, seeds in cells.items()}, 0, resolution))


def interactions(cells: Cells) -> dict[tuple[Hashable, Hashable], float]:
    """Of two factors: cell -> its mean minus what the marginal means add up to; empty if a cell is missing."""
    rows, columns = levels(cells, 0), levels(cells, 1)
    if any((row, column) not in cells for row in rows for column in columns):
        return {}
    means = np.array([[np.mean(list(cells[row, column].values())) for column in columns] for row in rows])
    rest = means - means.mean(axis=1, keepdims=True) - means.mean(axis=0, keepdims=True) + means.mean()
    return {(row, column): float(rest[i, j]) for i, row in enumerate(rows) for j, column in enumerate(columns)}


def interaction_contrasts(cells: Cells, resolution: float = 0.0) -> list[Comparison]:
    """Of two factors: how much more the step between two levels of the first is worth under one level of the second.

    `first` and `second` of each comparison are (level, level) of the first factor and of the second; the difference is
    (a1 b1 - a2 b1) - (a1 b2 - a2 b2), paired over seeds, corrected over all of them.
    """
    family: list[tuple[Hashable, Hashable, Difference]] = []
    for a1, a2 in itertools.combinations(levels(cells, 0), 2):
        for b1, b2 in itertools.combinations(levels(cells, 1), 2):
            square = [(a1, b1), (a2, b1), (a1, b2), (a2, b2)]
            if all(cell in cells for cell in square):
                values = _by_seed([cells[cell] for cell in square]).values()
                contrasts = [v[0] - v[1] - v[2] + v[3] for v in values]
                family.append(((a1, a2), (b1, b2), difference(contrasts, resolution)))
    return corrected(family)


def _slice(cells: Cells, factor: int, level: Hashable) -> dict[tuple[Hashable, ...], Mapping[int, float]]:
    """The cells of one level, by the values of the other factors."""
    return {(*cell[:factor], *cell[factor + 1 :]): seeds for cell, seeds in cells.items() if cell[factor] == level}


def _by_seed(groups: Sequence[Mapping[int, float]]) -> dict[int, list[float]]:
    """Seed -> its value in each group, for the seeds that all groups have."""
    common = set(groups[0]).intersection(*groups[1:])
    return {seed: [group[seed] for group in groups] for seed in sorted(common)}
