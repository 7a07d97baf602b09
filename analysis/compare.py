"""Compare arms that differ in one factor: verdicts by task, means over tasks, trends."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from analysis.arms import Arm, is_numeric
from analysis.guard import Difference
from analysis.load import Sweep, format_value
from analysis.pool import compare_controls, find_left_out, group_rows, pool_arms
from analysis.short_names import needs_factor
from analysis.stats import Interval, bootstrap_blocks, mean, seed_correlation
from analysis.verdict import CONFIDENCE, Verdict, correct, grade_evidence, judge
from pwmray.pairing import find_pairs, others

UNCOMPARED = ("seed", "task")  # varied, but never what a verdict is about
DESPITE = "[despite differences]"  # marks what rests on arms that the guard rejects


@dataclass(frozen=True)
class Comparison:
    """One arm against the baseline arm of its group."""

    factor: str
    group: dict[str, Any]  # the factors that both arms share, the task among them
    baseline: Arm
    level: Arm
    differences: tuple[Difference, ...]
    verdict: Verdict
    evidence: str  # "", suggestive, supported or confirmed
    p_holm: float | None  # Welch's p after Holm's correction over the table

    @property
    def shared(self) -> dict[str, Any]:
        """Return the factors that both arms share, without the task."""
        return {name: level for name, level in self.group.items() if name != "task"}

    @property
    def level_name(self) -> str:
        """Return the level as printed."""
        return format_value(self.level.factors[self.factor])

    @property
    def baseline_name(self) -> str:
        """Return the level it is compared with, as printed."""
        return format_value(self.baseline.factors[self.factor])

    @property
    def winner(self) -> Arm | None:
        """Return the arm that wins, if one does."""
        if self.verdict.winner is None or self.verdict.welch is None:
            return None
        return self.level if self.verdict.welch.difference > 0 else self.baseline

    @property
    def verdict_name(self) -> str:
        """Return the verdict as printed, marked where it was given despite differences."""
        return mark_despite(self.verdict.name, self.is_despite)

    @property
    def is_despite(self) -> bool:
        """Tell whether it was judged despite differences."""
        return bool(self.differences) and self.verdict.has_decision


class Aggregate(NamedTuple):
    """One level against the baseline over tasks: paired by seed within each task."""

    group: dict[str, Any]  # the other factors, task left out
    level: Any
    against: Any
    num_tasks: int
    num_blocks: int  # task x seed
    wins: int  # tasks on which the level wins
    losses: int
    ties: int
    open: int  # inconclusive
    interval: Interval  # of the mean paired difference
    correlation: float | None  # of paired returns over seeds
    despite_differences: bool  # between the arms of some task


class Trend(NamedTuple):
    """Mean return along the levels of a numeric factor, in one group."""

    group: dict[str, Any]
    levels: tuple[float, ...]
    means: tuple[float, ...]
    direction: str  # rises, falls, or is mixed


class ComparisonTable(NamedTuple):
    """Everything compared along one factor: verdicts, means over tasks, trends, notes."""

    factor: str
    rows: tuple[Comparison, ...]
    aggregates: tuple[Aggregate, ...]
    trends: tuple[Trend, ...]
    averaged: tuple[str, ...]  # factors over whose levels each seed's return is averaged
    apart: tuple[str, ...]  # factors that keep the levels apart, where nothing is compared
    notes: tuple[str, ...] = ()  # to print beside it (see report.py)

    @property
    def is_despite(self) -> bool:
        """Tell whether some arms were judged despite differences."""
        return any(row.is_despite for row in self.rows)


def mark_despite(text: str, is_despite: bool) -> str:
    """Return text, marked where what it names rests on arms that the guard rejects."""
    return f"{text} {DESPITE}" if is_despite else text


def is_pooled(row: Comparison) -> bool:
    """Tell whether a comparison enters means over tasks: one seed shows no spread."""
    return row.verdict.has_decision and row.verdict.num_seeds > 1


def list_factors(sweep: Sweep, compare: str | None) -> list[str]:
    """Return the factors to compare along: `compare` or the sweep's own, then the variant.

    The variant alone, which may have one level, where the sweep's own is one that no verdict is
    about. Raises ValueError when the sweep does not vary `compare`.
    """
    valid = [name for name in sweep.varies if name not in UNCOMPARED]
    factor = compare or sweep.compare
    if compare is None and factor in UNCOMPARED:
        return ["variant"]
    if factor not in valid:
        raise ValueError(
            f"sweep {sweep.name!r} cannot compare {factor!r}; it varies: {', '.join(valid) or '-'}"
        )
    also = ["variant"] if compare is None and "variant" in valid and factor != "variant" else []
    return [factor, *also]


def compare_arms(
    sweep: Sweep,
    arms: Sequence[Arm],
    factor: str,
    despite_differences: bool = False,
    within: Sequence[str] | None = None,
) -> ComparisonTable:
    """Compare each level of `factor` with its baseline level, all other factors being equal.

    `arms` are the sweep's. With `within` only those factors and the task are kept apart, and each
    seed's return is averaged over the others. With `despite_differences` arms that the guard
    rejects are judged too; they keep their list of differences.
    """
    compared = sweep.find_bound(factor)
    left_out = find_left_out(arms, compared, within)
    kept = pool_arms(arms, compared, within)
    pairs = find_pairs(kept, compared)
    keys = sweep.axes.get(factor, (factor,))
    judged = [_judge_pair(factor, keys, *pair, despite_differences) for pair in pairs]
    verdicts = [verdict for verdict, _ in judged]
    graded = zip(grade_evidence(verdicts), correct(verdicts), strict=True)
    rows = tuple(
        Comparison(factor, others(level, compared), baseline, level, differences, verdict, *grade)
        for (baseline, level), (verdict, differences), grade in zip(
            pairs, judged, graded, strict=True
        )
    )
    apart = () if rows else _find_apart(kept, factor, compared)
    return ComparisonTable(
        factor, rows, tuple(_aggregate(rows)), tuple(_find_trends(rows)), tuple(left_out), apart
    )


def _find_apart(arms: Sequence[Arm], factor: str, compared: Sequence[str]) -> tuple[str, ...]:
    """Return why no two levels could be paired: the factors of which no two share a value.

    Where there are none, every other factor that varies.
    """
    by_level: dict[Any, list[dict[str, Any]]] = {}
    for arm in arms:
        by_level.setdefault(arm.factors[factor], []).append(others(arm, compared))
    if len(by_level) < 2:
        return ()
    values = {
        name: [{shared[name] for shared in some} for some in by_level.values()]
        for name in others(arms[0], compared)
    }
    varied = [name for name, sets in values.items() if len(set().union(*sets)) > 1]
    apart = [n for n in varied if len(set().union(*values[n])) == sum(map(len, values[n]))]
    return tuple(apart or varied)


def _judge_pair(
    factor: str, keys: Sequence[str], baseline: Arm, level: Arm, despite_differences: bool
) -> tuple[Verdict, tuple[Difference, ...]]:
    differences = tuple(compare_controls(factor, baseline, level, keys))
    verdict = judge(
        baseline.returns,
        level.returns,
        floor=level.task.floor,
        names=(_name_level(baseline, factor), _name_level(level, factor)),
        seeds=baseline.planned | level.planned,
        diverged=baseline.diverged | level.diverged,
        is_comparable=despite_differences or not differences,
    )
    return verdict, differences


def _name_level(arm: Arm, factor: str) -> str:
    level = arm.factors[factor]
    return f"{factor} {format_value(level)}" if needs_factor(level) else level


def _aggregate(rows: Sequence[Comparison]) -> list[Aggregate]:
    """Pool comparisons over tasks, where there are two tasks or more that `is_pooled` takes."""

    def key_of(row: Comparison) -> tuple:
        return (*row.shared.items(), row.level_name, row.baseline_name)

    pools = group_rows(rows, key_of, is_pooled)
    return [_aggregate_pool(pool) for pool in pools.values() if len(pool) > 1]


def _aggregate_pool(pool: Sequence[Comparison]) -> Aggregate:
    first, factor = pool[0], pool[0].factor
    blocks = [
        [(row.baseline.returns[seed], row.level.returns[seed]) for seed in row.level.returns]
        for row in pool
    ]
    differences = [[theirs - ours for ours, theirs in pairs] for pairs in blocks]
    return Aggregate(
        group=first.shared,
        level=first.level.factors[factor],
        against=first.baseline.factors[factor],
        num_tasks=len(blocks),
        num_blocks=sum(len(pairs) for pairs in blocks),
        wins=sum(row.winner is row.level for row in pool),
        losses=sum(row.winner is row.baseline for row in pool),
        ties=sum(row.verdict.is_tie for row in pool),
        open=sum(row.verdict.is_open for row in pool),
        interval=bootstrap_blocks(differences, CONFIDENCE),
        correlation=seed_correlation(blocks),
        despite_differences=any(row.is_despite for row in pool),
    )


def _find_trends(rows: Sequence[Comparison]) -> list[Trend]:
    """Return the trend of every group with three numeric levels or more, all of them decided."""
    groups: dict[int, list[Comparison]] = {}
    for row in rows:
        groups.setdefault(id(row.baseline), []).append(row)
    trends = []
    for group in groups.values():
        arms = [group[0].baseline, *(row.level for row in group)]
        levels = tuple(arm.factors[group[0].factor] for arm in arms)
        is_decided = all(row.verdict.has_decision for row in group)
        if len(arms) > 2 and is_numeric(levels) and is_decided:
            means = tuple(mean(list(arm.returns.values())) for arm in arms)
            trends.append(Trend(group[0].group, levels, means, _name_direction(means)))
    return trends


def _name_direction(means: Sequence[float]) -> str:
    steps = [later - earlier for earlier, later in itertools.pairwise(means)]
    if all(step > 0 for step in steps):
        return "rises"
    return "falls" if all(step < 0 for step in steps) else "is mixed"
