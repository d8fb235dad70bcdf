"""Tests of intervals and p-values against scipy and against direct computations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gtacli.measures.statistics import (
    DRAWS,
    MOST_DRAWN,
    MOST_EXACT,
    mcnemar,
    mean_interval,
    newcombe_interval,
    paired_fraction_difference,
    paired_mean_difference,
    wilson_interval,
)

LEVELS = st.sampled_from([0.8, 0.9, 0.95, 0.99])


@st.composite
def fractions(draw: st.DrawFn) -> tuple[int, int]:
    n = draw(st.integers(1, 100_000))
    return draw(st.integers(0, n)), n


@st.composite
def hits(draw: st.DrawFn, most: int = 60) -> tuple[list[bool], list[bool]]:
    pairs = draw(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=most))
    first, second = zip(*pairs, strict=True)
    return [*first], [*second]


@given(fractions(), LEVELS)
def test_wilson_intervals_solve_their_equation(fraction: tuple[int, int], level: float) -> None:
    """|p - x / n| = z sqrt(p (1 - p) / n) at both ends."""
    successes, n = fraction
    z = stats.norm.ppf(0.5 + level / 2)
    a, b = 1 + z**2 / n, -2 * successes / n - z**2 / n
    half = math.sqrt(max(0, b**2 - 4 * a * (successes / n) ** 2)) / (2 * a)
    expected = -b / (2 * a) - half, -b / (2 * a) + half
    assert wilson_interval(successes, n, level) == pytest.approx(expected, abs=1e-7)


@given(fractions())
def test_wilson_intervals_contain_the_fraction(fraction: tuple[int, int]) -> None:
    successes, n = fraction
    low, high = wilson_interval(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    assert wilson_interval(n - successes, n) == pytest.approx((1 - high, 1 - low))


def test_wilson_intervals_at_the_limits() -> None:
    assert wilson_interval(0, 0) == (0, 1)
    assert wilson_interval(3, 3).high == 1
    assert wilson_interval(3, 3).low == pytest.approx(0.43850, abs=1e-5)  # as in tables
    assert wilson_interval(0, 3).low == 0
    for successes, n in ((1, 0), (-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="no fraction"):
            wilson_interval(successes, n)


@given(hits())
def test_mcnemar_of_few_pairs_sums_the_binomial_tail(
    pair: tuple[list[bool], list[bool]],
) -> None:
    only_a = sum(a and not b for a, b in zip(*pair, strict=True))
    only_b = sum(b and not a for a, b in zip(*pair, strict=True))
    n, fewer = only_a + only_b, min(only_a, only_b)
    tail = sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n
    assert mcnemar(*pair) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar(pair[1], pair[0]) == pytest.approx(mcnemar(*pair))


def test_mcnemar_of_many_pairs_is_the_corrected_chi_square() -> None:
    def of(only_a: int, only_b: int, both: int = 500) -> float:
        a = np.repeat([True, False, True], [only_a, only_b, both])
        b = np.repeat([False, True, True], [only_a, only_b, both])
        return mcnemar(a, b)

    b, c = 700, 600
    assert of(b, c) == pytest.approx(stats.chi2.sf((abs(b - c) - 1) ** 2 / (b + c), 1))
    assert of(700, 700) == 1
    for only_a in (500, 520, 545):  # no jump between the two forms
        beside = of(only_a, MOST_EXACT - only_a), of(only_a, MOST_EXACT + 1 - only_a)
        exact = [stats.binomtest(only_a, n).pvalue for n in (MOST_EXACT, MOST_EXACT + 1)]
        assert beside == pytest.approx(exact, rel=0.01)


def test_equal_models_do_not_differ() -> None:
    assert mcnemar([True, False, True], [True, False, True]) == 1
    assert mcnemar([], []) == 1
    alike = paired_fraction_difference([True, False] * 50, [True, False] * 50)
    assert (alike.difference, alike.p, alike.test) == (0, 1, "McNemar")
    assert alike.low < 0 < alike.high
    assert paired_mean_difference([0.5, 0.1], [0.5, 0.1])[:4] == (0, 0, 0, 1)


@given(hits(200), LEVELS)
def test_a_difference_of_fractions_has_bonett_and_prices_interval(
    pair: tuple[list[bool], list[bool]], level: float
) -> None:
    found = paired_fraction_difference(*pair, level)
    a, b = np.array(pair[0]), np.array(pair[1])
    # One image is added to each of the two discordant cells, as in their equation 3.
    cells = [((x & ~y).sum() + 1) / (len(a) + 2) for x, y in ((a, b), (b, a))]
    variance = (sum(cells) - (cells[0] - cells[1]) ** 2) / (len(a) + 2)
    half = stats.norm.ppf(0.5 + level / 2) * math.sqrt(variance)
    middle = cells[0] - cells[1]
    assert found.difference == pytest.approx(a.mean() - b.mean())
    assert found.low == pytest.approx(max(-1, middle - half))
    assert found.high == pytest.approx(min(1, middle + half))


def test_fractions_of_different_images_have_newcombes_interval() -> None:
    """Two of the examples in his table II."""
    assert newcombe_interval((56, 48), (70, 80)) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert newcombe_interval((10, 0), (10, 10)) == pytest.approx((0.6075, 1.0), abs=5e-5)


def test_the_interval_of_a_difference_has_its_coverage() -> None:
    rng = np.random.default_rng(0)
    inside, times = 0, 2000
    for _ in range(times):
        # of 60 images both are right on half, a alone on 3 in 10, b alone on 1 in 10
        kind = rng.choice(4, 60, p=[0.5, 0.3, 0.1, 0.1])
        found = paired_fraction_difference(kind <= 1, (kind == 0) | (kind == 2))
        inside += found.low <= 0.2 <= found.high
    assert 0.93 <= inside / times <= 0.97


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=50), LEVELS)
def test_the_interval_of_a_mean_is_students(values: list[float], level: float) -> None:
    expected = stats.ttest_1samp(values, 0).confidence_interval(level)
    if np.ptp(values) > 1e-6:
        assert mean_interval(values, level) == pytest.approx(tuple(expected), abs=1e-9)


def test_the_mean_of_one_draw_has_no_interval() -> None:
    assert all(math.isnan(end) for end in mean_interval([0.5]))
    assert mean_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


def test_the_bootstrap_and_the_permutation_test() -> None:
    rng = np.random.default_rng(1)
    a = rng.beta(2, 3, 80)
    b = np.clip(a + rng.normal(-0.03, 0.1, 80), 0, 1)
    found = paired_mean_difference(a, b, seed=3)
    resampled = np.random.default_rng(7).integers(80, size=(DRAWS, 80))
    low, high = np.quantile((a - b)[resampled].mean(1), [0.025, 0.975])
    assert found.difference == pytest.approx(np.mean(a) - np.mean(b))
    width = high - low  # both are random, within a few hundredths of the width
    assert found.low == pytest.approx(low, abs=0.05 * width)
    assert found.high == pytest.approx(high, abs=0.05 * width)
    permuted = stats.permutation_test(
        (a, b),
        lambda x, y, axis=-1: np.mean(x, axis=axis) - np.mean(y, axis=axis),
        permutation_type="samples",
        n_resamples=DRAWS,
        vectorized=True,
        rng=np.random.default_rng(7),
    )
    assert found.p == pytest.approx(permuted.pvalue, abs=0.01)


@pytest.mark.parametrize("values", [(0.3, 0.2, 0.4), (0.1, -0.2, 0.4), (0.5, 0.0, 0.0, -0.5)])
def test_p_of_few_pairs_is_the_fraction_of_all_permutations(values: tuple[float, ...]) -> None:
    signs = itertools.product([-1, 1], repeat=len(values))
    sums = [abs(np.dot(sign, values)) for sign in signs]
    exact = np.mean([s >= abs(sum(values)) - 1e-12 for s in sums])
    found = paired_mean_difference(values, [0.0] * len(values))
    assert found.p == pytest.approx(exact, abs=0.02)


def test_seeds_and_many_pairs() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.random(200), rng.random(200)
    assert paired_mean_difference(a, b, seed=5) == paired_mean_difference(a, b, seed=5)
    assert paired_mean_difference(a, b, seed=5) != paired_mean_difference(a, b, seed=6)
    a, b = rng.random(MOST_DRAWN + 1), rng.random(MOST_DRAWN + 1)
    many = paired_mean_difference(a, b)
    test = stats.ttest_rel(a, b)
    assert many.test == "paired t"
    assert many[:4] == pytest.approx((np.mean(a - b), *test.confidence_interval(), test.pvalue))
    assert paired_mean_difference(a, a).p == 1


def test_a_single_pair_has_no_interval() -> None:
    found = paired_mean_difference([0.9], [0.1])
    assert (found.difference, found.p) == (pytest.approx(0.8), 1)
    assert math.isnan(found.low)
    assert math.isnan(paired_mean_difference([], []).difference)
    for test in (paired_mean_difference, mcnemar):
        with pytest.raises(ValueError, match="no pairs"):
            test([1, 0], [1])
