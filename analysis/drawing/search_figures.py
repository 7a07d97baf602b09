"""Draw what a search found: the return of every trial against each setting that was searched."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from analysis.arms import is_numeric, rank_levels
from analysis.curves import Curves
from analysis.drawing.colours import Style, choose_styles
from analysis.drawing.sheet import finish_sheet, floor_key, make_sheet, name_y, show_returns
from analysis.load import Trial, describe_episodes, format_span
from analysis.report import Summary
from analysis.scattered import list_settings
from analysis.short_names import ShortNames, shorten_levels, shorten_number

_MOST_PLACES = 6  # at most so many shared numbers are drawn as categories, more along an axis
_LOG_RATIO, _MANY_DECADES = 10.0, 3000.0  # of the largest to the smallest number: a log axis
_MARGIN = 0.04  # of an axis, on either side
_SPREAD, _GOLDEN = 0.5, 0.618  # sideways jitter of the marks of one level
_LINE_CHARACTERS = 26  # of the names of levels or numbers in one line below a panel
_MARK: Style = {"markersize": 4, "markeredgewidth": 0.0, "linestyle": ""}
_CUT: Style = {"marker": "o", "markersize": 4, "fillstyle": "none", "linestyle": "", "color": "0.5"}
_BEST: Style = {"marker": "*", "markersize": 11, "markeredgecolor": "white", "linestyle": ""}
_BEST |= {"color": "black"}


class Draw(NamedTuple):
    """One trial: its settings and how it ended."""

    factors: dict[str, Any]
    value: float  # its final return, or its last one during training
    is_evaluated: bool


class Scale(NamedTuple):
    """Where the levels of a setting stand along x."""

    places: dict[Any, float]
    names: list[str]  # of the places 0, 1, ...; empty where numbers are an axis
    is_log: bool

    @property
    def ends(self) -> tuple[float, float]:
        """Return where the axis begins and ends."""
        places = self.places.values()
        low, high = min(places), max(places)
        if self.names:
            return low - 0.5, high + 0.5
        if self.is_log:
            margin = (high / low) ** _MARGIN
            return low / margin, high * margin
        margin = _MARGIN * (high - low)
        return low - margin, high + margin


def plan_draws(summary: Summary, curves: Curves) -> list[Draw]:
    """Return every trial that has a return, those without a final one first."""
    draws = [_make_draw(trial, curves) for trial in summary.sweep.trials]
    return sorted((draw for draw in draws if draw is not None), key=lambda d: d.is_evaluated)


def scale_setting(summary: Summary, setting: str, names: ShortNames) -> Scale:
    """Return the places of one setting's levels: as categories, or as numbers on an axis."""
    ranks = rank_levels(summary.arms)
    levels = [level for factor, level in ranks if factor == setting]
    numbers = [level for level in levels if level is not None]
    is_shared = 2 * len(numbers) <= len(summary.sweep.trials)
    if not is_numeric(numbers) or (is_shared and len(numbers) <= _MOST_PLACES):
        places = {level: float(ranks[(setting, level)]) for level in levels}
        ordered = sorted(levels, key=lambda level: places[level])
        return Scale(places, [names.tick(setting, level) for level in ordered], False)
    is_log = min(numbers) > 0 and max(numbers) >= _LOG_RATIO * min(numbers)
    return Scale({number: float(number) for number in numbers}, [], is_log)


def draw_settings(summary: Summary, curves: Curves) -> Figure | None:
    """Return the return of every trial against each setting, a panel a task and setting."""
    draws, settings = plan_draws(summary, curves), list_settings(summary.sweep)
    there = {draw.factors["task"] for draw in draws}
    tasks = [t for t in dict.fromkeys(a.factors["task"] for a in summary.arms) if t in there]
    if not draws or not settings:
        return None
    names = shorten_levels(summary.arms)
    scales = {setting: scale_setting(summary, setting, names) for setting in settings}
    styles = choose_styles("variant", [draw.factors["variant"] for draw in draws])
    marks = {variant: {**style, **_MARK} for variant, style in styles.items()}
    panels = [(task, setting) for task in tasks for setting in settings]
    sheet = make_sheet(len(panels), (2.4, 1.9), sharey=True, together=len(settings))
    for axes, (task, setting) in zip(sheet.panels, panels, strict=True):
        here = [draw for draw in draws if draw.factors["task"] == task]
        _draw_panel(axes, here, setting, scales[setting], marks)
        _finish_panel(axes, task, setting, scales[setting])
    ends = [draw for draw in draws if draw.is_evaluated]
    counts = [sum(draw.factors["task"] == task for draw in ends) for task in tasks]
    return finish_sheet(
        sheet,
        f"{summary.sweep.name}: return against each setting",
        f"Marks: trials, {format_span(counts)} a task; no interval. A panel shows one setting, and "
        "the others differ too. The best is flattered by the choice. Trials at one level are "
        "spread sideways. A final return: "
        f"{describe_episodes(summary.sweep.usable)} evaluation episodes."
        + names.explain(*(setting for setting in settings if scales[setting].names)),
        _list_keys(marks, any(not draw.is_evaluated for draw in draws)),
    )


def _make_draw(trial: Trial, curves: Curves) -> Draw | None:
    if trial.is_usable:
        return Draw(trial.factors, trial.final_return, True)
    curve = curves.get(trial.record["trial"])
    points = curve.points if curve is not None else []
    return Draw(trial.factors, points[-1][1], False) if points else None


def _draw_panel(
    axes: Axes, draws: Sequence[Draw], setting: str, scale: Scale, marks: dict[Any, Style]
) -> None:
    ends = [draw for draw in draws if draw.is_evaluated]
    best = max(ends, key=lambda draw: draw.value, default=None)
    layers: dict[int, list[tuple[float, float]]] = {}
    styles = [_CUT, *marks.values(), _BEST]
    for number, draw in enumerate(draws):
        place = scale.places.get(draw.factors[setting])
        if place is None:  # the setting does not apply
            continue
        if scale.names:
            place += _SPREAD * (number * _GOLDEN % 1.0 - 0.5)
        layer = 1 + list(marks).index(draw.factors["variant"]) if draw.is_evaluated else 0
        layers.setdefault(layer if draw is not best else -1, []).append((place, draw.value))
    for layer, points in layers.items():
        at, values = zip(*points, strict=True)
        axes.plot(at, values, zorder=3 if layer >= 0 else 4, clip_on=False, **styles[layer])


def _finish_panel(axes: Axes, task: str, setting: str, scale: Scale) -> None:
    show_returns(axes, task)
    axes.set_xlabel(setting, fontsize=8)
    name_y(axes, f"{task}\nreturn")
    axes.tick_params(axis="x", labelsize=8)
    if scale.names:
        is_long = sum(map(len, scale.names)) > _LINE_CHARACTERS
        axes.set_xticks(range(len(scale.names)), scale.names, rotation=90 if is_long else 0)
    elif scale.is_log:
        is_wide = max(scale.places) > _MANY_DECADES * min(scale.places)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if is_wide else (1.0, 3.0)))
        axes.minorticks_off()
    else:
        axes.locator_params(axis="x", nbins=4)
    if not scale.names:
        axes.xaxis.set_major_formatter(lambda value, _: shorten_number(value))
    axes.set_xlim(*scale.ends)
    if scale.is_log and sum(map(len, _list_shown(axes))) > _LINE_CHARACTERS:
        axes.tick_params(axis="x", labelrotation=90)


def _list_shown(axes: Axes) -> list[str]:
    """Return the names of the ticks of numbers within the axis."""
    low, high = axes.get_xlim()
    return [shorten_number(place) for place in axes.get_xticks() if low <= place <= high]


def _list_keys(marks: dict[Any, Style], has_cut: bool) -> list[Line2D]:
    keys = [Line2D([], [], label=str(variant), **mark) for variant, mark in marks.items()]
    keys.append(Line2D([], [], label="best of its task", **_BEST))
    if has_cut:
        label = "not evaluated: last return during training"
        keys.append(Line2D([], [], label=label, **_CUT))
    return [*keys, floor_key()]
