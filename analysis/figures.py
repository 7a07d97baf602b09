"""Draw a sweep: final return against epochs, and learning curves; as PNG and SVG."""

import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.load import Sweep, read_curves
from analysis.plots import INTERVAL_SEEDS, Plot, Series, plan_curves, plan_returns
from analysis.stats import sample_sd, t_quantile
from analysis.verdict import CONFIDENCE, RETURN_MAX
from pwmray.files import replacing
from pwmray.tasks import find_task

# One colour per variant in every figure (Okabe and Ito's colour-blind safe set).
VARIANT_COLOURS = {
    "baseline": "#0072B2",
    "flowpolicy": "#E69F00",
    "flowwm": "#009E73",
    "fullflow": "#D55E00",
}
OTHER_COLOUR = "#999999"
LINE_STYLES = ("-", "--", "-.", (0, (1, 1.5)))  # where arms of one variant differ in another factor
PANEL_INCHES = (3.2, 2.7)
DODGE = 0.09  # between the arms of one budget, in budgets
STYLE: dict[Any, Any] = {"font.size": 9, "svg.hashsalt": "pwmray", "axes.spines.top": False}
STYLE |= {"axes.spines.right": False, "axes.titlesize": 10}


def draw_figures(sweep: Sweep, folder: Path) -> list[Path]:
    """Write the sweep's figures into `folder`; return the paths written."""
    plots = {"returns_by_epochs": plan_returns(sweep)}
    curves = plan_curves(sweep, read_curves(sweep.folder))
    if curves.panels:
        plots["learning_curves"] = curves
    paths = []
    with matplotlib.rc_context(STYLE):
        for name, plot in plots.items():
            paths += _save(draw_plot(plot), folder / name)
    return paths


def draw_plot(plot: Plot) -> Figure:
    """Return the figure of `plot`: a panel a task on common axes, one legend below."""
    num_columns = min(len(plot.panels), 3 if len(plot.panels) < 10 else 5)
    num_rows = math.ceil(len(plot.panels) / num_columns)
    size = max(PANEL_INCHES[0] * num_columns, 5.5), PANEL_INCHES[1] * num_rows + 1.3
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(num_rows, num_columns, squeeze=False, sharey=True).flat
    styles = _style_series(plot)
    for panel_axes, (task, panel) in zip(axes, plot.panels.items(), strict=False):
        _draw_panel(panel_axes, task, panel, plot, styles)
    for unused in list(axes)[len(plot.panels) :]:
        unused.set_axis_off()
    figure.supylabel("return", fontsize=9)
    figure.supxlabel(_wrap(plot.footnote, size[0]), fontsize=7.5, color="0.35")
    figure.legend(
        handles=[_legend_line(label, styles[label]) for label in styles] + [_floor_line()],
        title=plot.title,
        title_fontsize=11,
        loc="outside upper center",
        ncols=max(2, int(size[0] / 1.6)),
        frameon=False,
    )
    return figure


def _draw_panel(
    axes: Axes, task: str, panel: Sequence[Series], plot: Plot, styles: dict[str, dict[str, Any]]
) -> None:
    axes.axhline(find_task(task).floor, color="0.3", linestyle=":", linewidth=1.2, zorder=1)
    draw: Callable[..., None] = _draw_points if plot.ticks else _draw_curves
    for series in panel:
        place = list(styles).index(series.label) - (len(styles) - 1) / 2.0
        draw(axes, series, styles[series.label], place * DODGE)
    if plot.ticks:
        axes.set_xticks(range(len(plot.ticks)), [_shorten(value) for value in plot.ticks])
        axes.set_xlim(-0.5, len(plot.ticks) - 0.5)
    else:
        axes.xaxis.set_major_formatter(lambda value, _: _shorten(value))
        axes.set_xlim(left=0)
    axes.set_ylim(0.0, RETURN_MAX)
    axes.set_title(task)
    axes.set_xlabel(plot.x_label)
    axes.grid(axis="y", color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)


def _draw_points(axes: Axes, series: Series, style: dict[str, Any], shift: float) -> None:
    """Draw seeds as dots, the means joined, and intervals where there are seeds enough."""
    positions = [point.position + shift for point in series.points]
    means = [math.fsum(point.returns) / len(point.returns) for point in series.points]
    axes.plot(positions, means, linewidth=1.6, zorder=3, **style)
    for position, mean, point in zip(positions, means, series.points, strict=True):
        dots = [position] * len(point.returns)
        axes.scatter(
            dots, point.returns, s=18, color=style["color"], alpha=0.75, zorder=4, clip_on=False,
            edgecolors="white", linewidths=0.5,
        )  # fmt: skip
        half = _half_interval(point.returns)
        if half is not None:
            axes.errorbar(position, mean, half, color=style["color"], capsize=3, zorder=3)


def _draw_curves(axes: Axes, series: Series, style: dict[str, Any], _shift: float) -> None:
    for curve in series.curves:
        epochs, returns = zip(*curve, strict=True)
        marker = "." if len(curve) == 1 else None
        axes.plot(epochs, returns, linewidth=0.9, alpha=0.85, zorder=3, marker=marker, **style)


def _half_interval(returns: Sequence[float]) -> float | None:
    """Return the half width of the mean's t interval; None below INTERVAL_SEEDS seeds."""
    sd = sample_sd(returns)
    if sd is None or len(returns) < INTERVAL_SEEDS:
        return None
    return t_quantile(len(returns) - 1, CONFIDENCE) * sd / math.sqrt(len(returns))


def _style_series(plot: Plot) -> dict[str, dict[str, Any]]:
    """Return each label's line style: the variant's colour, and a dash pattern of its own."""
    variants = {series.label: series.variant for panel in plot.panels.values() for series in panel}
    seen: dict[str, int] = {}
    styles = {}
    for label, variant in variants.items():
        dash = LINE_STYLES[seen.get(variant, 0) % len(LINE_STYLES)]
        seen[variant] = seen.get(variant, 0) + 1
        styles[label] = {
            "color": VARIANT_COLOURS.get(variant, OTHER_COLOUR),
            "linestyle": dash,
        }
    return styles


def _legend_line(label: str, style: dict[str, Any]) -> Line2D:
    return Line2D([], [], label=label, linewidth=1.6, marker="o", markersize=4, **style)


def _floor_line() -> Line2D:
    label = "floor (doing nothing or at random)"
    return Line2D([], [], color="0.3", linestyle=":", linewidth=1.2, label=label)


def _shorten(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def _wrap(text: str, inches: float) -> str:
    return "\n".join(textwrap.wrap(text, int(inches * 17)))


def _save(figure: Figure, stem: Path) -> list[Path]:
    paths = [stem.with_suffix(".png"), stem.with_suffix(".svg")]
    for path in paths:
        metadata = {"Date": None} if path.suffix == ".svg" else None
        with replacing(path) as draft:
            figure.savefig(draft, format=path.suffix[1:], dpi=150, metadata=metadata)
    return paths
