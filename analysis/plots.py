"""Lay out a sweep's figures as plain data: panels, series, what must be said under them."""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from analysis.arms import Arm, build_arms
from analysis.load import Sweep, Trial
from analysis.verdict import CONFIDENCE

BUDGET = ("epochs",)
INTERVAL_SEEDS = 5  # fewer seeds get no interval: every seed is drawn anyway


class Point(NamedTuple):
    """One arm at one place of the axis."""

    position: int  # of its budget or level among the sweep's
    returns: tuple[float, ...]  # one a seed


class Series(NamedTuple):
    """What one legend entry draws in one panel; `points` for budgets, `curves` for learning."""

    label: str
    variant: str
    points: tuple[Point, ...] = ()
    curves: tuple[tuple[tuple[int, float], ...], ...] = ()


class Plot(NamedTuple):
    """A figure before it is drawn: its panels, their series, and the line under it."""

    title: str
    x_label: str
    panels: dict[str, list[Series]]  # by title, whose first line is the task
    ticks: tuple[int | str, ...]  # budgets or names, evenly spaced; empty for a plain axis
    footnote: str
    num_columns: int = 0  # of panels; 0: as many as look good

    @property
    def is_named(self) -> bool:
        """Whether the ticks are names, which have no order."""
        return any(isinstance(tick, str) for tick in self.ticks)


def plan_returns(sweep: Sweep) -> Plot:
    """Lay out the final returns of every evaluated arm against what `axis_of` names."""
    arms = [arm for arm in build_arms(sweep) if arm.trials]
    axis = axis_of(sweep)
    places = [tuple(arm.factors[factor] for factor in axis) for arm in arms]
    ordered = list(dict.fromkeys(places))  # as build_arms ranks each factor's levels
    if axis == BUDGET:
        ordered.sort()
    panels: dict[str, dict[str, Series]] = {}
    for place, arm in sorted(zip(places, arms, strict=True), key=lambda x: ordered.index(x[0])):
        panel = panels.setdefault(arm.factors["task"], {})
        label, variant = _label(arm.factors, axis), arm.factors["variant"]
        point = Point(ordered.index(place), tuple(arm.returns.values()))
        before = panel[label].points if label in panel else ()
        panel[label] = Series(label, variant, (*before, point))
    named = " and ".join(axis)
    return Plot(
        f"{sweep.name}: final return by {'epoch budget' if axis == BUDGET else named}",
        named,
        {task: list(panels[task].values()) for task in order_tasks(sweep, panels)},
        tuple(place[0] if axis == BUDGET else name_place(place) for place in ordered),
        _describe_returns(arms),
    )


def axis_of(sweep: Sweep) -> tuple[str, ...]:
    """Return the factors along a figure of returns: epochs, or what varies in their place."""
    others = tuple(f for f in sweep.varies if f not in ("task", "variant", "seed"))
    return BUDGET if "epochs" in others or not others else others


def name_place(levels: Sequence[Any]) -> str:
    """Return the levels of some factors as they are shown, a line each."""
    return "\n".join(str(level).replace("_", " ") for level in levels if level is not None)


def plan_curves(sweep: Sweep, curves: dict[str, list[tuple[int, float]]]) -> Plot:
    """Lay out every seed's learning curve at each variant's largest budget.

    A panel is a task; of a sweep that varies something in the place of epochs, a task's row has
    one for each of its levels.
    """
    drawn = [t for t in _largest_budgets(sweep.trials) if curves.get(t.record["trial"])]
    axis = axis_of(sweep)
    rows = () if axis == BUDGET else axis
    panels: dict[str, dict[str, Series]] = {}
    for trial in sorted(drawn, key=_grid_order(sweep, rows)):
        levels = name_place([trial.factors[factor] for factor in rows])
        panel = panels.setdefault("\n".join([trial.factors["task"], *filter(None, [levels])]), {})
        label, variant = _label(trial.factors, axis), trial.factors["variant"]
        before = panel[label].curves if label in panel else ()
        curve = tuple(curves[trial.record["trial"]])
        panel[label] = Series(label, variant, curves=(*before, curve))
    sizes = [len(series.curves) for panel in panels.values() for series in panel.values()]
    episodes = sorted({_training_episodes(trial) for trial in drawn})
    return Plot(
        f"{sweep.name}: return during training, largest budget",
        "epoch",
        {title: list(panel.values()) for title, panel in panels.items()},
        (),
        f"Thin lines: one a training seed, {_span(sizes)} an arm; no interval. "
        f"Each point: {' or '.join(episodes)} evaluation episodes. Dotted: the task's floor.",
        len({title.partition("\n")[2] for title in panels}) if rows else 0,
    )


def _grid_order(sweep: Sweep, factors: Sequence[str]) -> Callable[[Trial], list[int]]:
    """Return what sorts trials by task and then by `factors`, as the grid has them."""
    names = ("task", *factors)
    levels = {n: list(dict.fromkeys(t.factors[n] for t in sweep.trials)) for n in names}
    return lambda trial: [levels[name].index(trial.factors[name]) for name in names]


def _label(factors: dict[str, Any], axis: Sequence[str]) -> str:
    """Return a series' name: its variant, and factors other than the task and the axis'."""
    told = ("task", "epochs", "variant", *axis)
    others = [f"{k} {v}" for k, v in factors.items() if k not in told]
    return ", ".join([factors["variant"], *others])


def order_tasks(sweep: Sweep, panels: dict[str, Any]) -> list[str]:
    """Return the tasks that have a panel, in the order of the grid."""
    tasks = dict.fromkeys(trial.factors["task"] for trial in sweep.trials)
    return [task for task in tasks if task in panels]


def _largest_budgets(trials: Sequence[Trial]) -> list[Trial]:
    largest: dict[str, int] = {}
    for trial in trials:
        variant, epochs = trial.factors["variant"], trial.factors["epochs"]
        largest[variant] = max(epochs, largest.get(variant, 0))
    return [t for t in trials if t.factors["epochs"] == largest[t.factors["variant"]]]


def _training_episodes(trial: Trial) -> str:
    config = json.loads(trial.record["config"] or "{}")
    return str(config.get("evaluation", {}).get("num_episodes", "unrecorded"))


def _describe_returns(arms: Sequence[Arm]) -> str:
    sizes = [len(arm.trials) for arm in arms]
    episodes = [len(trial.returns) for arm in arms for trial in arm.trials]
    interval = f"no interval below {INTERVAL_SEEDS} seeds"
    if max(sizes) >= INTERVAL_SEEDS:
        interval = f"bars: {CONFIDENCE:.0%} t interval over seeds, none below {INTERVAL_SEEDS}"
    return (
        f"Dots: training seeds, n = {_span(sizes)} an arm; lines: means; {interval}. "
        f"A final return: {_span(episodes)} evaluation episodes. Dotted: the task's floor."
    )


def _span(counts: Sequence[int]) -> str:
    if not counts:
        return "0"
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"
