"""Draw what returns cost, and how they grow with epochs."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.arms import Arm, leave_out_replaced
from analysis.conditions import describe_machines, describe_pretraining
from analysis.drawing.colours import MARKERS, Style, choose_fills, choose_styles
from analysis.drawing.layout import Factors, choose_coloured, list_varied
from analysis.drawing.sheet import describe_sample, finish_sheet, make_sheet, name_y, show_returns
from analysis.report import Summary
from analysis.scaling import SHAPES, SHARE, Scaling
from analysis.scattered import is_scattered
from analysis.short_names import ShortNames, shorten_levels, shorten_number
from analysis.verdict import CONFIDENCE

_MOST_ANSWERS = 6  # in a footnote; of more the table tells
_LOWEST_BAR, _BAR_STEP = 18.0, 32.0  # heights of the intervals' bars, in points of return
_BARS_ROOM = 400.0  # which they fill at most
_REACH = 0.5, 1.5  # of the smallest and of the largest budget: where curves begin and end
_AXIS_CHARACTERS = 32  # that fit along a panel
_UPRIGHT_CHARACTERS = 2.0  # whose room an upright name takes


class _Looks(NamedTuple):
    """How arms are distinguished: by colour for one factor, by shape for all others.

    In grey the one factor is told by shape as well, or where others have that by filling.
    """

    factor: str
    marks: dict[Any, Style]  # of the levels of `factor`
    others: tuple[str, ...]
    shapes: dict[tuple, str]  # by the levels of `others`; empty if one is enough, or all too few
    names: ShortNames

    def find(self, factors: Factors) -> Style:
        """Return an arm's mark."""
        mark = self.marks[factors[self.factor]]
        group = tuple(factors[name] for name in self.others)
        return {**mark, "marker": self.shapes[group]} if self.shapes else mark

    def list_keys(self) -> list[Line2D]:
        """Return the legend's entries: the colours, then the shapes."""
        named = self.names.named
        first = {"marker": next(iter(self.shapes.values()))} if self.shapes else {}
        marks = [(named(self.factor, level), {**m, **first}) for level, m in self.marks.items()]
        marks += [
            (self._name(group), {"color": "0.3", "marker": shape, "linestyle": ""})
            for group, shape in self.shapes.items()
        ]
        return [Line2D([], [], label=label, **mark) for label, mark in marks]

    def _name(self, group: tuple) -> str:
        levels = zip(self.others, group, strict=True)
        applying = [self.names.named(name, level) for name, level in levels if level is not None]
        return ", ".join(applying) or "no such setting"

    def explain(self) -> str:
        """Say what short names stand for, and which factors are not distinguished."""
        if self.shapes or not self.others:
            return self.names.explain(self.factor, *self.others)
        return f" Not told apart: {', '.join(self.others)}." + self.names.explain(self.factor)


def draw_costs(summary: Summary) -> Figure | None:
    """Return every seed's return against its time of training, one panel per task."""
    costly = [arm for arm in summary.arms if arm.trials and arm.train_seconds]
    tasks = list(dict.fromkeys(arm.factors["task"] for arm in costly))
    if not tasks:
        return None
    looks = _choose_looks(summary, [arm.factors for arm in costly])
    unit, seconds = _choose_unit(max(arm.train_seconds or 0.0 for arm in costly))
    sheet = make_sheet(len(tasks), (3.2, 2.7), sharey=True, sharex=True)
    for axes, task in zip(sheet.panels, tasks, strict=True):
        for arm in (arm for arm in costly if arm.factors["task"] == task):
            _draw_cost(axes, arm, seconds, looks)
        _finish_returns(axes, task, f"{unit} of training a trial")
        axes.tick_params(labelbottom=True)  # there may be no panel below to have the labels
    sheet.panels[0].set_xlim(left=0.0)  # last, since the shared axis grows no more after it
    devices = sorted({name for cost in summary.costs for name in cost.devices})
    counting = leave_out_replaced(summary.sweep)
    told = describe_machines(counting), describe_pretraining(counting)
    marks = "Small marks: training seeds; large: means of arms"
    if all(len(arm.counted) == 1 for arm in costly):
        marks = "Marks: trials"
    return finish_sheet(
        sheet,
        f"{summary.sweep.name}: return and what it cost",
        f"{marks}. Device: {', '.join(devices)}. Dotted: the task's floor. "
        + "".join(f"{said} " for said in told if said)
        + describe_sample(costly, "no interval")
        + looks.explain(),
        looks.list_keys(),
    )


def draw_scalings(summary: Summary) -> Figure | None:
    """Return final returns against epochs with the fits, one panel per task."""
    known = [scaling for scaling in summary.scalings if scaling.budgets]
    if not known:
        return None
    tasks = list(dict.fromkeys(scaling.group["task"] for scaling in known))
    looks = _choose_looks(summary, [scaling.group for scaling in known])
    sheet = make_sheet(len(tasks), (3.2, 2.7), sharey=True)
    for axes, task in zip(sheet.panels, tasks, strict=True):
        here = [scaling for scaling in known if scaling.group["task"] == task]
        for scaling in here:
            _draw_scaling(axes, scaling, looks)
        _draw_needed(axes, here, looks)
        _finish_returns(axes, task, "epochs")
        _name_budgets(axes, here)
    answers = [
        f"{', '.join(looks.names.named(name, level) for name, level in scaling.group.items())}: "
        f"{scaling.answer}"
        for scaling in known
    ]
    told = "; ".join(answers) if len(answers) <= _MOST_ANSWERS else "Answers: in the table"
    arms = [arm for arm in summary.arms if arm.trials]
    interval = f"{CONFIDENCE:.0%} profile interval of the epochs to {SHARE:.0%} of the plateau"
    return finish_sheet(
        sheet,
        f"{summary.sweep.name}: return against epochs, with saturating fits",
        "Marks: training seeds, and at the ends of lines and on bars whose they are. Lines: the "
        "shape that fits best, and dashed the other where it fits as well. "
        f"{describe_sample(arms, f'bars: {interval}')} {told}.{looks.explain()}",
        looks.list_keys(),
    )


def _choose_looks(summary: Summary, shown: Sequence[Factors]) -> _Looks:
    """Choose colours and shapes for arms; epochs have neither, since they are along x."""
    names = shorten_levels(summary.arms)
    if is_scattered(summary.sweep):  # too many settings to tell its trials apart
        return _Looks("variant", _mark_levels("variant", shown, False), (), {}, names)
    factor = choose_coloured(summary.arms, summary.comparisons[0].factor)
    others = [
        name
        for name in list_varied(summary.arms)
        if name not in (factor, "epochs") and len({factors[name] for factors in shown}) > 1
    ]
    groups = list(dict.fromkeys(tuple(factors[name] for name in others) for factors in shown))
    shapes = dict(zip(groups, MARKERS, strict=False)) if 1 < len(groups) <= len(MARKERS) else {}
    marks = _mark_levels(factor, shown, len(groups) > 1)
    return _Looks(factor, marks, tuple(others), shapes, names)


def _mark_levels(factor: str, shown: Sequence[Factors], has_others: bool) -> dict[Any, Style]:
    """Return each level's mark: its own shape, or where others have shapes its own filling."""
    levels = list(dict.fromkeys(factors[factor] for factors in shown))
    fills = choose_fills(factor, levels)
    return {
        level: {"color": style["color"], "linestyle": ""}
        | (
            {"marker": MARKERS[0], "fillstyle": fills[level]}
            if has_others
            else {"marker": style["marker"]}
        )
        for level, style in choose_styles(factor, levels).items()
    }


def _draw_cost(axes: Axes, arm: Arm, seconds: float, looks: _Looks) -> None:
    """Draw an arm's seeds, and their mean where they are several."""
    mark = looks.find(arm.factors)
    known = [trial for trial in arm.counted if trial.record["train_seconds"]]
    times = [trial.record["train_seconds"] / seconds for trial in known]
    returns = [trial.final_return for trial in known]
    axes.plot(times, returns, markersize=3.7, alpha=0.6, zorder=3, clip_on=False, **mark)
    if len(known) > 1:
        middle = float(np.mean(times)), float(np.mean(returns))
        axes.plot(*middle, markersize=7, zorder=4, clip_on=False, **mark)


def _draw_scaling(axes: Axes, scaling: Scaling, looks: _Looks) -> None:
    mark = looks.find(scaling.group)
    for budget, returns in zip(scaling.budgets, scaling.returns, strict=True):
        at = [budget] * len(returns)
        axes.plot(at, returns, markersize=4, alpha=0.7, zorder=3, clip_on=False, **mark)
    if not scaling.fits:
        return
    epochs = np.geomspace(*_reach(scaling), 100)
    for place, fit in enumerate(scaling.fits):
        shape = next(shape for shape in SHAPES if shape.name == fit.shape)
        curve = scaling.floor + fit.gain * shape.rise(epochs / fit.tau)
        line = {**mark, "linestyle": "-" if place == 0 else "--"}
        axes.plot(
            epochs, curve, linewidth=1.2, alpha=0.9, zorder=2, markevery=[-1], markersize=5, **line
        )


def _name_budgets(axes: Axes, scalings: Sequence[Scaling]) -> None:
    """Name each budget along a log axis, upright if two names side by side would touch.

    Where even upright names would touch, the smaller of the two budgets has none.
    """
    budgets = sorted({budget for scaling in scalings for budget in scaling.budgets})
    names = [shorten_number(budget) for budget in budgets]
    places = np.log(budgets) / np.log(_REACH[1] * budgets[-1] / (_REACH[0] * budgets[0]))
    places *= _AXIS_CHARACTERS
    room = np.diff(places)
    is_crowded = any(len(name) >= space for name, space in zip(names[1:], room, strict=True))
    shown = [len(budgets) - 1]
    for place in reversed(range(len(budgets) - 1)):
        if places[shown[0]] - places[place] > _UPRIGHT_CHARACTERS:
            shown.insert(0, place)
    axes.set_xscale("log")
    told = [name if place in shown else "" for place, name in enumerate(names)]
    axes.set_xticks(budgets, told, rotation=90 if is_crowded else 0)
    axes.minorticks_off()


def _draw_needed(axes: Axes, scalings: Sequence[Scaling], looks: _Looks) -> None:
    """Draw the interval of the epochs that each arm needs, each bar at its own height."""
    bars = []
    for scaling in scalings:
        if scaling.is_known and scaling.low is not None and scaling.high is not None:
            first, last = _reach(scaling)
            bars.append((max(scaling.low, first), min(scaling.high, last), scaling.group))
    bars = [bar for bar in bars if bar[0] < bar[1]]
    step = min(_BAR_STEP, _BARS_ROOM / max(len(bars), 1))
    for place, (low, high, group) in enumerate(bars):
        height = _LOWEST_BAR + step * place
        mark = looks.find(group)
        line = {"color": mark["color"], "linewidth": 0.1 * step, "solid_capstyle": "butt"}
        axes.plot([low, high], [height, height], **line)
        axes.plot([(low * high) ** 0.5], [height], **{**mark, "color": "black"}, markersize=2.5)


def _reach(scaling: Scaling) -> tuple[float, float]:
    """Return the epochs between which a scaling's curve is drawn."""
    return min(scaling.budgets) * _REACH[0], max(scaling.budgets) * _REACH[1]


def _finish_returns(axes: Axes, task: str, x_label: str) -> None:
    show_returns(axes, task)
    axes.set(xlabel=x_label, title=task)
    name_y(axes, "return")


def _choose_unit(seconds: float) -> tuple[str, float]:
    """Return the unit that suits a time, and its seconds."""
    if seconds < 120.0:
        return "seconds", 1.0
    return ("minutes", 60.0) if seconds < 7200.0 else ("hours", 3600.0)
