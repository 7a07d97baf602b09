"""Draw how returns depend on the flow's substeps and integrator."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.arms import Arm
from analysis.drawing.layout import list_varied
from analysis.drawing.sheet import describe_sample, finish_sheet, make_sheet
from analysis.load import find_level
from analysis.report import Summary
from analysis.short_names import fold, shorten_levels
from analysis.stats import mean
from analysis.verdict import RETURN_MAX

_SUBSTEPS, _INTEGRATOR = "num_substeps", "integrator"
_CELL_CHARACTERS = 18  # in a line of a cell
_CELL_INCHES, _LINE_INCHES, _FREE_INCHES = 1.25, 0.16, 0.8  # of cells with names, and around them


class Cell(NamedTuple):
    """An arm in a map; `name` is its level of the axis that sets both of the map's keys, if any."""

    x: Any
    y: Any
    name: str
    arm: Arm


class FlowMap(NamedTuple):
    """One panel: the arms of one task and of one level of every other factor that varies."""

    title: str
    x: str  # config key along x
    y: str  # config key along y
    cells: tuple[Cell, ...]


class _Setting(NamedTuple):
    axis: str
    key: str

    @property
    def part(self) -> str:
        return self.key.rpartition(".")[0]


def draw_flow_settings(summary: Summary) -> Figure | None:
    """Return mean returns by substeps and integrator, a panel a task and a group."""
    maps = plan_flow_maps(summary)
    if not maps:
        return None
    named = [cell for some in maps for cell in some.cells if cell.name]
    sides = {(some.x, some.y) for some in maps}
    size = _size_panel(maps) if named else (3.2, 2.2)
    sheet = make_sheet(len(maps), size, together=len(sides))
    for axes, some in zip(sheet.panels, maps, strict=True):
        _draw_map(axes, some)
    by = " and ".join(sides.pop()) if len(sides) == 1 else "substeps and integrator"
    told = "A cell has every level with these two settings; each may set others too. "
    return finish_sheet(
        sheet,
        f"{summary.sweep.name}: mean return by {by}",
        f"Dark: 0, light: {RETURN_MAX:.0f}. {told if named else ''}"
        + describe_sample(
            [cell.arm for some in maps for cell in some.cells], "sample sd over seeds after +-"
        )
        + shorten_levels(summary.arms).explain(*list_varied(summary.arms)),
    )


def plan_flow_maps(summary: Summary) -> list[FlowMap]:
    """Return the maps of a sweep; empty unless it varies both substeps and integrator."""
    arms = [arm for arm in summary.arms if arm.trials]
    names = shorten_levels(summary.arms)
    sides = _find_sides(summary, arms)
    set_by_them = {setting.axis for side in sides for setting in side}
    told = ["task", *(name for name in list_varied(arms) if name not in set_by_them)]
    maps: dict[tuple[str, str, str], list[Cell]] = {}
    for arm in arms:
        title = ", ".join(names.named(name, arm.factors[name]) for name in told)
        for x, y in sides:
            name = names.named(x.axis, arm.factors[x.axis]) if x.axis == y.axis else ""
            along, down = _read(arm, x.key), _read(arm, y.key)
            if along is not None and down is not None:
                maps.setdefault((title, x.key, y.key), []).append(Cell(along, down, name, arm))
    return [FlowMap(title, x, y, tuple(cells)) for (title, x, y), cells in maps.items()]


def _find_sides(summary: Summary, arms: Sequence[Arm]) -> list[tuple[_Setting, _Setting]]:
    """Return the settings along x and y of each map: substeps and integrator of a part.

    Preferred are those of one part that one axis sets together; if there are none, the first
    substeps and the first integrator that vary.
    """
    axes = {name: summary.sweep.axes.get(name, (name,)) for name in list_varied(summary.arms)}
    settings = [_Setting(axis, key) for axis, keys in axes.items() for key in keys]
    substeps = [s for s in settings if s.key.endswith(_SUBSTEPS) and _is_varied(arms, s.key)]
    integrators = [s for s in settings if s.key.endswith(_INTEGRATOR) and _is_varied(arms, s.key)]
    pairs = [(x, y) for x in substeps for y in integrators]
    at_once = [(x, y) for x, y in pairs if (x.axis, x.part) == (y.axis, y.part)]
    return at_once or pairs[:1]


def _is_varied(arms: Sequence[Arm], key: str) -> bool:
    return len({_read(arm, key) for arm in arms} - {None}) > 1


def _read(arm: Arm, key: str) -> Any:
    """Return a setting of an arm, the same in all its trials; None if it does not apply."""
    return find_level(arm.trials[0], key)


def _size_panel(maps: Sequence[FlowMap]) -> tuple[float, float]:
    """Return the size in inches of panels whose cells have one or several names."""
    columns = max(len({cell.x for cell in some.cells}) for some in maps)
    heights = [
        sum(max(_write(cells).count("\n") + 2 for cells in row.values()) for row in _rows(some))
        for some in maps
    ]
    height = _FREE_INCHES + _LINE_INCHES * max(heights)
    return max(3.2, _FREE_INCHES + _CELL_INCHES * columns), max(2.2, height)


def _rows(some: FlowMap) -> list[dict[Any, list[Cell]]]:
    """Return the rows of a map, from the top: cells by their place along x."""
    rows: dict[Any, dict[Any, list[Cell]]] = {}
    for cell in some.cells:
        rows.setdefault(cell.y, {}).setdefault(cell.x, []).append(cell)
    return list(rows.values())


def _draw_map(axes: Axes, some: FlowMap) -> None:
    columns = sorted({cell.x for cell in some.cells})
    rows = list(dict.fromkeys(cell.y for cell in some.cells))
    values = np.full((len(rows), len(columns)), np.nan)
    for down, row in enumerate(_rows(some)):
        for x, cells in row.items():
            right = columns.index(x)
            values[down, right] = mean([cell.arm.mean or 0.0 for cell in cells])
            colour = "black" if values[down, right] > RETURN_MAX / 2.0 else "white"
            place = {"ha": "center", "va": "center", "fontsize": 8}
            axes.text(right, down, _write(cells), color=colour, **place)
    axes.imshow(values, vmin=0.0, vmax=RETURN_MAX, cmap="cividis", aspect="auto")
    axes.set_xticks(range(len(columns)), [str(value) for value in columns])
    axes.set_yticks(range(len(rows)), [str(value) for value in rows])
    axes.set_title(some.title, fontsize=9)
    axes.set_xlabel(some.x)
    axes.set_ylabel(some.y)


def _write(cells: Sequence[Cell]) -> str:
    """Return a cell's text: each arm's name, mean and sd."""
    lines = []
    for cell in cells:
        gap = " " if cell.name else "\n"
        spread = "" if cell.arm.sd is None else f"{gap}+- {cell.arm.sd:.0f}"
        name = [fold(cell.name, _CELL_CHARACTERS)] if cell.name else []
        lines += [*name, f"{cell.arm.mean:z.0f}{spread}"]
    return "\n".join(lines)
