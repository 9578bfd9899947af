"""Statistics of runs repeated over seeds: intervals, effects of factors, and paired tests with Holm's correction.

Cells map the values of all factors -> seed -> the metric. The seed is the unit of observation: everything that is
compared is first averaged within each seed, so n is always a number of seeds, never a number of runs.
"""

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit

CONFIDENCE = 0.95
ROUNDING = 1e-12
"""Differences of metrics up to this are floating-point error."""
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
        """Return the summary with its interval clipped to the values that the mean can take.

        What is cut off cannot be the mean, so coverage is unchanged (Mandelkern 2002, Statistical Science 17:149).
        """
        least, greatest = bounds
        if self.n < 2:
            return self
        return Summary(self.n, self.mean, self.std, max(self.low, least), min(self.high, greatest))

    def without_interval(self) -> "Summary":
        """Return the summary with mean and standard deviation only."""
        return Summary(self.n, self.mean, self.std, math.nan, math.nan)

    @property
    def has_interval(self) -> bool:
        return not math.isnan(self.low)


@dataclass(frozen=True)
class Difference:
    """A mean paired difference over n seeds, its 95 % interval, and the p value of Student's t test against 0.

    p is NaN where a test has no basis: n < 2, or exactly the same difference in every seed, which says nothing
    about how it varies. A difference of 0 in every seed has p = 1.
    """

    n: int
    mean: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Comparison:
    """The difference `first` minus `second` of two levels or settings; `p` is corrected over the whole family."""

    first: Any
    second: Any
    difference: Difference
    p: float

    @property
    def tells(self) -> bool:
        """Whether the difference is significant at 5 % over the whole family."""
        return self.p < 1 - CONFIDENCE

    def turned(self) -> "Comparison":
        """Return the comparison as `second` minus `first`."""
        it = self.difference
        return Comparison(self.second, self.first, Difference(it.n, -it.mean, -it.high, -it.low, it.p), self.p)


def summary(values: Sequence[float]) -> Summary:
    """Summarise independent repeats; the interval is mean +- t(n - 1) std / sqrt(n)."""
    n = len(values)
    if n < 2:
        return Summary(n, float(values[0]) if n else math.nan, math.nan, math.nan, math.nan)
    mean, std = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * std / math.sqrt(n)
    return Summary(n, mean, std, mean - half, mean + half)


def difference(values: Sequence[float], resolution: float = 0.0) -> Difference:
    """Test paired differences, one for each seed, against 0.

    resolution: the step of the metric, 1 / images for an accuracy. The standard deviation is taken to be at least that
    of the rounding of two values to this step, resolution / sqrt(6): equal accuracies in all seeds are not certainty.
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
    half = float(stdtrit(it.n - 1, (1 + CONFIDENCE) / 2)) * error
    p = float(2 * stdtr(it.n - 1, -abs(it.mean) / error))
    return Difference(it.n, it.mean, it.mean - half, it.mean + half, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected by Holm (1979), which controls the family-wise error rate; NaN stays NaN."""
    tested = [index for index, p in enumerate(p_values) if not math.isnan(p)]
    corrected = list(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(tested, key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(tested) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def levels(cells: Cells, factor: int) -> list[Hashable]:
    """Return the values of a factor in order of appearance."""
    return list(dict.fromkeys(cell[factor] for cell in cells))


def marginal_means(cells: Cells, factor: int) -> dict[Hashable, Summary]:
    """Return level -> the metric averaged over the combinations of the other factors that every level was run with.

    Seeds that lack one of these combinations are left out. Returns {} if no combination has every level, or if no seed
    is left.
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
    """Compare every two levels of a factor, paired by seed and other factors, and averaged within each seed.

    Returns (first, second, first minus second).
    """
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
    """Return the comparisons with their p values corrected over the whole family."""
    p_values = holm([it.p for _, _, it in family])
    return [Comparison(first, second, it, p) for (first, second, it), p in zip(family, p_values, strict=True)]


def setting_comparisons(cells: Cells, resolution: float = 0.0) -> list[Comparison]:
    """Compare every two cells over the seeds they share; the correction over all pairs allows picking the best."""
    return corrected(level_comparisons({(cell,): seeds for cell, seeds in cells.items()}, 0, resolution))


def interactions(cells: Cells) -> dict[tuple[Hashable, Hashable], float]:
    """Return cell of two factors -> its mean minus the sum of the main effects; {} if a cell is missing."""
    rows, columns = levels(cells, 0), levels(cells, 1)
    if any((row, column) not in cells for row in rows for column in columns):
        return {}
    means = np.array([[np.mean(list(cells[row, column].values())) for column in columns] for row in rows])
    rest = means - means.mean(axis=1, keepdims=True) - means.mean(axis=0, keepdims=True) + means.mean()
    return {(row, column): float(rest[i, j]) for i, row in enumerate(rows) for j, column in enumerate(columns)}


def interaction_contrasts(cells: Cells, resolution: float = 0.0) -> list[Comparison]:
    """Compare the difference between two levels of the first factor under two levels of the second.

    `first` of each comparison is (a1, a2), `second` is (b1, b2); the difference is (a1 b1 - a2 b1) - (a1 b2 - a2 b2),
    paired over seeds, and p is corrected over all contrasts.
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
    """Return the cells of one level by the values of the other factors."""
    return {(*cell[:factor], *cell[factor + 1 :]): seeds for cell, seeds in cells.items() if cell[factor] == level}


def _by_seed(groups: Sequence[Mapping[int, float]]) -> dict[int, list[float]]:
    """Return seed -> its value in each group, for the seeds that all groups have."""
    common = set(groups[0]).intersection(*groups[1:])
    return {seed: [group[seed] for group in groups] for seed in sorted(common)}
