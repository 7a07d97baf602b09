"""Lay out a sweep's figures as plain data: panels, series, what must be said under them."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from analysis.arms import Arm, build_arms
from analysis.load import Sweep, Trial
from analysis.verdict import CONFIDENCE

INTERVAL_SEEDS = 5  # fewer seeds get no interval: every seed is drawn anyway


class Point(NamedTuple):
    """One arm at one budget."""

    position: int  # of its budget among the sweep's
    returns: tuple[float, ...]  # one a seed


class Series(NamedTuple):
    """What one legend entry draws in one panel; `points` for budgets, `curves` for learning."""

    label: str
    variant: str
    points: tuple[Point, ...] = ()
    curves: tuple[tuple[tuple[int, float], ...], ...] = ()


class Plot(NamedTuple):
    """A figure before it is drawn: a panel a task, its series, and the line under it."""

    title: str
    x_label: str
    panels: dict[str, list[Series]]
    ticks: tuple[int, ...]  # budgets, evenly spaced; empty for a plain axis
    footnote: str


def plan_returns(sweep: Sweep) -> Plot:
    """Lay out the final returns of every evaluated arm against its epoch budget."""
    arms = [arm for arm in build_arms(sweep) if arm.trials]
    budgets = tuple(sorted({arm.factors["epochs"] for arm in arms}))
    panels: dict[str, dict[str, Series]] = {}
    for arm in sorted(arms, key=lambda arm: arm.factors["epochs"]):
        panel = panels.setdefault(arm.factors["task"], {})
        label, variant = _label(arm.factors), arm.factors["variant"]
        point = Point(budgets.index(arm.factors["epochs"]), tuple(arm.returns.values()))
        before = panel[label].points if label in panel else ()
        panel[label] = Series(label, variant, (*before, point))
    return Plot(
        f"{sweep.name}: final return by epoch budget",
        "epochs",
        {task: list(panels[task].values()) for task in _order_tasks(sweep, panels)},
        budgets,
        _describe_returns(arms),
    )


def plan_curves(sweep: Sweep, curves: dict[str, list[tuple[int, float]]]) -> Plot:
    """Lay out every seed's learning curve at each variant's largest budget."""
    drawn = [t for t in _largest_budgets(sweep.trials) if curves.get(t.record["trial"])]
    panels: dict[str, dict[str, Series]] = {}
    for trial in drawn:
        panel = panels.setdefault(trial.factors["task"], {})
        label, variant = _label(trial.factors), trial.factors["variant"]
        before = panel[label].curves if label in panel else ()
        curve = tuple(curves[trial.record["trial"]])
        panel[label] = Series(label, variant, curves=(*before, curve))
    sizes = [len(series.curves) for panel in panels.values() for series in panel.values()]
    episodes = sorted({_training_episodes(trial) for trial in drawn})
    return Plot(
        f"{sweep.name}: return during training, largest budget",
        "epoch",
        {task: list(panels[task].values()) for task in _order_tasks(sweep, panels)},
        (),
        f"Thin lines: one a training seed, {_span(sizes)} an arm; no interval. "
        f"Each point: {' or '.join(episodes)} evaluation episodes. Dotted: the task's floor.",
    )


def _label(factors: dict[str, Any]) -> str:
    """Return a series' name: its variant, and factors other than task and epochs."""
    others = [f"{k} {v}" for k, v in factors.items() if k not in ("task", "epochs", "variant")]
    return ", ".join([factors["variant"], *others])


def _order_tasks(sweep: Sweep, panels: dict[str, Any]) -> list[str]:
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
