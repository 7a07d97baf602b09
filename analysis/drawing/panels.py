"""Draw one panel of a figure: returns, learning curves, predictions, imagined against real."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from matplotlib.axes import Axes

from analysis.drawing.colours import MARKERS, Style, choose_fills
from analysis.drawing.layout import Tick
from analysis.drawing.plots import INTERVAL_SEEDS, Panel, Plot, Point, Series
from analysis.drawing.sheet import show_errors, show_returns
from analysis.short_names import fold, shorten_number
from analysis.stats import mean, sample_sd, t_quantile
from analysis.verdict import CONFIDENCE

DODGE = {True: 0.09, False: 0.2}  # ticks between the arms of one tick, if joined by lines or not
SPREAD = 0.8  # of a tick's room that its arms fill at most
FILLED = MARKERS[:8]  # shapes that stay apart where they are filled in part
FILLS = ("none", "full", "left", "top")  # for levels, where the marker's shape is the group
TICK_CHARACTERS = 11  # in a line of a tick's name: as wide as its room
MOST_LEVEL_NAMES = 19  # ticks whose names fit side by side on the widest page; more stand upright
UPRIGHT_LINES = 0.5  # that a character of an upright name takes
CURVE_MARKERS = 8  # on a learning curve that needs them


def draw_panel(axes: Axes, panel: Panel, plot: Plot, styles: dict[str, Style]) -> None:
    """Draw `panel` of `plot`; `styles` has every label of the figure, in the legend's order."""
    painters: dict[str, Callable[..., None]] = {
        "returns": _draw_returns,
        "curves": _draw_curves,
        "predictions": _draw_curves,
        "starts": _draw_starts,
    }
    painters[plot.kind](axes, panel.series, plot, styles)
    if plot.kind == "predictions":
        show_errors(axes)
    elif plot.kind != "starts":
        show_returns(axes, panel.task)


def choose_markers(ticks: Sequence[Tick]) -> list[Style]:
    """Return each tick's marker: shapes for groups and fillings for levels, if there are enough.

    Otherwise each tick has its own shape, filled, with another filling once shapes repeat.
    """
    groups = list(dict.fromkeys(tick.group for tick in ticks))
    names = list(dict.fromkeys(tick.name for tick in ticks))
    if 1 < len(groups) <= len(FILLED) and len(names) <= len(FILLS):
        return [_marker(groups.index(tick.group), names.index(tick.name)) for tick in ticks]
    return [_marker(place, 1 + place // len(FILLED)) for place in range(len(ticks))]


def choose_marks(plot: Plot, styles: dict[str, Style]) -> dict[str, list[Style]]:
    """Return the mark of each series of `starts` at each tick.

    Its shape, or where ticks have the shapes its filling, tells the series in grey, too.
    """
    levels = {series.label: series.level for panel in plot.panels for series in panel.series}
    fills = choose_fills(plot.layout.colour, levels.values())
    ticks = choose_markers(plot.layout.ticks)
    are_fills_free = all(tick["fillstyle"] == "full" for tick in ticks)
    marks = {}
    for label, style in styles.items():
        own: Style = {"fillstyle": fills[levels[label]]} if are_fills_free else {}
        if len(ticks) == 1:
            own = {"marker": style["marker"]}
        marks[label] = [{"color": style["color"], **tick, **own} for tick in ticks]
    return marks


def _marker(shape: int, fill: int) -> Style:
    return {"marker": FILLED[shape % len(FILLED)], "fillstyle": FILLS[fill % len(FILLS)]}


def _draw_returns(
    axes: Axes, panel: Sequence[Series], plot: Plot, styles: dict[str, Style]
) -> None:
    """Draw seeds as dots, means as lines or short bars, intervals where seeds are enough."""
    layout = plot.layout
    step = min(DODGE[layout.is_joined], SPREAD / len(styles))
    for series in panel:
        shift = (list(styles).index(series.label) - (len(styles) - 1) / 2.0) * step
        style = styles[series.label]
        if layout.is_joined:
            positions = [point.position + shift for point in series.marks]
            means = [mean(point.returns) for point in series.marks]
            line = {**style, "marker": ""}
            axes.plot(positions, means, linewidth=1.6, zorder=3, **line)
        bar = 0.0 if layout.is_joined and len(series.marks) > 1 else 0.42 * step
        for point in series.marks:
            _draw_seeds(axes, point, point.position + shift, bar, style)
    axes.set_xlim(-0.5, len(layout.ticks) - 0.5)
    _name_ticks(axes, layout.ticks)


def _draw_seeds(axes: Axes, point: Point, position: float, bar: float, style: Style) -> None:
    """Draw an arm's seeds around `position`, and their mean as a bar of half width `bar`."""
    at, colour = [position] * len(point.returns), style["color"]
    axes.scatter(
        at, point.returns, s=18, color=colour, marker=style["marker"], alpha=0.75, zorder=4,
        clip_on=False, edgecolors="white", linewidths=0.5,
    )  # fmt: skip
    middle = mean(point.returns)
    if bar:
        axes.hlines(middle, position - bar, position + bar, color=colour, linewidth=2.2, zorder=3)
    half = _half_interval(point.returns)
    if half is not None:
        axes.errorbar(position, middle, half, color=colour, capsize=3, zorder=3)


def _name_ticks(axes: Axes, ticks: Sequence[Tick]) -> None:
    """Name each tick; groups are named once below their ticks, with a line between groups."""
    is_crowded = len(ticks) > MOST_LEVEL_NAMES
    names = [tick.name if is_crowded else fold(tick.name, TICK_CHARACTERS) for tick in ticks]
    axes.set_xticks(range(len(ticks)), names, rotation=90 if is_crowded else 0)
    groups = list(_span_groups(ticks))
    if len(groups) == 1 and not groups[0][0]:
        return
    num_lines = max(
        math.ceil(UPRIGHT_LINES * len(name)) if is_crowded else name.count("\n") + 1
        for name in names
    )
    room = TICK_CHARACTERS * min(1.0, MOST_LEVEL_NAMES / len(ticks))
    axes.tick_params(axis="x", length=0)
    below = axes.secondary_xaxis(location=0)
    below.set_xticks(
        [(first + last) / 2.0 for _, first, last in groups],
        ["\n" * num_lines + _fold_group(*group, room) for group in groups],
        fontweight="bold",
    )
    below.tick_params(axis="x", length=0)
    for _, first, _ in groups[1:]:
        axes.axvline(first - 0.5, color="0.85", linewidth=0.8, zorder=0)


def _fold_group(name: str, first: int, last: int, room: float) -> str:
    """Return a group's name, one factor per line if it does not fit the `room` of its ticks."""
    is_wide = len(name) > room * (last - first + 1)
    return name.replace(" / ", "\n") if is_wide else name


def _span_groups(ticks: Sequence[Tick]) -> Iterator[tuple[str, int, int]]:
    """Yield each group's name, and its first and last place."""
    for name, members in groupby(enumerate(ticks), key=lambda item: item[1].group):
        places = [place for place, _ in members]
        yield name, places[0], places[-1]


def _draw_curves(
    axes: Axes, panel: Sequence[Series], _plot: Plot, styles: dict[str, Style]
) -> None:
    for series in panel:
        is_banded = len(series.marks) >= INTERVAL_SEEDS  # its mean is drawn above its seeds
        width, alpha = (0.5, 0.35) if is_banded else (0.9, 0.85)
        for curve in series.marks:
            epochs, returns = zip(*curve, strict=True)
            style = styles[series.label]
            if len(curve) == 1 and not style["marker"]:
                style = {**style, "marker": "."}
            axes.plot(
                epochs, returns, linewidth=width, alpha=alpha, zorder=3, markersize=3.5,
                markevery=max(1, len(curve) // CURVE_MARKERS), **style,
            )  # fmt: skip
        if is_banded:
            _draw_band(axes, series.marks, styles[series.label])
    axes.xaxis.set_major_formatter(lambda value, _: shorten_number(value))
    axes.set_xlim(left=0)


def _draw_band(axes: Axes, curves: Sequence[Sequence[tuple[int, float]]], style: Style) -> None:
    """Draw the mean with its t interval at the epochs that every seed has."""
    points = [dict(curve) for curve in curves]
    epochs = [epoch for epoch in points[0] if all(epoch in some for some in points)]
    at = [[some[epoch] for some in points] for epoch in epochs]
    middle = [mean(returns) for returns in at]
    half = [_half_interval(returns) or 0.0 for returns in at]
    low = [m - h for m, h in zip(middle, half, strict=True)]
    high = [m + h for m, h in zip(middle, half, strict=True)]
    axes.fill_between(epochs, low, high, color=style["color"], alpha=0.18, linewidth=0, zorder=2)
    axes.plot(epochs, middle, linewidth=1.6, zorder=4, **{**style, "marker": ""})


def _draw_starts(axes: Axes, panel: Sequence[Series], plot: Plot, styles: dict[str, Style]) -> None:
    """Draw one mark per trial on equal axes, with the line on which both values agree."""
    marks = choose_marks(plot, styles)
    for series in panel:
        for start in series.marks:
            mark = marks[series.label][start.position]
            axes.plot(start.real, start.imagined, markersize=6, linestyle="", alpha=0.85, **mark)
    values = [v for series in panel for s in series.marks for v in (s.real, s.imagined)]
    margin = 0.06 * (max(values) - min(values)) or 1.0
    limits = min(values) - margin, max(values) + margin
    axes.set(xlim=limits, ylim=limits, box_aspect=1)
    axes.locator_params(nbins=6)
    axes.axline((0.0, 0.0), slope=1.0, color="0.3", linewidth=0.9, zorder=1)
    axes.grid(color="0.94", linewidth=0.8)


def _half_interval(returns: Sequence[float]) -> float | None:
    """Return the half width of the mean's t interval; None below INTERVAL_SEEDS seeds."""
    sd = sample_sd(returns)
    if sd is None or len(returns) < INTERVAL_SEEDS:
        return None
    return t_quantile(len(returns) - 1, CONFIDENCE) * sd / math.sqrt(len(returns))
