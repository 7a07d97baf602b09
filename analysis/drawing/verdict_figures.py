"""Draw who wins: the map of winners, pairs of seeds, the 2x2's effects, performance profiles."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from analysis.compare import DESPITE, Comparison, ComparisonTable, mark_despite
from analysis.drawing.colours import MARKERS, Style, choose_colours, choose_styles
from analysis.drawing.plots import INTERVAL_SEEDS
from analysis.drawing.sheet import describe_sample, finish_sheet, make_sheet, name_y
from analysis.factorial import SuiteEffect, TaskEffects
from analysis.load import format_span
from analysis.pool import group_rows
from analysis.report import Summary
from analysis.short_names import ShortNames, fold, shorten_levels
from analysis.suite import THRESHOLDS, Suite
from analysis.verdict import CONFIDENCE, RETURN_MAX

# Light enough for black text; colour-blind readers can tell them apart, and the words do in grey.
WIN, LOSS, TIE, OPEN = "#A6CEE3", "#FDBF6F", "#E0E0E0", "#FFFFFF"
_COLUMN_CHARACTERS = 18  # in a line of the name of a column of verdicts
_ROW_INCHES = (0.3, 0.6)  # of a task in a map: the second where cells name what they are against
_MARK_NOTE = f"*: {DESPITE[1:-1]}. "
_MOST_COLUMNS = 9  # of verdicts beside each other: 16.5 inches with the tasks' names


def draw_winners(summary: Summary, table: ComparisonTable) -> Figure | None:
    """Return a map of verdicts: one row per task, one column per level and group.

    Columns that do not fit a wide page are divided evenly over several maps below each other.
    """
    if not table.rows:
        return None
    names = shorten_levels(summary.arms)
    tasks = list(dict.fromkeys(row.level.factors["task"] for row in table.rows))
    columns = list(dict.fromkeys(_name_column(row, names) for row in table.rows))
    num_parts = math.ceil(len(columns) / _MOST_COLUMNS)
    num_columns = math.ceil(len(columns) / num_parts)
    parts = [columns[at : at + num_columns] for at in range(0, len(columns), num_columns)]
    baselines = [names.named(table.factor, r.baseline.factors[table.factor]) for r in table.rows]
    row_height = _ROW_INCHES[len({*baselines}) > 1]
    size = max(5.5, 2.2 + 1.45 * num_columns), row_height * len(tasks) + 0.6
    sheet = make_sheet(len(parts), size)
    for row, baseline in zip(table.rows, baselines, strict=True):
        part, place = divmod(columns.index(_name_column(row, names)), num_columns)
        at = place, tasks.index(row.level.factors["task"])
        _draw_cell(
            sheet.panels[part], at, row, f"against {baseline}" if len({*baselines}) > 1 else ""
        )
    for axes, part in zip(sheet.panels, parts, strict=True):
        _finish_map(axes, tasks, part, num_columns)
    against = " or ".join(dict.fromkeys(baselines))
    arms = [arm for row in table.rows for arm in (row.baseline, row.level)]
    return finish_sheet(
        sheet,
        f"{summary.sweep.name}: verdicts along {table.factor}, against {against}",
        f"Numbers: difference of mean returns. Blue: the level wins; orange: {against} wins; grey: "
        f"tie; white: not decided; hatched: no verdict. {_MARK_NOTE if table.is_despite else ''}"
        + describe_sample(arms, f"{CONFIDENCE:.0%} Welch t intervals decide ties")
        + names.explain(*summary.arms[0].factors),
    )


def draw_pairs(summary: Summary, table: ComparisonTable) -> Figure | None:
    """Return each seed's return under a level against that under its baseline.

    There is one panel for each level, its baseline, and group of the other factors.
    """
    decided = [row for row in table.rows if row.verdict.has_decision]
    if not decided:
        return None
    names = shorten_levels(summary.arms)
    panels = group_rows(
        table.rows,
        lambda row: (_name_column(row, names), row.baseline_name),
        lambda row: row.verdict.has_decision,
    )
    tasks = list(dict.fromkeys(row.level.factors["task"] for row in decided))
    colours = choose_colours(table.factor, [a.factors[table.factor] for a in summary.arms])
    has_shapes = len(tasks) <= len(MARKERS)
    markers = dict(zip(tasks, MARKERS if has_shapes else "o" * len(tasks), strict=False))
    sheet = make_sheet(len(panels), (3.2, 3.1))
    for axes, ((title, _), rows) in zip(sheet.panels, panels.items(), strict=True):
        level, against = (a.factors[table.factor] for a in (rows[0].level, rows[0].baseline))
        for row in rows:
            _draw_pairs(axes, row, markers[row.level.factors["task"]], colours[level])
        _draw_diagonal(axes)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(f"return, {names.named(table.factor, against)}")
        axes.set_ylabel(f"return, {names.named(table.factor, level)}")
    look: Style = {"color": "0.3", "linestyle": ""}
    keys = [Line2D([], [], label=task, marker=mark, **look) for task, mark in markers.items()]
    mark = "one task and seed" if has_shapes else f"one seed of one of {len(tasks)} tasks"
    arms = [arm for row in decided for arm in (row.baseline, row.level)]
    return finish_sheet(
        sheet,
        mark_despite(
            f"{summary.sweep.name}: pairs of seeds along {table.factor}", table.is_despite
        ),
        f"A mark: {mark}. Above the line the level returns more. "
        + describe_sample(arms, "no interval")
        + names.explain(table.factor, *decided[0].shared),
        keys if has_shapes else [],
    )


def _draw_diagonal(axes: Axes) -> None:
    axes.plot([0, RETURN_MAX], [0, RETURN_MAX], color="0.3", linewidth=0.9, zorder=1)
    axes.set(xlim=(0, RETURN_MAX), ylim=(0, RETURN_MAX), box_aspect=1)
    axes.grid(color="0.94", linewidth=0.8)


def _draw_pairs(axes: Axes, row: Comparison, marker: str, colour: str) -> None:
    """Draw a mark a seed that both arms have."""
    ours, theirs = row.baseline.returns, row.level.returns
    seeds = ours.keys() & theirs.keys()
    axes.plot(
        [ours[seed] for seed in seeds], [theirs[seed] for seed in seeds], marker, color=colour,
        markersize=5, alpha=0.75, clip_on=False,  # a return of 0 or 1,000 lies on an edge
    )  # fmt: skip


def draw_effects(summary: Summary) -> Figure | None:
    """Return the 2x2's effects by task and over tasks, one panel per effect."""
    given = [task for task in summary.factorial.tasks if task.effects]
    if not given:
        return None
    names = shorten_levels(summary.arms)
    pooled = [row for row in summary.factorial.suite if row.name == given[0].effects[0].name]
    labels = _name_squares(given, pooled, names)
    effects = [effect.name for effect in given[0].effects]
    sheet = make_sheet(len(effects), (3.2, 0.32 * len(labels) + 0.8), sharey=True, sharex=True)
    for place, (axes, name) in enumerate(zip(sheet.panels, effects, strict=True)):
        rows = [task.effects[place] for task in given]
        rows += [row.over_blocks for row in summary.factorial.suite if row.name == name]
        for at, effect in enumerate(rows):
            marker, colour = ("D", "#000000") if at >= len(given) else ("o", "#332288")
            axes.plot(effect.estimate, at, marker, color=colour, markersize=5)
            if effect.low is not None and effect.high is not None:
                axes.plot([effect.low, effect.high], [at, at], color=colour, linewidth=1.4)
        axes.axvline(0.0, color="0.3", linewidth=0.9)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("points of return")
        axes.grid(axis="x", color="0.92", linewidth=0.8)
        axes.set_ylim(len(rows) - 0.5, -0.5)
    sheet.panels[0].set_yticks(range(len(labels)), labels)
    arms = [cell for task in given for cell in task.cells]
    interval = (
        f"{CONFIDENCE:.0%} t intervals, by task over seeds, over tasks (diamonds) over task x seed "
        "blocks paired by seed"
    )
    title = mark_despite(
        f"{summary.sweep.name}: the 2x2, effects against MLP and Gaussian policy",
        any(task.differences for task in given),
    )
    return finish_sheet(
        sheet, title, describe_sample(arms, interval) + names.explain(*given[0].group)
    )


def _name_squares(
    given: Sequence[TaskEffects], pooled: Sequence[SuiteEffect], names: ShortNames
) -> list[str]:
    """Name each 2x2 by its task and by what else varies among them, kinds among that."""
    varied = [n for n in given[0].group if n != "task" and len({row.group[n] for row in given}) > 1]
    has_kinds = len({row.kinds for row in given}) > 1
    rows: list[tuple[str, Any]] = [(row.group["task"], row) for row in given]
    rows += [(f"{row.num_tasks} tasks", row) for row in pooled]
    return [
        ", ".join(
            [task, *(names.named(name, row.group[name]) for name in varied)]
            + ([" + ".join(row.kinds)] if has_kinds else [])
        )
        for task, row in rows
    ]


def draw_profiles(summary: Summary, factor: str) -> Figure | None:
    """Return the share of runs above each return: one line per level, one panel per group."""
    suites = [suite for suite in summary.suites if suite.factor == factor]
    if not suites:
        return None
    names = shorten_levels(summary.arms)
    styles = choose_styles(factor, [arm.factors[factor] for arm in summary.arms])
    lines = {level: {**style, "marker": ""} for level, style in styles.items()}
    varied = {n for n in suites[0].group if len({suite.group[n] for suite in suites}) > 1}
    sheet = make_sheet(len(suites), (3.2, 2.7), sharey=True)
    for axes, suite in zip(sheet.panels, suites, strict=True):
        _draw_profile(axes, suite, lines)
        shown = [names.named(name, suite.group[name]) for name in suite.group if name in varied]
        axes.set_title(", ".join(shown), fontsize=9)
    levels = [level for suite in suites for level in suite.levels]
    labels = {names.named(factor, level.level): lines[level.level] for level in levels}
    handles = [Line2D([], [], label=label, **line) for label, line in labels.items()]
    tasks = [len(suite.tasks) for suite in suites]
    whole = {task for suite in suites for task in suite.tasks}
    arms = [arm for arm in summary.arms if arm.trials and arm.factors["task"] in whole]
    is_shown = min(suite.num_seeds[0] for suite in suites) >= INTERVAL_SEEDS
    kind = f"bands: {CONFIDENCE:.0%} bootstrap of seeds within tasks" if is_shown else (
        f"no interval below {INTERVAL_SEEDS} seeds"
    )  # fmt: skip
    return finish_sheet(
        sheet,
        mark_despite(
            f"{summary.sweep.name}: performance profile by {factor}",
            any(suite.despite_differences for suite in suites),
        ),
        f"{format_span((min(tasks), max(tasks)))} tasks, each weighing the same. "
        + describe_sample(arms, kind)
        + names.explain(factor, *varied),
        handles,
    )


def _draw_profile(axes: Any, suite: Suite, lines: dict[Any, Style]) -> None:
    for level in suite.levels:
        line = lines[level.level]
        shares = [interval.estimate for interval in level.profile]
        axes.step(THRESHOLDS, shares, where="post", linewidth=1.6, **line)
        if suite.num_seeds[0] >= INTERVAL_SEEDS:
            low = [interval.low for interval in level.profile]
            high = [interval.high for interval in level.profile]
            axes.fill_between(
                THRESHOLDS, low, high, step="post", color=line["color"], alpha=0.15, linewidth=0,
            )  # fmt: skip
    axes.set(xlim=(0, RETURN_MAX), ylim=(0, 1.02), xlabel="return")
    name_y(axes, "share of runs above")
    axes.grid(color="0.94", linewidth=0.8)


def _name_column(row: Comparison, names: ShortNames) -> str:
    """Name a column: the level, and below it the levels of what varies besides the task."""
    others = [
        names.named(name, level) for name, level in row.shared.items() if name in names.varied
    ]
    return "\n".join([names.named(row.factor, row.level.factors[row.factor]), *others])


def _finish_map(axes: Axes, tasks: Sequence[str], names: Sequence[str], room: int) -> None:
    """Name the rows and columns of a map that has room for so many columns."""
    axes.set(xlim=(0, room), ylim=(len(tasks), 0))
    said = ["\n".join(fold(n, _COLUMN_CHARACTERS) for n in name.split("\n")) for name in names]
    axes.set_xticks([place + 0.5 for place in range(len(names))], said)
    axes.set_yticks([place + 0.5 for place in range(len(tasks))], tasks)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _draw_cell(axes: Any, place: tuple[int, int], row: Comparison, against: str) -> None:
    fill, word = OPEN, row.verdict.name.partition(" (")[0]
    if row.winner is row.level:
        fill, word = WIN, "wins"
    elif row.winner is row.baseline:
        fill, word = LOSS, "loses"
    elif row.verdict.is_tie:
        fill, word = TIE, row.verdict.name
    hatch = None if row.verdict.has_decision else "///"
    axes.add_patch(Rectangle(place, 1, 1, facecolor=fill, edgecolor="0.6", hatch=hatch, lw=0.8))
    found = row.verdict.welch
    number = "" if found is None else f"{found.difference:+z.0f} "
    mark = "*" if row.is_despite else ""
    text = f"{number}{word}{mark}\n{fold(against, _COLUMN_CHARACTERS)}".rstrip()
    box = {"facecolor": fill, "edgecolor": "none", "pad": 0.6}
    axes.text(
        place[0] + 0.5, place[1] + 0.5, text, ha="center", va="center", fontsize=7.5, bbox=box
    )
