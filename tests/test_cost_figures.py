"""Figures of cost and of the epochs needed: each arm can be told from the others."""

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes

from analysis.drawing.colours import VARIANT_COLOURS
from analysis.figures import list_figures
from analysis.load import load_sweep
from analysis.report import summarize_sweep
from tests.made_sweeps import BUDGETS, NOISE, Rows, exponential, make_row
from tests.seen_figures import check_legend, footnote, list_looks
from tests.squares import write_trials


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


@pytest.mark.parametrize("figure", ["return_against_epochs", "return_against_cost"])
def test_levels_of_one_variant_have_a_colour_and_an_entry_each(tmp_path, figure):
    rows = [row for level in ("t1", "t2", "t3") for row in make_rising(fidelity=level)]
    handles = draw_rising(tmp_path / "s", rows, "fidelity")[figure].legends[0].legend_handles
    assert [handle.get_label() for handle in handles] == ["t1", "t2", "t3"]
    assert len({handle.get_color() for handle in handles}) == 3


@pytest.mark.parametrize("figure", ["return_against_epochs", "return_against_cost"])
def test_what_varies_beside_the_colours_has_shapes(tmp_path, figure):
    rows = [
        row
        for variant in ("baseline", "fullflow")
        for level in ("t1", "t2")
        for row in make_rising(variant=variant, fidelity=level)
    ]
    drawn = draw_rising(tmp_path / "s", rows, "variant", "fidelity")[figure]
    handles = drawn.legends[0].legend_handles
    assert [handle.get_label() for handle in handles] == ["baseline", "fullflow", "t1", "t2"]
    assert len({handle.get_marker() for handle in handles[2:]}) == 2
    assert {handle.get_linestyle() for handle in handles} == {"None"}
    check_legend(drawn)


@pytest.mark.parametrize("others", [(), ("fidelity",)])
def test_variants_are_told_apart_without_colours_beside_their_budgets(tmp_path, others):
    rows = [
        row | {"real_start_value": 10.0, "imagined_start_value": 9.0}
        for variant in VARIANT_COLOURS
        for fidelity in ("t1", "t2")[: 1 + len(others)]
        for row in make_rising(variant=variant, fidelity=fidelity)
    ]
    figures = draw_rising(tmp_path / "s", rows, "variant", *others)
    for name in ("return_against_epochs", "return_against_cost", "imagined_against_real"):
        assert len(list_looks(figures[name])) == len(VARIANT_COLOURS), name


def test_more_arms_than_shapes_are_said_not_to_be_told_apart(tmp_path):
    rows = [
        row
        for variant in ("baseline", "fullflow")
        for level in range(15)
        for row in make_rising(variant=variant, fidelity=f"t{level}")
    ]
    drawn = draw_rising(tmp_path / "s", rows, "variant", "fidelity")["return_against_cost"]
    assert len(drawn.legends[0].legend_handles) == 2
    assert "Not told apart: fidelity." in footnote(drawn)


def test_a_number_in_the_legend_of_costs_has_its_name(tmp_path):
    rows = [
        row
        for substeps in (2, 4)
        for row in make_rising(config=json.dumps({"policy": {"num_substeps": substeps}}))
    ]
    drawn = draw_rising(tmp_path / "s", rows, "policy.num_substeps")["return_against_cost"]
    labels = [handle.get_label() for handle in drawn.legends[0].legend_handles]
    assert labels == ["num_substeps 2", "num_substeps 4"]


def test_tasks_that_take_longer_than_the_first_are_drawn_whole(tmp_path):
    rows = [
        make_row(task, "baseline", 100, seed) | {"train_seconds": seconds}
        for task, seconds in (("reacher-easy", 600.0), ("walker-stand", 3600.0))
        for seed in (1, 2)
    ]
    axes = draw_rising(tmp_path / "s", rows)["return_against_cost"].axes[0]
    assert axes.get_xlim()[0] == 0.0
    assert axes.get_xlim()[1] > 60.0  # minutes


@pytest.mark.parametrize(("budgets", "rotation"), [((50, 100, 400), 0.0), ((10, 400, 420), 90.0)])
def test_budgets_close_to_one_another_stand_upright(tmp_path, budgets, rotation):
    rows = [make_row("reacher-easy", "baseline", n, seed) for n in budgets for seed in (1, 2)]
    axes = draw_rising(tmp_path / "s", rows)["return_against_epochs"].axes[0]
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {rotation}
