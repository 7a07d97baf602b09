"""Draw a sweep's figures, and write them as PNG, SVG and PDF or return them for a page."""

import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.arms import leave_out_replaced
from analysis.curves import load_curves
from analysis.drawing.colours import LINE_STYLES, MARKERS, Style, choose_styles, find_places
from analysis.drawing.cost_figures import draw_costs, draw_scalings
from analysis.drawing.flow_figures import draw_flow_settings
from analysis.drawing.fonts import list_families, naming_boxes
from analysis.drawing.panels import choose_markers, choose_marks, draw_panel
from analysis.drawing.plots import (
    Panel,
    Plot,
    plan_all_curves,
    plan_curves,
    plan_predictions,
    plan_returns,
    plan_starts,
)
from analysis.drawing.search_figures import draw_settings
from analysis.drawing.sheet import (
    MANY_PANELS,
    PAGE_INCHES,
    finish_sheet,
    floor_key,
    mean_key,
    name_y,
    place_panels,
)
from analysis.drawing.verdict_figures import draw_effects, draw_pairs, draw_profiles, draw_winners
from analysis.report import Summary
from analysis.scattered import is_scattered
from analysis.short_names import fold
from pwmray.files import replacing

AXIS_NAMES = {
    "returns": ("", "return"),
    "curves": ("epoch", "return"),
    "predictions": ("steps ahead", "error / sd of rewards"),
    "starts": ("real start value", "imagined start value"),
}
TICK_INCHES = 0.85  # room for a category's name
NUMBER_INCHES = 0.08  # for a character of a number's
COLUMN_CHARACTERS = 20  # in a line of the name of a column of panels
TITLE_INCHES = 1.3  # for title, legend and footnote together, of few lines
_NEAR_MEAN = 0.95  # from such an error on, a figure reaches as high as that of a mean
FILE_CHARACTERS = 100  # of factors in a file's name, which may have 255 bytes with all
# What a file calls the date of its making, which is left out: the same figure is the same file.
DATES = {".png": "", ".svg": "Date", ".pdf": "CreationDate"}
STYLE: dict[Any, Any] = {"font.size": 9, "svg.hashsalt": "pwmray", "axes.spines.top": False}
STYLE |= {"axes.spines.right": False, "axes.titlesize": 10}
STYLE |= {"pdf.fonttype": 42}  # TrueType: publishers refuse Type 3, matplotlib's own choice
STYLE |= {"text.parse_math": False}  # names are people's: a "$" in one begins no formula


def draw_figures(summary: Summary, folder: Path) -> list[Path]:
    """Write the summary's figures into `folder`; return the paths written."""
    paths = []
    with matplotlib.rc_context({**STYLE, "font.family": list_families()}), naming_boxes():
        for name, figure in list_figures(summary).items():
            paths += _save(figure, folder / name)
    return paths


def list_figures(summary: Summary) -> dict[str, Figure]:
    """Return every figure that the summary has something for, by its file's name.

    To be called, and the figures drawn, with STYLE in force.
    """
    found: dict[str, Figure | None] = {}
    for table in summary.comparisons:
        found[f"winners_by_{_file_name([table.factor])}"] = draw_winners(summary, table)
    found |= _draw_trials(summary)
    found["return_against_epochs"] = draw_scalings(summary)
    found["effects_of_the_2x2"] = draw_effects(summary)
    for table in summary.comparisons:
        factor = _file_name([table.factor])
        found[f"pairs_of_seeds_by_{factor}"] = draw_pairs(summary, table)
        found[f"performance_profile_by_{factor}"] = draw_profiles(summary, table.factor)
    found["return_against_cost"] = draw_costs(summary)
    if not is_scattered(summary.sweep):
        found["flow_settings"] = draw_flow_settings(summary)
    return {name: figure for name, figure in found.items() if figure is not None}


def _draw_trials(summary: Summary) -> dict[str, Figure | None]:
    """Return the figures that show every trial: of a search against each setting, else by arm."""
    sweep = leave_out_replaced(summary.sweep)
    curves = load_curves(sweep)
    if is_scattered(summary.sweep):
        found = {"return_against_settings": draw_settings(summary._replace(sweep=sweep), curves)}
        plots = {"learning_curves": plan_all_curves(sweep, curves)}
    else:
        found, returns = {}, plan_returns(sweep)
        plots = {f"returns_by_{_file_name(returns.layout.by)}": returns}
        plots["learning_curves"] = plan_curves(sweep, curves)
        plots["predicted_rewards"] = plan_predictions(sweep, summary.predictions)
    plots["imagined_against_real"] = plan_starts(sweep)
    return found | {name: draw_plot(plot) for name, plot in plots.items() if plot.panels}


def _file_name(factors: Sequence[str]) -> str:
    """Return factors as a part of a file's name: of many those that there is room for."""
    names = [re.sub(r"\W+", "_", factor).strip("_") for factor in factors]
    lengths = itertools.accumulate(len(name) + 1 for name in names)
    num_kept = max(1, sum(length <= FILE_CHARACTERS for length in lengths))
    more = [f"and_{len(names) - num_kept}_more"] if num_kept < len(names) else []
    return "_".join([*names[:num_kept], *more])[:FILE_CHARACTERS]


def draw_plot(plot: Plot) -> Figure:
    """Return the figure of `plot`: its panels in a grid, one legend above."""
    size, together = _size_panel(plot), _count_together(plot)
    num_columns = _count_columns(plot, size[0])
    sheet = place_panels(
        len(plot.panels), num_columns, size, together, plot.kind in ("returns", "curves"),
        title_inches=TITLE_INCHES,
    )  # fmt: skip
    styles = style_series(plot)
    for axes, panel in zip(sheet.panels, plot.panels, strict=True):
        draw_panel(axes, panel, plot, styles)
        _title_panel(axes, panel, plot, is_wrapped=together > num_columns)
    return finish_sheet(sheet, plot.title, plot.footnote, _list_handles(plot, styles))


def _size_panel(plot: Plot) -> tuple[float, float]:
    """Return one panel's width and height in inches."""
    if plot.panels[0].category:
        return 1.6, 1.7
    ticks = plot.layout.ticks
    if plot.kind == "returns" and not plot.layout.is_joined:
        return max(3.2, min(TICK_INCHES * len(ticks), PAGE_INCHES[1])), 2.5
    if plot.kind == "returns":
        room = NUMBER_INCHES * max(len(tick.name) for tick in ticks) + 0.1
        return max(3.2, min(0.6 + room * len(ticks), PAGE_INCHES[1])), 2.7
    return 3.2, 3.1 if plot.kind == "starts" else 2.7


def _count_columns(plot: Plot, width: float) -> int:
    """Return the panels in a row: a task's categories, or as many tasks as the page has room.

    More categories than a wide page has room for go on in further rows of the task, evenly.
    """
    if plot.panels[0].category:
        number = _count_together(plot)
        return math.ceil(number / math.ceil(number * width / PAGE_INCHES[1]))
    page = PAGE_INCHES[len(plot.panels) >= MANY_PANELS]
    return min(len(plot.panels), max(1, int(page / width)))


def _count_together(plot: Plot) -> int:
    """Return the panels that begin a row of their own: a task's categories, or else all."""
    categories = {panel.category for panel in plot.panels}
    return len(plot.panels) if categories == {None} else len(categories)


def _title_panel(axes: Axes, panel: Panel, plot: Plot, is_wrapped: bool) -> None:
    """Name the panel: by its task, or in a grid of categories by its row and column."""
    x_label = AXIS_NAMES[plot.kind][0]
    if plot.kind == "returns" and len(plot.layout.axis) == 1:
        x_label = plot.layout.axis[0]
    axes.set_xlabel(x_label)
    if panel.category is None:
        axes.set_title(panel.task)
        name_y(axes, AXIS_NAMES[plot.kind][1])
        return
    place = axes.get_subplotspec()
    if place and (place.is_first_row() or is_wrapped):
        names = [fold(name, COLUMN_CHARACTERS) for name in reversed(panel.category) if name]
        axes.set_title("\n".join(names), fontsize=9)
    name_y(axes, f"{panel.task}\n{AXIS_NAMES[plot.kind][1]}")
    if not is_wrapped:  # else below some panel there is none to have the labels
        axes.label_outer()


def style_series(plot: Plot) -> dict[str, Style]:
    """Return each label's style: its level's, with a dash of its own where the level has several.

    Beyond all dashes the marker changes.
    """
    series = sorted((some for panel in plot.panels for some in panel.series), key=lambda s: s.place)
    levels = {some.label: some.level for some in series}
    styles = choose_styles(plot.layout.colour, levels.values())
    if len(styles) < len(levels):
        places = find_places(plot.layout.colour, styles)
        num_places = max(places.values()) + 1
        seen: Counter[Any] = Counter()
        found = {}
        for label, level in levels.items():
            round_of, dash = divmod(seen[level], len(LINE_STYLES))
            seen[level] += 1
            marker = MARKERS[(places[level] + num_places * round_of) % len(MARKERS)]
            found[label] = {**styles[level], "linestyle": LINE_STYLES[dash], "marker": marker}
    else:
        found = {label: styles[level] for label, level in levels.items()}
    return _spare_markers(found) if plot.kind in ("curves", "predictions") else found


def _spare_markers(styles: dict[str, Style]) -> dict[str, Style]:
    """Return styles of curves without the markers that nobody needs to tell them apart."""
    are_lines_enough = len({style["linestyle"] for style in styles.values()}) == len(styles)
    return {
        label: {**style, "marker": ""}
        if are_lines_enough or style["marker"] == MARKERS[0]
        else style
        for label, style in styles.items()
    }


def _list_handles(plot: Plot, styles: dict[str, Style]) -> list[Line2D]:
    """Return the legend's entries: series, and markers or the floor."""
    if plot.kind != "starts":
        shown = {"linewidth": 1.6, "markersize": 4}
        handles = [Line2D([], [], label=label, **shown, **styles[label]) for label in styles]
        if plot.kind != "predictions":
            return [*handles, floor_key()]
        worst = max(e for p in plot.panels for s in p.series for mark in s.marks for _, e in mark)
        return [*handles, *([mean_key()] if worst > _NEAR_MEAN else [])]
    mark: Style = {"linestyle": "", "markersize": 6}
    first = {label: marks[0] for label, marks in choose_marks(plot, styles).items()}
    handles = [Line2D([], [], label=label, **mark, **first[label]) for label in styles]
    ticks = plot.layout.ticks if len(plot.layout.ticks) > 1 else ()
    names = [" / ".join(filter(None, (tick.group, tick.name))) for tick in ticks]
    if plot.layout.is_joined and names:
        names[0] = f"{plot.layout.axis[0]} {names[0]}"  # what all these numbers are
    return handles + [
        Line2D([], [], label=name, color="0.3", **mark, **marker)
        for name, marker in zip(names, choose_markers(ticks), strict=True)
    ]


def _save(figure: Figure, stem: Path) -> list[Path]:
    paths = [stem.with_suffix(suffix) for suffix in DATES]
    for path in paths:
        metadata = {DATES[path.suffix]: None} if DATES[path.suffix] else None
        with replacing(path) as draft:
            figure.savefig(draft, format=path.suffix[1:], dpi=150, metadata=metadata)
        figure.set_layout_engine(None)  # all keeps its place: finding it takes half of the time
    return paths
