"""Decide between two arms: the rule, in the order it is checked, and the grade of evidence."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from analysis.stats import Contrast, holm, mean, sample_sd, t_quantile, welch

LOW_SHARE = 0.2  # both means below floor + this share of (1000 - floor): both low
MIN_DIFFERENCE = 50.0  # of the 1,000 scale: a smaller difference is no win, and the tie's margin
MIN_STANDARD_ERRORS = 2.0  # a win is more than this many Welch standard errors
SOLVED_RETURN = 950.0  # both means at or above: a tie is Tie (Solved)
CONFIDENCE = 0.95  # of the Welch interval; 1 - CONFIDENCE is the level of the p values
CONFIRM_SEEDS = 5  # seeds an arm before a win can be called confirmed

RETURN_MAX = 1000.0  # of every task
MAX_SEEDS = 100  # stop looking for the number that would decide

NOT_COMPARABLE = "Not comparable"
INCONCLUSIVE = "Inconclusive"
BOTH_LOW = "Tie (Both Low)"


class Verdict(NamedTuple):
    """The outcome of one comparison; numbers are None without a decision."""

    name: str  # as printed, e.g. "Tie (Both Low)", "Baseline wins"
    winner: str | None = None  # the winning arm's name
    welch: Contrast | None = None  # level minus baseline
    num_seeds: int = 0  # in the smaller arm
    seeds_needed: int | None = None  # only when inconclusive; None also beyond MAX_SEEDS
    has_decision: bool = False  # not "Not comparable", "Incomplete", "Diverged"

    @property
    def is_tie(self) -> bool:
        """Tell whether it is a tie, of whatever kind."""
        return self.name.startswith("Tie")

    @property
    def is_open(self) -> bool:
        """Tell whether the seeds could not decide."""
        return self.name.startswith(INCONCLUSIVE)


def judge(
    baseline: Mapping[int, float],
    level: Mapping[int, float],
    *,
    floor: float,
    names: tuple[str, str],
    seeds: frozenset[int] = frozenset(),
    diverged: frozenset[int] = frozenset(),
    is_comparable: bool = True,
) -> Verdict:
    """Return the verdict on two arms, given as final returns by training seed.

    `names` are the arms' names, baseline first; `seeds` are those that the sweep planned for every
    arm, `diverged` those of them whose training diverged, as it would again under the same code.
    """
    if not is_comparable:
        return Verdict(NOT_COMPARABLE)
    planned = seeds | set(baseline) | set(level)
    shared = set(baseline) & set(level)
    if shared != planned or not planned:
        return Verdict(name_missing(planned, shared, diverged))
    return decide(list(baseline.values()), list(level.values()), floor, names)


def name_missing(
    planned: Collection[int], shared: Collection[int], diverged: Collection[int]
) -> str:
    """Say why arms that do not share all planned seeds have no verdict."""
    missing = {*planned} - {*shared}
    if missing and missing <= {*diverged}:
        return f"Diverged ({len(missing)}/{len(planned)} seeds)"
    return f"Incomplete ({len(shared)}/{len(planned)} seeds)"


def decide(
    baseline: Sequence[float], level: Sequence[float], floor: float, names: tuple[str, str]
) -> Verdict:
    """Return the verdict on two complete, comparable arms."""
    found = welch(level, baseline, CONFIDENCE)
    means = mean(baseline), mean(level)
    name, winner, needed = INCONCLUSIVE, None, None
    if max(means) < low_threshold(floor):
        name = BOTH_LOW
    elif _is_win(found.difference, found.standard_error):
        winner = names[1] if found.difference > 0 else names[0]
        name = f"{winner[:1].upper()}{winner[1:]} wins"
    elif _is_tie(found):
        name = "Tie (Solved)" if min(means) >= SOLVED_RETURN else "Tie"
    else:
        needed = seeds_to_decide(baseline, level)
        name = f"{INCONCLUSIVE} ({_describe_needed(found, needed)})"
    return Verdict(name, winner, found, min(len(baseline), len(level)), needed, True)


def grade_evidence(verdicts: Sequence[Verdict]) -> list[str]:
    """Return each verdict's grade, empty without a winner; Holm's correction is over them all."""
    return [_grade(*pair) for pair in zip(verdicts, correct(verdicts), strict=True)]


def correct(verdicts: Sequence[Verdict]) -> list[float | None]:
    """Return each verdict's p after Holm's correction over them all; None where it has no p."""
    return holm([_p(verdict) for verdict in verdicts])


def is_low_but_apart(verdict: Verdict) -> bool:
    """Tell whether two arms that are both low differ by what would be a win above."""
    found = verdict.welch
    if verdict.name != BOTH_LOW or found is None:
        return False
    return _is_win(found.difference, found.standard_error)


def low_threshold(floor: float) -> float:
    """Return the return below which a task counts as not learned."""
    return floor + LOW_SHARE * (RETURN_MAX - floor)


def seeds_to_decide(baseline: Sequence[float], level: Sequence[float]) -> int | None:
    """Return the smallest number of seeds an arm that would give a win or a tie.

    Assumes that means and standard deviations stay as they are; None beyond MAX_SEEDS, or when
    an arm has one seed and so no known spread.
    """
    sds = sample_sd(baseline), sample_sd(level)
    if sds[0] is None or sds[1] is None:
        return None
    a, b = sds[0] ** 2, sds[1] ** 2
    difference = mean(level) - mean(baseline)
    for n in range(min(len(baseline), len(level)) + 1, MAX_SEEDS + 1):
        error = math.sqrt((a + b) / n)
        degrees = (n - 1) * (a + b) ** 2 / (a**2 + b**2)
        reach = abs(difference) + t_quantile(degrees, CONFIDENCE) * error
        if _is_win(difference, error) or reach <= MIN_DIFFERENCE:
            return n
    return None


def _is_win(difference: float, error: float | None) -> bool:
    if error is None:
        return False
    return abs(difference) >= MIN_DIFFERENCE and abs(difference) > MIN_STANDARD_ERRORS * error


def _is_tie(found: Contrast) -> bool:
    if found.low is None or found.high is None:
        return False
    return found.low >= -MIN_DIFFERENCE and found.high <= MIN_DIFFERENCE


def _describe_needed(found: Contrast, needed: int | None) -> str:
    if found.standard_error is None:
        return "one seed shows no spread"
    return f"{needed} seeds" if needed else f"over {MAX_SEEDS} seeds"


def _p(verdict: Verdict) -> float | None:
    return verdict.welch.p if verdict.welch else None


def _grade(verdict: Verdict, adjusted: float | None) -> str:
    if verdict.winner is None:
        return ""
    p = _p(verdict)
    if p is None or adjusted is None or p >= 1.0 - CONFIDENCE:
        return "suggestive"
    if adjusted < 1.0 - CONFIDENCE and verdict.num_seeds >= CONFIRM_SEEDS:
        return "confirmed"
    return "supported"
