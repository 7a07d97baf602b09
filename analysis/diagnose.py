"""Find signs, in curves and returns, of runs that went wrong or say less than they seem to.

A sign is a reason to look, not a verdict: no table leaves a trial out because of one.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from analysis.curves import POSITIVE, LearningCurve, load_curves
from analysis.flags import describe_trials
from analysis.guard import is_short
from analysis.load import Sweep, Trial
from analysis.short_names import ShortNames
from analysis.verdict import RETURN_MAX
from pwmray.tasks import find_task

MIN_POINTS = 8  # of a curve, before its shape is judged
RISE = 50.0  # points from the third to the last quarter of a curve that still rises
FALL = 100.0, 0.5  # points, and share of the best return above the floor, that a collapse loses
SMOOTH = 3  # points of a curve whose mean counts: a single evaluation has few episodes
BLOWN_UP = 100.0  # times its own median: a loss at the end of a diverged run
LARGE = 1.0  # a smaller loss is no divergence, however much it grew
MIN_SAME = 3  # points in common before two curves are one run
EXPLOITED = 5.0  # discounted symlog reward imagined in excess of the real one, at the least

# What each sign means, as printed.
MEANINGS = {
    "diverged": f"a number that is not finite, or a last loss {BLOWN_UP:.0f} times its median",
    "collapsed": f"ends {FALL[0]:.0f} points or more below its best return, and loses at least "
    f"{FALL[1]:.0%} of what that was above the floor",
    "undertrained": f"rises by {RISE:.0f} points or more from the third to the last quarter of its "
    "curve",
    "at floor": "returns no more than doing nothing or acting at random",
    "identical": "has exactly the same curve or the same episodes as another trial",
    "stopped early": "did not reach the epochs asked for",
    "exploited": "imagines over twice what it gets: the policy exploits its model",
}
Signs = dict[str, list[str]]  # keys of MEANINGS, by trial


def diagnose(sweep: Sweep) -> Signs:
    """Return the signs that each trial of the sweep shows, in the order of MEANINGS."""
    curves = load_curves(sweep)
    same = _find_same_curves(sweep.trials, curves) | _find_same_episodes(sweep.usable)
    checks: dict[str, Callable[[Trial, LearningCurve | None], bool]] = {
        "diverged": _has_diverged,
        "collapsed": _has_collapsed,
        "undertrained": _is_undertrained,
        "at floor": lambda trial, _: trial.is_usable and _is_at_floor(trial),
        "identical": lambda trial, _: trial.record["trial"] in same,
        "stopped early": lambda trial, _: trial.is_usable and is_short(trial),
        "exploited": lambda trial, _: trial.is_usable and _is_exploiting(trial),
    }
    return {
        trial.record["trial"]: [
            sign
            for sign, shows in checks.items()
            if shows(trial, curves.get(trial.record["trial"]))
        ]
        for trial in sweep.trials
    }


def describe_signs(sweep: Sweep, signs: Signs, names: ShortNames) -> list[str]:
    """Return a line for each sign that some trial of the sweep shows, with the trials."""
    lines = []
    for sign, meaning in MEANINGS.items():
        found = [
            names.name_trial(trial)
            for trial in sweep.trials
            if sign in signs[trial.record["trial"]]
        ]
        if found:
            lines.append(f"{sign[:1].upper()}{sign[1:]} ({meaning}): {describe_trials(found)}.")
    return lines


def _find_same_curves(trials: Sequence[Trial], curves: Mapping[str, LearningCurve]) -> set[str]:
    """Return the trials whose curve another trial of the task repeats, number for number.

    Recorded losses must repeat too, since returns may all be 0 on a task without a reward yet.
    """
    groups: dict[tuple, list[Trial]] = defaultdict(list)  # by task and last row: a quick sieve
    for trial in trials:
        curve = curves.get(trial.record["trial"])
        if curve is None or len(curve.epochs) < MIN_SAME:
            continue
        ends = _list_numbers(curve, slice(-1, None))
        groups[(trial.record["task"], len(curve.epochs), ends.tobytes())].append(trial)
    suspects = [trial for group in groups.values() if len(group) > 1 for trial in group]
    return _find_repeats(suspects, curves)


def _find_repeats(trials: Sequence[Trial], curves: Mapping[str, LearningCurve]) -> set[str]:
    groups: dict[tuple, set[str]] = defaultdict(set)
    for trial in trials:
        numbers = _list_numbers(curves[trial.record["trial"]], slice(None))
        if (numbers[1:] != numbers[1:, :1]).any():  # beside the epochs
            groups[(trial.record["task"], numbers.tobytes())].add(trial.record["trial"])
    return _join_several(groups.values())


def _find_same_episodes(trials: Sequence[Trial]) -> set[str]:
    """Return the trials whose final episodes another trial of the task repeats: one run twice?

    Episodes that all return 0, or all 1,000, prove nothing and are left out.
    """
    groups: dict[tuple, set[str]] = defaultdict(set)
    for trial in trials:
        if not ((trial.returns == 0.0).all() or (trial.returns == RETURN_MAX).all()):
            key = trial.record["task"], trial.returns.tobytes()
            groups[key].add(trial.record["trial"])
    return _join_several(groups.values())


def _join_several(groups: Iterable[set[str]]) -> set[str]:
    """Return the members of all groups of more than one."""
    return set().union(*(group for group in groups if len(group) > 1))


def _list_numbers(curve: LearningCurve, rows: slice) -> np.ndarray:
    """Return epochs, returns and losses of some rows, [columns, rows]; -1 where there is none."""
    columns = (curve.epochs, curve.returns, *curve.losses)
    return np.nan_to_num(np.array([column[rows] for column in columns]), nan=-1.0)


def _has_diverged(trial: Trial, curve: LearningCurve | None) -> bool:
    if trial.has_diverged:
        return True
    if curve is None or len(curve.epochs) < MIN_POINTS:
        return False
    positive = curve.losses[: len(POSITIVE)]
    return any(map(_is_blown_up, positive)) or any(np.isinf(loss).any() for loss in curve.losses)


def _is_blown_up(loss: np.ndarray) -> bool:
    last = abs(loss[-1])
    return bool(last > LARGE and last > BLOWN_UP * np.median(np.abs(np.nan_to_num(loss, nan=0.0))))


def _has_collapsed(trial: Trial, curve: LearningCurve | None) -> bool:
    known = _find_returns(curve)
    if known is None:
        return False
    smooth = np.convolve(known, np.full(SMOOTH, 1.0 / SMOOTH), mode="valid")
    best, last = float(smooth.max()), float(smooth[-1])
    points, share = FALL
    return best - last >= max(points, share * (best - find_task(trial.record["task"]).floor))


def _is_undertrained(trial: Trial, curve: LearningCurve | None) -> bool:
    known = _find_returns(curve)
    if known is None:
        return False
    quarter = len(known) // 4
    last, before = known[-quarter:], known[-2 * quarter : -quarter]
    rise = last.mean() - before.mean()
    if not rise >= RISE:  # most do not, and variances take longer than means
        return False
    error = np.sqrt((last.var(ddof=1) + before.var(ddof=1)) / quarter)
    return bool(rise >= max(RISE, 2.0 * error))


def _is_at_floor(trial: Trial) -> bool:
    return trial.final_return <= find_task(trial.record["task"]).floor


def _is_exploiting(trial: Trial) -> bool:
    imagined = trial.record["imagined_start_value"]
    real = trial.record["real_start_value"]
    if imagined is None or real is None:
        return False
    return imagined > 2 * real and imagined - real > EXPLOITED


def _find_returns(curve: LearningCurve | None) -> np.ndarray | None:
    """Return the known returns of a curve; None if there are too few to judge."""
    if curve is None:
        return None
    known = curve.returns[np.isfinite(curve.returns)]
    return known if len(known) >= MIN_POINTS else None
