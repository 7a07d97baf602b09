"""Compare the levels of one factor over all tasks: mean, IQM, optimality gap, improvement."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from analysis.aggregates import (
    estimate,
    estimate_improvement,
    estimate_profile,
    interquartile_mean,
    optimality_gap,
)
from analysis.arms import Arm
from analysis.compare import Comparison, ComparisonTable
from analysis.stats import Interval, mean
from analysis.verdict import CONFIDENCE, RETURN_MAX

THRESHOLDS = tuple(range(0, 1001, 25))  # returns at which the performance profile is taken


class Level(NamedTuple):
    """One level over the suite; estimates are of scores, returns / 1,000."""

    name: str
    level: Any
    returns: tuple[tuple[float, ...], ...]  # by task and seed
    interquartile: Interval
    gap: Interval
    profile: tuple[Interval, ...]  # share of runs above each of THRESHOLDS
    improvement: Interval | None  # over the baseline level; None for that level itself

    @property
    def mean(self) -> float:
        """Return the mean over tasks of the mean return over seeds."""
        return mean([mean(task) for task in self.returns])


class Suite(NamedTuple):
    """The levels of one factor in one group of the other factors, over the same tasks."""

    factor: str
    group: dict[str, Any]
    tasks: tuple[str, ...]
    left_out: tuple[str, ...]  # tasks where a level is missing, incomplete or not comparable
    num_seeds: tuple[int, int]  # fewest and most of a task
    levels: tuple[Level, ...]  # the baseline first
    despite_differences: bool  # between the levels on some task


def build_suites(table: ComparisonTable) -> list[Suite]:
    """Return the suite of every group with two decided tasks or more."""
    groups: dict[tuple, dict[str, list[Comparison]]] = {}
    for row in table.rows:
        tasks = groups.setdefault(tuple(row.shared.items()), {})
        tasks.setdefault(row.level.factors["task"], []).append(row)
    return [
        suite
        for group, tasks in groups.items()
        for suite in [_build_suite(table.factor, dict(group), tasks)]
        if suite
    ]


def _build_suite(
    factor: str, group: dict[str, Any], tasks: dict[str, list[Comparison]]
) -> Suite | None:
    """Return the suite over the tasks that can be aggregated; None if there are fewer than two.

    A task is left out unless it has the set of levels that most tasks have, all of them decided,
    and more than one seed: one seed shows no spread.
    """
    arms = {task: [rows[0].baseline, *(row.level for row in rows)] for task, rows in tasks.items()}
    levels = {task: tuple(arm.factors[factor] for arm in some) for task, some in arms.items()}
    usual = max(levels.values(), key=lambda some: (list(levels.values()).count(some), len(some)))
    whole = {
        task: some
        for task, some in arms.items()
        if levels[task] == usual
        and all(row.verdict.has_decision and row.verdict.num_seeds > 1 for row in tasks[task])
    }
    if len(whole) < 2:
        return None
    counts = [len(arm.returns) for arms in whole.values() for arm in arms]
    return Suite(
        factor=factor,
        group=group,
        tasks=tuple(whole),
        left_out=tuple(task for task in tasks if task not in whole),
        num_seeds=(min(counts), max(counts)),
        levels=tuple(_list_levels(factor, list(whole.values()))),
        despite_differences=any(row.is_despite for task in whole for row in tasks[task]),
    )


def _list_levels(factor: str, tasks: Sequence[Sequence[Arm]]) -> list[Level]:
    arms = list(zip(*tasks, strict=True))  # of each level, one a task
    scores = [[np.array(_list_returns(arm)) / RETURN_MAX for arm in level] for level in arms]
    thresholds = np.array(THRESHOLDS) / RETURN_MAX
    return [
        Level(
            name=str(level[0].factors[factor]),
            level=level[0].factors[factor],
            returns=tuple(map(_list_returns, level)),
            interquartile=estimate(interquartile_mean, ours, CONFIDENCE),
            gap=estimate(optimality_gap, ours, CONFIDENCE),
            profile=tuple(estimate_profile(ours, thresholds, CONFIDENCE)),
            improvement=estimate_improvement(scores[0], ours, CONFIDENCE) if place else None,
        )
        for place, (level, ours) in enumerate(zip(arms, scores, strict=True))
    ]


def _list_returns(arm: Arm) -> tuple[float, ...]:
    """Return the arm's returns in order of seed, so that arms are paired."""
    return tuple(arm.returns[seed] for seed in sorted(arm.returns))
