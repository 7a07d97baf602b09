"""Aggregates over a suite of tasks: IQM, optimality gap, performance profile, improvement.

The estimators are those of Agarwal et al., "Deep RL at the edge of the statistical precipice"
(2021), on scores = returns / 1,000. Scores are a list with one array a task, [seeds of that task].
Intervals are stratified percentile bootstraps: seeds are drawn within each task.
"""

from collections.abc import Callable, Sequence

import numpy as np

from analysis.stats import Interval, draw_places, draw_weights

TRIMMED = 0.25  # of the runs on each side, before the interquartile mean
TARGET = 1.0  # the score that the optimality gap is counted from
DRAWS = 2_000

Scores = Sequence[np.ndarray]  # one array a task, [seeds]
Drawn = list[np.ndarray]  # one array a task, [draws, seeds]


def interquartile_mean(scores: Drawn) -> np.ndarray:
    """Return the mean of the middle half of all runs, whatever their task, for each draw."""
    runs = np.sort(np.concatenate(scores, axis=-1), axis=-1)
    cut = int(TRIMMED * runs.shape[-1])
    return runs[..., cut : runs.shape[-1] - cut].mean(axis=-1)


def optimality_gap(scores: Drawn) -> np.ndarray:
    """Return by how much runs fall short of TARGET on average over tasks, for each draw."""
    return np.mean([np.maximum(TARGET - task, 0.0).mean(axis=-1) for task in scores], axis=0)


def performance_profile(scores: Drawn, thresholds: np.ndarray) -> np.ndarray:
    """Return the share of runs above each score, tasks weighing the same: [draws, thresholds]."""
    return np.mean(
        [(task[:, None, :] > thresholds[:, None]).mean(axis=-1) for task in scores], axis=0
    )


def probability_of_improvement(ours: Drawn, theirs: Drawn) -> np.ndarray:
    """Return how likely a run of `theirs` beats one of `ours` on a task drawn at random.

    This is the share of all pairs of runs on a task (Mann and Whitney's U); ties count one half.
    """
    tasks = zip(ours, theirs, strict=True)
    return np.mean([_compare_runs(a, b).mean(axis=(-1, -2)) for a, b in tasks], axis=0)


def estimate(
    statistic: Callable[[Drawn], np.ndarray], scores: Scores, confidence: float
) -> Interval:
    """Return a statistic with its stratified bootstrap interval."""
    whole, drawn = statistic(_as_draw(scores)), statistic(draw_seeds(scores))
    return _limit(whole, drawn[:, None], confidence)[0]


def estimate_profile(scores: Scores, thresholds: np.ndarray, confidence: float) -> list[Interval]:
    """Return the performance profile with its intervals, one for each threshold.

    Equal to `estimate` of each threshold, but all draws are one product with their weights.
    """
    above = (np.concatenate(scores)[:, None] > thresholds).astype(float)
    weights = draw_weights(tuple(map(len, scores)), DRAWS)
    whole = performance_profile(_as_draw(scores), thresholds)[0]
    return _limit(whole, weights @ above, confidence)


def estimate_improvement(ours: Scores, theirs: Scores, confidence: float) -> Interval:
    """Return the probability of improvement with its interval.

    Every draw takes the same seeds of both arms, which share training and evaluation seeds:
    `ours[task][i]` and `theirs[task][i]` must be of one training seed.
    """
    sizes = tuple(map(len, ours))
    weights = draw_weights(sizes, DRAWS)
    of_tasks = np.split(weights, np.cumsum(sizes)[:-1], axis=1)
    tasks = zip(of_tasks, ours, theirs, strict=True)
    wins = np.hstack([own @ _compare_runs(a, b) for own, a, b in tasks])
    drawn = len(sizes) * (wins * weights).sum(axis=1)  # of weights that sum to 1 a task
    whole = probability_of_improvement(_as_draw(ours), _as_draw(theirs))
    return _limit(whole, drawn[:, None], confidence)[0]


def draw_seeds(scores: Scores) -> Drawn:
    """Return scores with seeds resampled within tasks, the same seeds for every arm."""
    chosen = draw_places(tuple(map(len, scores)), DRAWS)
    return [task[index] for task, index in zip(scores, chosen, strict=True)]


def _as_draw(scores: Scores) -> Drawn:
    """Return the scores themselves as a single draw."""
    return [task[None, :] for task in scores]


def _limit(whole: np.ndarray, drawn: np.ndarray, confidence: float) -> list[Interval]:
    """Return each estimate with the percentile interval of its column of `drawn`."""
    tail = (1.0 - confidence) / 2.0
    limits = np.quantile(drawn, [tail, 1.0 - tail], axis=0)
    return [Interval(*map(float, of_one)) for of_one in zip(whole, *limits, strict=True)]


def _compare_runs(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return 1 where a run of theirs beats one of ours, 0.5 for a tie: [..., theirs, ours]."""
    pairs = theirs[..., :, None] - ours[..., None, :]
    return (pairs > 0) + 0.5 * (pairs == 0)
