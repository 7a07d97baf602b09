"""Draw a Summary for people: a plain-text table or Markdown; nothing is computed here."""

import io
import re
from collections.abc import Sequence
from typing import NamedTuple

from rich.box import Box
from rich.console import Console
from rich.table import Table

from analysis.arms import Arm
from analysis.compare import Comparison, Comparisons
from analysis.load import Trial, format_value
from analysis.report import Summary
from analysis.verdict import CONFIDENCE

HEAD_RULE = Box("    \n    \n -- \n" + "    \n" * 5, ascii=True)  # one line, under the headers
WIDTH = 100  # columns when the output is not a terminal
TEXT_COLUMNS = (
    "task",
    "variant",
    "methodology",
    "fidelity",
    "verdict",
    "evidence",
    "trial",
    "status",
    "floor",
    "direction",
)


class Grid(NamedTuple):
    """A table as text, however it is drawn."""

    title: str
    headers: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: tuple[str, ...]


VALUE_NOTE = (
    "imagined, real: discounted symlog rewards from the evaluation's starts, as the learner "
    "imagines them and as they came"
)


def render_table(summary: Summary, per_seed: bool, width: int | None = None) -> str:
    """Return the summary as plain text, `width` (default 100) columns wide, without colours."""
    text = io.StringIO()
    console = Console(
        file=text, width=width or WIDTH, color_system=None, highlight=False, markup=False
    )
    console.print(_headline(summary))
    for grid in _list_grids(summary, per_seed):
        console.print()
        console.print(grid.title)
        if grid.rows:
            console.print(_draw_grid(grid))
        _print_notes(console, grid.notes)
    console.print()
    _print_notes(console, summary.notes)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def render_markdown(summary: Summary, per_seed: bool) -> str:
    """Return the summary as Markdown: a heading and a pipe table for each table, then notes."""
    lines = [f"# {summary.sweep.name}", "", _headline(summary)]
    for grid in _list_grids(summary, per_seed):
        lines += ["", f"## {grid.title}", ""]
        if grid.rows:
            rule = ["---" if name in TEXT_COLUMNS else "---:" for name in grid.headers]
            lines += [_join_cells(row) for row in (grid.headers, rule, *grid.rows)]
            lines.append("")
        lines += [f"* {note}" for note in grid.notes]
    lines += ["", "## Notes", "", *(f"* {note}" for note in summary.notes), ""]
    return "\n".join(lines).replace("\n\n\n", "\n\n")


def _headline(summary: Summary) -> str:
    return f"{summary.sweep.name} (scale {summary.sweep.scale}): {summary.progress}"


def _list_grids(summary: Summary, per_seed: bool) -> list[Grid]:
    grids = [_arm_grid(summary.arms)]
    if any(arm.plan_returns for arm in summary.arms):
        grids.append(_plan_grid(summary.arms, per_seed))
    if per_seed:
        grids.append(_seed_grid(summary.sweep.trials))
    pairs = zip(summary.comparisons, summary.table_notes, strict=True)
    return grids + [grid for pair in pairs for grid in _comparison_grids(*pair)]


def _arm_grid(arms: Sequence[Arm]) -> Grid:
    factors = list(arms[0].factors)
    rows = [
        (
            *(format_value(value) for value in arm.factors.values()),
            f"{arm.task.floor:.1f} ({arm.floor_kind})",
            _count_seeds(arm),
            _format_return(arm.mean, arm.sd),
            _format_duration(arm.train_seconds),
            "-" if arm.return_per_hour is None else f"{arm.return_per_hour:,.0f}",
        )
        for arm in arms
    ]
    headers = (*factors, "floor", "n", "return", "train", "return/h")
    return Grid("Final returns", headers, rows, ())


def _plan_grid(arms: Sequence[Arm], per_seed: bool) -> Grid:
    """Return the plan returns, by arm or by trial: the other tables have no room for them."""
    headers = (*arms[0].factors, "seed" if per_seed else "n", "return", "plan return")
    rows = [
        (*(format_value(value) for value in arm.factors.values()), *cells)
        for arm in arms
        if arm.plan_returns
        for cells in (_list_plans(arm) if per_seed else [_sum_up_plans(arm)])
    ]
    return Grid("Plan returns", headers, rows, ())


def _sum_up_plans(arm: Arm) -> tuple[str, str, str]:
    n = str(len(arm.plan_returns))
    return n, _format_return(arm.mean, arm.sd), _format_return(arm.plan_mean, arm.plan_sd)


def _list_plans(arm: Arm) -> list[tuple[str, str, str]]:
    return [
        (str(trial.seed), f"{trial.final_return:.2f}", f"{trial.plan_return:.2f}")
        for trial in arm.trials
        if trial.plan_return is not None
    ]


def _seed_grid(trials: Sequence[Trial]) -> Grid:
    rows = [
        (
            *(format_value(value) for value in trial.factors.values()),
            str(trial.seed),
            f"{trial.final_return:.2f}" if trial.is_usable else "-",
            str(len(trial.returns)),
            _format_value_at_start(trial.record["imagined_start_value"]),
            _format_value_at_start(trial.record["real_start_value"]),
            trial.record["status"],
            trial.record["trial"],
        )
        for trial in trials
    ]
    names = ("seed", "return", "episodes", "imagined", "real", "status", "trial")
    return Grid("Every trial", (*trials[0].factors, *names), rows, (VALUE_NOTE,))


def _format_value_at_start(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _comparison_grids(table: Comparisons, notes: tuple[str, ...]) -> list[Grid]:
    """Return the grids of one factor: verdicts, then the view over tasks, then the trends."""
    if not table.rows:
        return [Grid(f"Verdicts along {table.factor}", (), [], notes)]
    grids = [_verdict_grid(table, notes)]
    if table.aggregates:
        grids.append(_aggregate_grid(table))
    levels = dict.fromkeys(trend.levels for trend in table.trends)
    return grids + [_trend_grid(table, some) for some in levels]


def _verdict_grid(table: Comparisons, notes: tuple[str, ...]) -> Grid:
    shared = [name for name in table.rows[0].level.factors if name != table.factor]
    rows = [
        (
            *(format_value(row.level.factors[name]) for name in shared),
            row.level_name,
            *_format_welch(row),
            row.verdict_name,
            row.evidence,
        )
        for row in table.rows
    ]
    numbers = ("diff", f"{CONFIDENCE:.0%} interval", "p")
    headers = (*shared, table.factor, *numbers, "verdict", "evidence")
    return Grid(f"Verdicts along {_name_factor(table)}", headers, rows, notes)


def _aggregate_grid(table: Comparisons) -> Grid:
    rows = [
        (
            *(format_value(value) for value in row.group.values()),
            format_value(row.level),
            str(row.num_tasks),
            str(row.num_blocks),
            f"{row.interval.estimate:+.1f}",
            f"[{row.interval.low:.0f}, {row.interval.high:.0f}]",
            "-" if row.correlation is None else f"{row.correlation:.2f}",
        )
        for row in table.aggregates
    ]
    numbers = ("tasks", "blocks", "mean diff", f"{CONFIDENCE:.0%} bootstrap", "seed correlation")
    headers = (*table.aggregates[0].group, table.factor, *numbers)
    return Grid(f"Over tasks, along {_name_factor(table)}", headers, rows, ())


def _trend_grid(table: Comparisons, levels: tuple[float, ...]) -> Grid:
    trends = [trend for trend in table.trends if trend.levels == levels]
    rows = [
        (
            *(format_value(value) for value in trend.group.values()),
            " -> ".join(f"{mean:.0f}" for mean in trend.means),
            trend.direction,
        )
        for trend in trends
    ]
    headers = (*trends[0].group, "mean return", "direction")
    shown = " -> ".join(format_value(level) for level in levels)
    return Grid(f"Trend along {table.factor}: {shown}", headers, rows, ())


def _name_factor(table: Comparisons) -> str:
    """Name the factor and what its levels are compared with."""
    against = dict.fromkeys(row.baseline_name for row in table.rows)
    return f"{table.factor}, each against {' or '.join(against)}"


def _draw_grid(grid: Grid) -> Table:
    table = Table(box=HEAD_RULE, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name in grid.headers:
        table.add_column(
            _break_key(name),
            justify="left" if name in TEXT_COLUMNS else "right",
            overflow="fold",  # where there is no room, over several lines: nothing is cut off
        )
    for row in grid.rows:
        table.add_row(*row)
    return table


def _break_key(name: str) -> str:
    """Return a column's name, a config key over several lines: it is far longer than its values."""
    return re.sub(r"([._])", r"\1\n", name) if "." in name else name


def _print_notes(console: Console, notes: Sequence[str]) -> None:
    table = Table.grid(padding=(0, 1, 0, 0))
    for note in notes:
        table.add_row("*", note)
    if notes:
        console.print(table)


def _join_cells(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _count_seeds(arm: Arm) -> str:
    n = len(arm.trials)
    return str(n) if n == arm.num_planned else f"{n}/{arm.num_planned}"


def _format_return(mean: float | None, sd: float | None) -> str:
    if mean is None:
        return "-"
    return f"{mean:.1f}" if sd is None else f"{mean:.1f} +- {sd:.1f}"


def _format_duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 120.0:
        return f"{seconds:.0f} s"
    return f"{seconds / 60.0:.0f} min" if seconds < 7200.0 else f"{seconds / 3600.0:.1f} h"


def _format_welch(row: Comparison) -> tuple[str, str, str]:
    found = row.verdict.welch
    if found is None:
        return "-", "-", "-"
    known = found.low is not None and found.high is not None
    interval = f"[{found.low:.0f}, {found.high:.0f}]" if known else "-"
    return f"{found.difference:+.1f}", interval, "-" if found.p is None else _format_p(found.p)


def _format_p(p: float) -> str:
    return "<.001" if p < 0.001 else f"{p:.3f}".lstrip("0")
