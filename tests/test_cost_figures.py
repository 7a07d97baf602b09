"""Figures of cost and of the epochs needed: each arm can be told from the others."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes

from analysis.figures import list_figures
from analysis.load import load_sweep
from analysis.report import summarize_sweep
from tests.squares import write_trials
from tests.test_analysis import make_row
from tests.test_figures import Rows
from tests.test_scaling import BUDGETS, NOISE, exponential


def make_rising(**levels: Any) -> Rows:
    """Return trials whose returns rise with their epochs to a plateau."""
    name = "-".join(map(str, levels.values()))
    return [
        make_row("reacher-easy", "fullflow", epochs, seed)
        | {"trial": f"{name}-{epochs}-{seed}", "return_mean": exponential(epochs) + noise}
        | levels
        for epochs in BUDGETS
        for seed, noise in enumerate(NOISE)
    ]


def draw_rising(folder: Path, rows: Rows, *others: str) -> dict[str, Any]:
    write_trials(folder, rows, [*others, "epochs", "task", "seed"], "epochs")
    return list_figures(summarize_sweep(load_sweep(folder)))


def find_bars(axes: Axes) -> dict[float, str]:
    """Return the colour of each level line that is no floor, by its height."""
    level = [line for line in axes.lines if len({*line.get_ydata()}) == 1]
    return {line.get_ydata()[0]: line.get_color() for line in level if line.get_linestyle() == "-"}


def test_intervals_of_the_epochs_needed_do_not_lie_on_one_another(tmp_path):
    rows = make_rising(variant="baseline") + make_rising(variant="fullflow")
    axes = draw_rising(tmp_path / "s", rows, "variant")["return_against_epochs"].axes[0]
    bars = find_bars(axes)
    assert len(bars) == 2
    assert len({*bars.values()}) == 2
    assert max(bars) - min(bars) == pytest.approx(32.0)
