"""Confidence intervals of metrics, and paired tests of two models on the same images.

Fractions (accuracies) have Wilson's score interval, means over random draws Student's. Two models
are compared image by image, which detects far smaller differences than two separate intervals:
fractions by McNemar's test, other metrics by a permutation test. Numbers that are undefined (the
spread of a single draw) are NaN, null in JSON.

Sources: Wilson, "Probable inference, the law of succession, and statistical inference", 1927;
McNemar, 1947, with Edwards's continuity correction, 1948; Bonett and Price, "Adjusted Wald
confidence interval for a difference of binomial proportions based on paired data", 2012; Efron,
"Bootstrap methods: another look at the jackknife", 1979.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

MOST_EXACT = 1000
"""Discordant pairs up to which McNemar's test is the exact binomial test.

There the corrected chi square is within 1 % of it for every p above 0.001.
"""
DRAWS = 10_000
"""Draws of a bootstrap or a permutation test."""
MOST_DRAWN = 5_000
"""Pairs up to which differences are resampled."""
_BLOCK = 1 << 20
"""Random numbers in memory at a time."""


class Interval(NamedTuple):
    """A confidence interval, ends included."""

    low: float
    high: float


class Difference(NamedTuple):
    """The paired difference of two metrics on the same images.

    Attributes:
        difference: of the means.
        low, high: its confidence interval.
        p: two-sided p-value of the test.
        test: name of the test.
    """

    difference: float
    low: float
    high: float
    p: float
    test: str


def wilson_interval(successes: int, n: int, level: float = 0.95) -> Interval:
    """Compute Wilson's score interval of the fraction `successes / n`; 0 to 1 if n is 0.

    Raises ValueError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is no fraction")
    if n == 0:
        return Interval(0.0, 1.0)
    interval = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    return Interval(float(interval.low), float(interval.high))


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Compute Student's interval of the mean of independent draws; NaN for fewer than two."""
    drawn = np.asarray(values, np.float64).ravel()
    n = len(drawn)
    if n < 2:
        return Interval(math.nan, math.nan)
    mean = float(drawn.mean())
    # scipy's `t.interval` gives NaN where all draws are equal.
    half = float(stats.t.isf((1 - level) / 2, n - 1) * drawn.std(ddof=1)) / math.sqrt(n)
    return Interval(mean - half, mean + half)


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> float:
    """Compute the two-sided p-value of McNemar's test of two classifiers on the same images.

    Only images on which exactly one of the two is right count. Up to `MOST_EXACT` of them it is the
    binomial test, above that chi square with continuity correction.

    Args:
        correct_a, correct_b: (n,) bool, in the same order.
    """
    only_a, only_b, _ = _count_discordant(correct_a, correct_b)
    n = only_a + only_b
    if n <= MOST_EXACT:
        return float(stats.binomtest(only_a, n).pvalue) if n else 1.0
    return float(stats.chi2.sf(max(abs(only_a - only_b) - 1, 0) ** 2 / n, 1))


def paired_fraction_difference(
    correct_a: ArrayLike, correct_b: ArrayLike, level: float = 0.95
) -> Difference:
    """Compare two accuracies on the same images: a minus b, with McNemar's p-value.

    The interval is Bonett and Price's, which is accurate for few images too; it may include 0 where
    p is just below 1 - level, and the reverse.
    """
    only_a, only_b, n = _count_discordant(correct_a, correct_b)
    z = float(stats.norm.isf((1 - level) / 2))
    a, b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = z * math.sqrt((a + b - (a - b) ** 2) / (n + 2))
    return Difference(
        (only_a - only_b) / n if n else math.nan,
        max(-1.0, a - b - half),
        min(1.0, a - b + half),
        mcnemar(correct_a, correct_b),
        "McNemar",
    )


def newcombe_interval(
    successes: tuple[int, int], n: tuple[int, int], level: float = 0.95
) -> Interval:
    """Compute the interval of the difference of two fractions of different images, first - second.

    Newcombe's, from the two Wilson intervals ("Interval estimation for the difference between
    independent proportions", 1998, method 10). Both n must be at least 1.
    """
    a, b = (s / m for s, m in zip(successes, n, strict=True))
    (low_a, high_a), (low_b, high_b) = (
        wilson_interval(s, m, level) for s, m in zip(successes, n, strict=True)
    )
    return Interval(
        a - b - math.hypot(a - low_a, high_b - b), a - b + math.hypot(high_a - a, b - low_b)
    )


def paired_mean_difference(
    a: ArrayLike, b: ArrayLike, level: float = 0.95, seed: int = 0, draws: int = DRAWS
) -> Difference:
    """Compare two means on the same images: mean of a minus mean of b.

    The interval is the percentile bootstrap's; p is that of a permutation test, which exchanges a
    and b at random image by image (for three images that agree, a bootstrap would report p = 0).
    Above `MOST_DRAWN` pairs both are Student's, which then agree with them.

    Args:
        a, b: (n,) values of the same images (or queries, or draws) in the same order.
        seed: of the draws.
        draws: number of resamples. No permutation p is below 1 / (draws + 1).
    """
    first, second = (np.asarray(values, np.float64).ravel() for values in (a, b))
    if first.shape != second.shape:
        raise ValueError(f"{len(first)} and {len(second)} values are no pairs")
    apart = first - second
    n = len(apart)
    if n > MOST_DRAWN:
        p = float(stats.ttest_1samp(apart, 0).pvalue) if apart.any() else 1.0
        return Difference(float(apart.mean()), *mean_interval(apart, level), p, "paired t")
    if n < 2:
        only = float(apart[0]) if n else math.nan
        return Difference(only, math.nan, math.nan, 1.0, "paired permutation")
    rng = np.random.default_rng(seed)
    interval = _bootstrap(apart, level, draws, rng)
    p = _permutation_p(apart, draws, max(1, _BLOCK // n), rng)
    return Difference(float(apart.mean()), *interval, p, "paired permutation")


def bootstrap_interval(
    values: ArrayLike, level: float = 0.95, seed: int = 0, draws: int = DRAWS
) -> Interval:
    """Compute the percentile bootstrap's interval of a mean over images; NaN for fewer than two.

    Above `MOST_DRAWN` values it is Student's, which then agrees with it.
    """
    drawn = np.asarray(values, np.float64).ravel()
    if len(drawn) < 2 or len(drawn) > MOST_DRAWN:
        return mean_interval(drawn, level)
    return _bootstrap(drawn, level, draws, np.random.default_rng(seed))


def paired_t(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Difference:
    """Compare two means over the same few draws, such as seeds: Student's paired t-test, a minus b.

    Where all differences are equal, they may be repeats of one measurement: p is NaN, or 1 if they
    are 0. With one pair it is NaN, too.

    Args:
        a, b: (n,) values in the same order.
    """
    first, second = (np.asarray(values, np.float64).ravel() for values in (a, b))
    if first.shape != second.shape:
        raise ValueError(f"{len(first)} and {len(second)} values are no pairs")
    apart = first - second
    if len(apart) < 2:
        p = math.nan
    elif np.ptp(apart) <= 1e-12 * np.abs(first).max():
        p = 1.0 if np.abs(apart).max() <= 1e-12 * np.abs(first).max() else math.nan
    else:
        p = float(stats.ttest_1samp(apart, 0).pvalue)
    difference = float(apart.mean()) if len(apart) else math.nan
    return Difference(difference, *mean_interval(apart, level), p, "paired t")


def _bootstrap(
    values: NDArray[np.float64], level: float, draws: int, rng: np.random.Generator
) -> Interval:
    interval = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=draws,
        batch=max(1, _BLOCK // len(values)),
        confidence_level=level,
        method="percentile",
        random_state=rng,
    ).confidence_interval
    return Interval(float(interval.low), float(interval.high))


def _permutation_p(
    apart: NDArray[np.float64], draws: int, rows: int, rng: np.random.Generator
) -> float:
    """Compute the two-sided p-value of flipping the signs of differences, `rows` draws at a time.

    scipy's `permutation_test` sorts random numbers to flip signs: ten times as slow at 5,000 pairs.
    """
    n = len(apart)
    sizes = [min(rows, draws - start) for start in range(0, draws, rows)]
    means = [(2.0 * rng.integers(2, size=(size, n)) - 1) @ apart / n for size in sizes]
    # Sums in another order differ by rounding: equal counts as equal.
    least = abs(float(apart.mean())) - 1e-12 * np.abs(apart).max()
    return float((1 + (np.abs(np.concatenate(means)) >= least).sum()) / (1 + draws))


def _count_discordant(correct_a: ArrayLike, correct_b: ArrayLike) -> tuple[int, int, int]:
    """Count the images that a alone has right, those that b alone has right, and all."""
    a, b = (np.asarray(correct, bool).ravel() for correct in (correct_a, correct_b))
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} and {len(b)} images are no pairs")
    return int((a & ~b).sum()), int((b & ~a).sum()), len(a)
