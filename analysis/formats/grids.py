"""Turn a Summary into tables of text, whatever draws them; nothing is computed here."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.arms import Arm
from analysis.compare import Comparison, ComparisonTable, mark_despite
from analysis.formats.cost_grids import list_cost_grids
from analysis.formats.grid import (
    Grid,
    format_floor,
    format_number,
    format_p,
    format_range,
    format_rate,
    format_return,
    format_time,
    name_levels,
)
from analysis.formats.prediction_grid import ERROR_NOTE, draw_predictions, format_last
from analysis.formats.reference_grid import draw_reference
from analysis.formats.suite_grids import list_suite_grids
from analysis.load import format_value
from analysis.report import Summary, describe_aggregates
from analysis.scattered import is_scattered
from analysis.short_names import SHOWN_DIGITS, ShortNames, shorten_levels
from analysis.stats import Contrast, mean_and_sd
from analysis.verdict import CONFIDENCE

VALUE_NOTE = (
    "imagined, real: discounted symlog rewards from the evaluation's starts, as the learner "
    "imagines them and as they came"
)

PLAN_NOTE = (
    "return there: the policy's return on the episodes in which the planner acted too; compare the "
    "plan return with this one"
)
FLOOR_NOTE = (
    "Interval and p: one-sample t over seeds, the floor treated as known; p is not corrected for "
    "the number of tasks."
)


def headline(summary: Summary) -> str:
    """Return the line above all tables: the sweep, its progress, and what all arms share."""
    held = [f"{name} {format_value(level)}" for name, level in find_held(summary.arms).items()]
    said = f"; in all of them {', '.join(held)}" if held else ""
    return f"{summary.sweep.name} (scale {summary.sweep.scale}): {summary.progress}{said}"


def list_grids(summary: Summary, per_seed: bool) -> list[Grid]:
    """Return the summary's tables in the order printed."""
    names = shorten_levels(summary.arms)
    is_found = _is_search(summary)
    grids = _list_found(summary, names) if is_found else [_arm_grid(summary.arms, names)]
    if any(arm.plan_returns for arm in summary.arms):
        grids.append(_plan_grid(summary.arms, names, per_seed))
    if summary.reference is not None:
        grids.append(draw_reference(summary.reference, names))
    if per_seed:
        grids.append(_seed_grid(summary, names))
    for place, table in enumerate(summary.comparisons):
        # That a second factor has one level, or a search no rows, is not worth a heading.
        if table.rows or (not is_found and (place == 0 or table.apart)):
            grids += _comparison_grids(table, names)
    has_rows = any(table.rows for table in summary.comparisons)
    if not has_rows and not is_scattered(summary.sweep):  # which has one seed: no interval, no p
        grids.append(_floor_grid(summary.arms, names))
    if not is_found:
        grids += list_suite_grids(summary, names)
        if summary.predictions:
            grids.append(draw_predictions(summary, names))
        grids += list_cost_grids(summary, names)
    held = find_held(summary.arms)
    return [_leave_out(grid, held) for grid in grids]


def _is_search(summary: Summary) -> bool:
    """Tell whether every arm is one draw of a search: there is no n, no spread and no verdict."""
    return is_scattered(summary.sweep) and all(len(arm.counted) < 2 for arm in summary.arms)


def find_held(arms: Sequence[Arm]) -> dict[str, Any]:
    """Return the factors besides the task that have one level in all arms, with that level.

    They are named once, above the tables, instead of in a column of equal cells.
    """
    levels = {name: {arm.factors[name] for arm in arms} for name in arms[0].factors}
    return {name: some.pop() for name, some in levels.items() if name != "task" and len(some) == 1}


def _leave_out(grid: Grid, held: Mapping[str, Any]) -> Grid:
    """Return the grid without columns of what is held, and without empty ones (no evidence)."""
    kept = [
        place
        for place, name in enumerate(grid.headers)
        if name not in held and any(row[place] for row in grid.rows)
    ]
    rows = [tuple(row[place] for place in kept) for row in grid.rows]
    return grid._replace(headers=tuple(grid.headers[place] for place in kept), rows=rows)


def _arm_grid(arms: Sequence[Arm], names: ShortNames) -> Grid:
    factors = list(arms[0].factors)
    rows = [
        (
            *name_levels(arm.factors, names),
            format_floor(arm.task.floor, arm.floor_kind),
            _count_seeds(arm),
            format_return(arm.mean, arm.sd),
            format_time(arm.train_seconds),
            format_rate(arm.return_per_hour),
        )
        for arm in arms
    ]
    headers = (*factors, "floor", "n", "return", "train", "return/h")
    return Grid("Final returns", headers, rows, tuple(names.legend.values()))


def _list_found(summary: Summary, names: ShortNames) -> list[Grid]:
    """Return what a search found, a table for each task, the best first."""
    errors = {id(row.arm): format_last(row) for row in summary.predictions}
    tasks = dict.fromkeys(arm.task for arm in summary.arms)
    return [
        _found_grid([arm for arm in summary.arms if arm.task == task], names, errors)
        for task in tasks
    ]


def _found_grid(arms: Sequence[Arm], names: ShortNames, errors: Mapping[int, str]) -> Grid:
    factors = [name for name in arms[0].factors if name != "task"]
    done = [arm for arm in arms if arm.counted]
    rows = [
        (
            format_return(arm.mean, None),
            *(names.label(name, arm.factors[name]) for name in factors),
            errors.get(id(arm), ""),
            format_time(arm.train_seconds),
            arm.counted[0].record["trial"][:SHOWN_DIGITS],
        )
        for arm in sorted(done, key=lambda arm: -(arm.mean or 0.0))
    ]
    task, kind = arms[0].task, arms[0].floor_kind
    title = f"Final returns on {task.name}, best first (floor {task.floor:.1f}, {kind})"
    headers = ("return", *factors, "error", "train", "trial")
    notes = (*names.legend.values(), *([ERROR_NOTE] if errors else []))
    return Grid(title, headers, rows, notes if done else ("None is done.",))


def _plan_grid(arms: Sequence[Arm], names: ShortNames, per_seed: bool) -> Grid:
    """Return the plan returns, by arm or by trial."""
    columns = ("return", "return there", "plan return")
    headers = (*arms[0].factors, "seed" if per_seed else "n", *columns)
    rows = [
        (*name_levels(arm.factors, names), *cells)
        for arm in arms
        if arm.plan_returns
        for cells in (_list_plans(arm) if per_seed else [_sum_up_plans(arm)])
    ]
    return Grid("Plan returns", headers, rows, (PLAN_NOTE,))


def _sum_up_plans(arm: Arm) -> tuple[str, ...]:
    return (
        str(len(arm.plan_returns)),
        format_return(arm.mean, arm.sd),
        format_return(*mean_and_sd(arm.returns_where_planned)),
        format_return(*mean_and_sd(arm.plan_returns)),
    )


def _list_plans(arm: Arm) -> list[tuple[str, ...]]:
    return [
        (
            str(trial.seed),
            f"{trial.final_return:z.2f}",
            format_number(trial.return_where_planned, "z.2f"),
            f"{trial.plan_return:z.2f}",
        )
        for trial in arm.counted
        if trial.plan_return is not None
    ]


def _seed_grid(summary: Summary, names: ShortNames) -> Grid:
    trials = summary.sweep.trials
    is_imported = all(trial.record.get("origin") for trial in trials)
    source = "origin" if is_imported else "trial"
    rows = [
        (
            *name_levels(trial.factors, names),
            str(trial.seed),
            f"{trial.final_return:z.2f}" if trial.is_usable else "-",
            format_number(trial.num_episodes, "d"),
            format_number(trial.record["imagined_start_value"], "z.1f"),
            format_number(trial.record["real_start_value"], "z.1f"),
            ", ".join(summary.signs[trial.record["trial"]]) or "-",
            trial.record["status"],
            trial.record["origin"] if is_imported else trial.record["trial"][:SHOWN_DIGITS],
        )
        for trial in trials
    ]
    columns = ("seed", "return", "episodes", "imagined", "real", "signs", "status", source)
    grid = Grid("Every trial", (*trials[0].factors, *columns), rows, (VALUE_NOTE,))
    return _tell_once(grid, ("episodes", "status"))


def _tell_once(grid: Grid, names: Sequence[str]) -> Grid:
    """Return the grid with a note in place of those of these columns whose cells are all equal."""
    cells = {name: {row[grid.headers.index(name)] for row in grid.rows} for name in names}
    same = {name: some.pop() for name, some in cells.items() if len(some) == 1 and some != {"-"}}
    if not same:
        return grid
    told = ", ".join(f"{name} {cell}" for name, cell in same.items())
    return _leave_out(grid, same)._replace(notes=(*grid.notes, f"Every trial: {told}."))


def _comparison_grids(table: ComparisonTable, names: ShortNames) -> list[Grid]:
    """Return the grids of one factor: verdicts, then the view over tasks, then the trends."""
    if not table.rows:
        return [Grid(f"Verdicts along {table.factor}", (), [], table.notes)]
    grids = [_verdict_grid(table, names)]
    if table.aggregates:
        grids.append(_aggregate_grid(table, names))
    levels = dict.fromkeys(trend.levels for trend in table.trends)
    return grids + [_trend_grid(table, some, names) for some in levels]


def _floor_grid(arms: Sequence[Arm], names: ShortNames) -> Grid:
    """Return each arm against its task's floor, where there is no other arm to compare it with."""
    rows = [
        (
            *name_levels(arm.factors, names),
            format_floor(arm.task.floor, arm.floor_kind),
            _count_seeds(arm),
            *_format_contrast(arm.over_floor),
        )
        for arm in arms
    ]
    headers = (*arms[0].factors, "floor", "n", "diff", f"{CONFIDENCE:.0%} interval", "p")
    return Grid("Returns over the floor", headers, rows, (FLOOR_NOTE,))


def _verdict_grid(table: ComparisonTable, names: ShortNames) -> Grid:
    shared = [name for name in table.rows[0].level.factors if name != table.factor]
    against = _list_baselines(table, names)
    is_told = len({*against}) > 1  # else the title says it
    rows = [
        (
            *(names.label(name, row.level.factors[name]) for name in shared),
            names.label(table.factor, row.level.factors[table.factor]),
            *([baseline] if is_told else []),
            *_format_contrast(row.verdict.welch),
            _format_verdict(row, names),
            row.evidence,
        )
        for row, baseline in zip(table.rows, against, strict=True)
    ]
    numbers = ("diff", f"{CONFIDENCE:.0%} interval", "p")
    told = ("against",) if is_told else ()
    headers = (*shared, table.factor, *told, *numbers, "verdict", "evidence")
    return Grid(f"Verdicts along {_name_factor(table, names)}", headers, rows, table.notes)


def _aggregate_grid(table: ComparisonTable, names: ShortNames) -> Grid:
    is_told = len({*_list_baselines(table, names)}) > 1
    rows = [
        (
            *name_levels(row.group, names),
            names.label(table.factor, row.level),
            *([names.label(table.factor, row.against)] if is_told else []),
            str(row.num_tasks),
            str(row.num_blocks),
            *(str(number) for number in (row.wins, row.losses, row.ties, row.open)),
            f"{row.interval.estimate:+z.1f}",
            format_range(row.interval.low, row.interval.high),
            format_number(row.correlation, "z.2f"),
        )
        for row in table.aggregates
    ]
    counts = ("tasks", "blocks", "wins", "losses", "ties", "open")
    numbers = (*counts, "mean diff", f"{CONFIDENCE:.0%} bootstrap", "seed correlation")
    told = ("against",) if is_told else ()
    headers = (*table.aggregates[0].group, table.factor, *told, *numbers)
    title = mark_despite(f"Over tasks, along {_name_factor(table, names)}", table.is_despite)
    return Grid(title, headers, rows, (describe_aggregates(table, names),))


def _trend_grid(table: ComparisonTable, levels: tuple[float, ...], names: ShortNames) -> Grid:
    trends = [trend for trend in table.trends if trend.levels == levels]
    rows = [
        (
            *name_levels(trend.group, names),
            " -> ".join(f"{mean:z.0f}" for mean in trend.means),
            trend.direction,
        )
        for trend in trends
    ]
    headers = (*trends[0].group, "mean return", "direction")
    shown = " -> ".join(format_value(level) for level in levels)
    title = mark_despite(f"Trend along {table.factor}: {shown}", table.is_despite)
    by_chance = 2.0 / math.factorial(len(levels))
    share = f"{by_chance:.0%}" if by_chance >= 0.01 else "under 1%"
    note = (
        f"Direction: of the means alone, however far seeds spread; if {len(levels)} levels were "
        f"alike, {share} of such rows would rise or fall."
    )
    return Grid(title, headers, rows, (note,))


def _name_factor(table: ComparisonTable, names: ShortNames) -> str:
    """Name the factor and what its levels are compared with."""
    against = dict.fromkeys(_list_baselines(table, names))
    return f"{table.factor}, each against {' or '.join(against)}"


def _list_baselines(table: ComparisonTable, names: ShortNames) -> list[str]:
    """Return what each row's level is compared with: not the same where a group lacks it."""
    return [names.label(table.factor, row.baseline.factors[table.factor]) for row in table.rows]


def _format_verdict(row: Comparison, names: ShortNames) -> str:
    """Return the verdict, the winner's level by its short name where it has one."""
    if row.winner is None:
        return row.verdict_name
    level = row.winner.factors[row.factor]
    if names.label(row.factor, level) == format_value(level):
        return row.verdict_name
    name = names.named(row.factor, level)
    return row.verdict_name.replace(row.verdict.name, f"{name} wins", 1)


def _count_seeds(arm: Arm) -> str:
    n = len(arm.counted)
    return str(n) if n == arm.num_planned else f"{n}/{arm.num_planned}"


def _format_contrast(found: Contrast | None) -> tuple[str, str, str]:
    if found is None:
        return "-", "-", "-"
    return f"{found.difference:+z.1f}", format_range(found.low, found.high), format_p(found.p)
