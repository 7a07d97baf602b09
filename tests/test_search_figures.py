"""What is drawn of a search, whose trials each have settings of their own, and what is not."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.figures import draw_figures, list_figures
from analysis.formats.grids import list_grids
from analysis.formats.tables import WIDTH, render_table
from analysis.load import Sweep, load_sweep
from analysis.merge import merge_sweeps
from analysis.report import Summary, summarize_sweep
from analysis.scattered import is_scattered
from pwmray.results import PREDICTIONS, write_rows
from tests.corrections import make_corrections, write_corrections
from tests.made_sweeps import TASKS, Rows, make_flows, make_row, make_sweep
from tests.seen_figures import check_legend, footnote
from tests.squares import write_square, write_trials

FLOWS = [
    f"{part}.{key}" for part in ("world_model", "policy") for key in make_flows(0, 0, "")[part]
]


def draw_space(number: int, num_rates: int = 2, tasks=TASKS) -> Rows:
    """Return the trials of a search over both flows and some learning rates, the last cut short."""
    rng = np.random.default_rng(0)
    rows = []
    for task in tasks:
        for place in range(number):
            flows = make_flows(2 ** rng.integers(3), 2 ** rng.integers(3), rng.choice(["a", "b"]))
            rates = {f"rate{name}": 10 ** rng.uniform(-4.0, -2.0) for name in range(num_rates)}
            row = make_row(task, "fullflow", 100, 7) | {"trial": f"{task}-{place}"}
            row |= {"config": json.dumps({**flows, "learner": rates}, default=int)}
            rows.append(row | {"return_mean": 300.0 + place})
        rows[-1] |= {"status": "CANCELLED"}
    return rows


def load_search(folder: Path, rows: Rows, num_rates: int = 2) -> Sweep:
    varies = [*FLOWS, *(f"learner.rate{name}" for name in range(num_rates)), "task", "seed"]
    write_trials(folder, rows, varies, FLOWS[0])
    return load_sweep(folder)


@pytest.fixture
def summary(tmp_path: Path) -> Summary:
    return summarize_sweep(load_search(tmp_path / "s", draw_space(12)))


def list_panels(figure: Any) -> list[tuple[str, str]]:
    """Return the task and the setting of every panel; a row of panels names its task once."""
    drawn, task = [], ""
    for axes in figure.axes:
        task = axes.get_ylabel().partition("\n")[0] or task
        if axes.axison:
            drawn.append((task, axes.get_xlabel()))
    return drawn


# Which sweeps are searches.


def test_a_search_is_told_from_a_grid_by_the_little_of_its_space_that_it_fills(tmp_path):
    assert is_scattered(load_search(tmp_path / "search", draw_space(12)))
    assert is_scattered(load_search(tmp_path / "begun", draw_space(2)))
    assert not is_scattered(load_sweep(make_sweep(tmp_path / "grid")))
    assert not is_scattered(write_corrections(tmp_path / "corrections", make_corrections()))


def test_a_grid_with_one_seed_that_has_hardly_begun_is_no_search(tmp_path):
    rows = [row for row in make_corrections() if row["seed"] == 42]
    sweep = write_corrections(tmp_path / "s", rows)
    begun = sweep._replace(trials=(sweep.trials[0], sweep.trials[-1]))
    assert not is_scattered(sweep)
    assert not is_scattered(begun)


@pytest.mark.parametrize(
    ("number", "change", "expected"),
    [
        (4, {}, False),  # of a grid of 4 x 4 levels a quarter
        (5, {}, True),  # of 5 x 5 a fifth
        (5, {"seed": 8}, False),
        (5, {"origin": "wandb"}, False),  # of what was imported there may be gaps
    ],
)
def test_trials_of_one_seed_that_fill_under_a_quarter_of_a_grid_are_a_search(
    number, change, expected, tmp_path
):
    varies = ["learner.rate0", "learner.rate1", "task", "seed"]
    write_trials(tmp_path / "s", draw_space(number, tasks=TASKS[:1]), varies, "learner.rate0")
    sweep = load_sweep(tmp_path / "s")
    sweep.trials[0].record.update(change)
    assert is_scattered(sweep) is expected


def test_a_search_beside_the_sweep_that_confirms_it_is_still_one(tmp_path):
    search = load_search(tmp_path / "search", draw_space(12))
    sweep = load_sweep(write_square(tmp_path / "sweep", {TASKS[0]: {"fullflow": (1.0, 2.0)}}))
    both = merge_sweeps([search, sweep])
    assert is_scattered(both)
    assert "return_against_settings" in list_figures(summarize_sweep(both))


# What is drawn.


def test_a_search_has_the_figures_that_need_no_arms(summary):
    assert set(list_figures(summary)) == {
        "return_against_settings",
        "learning_curves",
        "return_against_cost",
    }


def test_every_setting_has_a_panel_for_each_task(summary):
    figure = list_figures(summary)["return_against_settings"]
    settings = [*FLOWS, "learner.rate0", "learner.rate1"]
    assert list_panels(figure) == [(task, name) for task in TASKS for name in settings]
    check_legend(figure)


def test_every_trial_has_a_mark_and_the_best_a_star(summary):
    rate = list_figures(summary)["return_against_settings"].axes[4]
    dots, star = (line for line in rate.lines if line.get_marker() in ("s", "*"))
    assert len(dots.get_ydata()) == 10  # 12, without the best and the one that was cut short
    assert star.get_ydata().tolist() == [310.0]
    assert rate.get_xscale() == "log"


def draw_rates(folder: Path, lowest: float, highest: float) -> Any:
    """Return the panel of a setting that is drawn log-uniformly."""
    rows = draw_space(12, num_rates=1)
    for row, rate in zip(rows, np.geomspace(lowest, highest, len(rows)), strict=True):
        row["config"] = json.dumps(json.loads(row["config"]) | {"learner": {"rate0": rate}})
    figure = list_figures(summarize_sweep(load_search(folder, rows, 1)))["return_against_settings"]
    (axes, *_) = [axes for axes in figure.axes if axes.get_xlabel() == "learner.rate0"]
    return axes


@pytest.mark.parametrize(("highest", "scale"), [(0.09, "linear"), (0.11, "log")])
def test_numbers_over_a_decade_have_a_log_axis_and_all_lie_within(tmp_path, highest, scale):
    axes = draw_rates(tmp_path / "s", 0.01, highest)
    assert axes.get_xscale() == scale
    place = np.log if scale == "log" else np.asarray
    low, first, last, high = place([axes.get_xlim()[0], 0.01, highest, axes.get_xlim()[1]])
    assert first - low == pytest.approx(high - last)
    assert 0.01 < (first - low) / (last - first) < 0.1


@pytest.mark.parametrize(("decades", "rotation"), [(1.0, 0.0), (3.0, 90.0)])
def test_many_numbers_of_a_log_axis_stand_upright(tmp_path, decades, rotation):
    axes = draw_rates(tmp_path / "s", 1e-5, 10.0 ** (decades - 5.0))
    assert axes.get_xscale() == "log"
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {rotation}


def test_a_trial_that_was_cut_short_stands_at_its_last_return_during_training(tmp_path):
    rows = [row | {"status": "EVALUATED"} for row in draw_space(12)]
    sweep = load_search(tmp_path / "s", rows)
    first, *others = sweep.trials
    cut = replace(first, record=first.record | {"status": "CANCELLED"}, returns=first.returns[:0])
    figures = [
        list_figures(summarize_sweep(sweep._replace(trials=(trial, *others))))[
            "return_against_settings"
        ]
        for trial in (cut, first)
    ]
    hollow = [line for line in figures[0].axes[4].lines if line.get_fillstyle() == "none"]
    assert [line.get_ydata().tolist() for line in hollow] == [[300.0]]
    keys = [{key.get_label() for key in figure.legends[0].legend_handles} for figure in figures]
    assert keys[0] - keys[1] == {"not evaluated: last return during training"}
    assert keys[1] >= {"fullflow", "best of its task"}


def test_curves_of_a_search_share_a_panel_without_an_interval(summary):
    figure = list_figures(summary)["learning_curves"]
    assert [axes.get_title() for axes in figure.axes] == [*TASKS]
    assert [len(axes.lines) for axes in figure.axes] == [11 + 1] * 2  # the floor
    assert not any(axes.collections for axes in figure.axes)
    assert "trials, 11 a task, of settings that differ" in footnote(figure)


def test_figures_of_many_settings_are_written_under_names_that_files_may_have(tmp_path):
    summary = summarize_sweep(load_search(tmp_path / "s", draw_space(4, 16), 16))
    drawn = draw_figures(summary, tmp_path / "drawn")
    assert "return_against_settings.png" in {path.name for path in drawn}


def test_a_searchs_table_numbers_the_keys_that_have_no_room_in_its_header(tmp_path):
    summary = summarize_sweep(load_search(tmp_path / "s", draw_space(12, 5), 5))
    lines = render_table(summary, per_seed=False).splitlines()
    legend, *_ = (place for place, line in enumerate(lines) if line.startswith("Final returns on "))
    assert lines[legend + 1].startswith(f"[1]={FLOWS[0]}, [2]={FLOWS[1]}, ")
    assert max(map(len, lines)) <= WIDTH


def test_a_search_lists_what_it_finished_by_task_and_the_best_first(tmp_path):
    grids = list_grids(summarize_sweep(load_search(tmp_path / "s", draw_space(5))), False)
    assert [grid.title.partition(" on ")[2].partition(",")[0] for grid in grids] == [*TASKS]
    returns = [[float(row[0]) for row in grid.rows] for grid in grids]
    assert returns == [[303.0, 302.0, 301.0, 300.0]] * 2  # the last was cut short
    assert grids[0].headers[-1] == "trial"  # by which `pwmray show` finds it


def test_a_search_tells_the_error_of_the_models_that_were_measured(tmp_path):
    sweep = load_search(tmp_path / "s", draw_space(5))
    known = {"trial": f"{TASKS[0]}-3", "world_model": "w", "windows": 9, "agents": 1}
    rows = [{**known, "step": step, "error": 0.1 * step, "reward_sd": 0.4} for step in (1, 2, 3)]
    (sweep.folder / "predictions").mkdir()
    write_rows(sweep.folder / "predictions" / f"{TASKS[0]}.arrow", rows, PREDICTIONS)
    first, second = list_grids(summarize_sweep(sweep), False)
    assert [row[first.headers.index("error")] for row in first.rows] == ["0.75", "", "", ""]
    assert "as many steps ahead as were measured" in first.notes[-1]
    assert "error" not in second.headers


def test_a_search_names_a_task_of_which_nothing_is_done(tmp_path):
    rows = draw_space(5)
    gone = [row | {"status": "FAILED"} if row["task"] == TASKS[1] else row for row in rows]
    grids = list_grids(summarize_sweep(load_search(tmp_path / "s", gone)), False)
    assert [len(grid.rows) for grid in grids] == [4, 0]
    assert (TASKS[1] in grids[1].title, grids[1].notes) == (True, ("None is done.",))


def test_a_search_has_the_tables_that_somebody_asks_for(tmp_path):
    sweep = load_search(tmp_path / "s", draw_space(12))
    summary = summarize_sweep(sweep, FLOWS[0], True, (FLOWS[0],), "pwm")
    titles = [grid.title for grid in list_grids(summary, True)]
    assert titles[2:4] == ["Beside PWM (48M)", "Every trial"]
    assert titles[4].startswith(f"Verdicts along {FLOWS[0]}, each against ")


def test_a_search_is_said_neither_to_lack_seeds_nor_to_have_an_interval(summary):
    assert not any("Short of seeds" in note for note in summary.notes)
    assert "Returns over the floor" not in [grid.title for grid in list_grids(summary, False)]


def test_a_file_of_many_factors_is_named_by_the_first(tmp_path):
    names = [f"learner.a_setting_of_a_long_name_{number}" for number in range(12)]
    learner = [name.partition(".")[2] for name in names]
    rows = [
        make_row("reacher-easy", variant, 100, 7)
        | {"trial": f"{variant}-{level}"}
        | {"config": json.dumps({"learner": dict.fromkeys(learner, level)})}
        for variant in ("baseline", "fullflow")
        for level in (1, 2)
    ]
    write_trials(tmp_path / "s", rows, ["variant", *names, "task", "seed"], "variant")
    sweep = load_sweep(tmp_path / "s")._replace(num_planned=2**13)
    found = [name for name in list_figures(summarize_sweep(sweep)) if name.startswith("returns_by")]
    long = "learner_a_setting_of_a_long_name"
    assert found == [f"returns_by_{long}_0_{long}_1_and_10_more"]


# What is said.


def test_a_search_is_not_told_to_average_what_cannot_be_compared(tmp_path):
    sweep = load_search(tmp_path / "s", draw_space(12))._replace(within=("task",))
    notes = " ".join(summarize_sweep(sweep).notes)
    assert "--within" not in notes
    assert "confirm it by a sweep on other seeds." in notes


def test_a_sweep_is_not_said_to_be_a_search(tmp_path):
    notes = summarize_sweep(load_sweep(make_sweep(tmp_path / "s"))).notes
    assert not any("search" in note for note in notes)
