"""Lay out a figure: panels in rows, a title and legend above, a footnote below."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.arms import Arm
from analysis.load import describe_episodes, format_span
from analysis.verdict import RETURN_MAX
from pwmray.tasks import find_task

PAGE_INCHES = (10.0, 16.5)  # panels side by side fill this; the second where they are many
MANY_PANELS = 10
TITLE_INCHES = 0.9  # for title, legend and footnote together, of few lines
FLOOR_LINE = {"color": "0.3", "linestyle": ":", "linewidth": 1.2}
_LINE_INCHES, _FREE_LINES = 0.18, 4  # for each line of legend, footnote and title beyond these


class Sheet(NamedTuple):
    """A figure with its panels."""

    figure: Figure
    panels: list[Axes]


def make_sheet(
    num_panels: int,
    size: tuple[float, float],
    sharey: bool = False,
    sharex: bool = False,
    together: int = 1,
) -> Sheet:
    """Return a figure of panels of `size` inches (width, height), as many in a row as fit.

    Every `together` panels form a group. A row holds whole groups, or, if a group is wider than the
    page, a group gets several rows of its own.
    """
    page = PAGE_INCHES[num_panels >= MANY_PANELS]
    num_columns = max(1, min(num_panels, int(page / size[0])))
    if num_columns >= together:
        num_columns -= num_columns % together
        together = num_columns
    num_columns = math.ceil(together / math.ceil(together / num_columns))
    return place_panels(num_panels, num_columns, size, together, sharey, sharex)


def place_panels(
    num_panels: int,
    num_columns: int,
    size: tuple[float, float],
    together: int,
    sharey: bool,
    sharex: bool = False,
    title_inches: float = TITLE_INCHES,
) -> Sheet:
    """Return a figure of panels of `size` inches; every `together` panels begin a new row."""
    width, height = size
    block = num_columns * math.ceil(together / num_columns)
    places = [n // together * block + n % together for n in range(num_panels)]
    num_rows = math.ceil((places[-1] + 1) / num_columns)
    inches = max(width * num_columns, 5.5), height * num_rows + title_inches
    figure = Figure(figsize=inches, layout="constrained")
    grid = figure.subplots(num_rows, num_columns, squeeze=False, sharey=sharey, sharex=sharex)
    for place, unused in enumerate(grid.flat):
        if place not in places:
            unused.set_axis_off()
    return Sheet(figure, [grid.flat[place] for place in places])


def finish_sheet(sheet: Sheet, title: str, footnote: str, handles: Sequence[Line2D] = ()) -> Figure:
    """Write the title and a legend of `handles` above, and the footnote below, all wrapped."""
    for axes in sheet.panels:
        axes.set_axisbelow(True)
    figure = sheet.figure
    width = float(figure.get_figwidth())
    title_lines = textwrap.wrap(title, int(width * 17 / 1.75))
    lines = textwrap.wrap(footnote, int(width * 17))
    figure.supxlabel("\n".join(lines), fontsize=7.5, color="0.35")
    num_columns = count_legend_columns([handle.get_label() for handle in handles], width)
    num_lines = math.ceil(len(handles) / num_columns) + len(lines) + len(title_lines) - 1
    height = figure.get_figheight() + _LINE_INCHES * max(num_lines - _FREE_LINES, 0)
    figure.set_figheight(height)
    figure.legend(
        handles=list(handles),
        title="\n".join(title_lines),
        title_fontsize=11,
        loc="outside upper center",
        ncols=num_columns,
        frameon=False,
    )
    return figure


def show_returns(axes: Axes, task: str) -> None:
    """Set y up for returns, and draw the task's floor."""
    axes.axhline(find_task(task).floor, zorder=1, **FLOOR_LINE)
    axes.set_ylim(0.0, RETURN_MAX)
    axes.grid(axis="y", color="0.92", linewidth=0.8)


def show_errors(axes: Axes) -> None:
    """Set y up for errors by steps ahead, and draw that of whoever knew the rewards' mean."""
    along = axes.get_yaxis_transform()  # as wide as the panel, and no reason to make it taller
    axes.plot([0.0, 1.0], [1.0, 1.0], transform=along, scaley=False, zorder=1, **FLOOR_LINE)
    axes.set_ylim(bottom=0.0)
    axes.locator_params(axis="x", integer=True)
    axes.grid(axis="y", color="0.92", linewidth=0.8)


def name_y(axes: Axes, label: str) -> None:
    """Name what stands along y, beside the first panel of a row alone."""
    place = axes.get_subplotspec()
    if place and place.is_first_col():
        axes.set_ylabel(label)


def floor_key() -> Line2D:
    """Return the legend's entry of the floor."""
    return Line2D([], [], label="floor (doing nothing or at random)", **FLOOR_LINE)


def mean_key() -> Line2D:
    """Return the legend's entry of what knowing the mean of the rewards gives."""
    return Line2D([], [], label="no better than their mean", **FLOOR_LINE)


def count_legend_columns(labels: Sequence[Any], inches: float) -> int:
    """Return how many legend columns fit a width, estimated from their labels."""
    widths = [0.07 * len(str(label)) + 0.65 for label in labels]
    for number in range(len(labels), 1, -1):
        columns = np.array_split(widths, number)  # as matplotlib fills them
        if sum(column.max() for column in columns) <= inches:
            return number
    return 1


def describe_sample(arms: Sequence[Arm], interval: str) -> str:
    """Say n, the interval's kind and the evaluation episodes of some arms."""
    parts = [part for arm in arms for part in (arm.parts or (arm,))]
    trials = [trial for part in parts for trial in part.counted]
    seeds = [len(arm.returns) for arm in arms]
    return (
        f"n = {format_span(seeds)} training seeds an arm; {interval}; a final return: "
        f"{describe_episodes(trials)} evaluation episodes."
    )
