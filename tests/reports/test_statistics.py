"""Intervals, tests and corrections against SciPy, closed forms, and data whose truth the test chose."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from cnnlab.reports.statistics import (
    corrected,
    difference,
    holm,
    interaction_contrasts,
    interactions,
    level_comparisons,
    levels,
    marginal_means,
    setting_comparisons,
    summary,
)

VALUES = [0.91, 0.94, 0.905, 0.93]


def test_interval_is_students_by_hand():
    """t(0.975, 3) = 3.182446 (tables)."""
    it = summary(VALUES)
    mean = sum(VALUES) / 4
    std = math.sqrt(sum((value - mean) ** 2 for value in VALUES) / 3)
    assert (it.n, it.mean, it.std) == (4, pytest.approx(mean), pytest.approx(std))
    assert (it.low, it.high) == pytest.approx((mean - 3.182446 * std / 2, mean + 3.182446 * std / 2), abs=1e-7)


@pytest.mark.parametrize("values", [[], [0.5]])
def test_one_value_has_no_spread(values):
    it = summary(values)
    assert it.n == len(values)
    assert math.isnan(it.std)
    assert math.isnan(it.low)
    assert math.isnan(it.mean) == (not values)


def test_paired_test_is_scipys():
    first, second = np.array(VALUES), np.array([0.90, 0.91, 0.91, 0.92])
    it = difference(list(first - second))
    expected = scipy.stats.ttest_rel(first, second)
    interval = expected.confidence_interval(0.95)
    assert it.p == pytest.approx(expected.pvalue)
    assert (it.low, it.high) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize(
    ("values", "p"),
    [([], math.nan), ([0.1], math.nan), ([0.1] * 3, math.nan), ([0.1, 0.1 + 1e-16, 0.1], math.nan), ([0.0] * 3, 1.0)],
)
def test_where_nothing_spreads_nothing_is_significant(values, p):
    assert difference(values).p == pytest.approx(p, nan_ok=True)


def closed_testing(p_values: list[float]) -> list[float]:
    """Holm by its definition: the largest Bonferroni-corrected minimum over all sets of hypotheses with this one."""
    every = range(len(p_values))
    sets = [chosen for size in range(1, len(p_values) + 1) for chosen in itertools.combinations(every, size)]
    return [
        max(min(1.0, len(chosen) * min(p_values[j] for j in chosen)) for chosen in sets if i in chosen) for i in every
    ]


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_closed_testing_with_bonferroni(seed):
    p_values = list(np.random.default_rng(seed).uniform(0, 0.2, 6))
    assert holm(p_values) == pytest.approx(closed_testing(p_values))


def test_holm_leaves_out_what_cannot_be_tested():
    assert holm([0.01, math.nan, 0.04]) == pytest.approx([0.02, math.nan, 0.04], nan_ok=True)
    assert holm([]) == []


def grid(effect_a: float, effect_b: float, both: float, noise: float, seeds: int, seed: int) -> dict:
    """Two factors of two and three levels around 0.5, where a shared seed shifts every cell alike."""
    rng = np.random.default_rng(seed)
    shift = rng.normal(0, 0.05, seeds)
    return {
        (a, b): {
            s: 0.5 + shift[s] + effect_a * (a == "y") + effect_b * (b == 3) + both * (a == "y" and b == 3) + draw
            for s, draw in enumerate(rng.normal(0, noise, seeds) if noise else [0.0] * seeds)
        }
        for a in ("x", "y")
        for b in (1, 2, 3)
    }


def test_effects_of_a_grid_without_noise_are_exact():
    cells = grid(0.1, 0.04, 0.06, 0.0, 3, 0)
    means = marginal_means(cells, 0)
    assert levels(cells, 0) == ["x", "y"]
    assert means["y"].mean - means["x"].mean == pytest.approx(0.1 + 0.06 / 3)
    (first, second, it), *_ = level_comparisons(cells, 0)
    assert (first, second, it.n, it.mean) == ("x", "y", 3, pytest.approx(-0.12))
    rest = interactions(cells)
    assert rest["y", 3] == pytest.approx(0.06 * (1 - 1 / 2) * (1 - 1 / 3))
    assert sum(rest.values()) == pytest.approx(0)
    assert sum(rest["x", b] for b in (1, 2, 3)) == pytest.approx(0)


def test_contrasts_of_an_interaction():
    found = {(it.first, it.second): it for it in interaction_contrasts(grid(0.1, 0.04, 0.06, 1e-4, 4, 1))}
    assert len(found) == 3
    it = found[("x", "y"), (1, 3)]
    assert it.difference.mean == pytest.approx(0.06, abs=1e-3)
    assert it.tells
    assert not found[("x", "y"), (1, 2)].tells
    turned = it.turned()
    assert (turned.first, turned.difference.mean) == ((1, 3), -it.difference.mean)
    assert turned.difference.low == -it.difference.high


def test_pairing_takes_out_what_a_seed_does_to_all():
    """Seeds differ by 0.05, settings by 0.02: unpaired intervals overlap, the paired difference is clear."""
    cells = grid(0.02, 0.0, 0.0, 0.001, 4, 2)
    (_, _, it), *_ = level_comparisons(cells, 0)
    assert corrected([("x", "y", it)])[0].tells
    means = marginal_means(cells, 0)
    assert means["x"].high > means["y"].low


def test_only_what_both_levels_have_is_compared():
    cells = {("x", 1): {0: 0.1, 1: 0.2}, ("x", 2): {0: 0.9, 1: 0.9}, ("y", 1): {1: 0.5, 2: 0.6}}
    (_, _, it), *_ = level_comparisons(cells, 0)
    assert (it.n, it.mean) == (1, pytest.approx(-0.3))
    assert {level: mean.n for level, mean in marginal_means(cells, 0).items()} == {"x": 2, "y": 2}
    assert marginal_means({("x", 1): {0: 0.1}, ("y", 2): {0: 0.2}}, 0) == {}
    assert interactions(cells) == {}


def test_effect_of_a_planted_setting_is_recovered():
    """metric = a + b [init = orthogonal] + noise: the interval of b holds b in 95 % of 400 experiments."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        cells = {(name,): dict(enumerate(rng.normal(0.8 + 0.05 * (name == "orthogonal"), 0.02, 5))) for name in "ab"}
        cells["orthogonal",] = dict(enumerate(rng.normal(0.85, 0.02, 5)))
        it = next(it for first, second, it in level_comparisons(cells, 0) if (first, second) == ("a", "orthogonal"))
        held += it.low <= -0.05 <= it.high
    low, high = scipy.stats.binom.ppf([0.0005, 0.9995], 400, 0.95)
    assert low <= held <= high


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_null_effects_are_called_null_at_the_promised_rate(seeds):
    """200 sweeps of four settings that differ in nothing: a false positive anywhere in at most 5 % of the sweeps."""
    rng = np.random.default_rng(seeds)
    wrong = 0
    for _ in range(200):
        shift = rng.normal(0, 0.03, seeds)
        cells = {(name,): dict(enumerate(0.8 + shift + rng.normal(0, 0.02, seeds))) for name in "abcd"}
        wrong += any(it.tells for it in setting_comparisons(cells))
    assert wrong <= scipy.stats.binom.ppf(0.999, 200, 0.05)


def test_null_factor_beside_a_real_one_is_called_null_at_the_promised_rate():
    rng = np.random.default_rng(9)
    wrong = found = 0
    for _ in range(200):
        cells = grid(0.1, 0.0, 0.0, 0.02, 4, int(rng.integers(1 << 30)))
        families = [level_comparisons(cells, 0), level_comparisons(cells, 1)]
        tested = corrected([it for family in families for it in family])
        found += tested[0].tells
        wrong += any(it.tells for it in tested[1:])
    assert wrong <= scipy.stats.binom.ppf(0.999, 200, 0.05)
    assert found > 150


def test_accuracies_that_every_seed_repeats_differ_as_far_as_their_step_lets_one_tell():
    """Rounding to steps of 1 / 176 has the variance step^2 / 12, and a difference of two roundings twice that."""
    step = 1 / 176
    error = math.sqrt(2 * step**2 / 12) / math.sqrt(3)
    clear, single = difference([0.8977] * 3, step), difference([step] * 3, step)
    assert clear.p == pytest.approx(2 * scipy.stats.t.sf(0.8977 / error, 2))
    assert single.p == pytest.approx(2 * scipy.stats.t.sf(step / error, 2))
    assert single.high - single.low == pytest.approx(2 * scipy.stats.t.ppf(0.975, 2) * error)
    assert difference([0.0] * 3, step).p == 1.0
    assert math.isnan(difference([0.3] * 3).p)
