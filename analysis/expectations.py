"""What learners imagined against what they then got, as a figure: exploited models stand out."""

from collections import defaultdict
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.load import Sweep, Trial
from analysis.plots import axis_of, name_place, order_tasks

IMAGINED, REAL = "imagined_start_value", "real_start_value"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")  # one for each level but the variant
PANEL_INCHES = (3.2, 3.0)
FOOTNOTE = (
    "Discounted symlog reward from the starts of the final evaluation's episodes; a dot a trial. "
    "Dotted: equal."
)

Points = list[tuple[float, float]]  # imagined, real


class Expectations(NamedTuple):
    """A panel a task; in it the trials of each variant and level of what else the sweep varies."""

    title: str
    panels: dict[str, dict[tuple[str, str], Points]]


def plan_expectations(sweep: Sweep) -> Expectations:
    """Lay out every evaluated trial that says what it imagined; no panels where none does."""
    factors = axis_of(sweep)
    panels: dict[str, dict[tuple[str, str], Points]] = {}
    for trial in filter(_is_told, sweep.usable):
        level = name_place([trial.factors[factor] for factor in factors]).replace("\n", ", ")
        panel = panels.setdefault(trial.factors["task"], defaultdict(list))
        point = (trial.record[IMAGINED], trial.record[REAL])
        panel[trial.factors["variant"], level].append(point)
    tasks = {task: panels[task] for task in order_tasks(sweep, panels)}
    return Expectations(f"{sweep.name}: imagined against real", tasks)


def draw_expectations(plot: Expectations, colours: dict[str, str], other_colour: str) -> Figure:
    """Return the figure: imagined to the right, real upwards, equal on the dotted line."""
    num_panels = len(plot.panels)
    num_columns = min(num_panels, 3 if num_panels < 10 else 5)
    num_rows = -(-num_panels // num_columns)
    size = max(PANEL_INCHES[0] * num_columns, 6.5), PANEL_INCHES[1] * num_rows + 1.9
    figure = Figure(figsize=size, layout="constrained")
    all_axes = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
    for unused in all_axes[num_panels:]:
        unused.set_axis_off()
    keys = dict.fromkeys(key for panel in plot.panels.values() for key in panel)
    colour_of = {variant: colours.get(variant, other_colour) for variant, _ in keys}
    levels = dict.fromkeys(level for _, level in keys)
    marker_of = {level: MARKERS[i % len(MARKERS)] for i, level in enumerate(levels)}
    for axes, (task, panel) in zip(all_axes, plot.panels.items(), strict=False):
        _draw_panel(axes, task, panel, colour_of, marker_of)
    handles = [_dot(name, color=colour) for name, colour in colour_of.items()]
    handles += [_dot(name, color="0.4", marker=marker) for name, marker in marker_of.items()]
    figure.legend(
        handles=handles, title=plot.title, title_fontsize=11, loc="outside upper center",
        ncols=max(2, int(size[0] / 2.4)), frameon=False, fontsize=8,
    )  # fmt: skip
    figure.supxlabel(f"imagined\n{FOOTNOTE}", fontsize=7.5, color="0.35")
    figure.supylabel("real", fontsize=9)
    return figure


def _draw_panel(
    axes: Axes,
    task: str,
    panel: dict[tuple[str, str], Points],
    colour_of: dict[str, str],
    marker_of: dict[str, str],
) -> None:
    for (variant, level), points in panel.items():
        style = {"color": colour_of[variant], "marker": marker_of[level]}
        imagined, real = zip(*points, strict=True)
        axes.scatter(imagined, real, s=26, alpha=0.8, edgecolors="white", linewidths=0.5, **style)
    axes.axline((0.0, 0.0), slope=1.0, color="0.3", linestyle=":", linewidth=1.2, zorder=0)
    axes.set_title(task)
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)


def _dot(label: str, **style: Any) -> Line2D:
    """Return what the legend shows of a style."""
    return Line2D([], [], linestyle="", label=label, **{"marker": "o", **style})


def _is_told(trial: Trial) -> bool:
    return trial.record.get(IMAGINED) is not None and trial.record.get(REAL) is not None
