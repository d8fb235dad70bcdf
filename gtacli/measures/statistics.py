"""How sure a figure is, and whether one figure is better than another on the same images.

Shares (accuracies) have Wilson's score interval, means over random draws Student's. Two networks
are compared image by image, which tells far smaller differences than two intervals side by side:
shares by McNemar's test, any other figure by exchanging at random which network got which value.
Of a figure that cannot be known (the spread of a single draw) the numbers are NaN, null in JSON.

Sources: Wilson, "Probable inference, the law of succession, and statistical inference", 1927;
McNemar, 1947, with Edwards's continuity correction, 1948; Bonett and Price, "Adjusted Wald
confidence interval for a difference of binomial proportions based on paired data", 2012; Efron,
"Bootstrap methods: another look at the jackknife", 1979.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

MOST_EXACT = 1000
"""Discordant pairs up to which McNemar's test is the exact binomial one. There the corrected chi
square is within 1 % of it for every p above 0.001, so that nothing jumps."""
DRAWS = 10_000
"""Of a bootstrap or a permutation."""
MOST_DRAWN = 5_000
"""Pairs up to which differences are drawn anew."""
_BLOCK = 1 << 20
"""Random numbers at a time."""


class Interval(NamedTuple):
    """Where a figure lies, ends included."""

    low: float
    high: float


class Difference(NamedTuple):
    """What a figure is more than another one on the same images.

    Attributes:
        difference: of the means.
        low, high: its confidence interval.
        p: of a difference at least as large, in either direction, if the two were alike.
        test: the name of the test that gave p.
    """

    difference: float
    low: float
    high: float
    p: float
    test: str


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share, as fractions. Of no image at all: 0 to 1.

    Raises ValueError where successes are not 0 to n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is no share")
    if n == 0:
        return Interval(0.0, 1.0)
    z = float(stats.norm.isf((1 - level) / 2))
    share, spread = successes / n, z * z / n
    middle = share + spread / 2
    half = z * math.sqrt((share * (1 - share) + spread / 4) / n)
    # The end is 0 or 1 itself where all are wrong or right: rounding would miss it by a hair.
    low = 0.0 if successes == 0 else (middle - half) / (1 + spread)
    high = 1.0 if successes == n else (middle + half) / (1 + spread)
    return Interval(low, high)


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Student's interval of the mean over draws that are independent of each other."""
    drawn = np.asarray(values, np.float64).ravel()
    n = len(drawn)
    if n < 2:
        return Interval(math.nan, math.nan)
    mean = float(drawn.mean())
    half = float(stats.t.isf((1 - level) / 2, n - 1) * drawn.std(ddof=1)) / math.sqrt(n)
    return Interval(mean - half, mean + half)


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> float:
    """The two-sided p of McNemar's test: are two networks right on as many of the same images?

    Only images on which one is right and the other wrong count. Up to `MOST_EXACT` of them the
    binomial test, above it chi square with continuity correction.

    Args:
        correct_a, correct_b: (n,) bool, of the same images in the same order.
    """
    only_a, only_b, _ = _discordant(correct_a, correct_b)
    n = only_a + only_b
    if n <= MOST_EXACT:
        return float(stats.binomtest(only_a, n).pvalue) if n else 1.0
    return float(stats.chi2.sf(max(abs(only_a - only_b) - 1, 0) ** 2 / n, 1))


def share_difference(correct_a: ArrayLike, correct_b: ArrayLike, level: float = 0.95) -> Difference:
    """How much more often a is right than b, with McNemar's p.

    The interval is Bonett and Price's, which is close to its level for few images too; it may
    touch 0 where p is just below 1 - level, or the other way round.
    """
    only_a, only_b, n = _discordant(correct_a, correct_b)
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


def unpaired_interval(
    successes: tuple[int, int], n: tuple[int, int], level: float = 0.95
) -> Interval:
    """Of the difference of two shares, the first less the second, of different images: Newcombe's,
    from the two Wilson intervals ("Interval estimation for the difference between independent
    proportions", 1998, method 10). Each of at least one image."""
    a, b = (s / m for s, m in zip(successes, n, strict=True))
    (low_a, high_a), (low_b, high_b) = (
        wilson(s, m, level) for s, m in zip(successes, n, strict=True)
    )
    return Interval(
        a - b - math.hypot(a - low_a, high_b - b), a - b + math.hypot(high_a - a, b - low_b)
    )


def paired_bootstrap(
    a: ArrayLike, b: ArrayLike, level: float = 0.95, seed: int = 0, draws: int = DRAWS
) -> Difference:
    """How much larger the mean of a is than that of b, both measured on the same images.

    The interval is the bootstrap's, by percentiles. p is that of exchanging a and b at random,
    image by image: a bootstrap would call three images that agree proof, where the exchange knows
    that one time in four they agree by chance. Above `MOST_DRAWN` pairs both are Student's, which
    then say the same at once.

    Args:
        a, b: (n,) figures of the same images (or queries, or draws) in the same order.
        seed: of the draws.
        draws: how many. No p of a permutation is below 1 / (draws + 1).
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
    means = _means(draws, n, lambda rows: apart[rng.integers(n, size=(rows, n))].mean(1))
    mean = float(apart.mean())
    flips = _means(draws, n, lambda rows: (2.0 * rng.integers(2, size=(rows, n)) - 1) @ apart / n)
    # The same numbers summed in another order differ by rounding: equal counts as equal.
    as_far = np.abs(flips) >= abs(mean) - 1e-12 * np.abs(apart).max()
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2]).tolist()
    p = float((1 + as_far.sum()) / (1 + draws))
    return Difference(mean, low, high, p, "paired permutation")


def _means(draws: int, n: int, draw: Callable[[int], NDArray[np.float64]]) -> NDArray[np.float64]:
    """(draws,) means, each of n values, as many at a time as fit in little memory."""
    rows = max(1, _BLOCK // n)
    sizes = [min(rows, draws - start) for start in range(0, draws, rows)]
    return np.concatenate([draw(size) for size in sizes])


def _discordant(correct_a: ArrayLike, correct_b: ArrayLike) -> tuple[int, int, int]:
    """Images on which a alone is right, b alone, and all of them."""
    a, b = (np.asarray(correct, bool).ravel() for correct in (correct_a, correct_b))
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} and {len(b)} images are no pairs")
    return int((a & ~b).sum()), int((b & ~a).sum()), len(a)
