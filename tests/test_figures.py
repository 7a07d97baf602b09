"""Figures as plain data, before anything is drawn: what lies on which axis, in which panel."""

import json

import pytest

from analysis.expectations import plan_expectations
from analysis.load import load_sweep, read_curves
from analysis.plots import axis_of, plan_curves, plan_returns
from tests.test_analysis import make_sweep, run

FIDELITIES = {100: "published", 200: "corrected", 400: "corrected but td_lambda"}


def by_fidelity(row):
    """Make the three budgets of the sweep three fidelities of one budget."""
    expected = {"imagined_start_value": row["seed"] / 10, "real_start_value": 3.0}
    return {"fidelity": FIDELITIES[row["epochs"]], "epochs": 100, **expected}


@pytest.fixture
def folder(tmp_path):
    """A sweep that varies fidelity in the place of epochs."""
    folder = make_sweep(tmp_path / "results" / "phase9", by_fidelity)
    described = json.loads((folder / "sweep.json").read_text())
    described |= {"varies": ["variant", "fidelity", "task", "seed"], "compare": "fidelity"}
    (folder / "sweep.json").write_text(json.dumps(described))
    return folder


def test_returns_lie_along_what_varies_in_the_place_of_epochs(folder):
    plot = plan_returns(load_sweep(folder))
    assert plot.ticks == ("published", "corrected", "corrected but td lambda")
    assert list(plot.panels) == ["reacher-easy", "walker-stand"]
    assert [series.label for series in plot.panels["reacher-easy"]] == ["baseline", "fullflow"]
    assert [point.position for point in plot.panels["reacher-easy"][0].points] == [0, 1, 2]
    assert plot.is_named


def test_returns_lie_along_epochs_where_they_vary(tmp_path):
    sweep = load_sweep(make_sweep(tmp_path / "phase6"))
    plot = plan_returns(sweep)
    assert (axis_of(sweep), plot.ticks, plot.is_named) == (("epochs",), (100, 200, 400), False)


def test_curves_have_a_panel_for_each_level(folder):
    plot = plan_curves(load_sweep(folder), read_curves(folder))
    assert list(plot.panels)[:4] == [
        "reacher-easy\npublished",
        "reacher-easy\ncorrected",
        "reacher-easy\ncorrected but td lambda",
        "walker-stand\npublished",
    ]
    assert plot.num_columns == 3
    assert [len(series.curves) for series in plot.panels["reacher-easy\npublished"]] == [3, 3]


def test_expectations_are_a_point_a_trial(folder):
    plot = plan_expectations(load_sweep(folder))
    assert plot.panels["reacher-easy"]["baseline", "published"] == [
        (4.2, 3.0),
        (12.3, 3.0),
        (45.6, 3.0),
    ]
    assert len(plot.panels["walker-stand"]) == 6


def test_trials_that_do_not_say_what_they_imagined_have_no_figure(tmp_path):
    assert plan_expectations(load_sweep(make_sweep(tmp_path / "phase6"))).panels == {}


def test_figures_are_named_after_their_axis(folder, capsys):
    assert run(folder.parent, "phase9", "--plot") == 0
    drawn = {path.name for path in (folder / "figures").iterdir() if path.suffix == ".png"}
    assert drawn == {"returns_by_fidelity.png", "learning_curves.png", "imagined_against_real.png"}
