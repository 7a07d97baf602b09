"""Plan a sweep's figures as plain data: panels, series, and the footnotes below them."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from analysis.arms import Arm, build_arms
from analysis.curves import Curves
from analysis.drawing.layout import (
    Factors,
    Layout,
    Tick,
    explain_names,
    lay_out,
    make_tick,
    name_series,
    order_ticks,
)
from analysis.load import Sweep, Trial, describe_episodes, find_level, format_span
from analysis.predictions import Predictions
from analysis.scattered import is_scattered, leave_out_settings
from analysis.verdict import CONFIDENCE

INTERVAL_SEEDS = 5  # fewer seeds get no interval: every seed is drawn anyway
PANEL_SERIES = 8  # with more series, a panel of curves is split by category
PLAIN_SERIES = 4  # the same for series of one colour: as many as there are dashes
MOST_MARKS = 32  # distinguishable ones (see panels.choose_markers)
REAL, IMAGINED = "real_start_value", "imagined_start_value"  # columns of `trials`
Kind = Literal["returns", "curves", "predictions", "starts"]
Entries = Sequence[tuple[Factors, Any]]  # an arm's factors, and a mark of it


class Point(NamedTuple):
    """One arm at one place along x."""

    position: int  # of its tick among the plot's
    returns: tuple[float, ...]  # one a seed


class Start(NamedTuple):
    """One trial's imagined and real start value, in discounted symlog rewards."""

    position: int  # of its tick among the plot's
    real: float
    imagined: float


class Series(NamedTuple):
    """What one legend entry draws in one panel: marks of its plot's kind."""

    label: str
    place: tuple[int, ...]  # in the legend
    level: Any  # of the factor that has the colours
    marks: tuple[Any, ...]  # Points, Starts, or curves: pairs (epoch, return) or (step, error)


class Panel(NamedTuple):
    """One pair of axes: a task, or one category of it."""

    task: str
    category: Tick | None
    series: tuple[Series, ...]


class Plot(NamedTuple):
    """A figure before it is drawn."""

    kind: Kind
    title: str
    layout: Layout
    panels: tuple[Panel, ...]  # task by task; with categories, all of them for each task
    footnote: str


def plan_returns(sweep: Sweep) -> Plot:
    """Lay out the final returns of every evaluated arm along the factors that vary."""
    arms = build_arms(sweep)
    layout = lay_out(arms, sweep.compare)
    drawn = [arm for arm in arms if arm.trials]
    entries = [
        (arm.factors, Point(layout.find_tick(arm.factors), tuple(arm.returns.values())))
        for arm in drawn
    ]
    by = "epoch budget" if layout.by == ("epochs",) else " and ".join(layout.by)
    return Plot(
        "returns",
        f"{sweep.name}: final return by {by}",
        layout,
        _fill_panels(layout, entries, layout.others),
        _describe_returns(drawn, layout) + explain_names(layout),
    )


def plan_curves(sweep: Sweep, curves: Curves) -> Plot:
    """Lay out every seed's learning curve at the largest budget of each arm."""
    layout = lay_out(build_arms(sweep), sweep.compare)
    drawn, entries = _list_curves(_largest_budgets(sweep), curves)
    title = f"{sweep.name}: return during training{_name_budget(sweep)}"
    return _plan_lines("curves", title, layout, entries, "training seed", _describe_points(drawn))


def plan_predictions(sweep: Sweep, found: Sequence[Predictions]) -> Plot:
    """Lay out each world model's error along the steps ahead, at the largest budget of each arm."""
    layout = lay_out(build_arms(sweep), sweep.compare)
    measured = sweep._replace(trials=tuple(trial for row in found for trial in row.arm.counted))
    largest = set(_largest_budgets(measured))
    entries = [
        (row.arm.factors, tuple(points))
        for row in found
        if row.arm.counted[0] in largest
        for model in row.models
        if (points := [(step, share) for step, share in enumerate(model, 1) if _is_number(share)])
    ]
    title = f"{sweep.name}: how well the world models predict rewards{_name_budget(measured)}"
    told = (
        "Root mean squared error of the symlog reward so many steps ahead, along the real actions "
        "from a real observation, all models of a task in the same windows, equally many of each "
        f"policy ({format_span([row.num_agents for row in found])})."
    )
    return _plan_lines("predictions", title, layout, entries, "world model", told)


def plan_all_curves(sweep: Sweep, curves: Curves) -> Plot:
    """Lay out every trial's curve, all in one style, for a search (see scattered.py)."""
    sweep = leave_out_settings(sweep)
    layout = lay_out(build_arms(sweep), sweep.compare)
    drawn, entries = _list_curves(sweep.trials, curves)
    panels = _fill_panels(layout, entries, layout.categories)
    sizes = [sum(len(series.marks) for series in panel.series) for panel in panels]
    apart = tuple(
        panel._replace(series=tuple(s._replace(marks=(m,)) for s in panel.series for m in s.marks))
        for panel in panels
    )
    return Plot(
        "curves",
        f"{sweep.name}: return during training",
        layout,
        apart,
        f"Thin lines: trials, {format_span(sizes)} a task, of settings that differ; no interval. "
        + _describe_points(drawn)
        + explain_names(layout),
    )


def plan_starts(sweep: Sweep) -> Plot:
    """Lay out each trial's imagined against its real start value.

    Settings share one mark in a search, and where there are more of them than marks.
    """
    layout, told = lay_out(build_arms(sweep), sweep.compare), ""
    if is_scattered(sweep) or len(layout.ticks) > MOST_MARKS:
        sweep, told = leave_out_settings(sweep), " Settings are not told apart."
        layout = lay_out(build_arms(sweep), sweep.compare)
    if layout.others:  # epochs have the marks
        told = f" Not told apart: {', '.join(layout.others)}.{told}"
    drawn = [t for t in sweep.usable if _is_number(t.record[REAL], t.record[IMAGINED])]
    entries = [
        (t.factors, Start(layout.find_tick(t.factors), t.record[REAL], t.record[IMAGINED]))
        for t in drawn
    ]
    return Plot(
        "starts",
        f"{sweep.name}: imagined against real",
        layout,
        _fill_panels(layout, entries, ()),
        f"Discounted symlog rewards from the evaluation's starts. Marks: trials, n = {len(drawn)}; "
        f"each the mean over {describe_episodes(drawn)} evaluation episodes; "
        f"no interval. Above the line more is imagined than comes.{told}" + explain_names(layout),
    )


def _is_number(*values: float | None) -> bool:
    return all(value is not None and math.isfinite(value) for value in values)


def _list_curves(trials: Sequence[Trial], curves: Curves) -> tuple[list[Trial], Entries]:
    """Return the trials that have a curve, and their curves."""
    found = [(t, curves[t.record["trial"]].points) for t in trials if t.record["trial"] in curves]
    drawn = [trial for trial, points in found if points]
    return drawn, [(trial.factors, tuple(points)) for trial, points in found if points]


def _describe_points(drawn: Sequence[Trial]) -> str:
    found = {find_level(trial, "evaluation.num_episodes") or "unrecorded" for trial in drawn}
    episodes = sorted(map(str, found))
    return f"Each point: {' or '.join(episodes)} evaluation episodes. Dotted: the task's floor."


def _fill_panels(
    layout: Layout, entries: Entries, others: Sequence[str], columns: Sequence[Tick] = ()
) -> tuple[Panel, ...]:
    """Return a panel per task, or per task and column; `others` distinguish the series."""
    drawn = {factors["task"] for factors, _ in entries}
    tasks = [task for name, task in layout.ranks if name == "task" and task in drawn]
    places = [(task, tick) for task in tasks for tick in columns or (None,)]
    told = (layout.colour, *others)
    panels: dict[Any, dict[Series, list[Any]]] = {place: {} for place in places}
    for factors, mark in entries:
        tick = make_tick(factors, layout.categories, layout.names, True) if columns else None
        rank = tuple(layout.ranks[(name, factors[name])] for name in told)
        key = Series(name_series(factors, layout, others), rank, factors[layout.colour], ())
        panels[(factors["task"], tick)].setdefault(key, []).append(mark)
    return tuple(
        Panel(task, tick, tuple(key._replace(marks=tuple(m)) for key, m in panel.items()))
        for (task, tick), panel in panels.items()
    )


def _plan_lines(
    kind: Kind, title: str, layout: Layout, entries: Entries, unit: str, told: str
) -> Plot:
    """Lay out a line for each `unit`, and their mean where an arm has enough of them."""
    panels = _fill_curves(layout, entries)
    sizes = [len(series.marks) for panel in panels for series in panel.series]
    lines = f"Thin lines: one a {unit}, {format_span(sizes)} an arm; {_describe_band(sizes)}. "
    return Plot(kind, title, layout, panels, lines + told + explain_names(layout))


def _fill_curves(layout: Layout, entries: Entries) -> tuple[Panel, ...]:
    """Return a panel per task, or, where that would be crowded, one for each category of it."""
    panels = _fill_panels(layout, entries, layout.categories)
    largest_panel = max((len(panel.series) for panel in panels), default=0)
    has_colours = len({series.level for panel in panels for series in panel.series}) > 1
    if not layout.categories or largest_panel <= (PANEL_SERIES if has_colours else PLAIN_SERIES):
        return panels
    shown = [factors for factors, _ in entries]
    columns = order_ticks(layout.ranks, layout.categories, layout.names, shown, is_title=True)
    return _fill_panels(layout, entries, (), columns)


def _name_budget(sweep: Sweep) -> str:
    """Return what a title says where only the largest budgets are drawn."""
    has_budgets = len({trial.factors["epochs"] for trial in sweep.usable}) > 1
    return ", largest budget" if has_budgets else ""


def _largest_budgets(sweep: Sweep) -> list[Trial]:
    """Return the trials of the largest budget among those that differ in epochs alone.

    An axis that sets nothing but epochs counts as epochs.
    """
    budgets = sweep.find_names_of("epochs")
    largest: dict[tuple, int] = {}
    placed = []
    for trial in sweep.trials:
        epochs = trial.factors["epochs"]
        if epochs is None:  # an imported run that failed may not say
            continue
        arm = tuple(i for i in trial.factors.items() if i[0] not in ("epochs", *budgets))
        largest[arm] = max(epochs, largest.get(arm, 0))
        placed.append((trial, arm, epochs))
    return [trial for trial, arm, epochs in placed if epochs == largest[arm]]


def _describe_returns(arms: Sequence[Arm], layout: Layout) -> str:
    sizes = [len(arm.counted) for arm in arms]
    episodes = describe_episodes(trial for arm in arms for trial in arm.counted)
    interval = f"no interval below {INTERVAL_SEEDS} seeds"
    if max(sizes) >= INTERVAL_SEEDS:
        interval = f"whiskers: {CONFIDENCE:.0%} t interval over seeds, none below {INTERVAL_SEEDS}"
    means = "lines" if layout.is_joined else "bars"
    return (
        f"Marks: training seeds, n = {format_span(sizes)} an arm; {means}: means; {interval}. "
        f"A final return: {episodes} evaluation episodes. Dotted: the task's floor."
    )


def _describe_band(sizes: Sequence[int]) -> str:
    if max(sizes, default=0) < INTERVAL_SEEDS:
        return f"no interval below {INTERVAL_SEEDS} seeds"
    return (
        f"thick lines: means; bands: {CONFIDENCE:.0%} t interval of the mean; none below "
        f"{INTERVAL_SEEDS} seeds"
    )
