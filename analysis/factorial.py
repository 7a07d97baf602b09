"""The 2x2: main effects of world model and policy, and their interaction, with intervals.

Every effect is a contrast of four cells' mean returns. The main effect of the world model is the
mean over policies of (flow - MLP), and that of the policy likewise. The interaction is the flow
policy's gain under the flow world model minus its gain under the MLP.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from analysis.arms import Arm
from analysis.guard import Difference
from analysis.pool import (
    compare_controls,
    describe_averaging,
    find_left_out,
    group_rows,
    pool_arms,
)
from analysis.shared import describe_shared
from analysis.stats import Interval, bootstrap_blocks, contrast_means, holm, sample_sd, t_interval
from analysis.verdict import CONFIDENCE, name_missing

BASE = ("mlp", "gaussian")  # the cell that the others are compared with
OF_A_CELL = ("variant", "world_model", "policy", "world_model.kind", "policy.kind")
# Weights of the cells (base, other policy, other world model, both others).
CONTRASTS = {
    "world model": (-0.5, -0.5, 0.5, 0.5),
    "policy": (-0.5, 0.5, -0.5, 0.5),
    "interaction": (1.0, -1.0, -1.0, 1.0),
}

EFFECTS_NOTE = (
    f"The 2x2, in points of return against {BASE[0]} + {BASE[1]}. World model: the gain of the "
    "other world model over the MLP, averaged over policies; policy: likewise; interaction: the "
    "other policy's gain under the other world model minus its gain under the MLP. Intervals by "
    f"task: {CONFIDENCE:.0%} t over seeds, variances not pooled (Satterthwaite)."
)


class Effect(NamedTuple):
    """A contrast of cell means, in points of return; None where no spread is known."""

    name: str  # a key of CONTRASTS
    estimate: float
    standard_error: float | None
    low: float | None
    high: float | None
    p: float | None  # two-sided
    p_holm: float | None = None  # after Holm's correction over all effects of its table


class TaskEffects(NamedTuple):
    """One 2x2 of one task: its effects, or why there are none."""

    group: dict[str, Any]  # the factors besides those of a cell, the task among them
    kinds: tuple[str, str]  # the world model and the policy compared with BASE
    cells: tuple[Arm, ...]  # in the order of the contrasts' weights
    differences: tuple[Difference, ...]
    problem: str  # empty where effects are given
    effects: tuple[Effect, ...]


class SuiteEffect(NamedTuple):
    """An effect over tasks: paired by seed, every task x seed block a difference."""

    group: dict[str, Any]
    kinds: tuple[str, str]
    name: str
    num_tasks: int
    num_blocks: int
    interval: Interval  # bootstrap of seeds within tasks; tasks weigh the same
    over_blocks: Effect  # t interval over all blocks, treated as independent; tasks weigh alike
    despite_differences: bool  # between the cells of some task


class Factorial(NamedTuple):
    """All that a sweep says about its 2x2."""

    tasks: tuple[TaskEffects, ...]
    suite: tuple[SuiteEffect, ...]
    notes: tuple[str, ...] = ()  # on what both rest


def find_effects(
    arms: Sequence[Arm],
    despite_differences: bool,
    within: Sequence[str] | None,
    names: Sequence[str],
) -> Factorial:
    """Return the effects of every complete 2x2 among `arms`; empty where there is none.

    With `within`, returns are first averaged over all other factors, the compared one included.
    `names` are factors whose levels set the variant and nothing else.
    """
    of_a_cell = (*OF_A_CELL, *names)
    tasks = [
        _judge_cells(group, kinds, cells, despite_differences)
        for group, kinds, cells in _find_squares(pool_arms(arms, of_a_cell, within), of_a_cell)
    ]
    notes = describe_shared(task.cells for task in tasks if not task.problem)
    if tasks:
        averaged = find_left_out(arms, of_a_cell, within)
        notes = describe_averaging(averaged, tasks[0].cells[-1]) + notes
    return Factorial(tuple(_correct(tasks)), tuple(_pool(tasks)), tuple(notes))


def contrast(cells: Sequence[Sequence[float]], name: str) -> Effect:
    """Return a contrast of four cells of returns with its t interval."""
    return Effect(name, *contrast_means(cells, CONTRASTS[name], CONFIDENCE))


def block_differences(cells: Sequence[dict[int, float]], name: str) -> list[float]:
    """Return the contrast of each seed's four returns, in order of seed.

    `cells` are returns by training seed; all must have the same seeds.
    """
    weights = CONTRASTS[name]
    return [
        math.fsum(w * cell[seed] for w, cell in zip(weights, cells, strict=True))
        for seed in sorted(cells[0])
    ]


def _find_squares(
    arms: Sequence[Arm], of_a_cell: Sequence[str]
) -> list[tuple[dict[str, Any], tuple[str, str], tuple[Arm, ...]]]:
    """Return every four arms that differ in world model and policy alone."""
    groups: dict[tuple, dict[tuple[str, str], Arm]] = {}
    for arm in arms:
        key = tuple(item for item in arm.factors.items() if item[0] not in of_a_cell)
        groups.setdefault(key, {})[arm.kinds] = arm
    squares = []
    for key, cells in groups.items():
        for kinds in cells:
            corners = BASE, (BASE[0], kinds[1]), (kinds[0], BASE[1]), kinds
            is_square = len(set(corners)) == 4 and all(corner in cells for corner in corners)
            if is_square:
                squares.append((dict(key), kinds, tuple(cells[corner] for corner in corners)))
    return squares


def _judge_cells(
    group: dict[str, Any], kinds: tuple[str, str], cells: tuple[Arm, ...], despite_differences: bool
) -> TaskEffects:
    pairs = [(cells[0], cell) for cell in cells[1:]]
    # Of one world model, and of one policy, which the first has not.
    pairs += [(cells[2], cells[3]), (cells[1], cells[3])]
    found = [compare_controls("variant", one, other) for one, other in pairs]
    differences = tuple(dict.fromkeys(difference for some in found for difference in some))
    shared = set.intersection(*(set(cell.returns) for cell in cells))
    planned = frozenset().union(*(cell.planned for cell in cells))
    diverged = frozenset().union(*(cell.diverged for cell in cells))
    problem = ""
    if differences and not despite_differences:
        problem = "Not comparable"
    elif not shared or any(len(cell.returns) != len(planned) for cell in cells):
        problem = name_missing(planned, shared, diverged)
    returns = [list(cell.returns.values()) for cell in cells]
    effects = () if problem else tuple(contrast(returns, name) for name in CONTRASTS)
    return TaskEffects(group, kinds, cells, differences, problem, effects)


def _correct(tasks: Sequence[TaskEffects]) -> list[TaskEffects]:
    """Return tasks with the p values of their effects corrected for the number of all of them."""
    adjusted = iter(holm([effect.p for task in tasks for effect in task.effects]))
    return [
        task._replace(effects=tuple(e._replace(p_holm=next(adjusted)) for e in task.effects))
        for task in tasks
    ]


def is_pooled(row: TaskEffects) -> bool:
    """Tell whether a task's 2x2 enters the effects over tasks: one seed shows no spread."""
    return not row.problem and len(row.cells[0].returns) > 1


def _pool(tasks: Sequence[TaskEffects]) -> list[SuiteEffect]:
    """Return the effects over tasks of every group with two tasks or more."""

    def key_of(row: TaskEffects) -> tuple:
        return tuple(item for item in row.group.items() if item[0] != "task"), row.kinds

    pools = group_rows(tasks, key_of, is_pooled)
    effects = [
        _pool_effect(dict(group), kinds, rows, name)
        for (group, kinds), rows in pools.items()
        if len(rows) > 1
        for name in CONTRASTS
    ]
    adjusted = holm([effect.over_blocks.p for effect in effects])
    return [
        effect._replace(over_blocks=effect.over_blocks._replace(p_holm=p))
        for effect, p in zip(effects, adjusted, strict=True)
    ]


def _pool_effect(
    group: dict[str, Any], kinds: tuple[str, str], rows: Sequence[TaskEffects], name: str
) -> SuiteEffect:
    blocks = [block_differences([cell.returns for cell in row.cells], name) for row in rows]
    interval = bootstrap_blocks(blocks, CONFIDENCE)
    return SuiteEffect(
        group=group,
        kinds=kinds,
        name=name,
        num_tasks=len(blocks),
        num_blocks=sum(map(len, blocks)),
        interval=interval,
        over_blocks=_over_blocks(name, blocks, interval.estimate),
        despite_differences=any(row.differences for row in rows),
    )


def _over_blocks(name: str, blocks: Sequence[Sequence[float]], value: float) -> Effect:
    """Return the t interval around the mean over tasks, which weigh the same.

    With equal numbers of seeds this is the one-sample t interval. Where tasks differ in their
    number of seeds, n is Kish's effective sample size.
    """
    seeds = [(1.0 / (len(blocks) * len(b)), difference) for b in blocks for difference in b]
    if not sample_sd([difference for _, difference in seeds]):
        return Effect(name, *t_interval(value, 0.0, 0.0, CONFIDENCE))
    degrees = 1.0 / math.fsum(weight**2 for weight, _ in seeds) - 1.0
    squares = math.fsum((weight * (difference - value)) ** 2 for weight, difference in seeds)
    error = math.sqrt(squares * (1.0 + 1.0 / degrees))
    return Effect(name, *t_interval(value, error, degrees, CONFIDENCE))
