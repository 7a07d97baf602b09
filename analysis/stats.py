"""The estimators: Contrast intervals, Holm's correction, exact tests' limits, block bootstrap.

The unit is the training seed: every number that enters here is one trial's final return.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

# Chance that two equal variants (sd 60 over seeds) get a winner under the rule of verdict.py,
# simulated, by the number of seeds an arm.
FALSE_WINNER_RATES = {2: 0.15, 3: 0.11, 4: 0.09, 5: 0.07, 10: 0.05}
_DRAWS = 10_000  # of the bootstrap of differences


class Contrast(NamedTuple):
    """A weighted sum of means, such as the difference of two, with its t interval.

    All but the value are None where the spread is unknown: some mean is of a single number.
    """

    difference: float
    standard_error: float | None
    low: float | None
    high: float | None
    p: float | None  # two-sided; None also when there is no spread at all


class Interval(NamedTuple):
    """An estimate and the interval around it."""

    estimate: float
    low: float
    high: float


def mean(values: Sequence[float]) -> float:
    """Return the mean of one value or more."""
    return math.fsum(values) / len(values)


def sample_variance(values: Sequence[float]) -> float:
    """Return the variance with n - 1 in the denominator, of two values or more.

    It is exactly 0 for equal values: the rounding error of their mean would otherwise pass for a
    tiny spread, which makes any difference look certain.
    """
    return 0.0 if min(values) == max(values) else float(np.var(values, ddof=1))


def sample_sd(values: Sequence[float]) -> float | None:
    """Return the standard deviation with n - 1 in the denominator; None below two values."""
    return math.sqrt(sample_variance(values)) if len(values) > 1 else None


def mean_and_sd(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return mean and sample sd; None for what the values are too few to give."""
    return mean(values) if values else None, sample_sd(values)


def welch(values: Sequence[float], baseline: Sequence[float], confidence: float) -> Contrast:
    """Return mean(values) - mean(baseline) with Welch's standard error, t interval and p."""
    return contrast_means([values, baseline], (1.0, -1.0), confidence)


def contrast_means(
    samples: Sequence[Sequence[float]], weights: Sequence[float], confidence: float
) -> Contrast:
    """Return the weighted sum of the samples' means with its standard error, t interval and p.

    Variances are not pooled; the degrees of freedom are Satterthwaite's, as in Welch's test.
    """
    value = math.fsum(w * mean(some) for w, some in zip(weights, samples, strict=True))
    if min(map(len, samples)) < 2:
        return Contrast(value, None, None, None, None)
    parts = [w**2 * sample_variance(s) / len(s) for w, s in zip(weights, samples, strict=True)]
    squares = sum(part**2 / (len(s) - 1) for part, s in zip(parts, samples, strict=True))
    degrees = sum(parts) ** 2 / squares if squares else math.inf
    return t_interval(value, math.sqrt(sum(parts)), degrees, confidence)


def compare_with(number: float, values: Sequence[float], confidence: float) -> Contrast:
    """Return mean(values) - number with the one-sample t interval and p."""
    difference, sd = mean(values) - number, sample_sd(values)
    if sd is None:
        return Contrast(difference, None, None, None, None)
    return t_interval(difference, sd / math.sqrt(len(values)), len(values) - 1, confidence)


def t_interval(value: float, error: float, degrees: float, confidence: float) -> Contrast:
    """Return a value with the t interval and p that follow from its standard error."""
    if error == 0.0:
        return Contrast(value, 0.0, value, value, None)
    half = t_quantile(degrees, confidence) * error
    p = 2.0 * float(stdtr(degrees, -abs(value) / error))
    return Contrast(value, error, value - half, value + half, p)


def t_quantile(degrees: float, confidence: float) -> float:
    """Return the half width, in standard errors, of a two-sided t interval."""
    return float(stdtrit(degrees, 0.5 + confidence / 2.0))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return Holm's adjusted p values, in the order given; what has no p stays without."""
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[index] = largest
    return adjusted


def smallest_exact_p(num_seeds: int) -> tuple[float, float]:
    """Return the smallest two-sided p of the exact unpaired and paired permutation tests."""
    return 2.0 / math.comb(2 * num_seeds, num_seeds), 2.0 / 2**num_seeds


def expected_false_winners(num_seeds: Sequence[int]) -> float:
    """Return how many winners to expect if no arms truly differ, given each comparison's seeds.

    For a number of seeds that was not simulated, the rate of the next smaller one is used.
    """
    return sum(_false_winner_rate(n) for n in num_seeds)


def bootstrap_blocks(blocks: Sequence[Sequence[float]], confidence: float) -> Interval:
    """Return the mean of the blocks' means with a percentile bootstrap interval.

    A block holds one task's paired differences by seed. Seeds are drawn within blocks, and every
    block weighs the same.
    """
    weights = draw_weights(tuple(map(len, blocks)), _DRAWS)
    drawn = weights @ np.concatenate([np.asarray(block, float) for block in blocks])
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    return Interval(mean([mean(block) for block in blocks]), float(low), float(high))


@functools.lru_cache(maxsize=2)
def draw_weights(sizes: tuple[int, ...], draws: int) -> np.ndarray:
    """Return the weight of each seed of each block in every draw, [draws, seeds of all blocks].

    Multiplied with one value a seed they give, for every draw, the mean over blocks of the mean
    over the seeds drawn. Bootstraps of blocks of the same sizes share them.
    """
    places = draw_places(sizes, draws)
    counts = [_count(drawn) / size for drawn, size in zip(places, sizes, strict=True)]
    return np.hstack(counts) / len(sizes)


@functools.lru_cache(maxsize=2)
def draw_places(sizes: tuple[int, ...], draws: int) -> list[np.ndarray]:
    """Return the seeds drawn of each block, [draws, seeds] a block; the same at every call."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, size, (draws, size)) for size in sizes]


def _count(drawn: np.ndarray) -> np.ndarray:
    draws, size = drawn.shape
    places = drawn + size * np.arange(draws)[:, None]
    return np.bincount(places.ravel(), minlength=draws * size).reshape(draws, size).astype(float)


def seed_correlation(blocks: Sequence[Sequence[tuple[float, float]]]) -> float | None:
    """Return the correlation over seeds of two arms' returns, given as pairs by task.

    Each task's means are subtracted first. None where an arm does not vary over seeds.
    """
    x, y = np.concatenate([_centre(np.asarray(pairs)) for pairs in blocks]).T
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return None if scale == 0.0 else float(x @ y) / scale


def _centre(pairs: np.ndarray) -> np.ndarray:
    """Return columns less their means: exact zeros where a column's numbers are equal."""
    is_equal = pairs.min(axis=0) == pairs.max(axis=0)
    return np.where(is_equal, 0.0, pairs - pairs.mean(axis=0))


def _false_winner_rate(num_seeds: int) -> float:
    known = [n for n in FALSE_WINNER_RATES if n <= num_seeds]
    return FALSE_WINNER_RATES[max(known)] if known else 0.0  # one seed has no spread: no winner
