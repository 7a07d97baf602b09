"""What summaries tell of predicted rewards: the table, its notes, JSON, and the figure."""

import datetime
import json
import math

import pytest

from analysis.figures import list_figures
from analysis.formats.export import render_json
from analysis.formats.grids import list_grids
from analysis.load import load_sweep
from analysis.merge import merge_sweeps
from analysis.report import summarize_sweep
from pwmray.results import PREDICTIONS, write_rows
from tests.made_sweeps import SEEDS, make_row
from tests.seen_figures import check_legend, footnote
from tests.squares import write_trials

TASK = "reacher-easy"
NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
SHARES = {"baseline": 0.25, "fullflow": 0.5}  # of the rewards' sd, one step ahead


def make_rows(epochs=(100,), **changes):
    return [
        make_row(TASK, variant, number, seed) | changes
        for variant in SHARES
        for number in epochs
        for seed in SEEDS
    ]


def measure(row, num_steps=4, **changes):
    """Return the errors of a trial's model, which grow by each step and from seed to seed."""
    share = SHARES[row["variant"]] + 0.01 * SEEDS.index(row["seed"])
    known = {"trial": row["trial"], "world_model": row["trial"], "windows": 90, "agents": 6}
    return [
        {**known, "step": step, "error": 0.2 * (share + step - 1), "reward_sd": 0.2}
        | {"measured_at": NOW, **changes}
        for step in range(1, num_steps + 1)
    ]


def write(folder, rows, measured):
    write_trials(folder, rows, ["variant", "epochs", "task", "seed"], "variant")
    (folder / "predictions").mkdir()
    write_rows(folder / "predictions" / f"{TASK}.arrow", measured, PREDICTIONS)
    return folder


def summarize(*folders):
    return summarize_sweep(merge_sweeps([load_sweep(folder) for folder in folders]))


def find_grid(summary):
    found = [grid for grid in list_grids(summary, False) if "predict rewards" in grid.title]
    return found[0] if found else None


def test_table_has_the_first_the_middle_and_the_last_step(tmp_path):
    rows = make_rows()
    grid = find_grid(summarize(write(tmp_path / "s", rows, [m for r in rows for m in measure(r)])))
    assert grid.headers == ("task", "variant", "models", "1 step", "2 steps", "4 steps")
    assert grid.rows == [
        (TASK, "baseline", "3", "0.26 +- 0.01", "1.26 +- 0.01", "3.26 +- 0.01"),
        (TASK, "fullflow", "3", "0.51 +- 0.01", "1.51 +- 0.01", "3.51 +- 0.01"),
    ]
    assert "90 windows, equally many of each policy (6)" in grid.notes[1]
    assert len(grid.notes) == 2


def test_frozen_world_model_counts_once_however_many_trials_share_it(tmp_path):
    rows = make_rows()
    measured = [m for row in rows for m in measure(row | {"seed": SEEDS[0]}, world_model="one")]
    grid = find_grid(summarize(write(tmp_path / "s", rows, measured)))
    assert [row[2:4] for row in grid.rows] == [("1", "0.25"), ("1", "0.50")]


def test_trials_that_were_not_measured_are_counted(tmp_path):
    rows = make_rows(ended_at=NOW)
    later = NOW - datetime.timedelta(seconds=1)
    measured = [*measure(rows[0]), *measure(rows[1], measured_at=later)]
    grid = find_grid(summarize(write(tmp_path / "s", rows, measured)))
    assert [row[1:3] for row in grid.rows] == [("baseline", "1")]
    assert grid.notes[-1] == "Not measured since they were evaluated: 5 trials."


@pytest.mark.parametrize("values", [{"reward_sd": 0.0}, {"reward_sd": 1e-9}, {"error": math.nan}])
def test_what_is_no_share_is_told_of_by_a_dash(tmp_path, values):
    rows = make_rows()
    measured = [m for row in rows for m in measure(row, **values)]
    summary = summarize(write(tmp_path / "s", rows, measured))
    grid = find_grid(summary)
    assert {cell for row in grid.rows for cell in row[3:]} == {"-"}
    assert grid.notes[-1].startswith("-: the rewards there are all alike")
    assert "predicted_rewards" not in list_figures(summary)
    assert "NaN" not in render_json(summary, False)


def test_level_that_does_not_apply_is_no_error_that_is_missing(tmp_path):
    key = "policy[flow].num_substeps"
    rows = [
        row
        | {
            "config": json.dumps(
                {"policy": {"num_substeps": 2} if "flow" in row["variant"] else {}}
            )
        }
        for row in make_rows()
    ]
    folder = tmp_path / "s"
    write_trials(folder, rows, ["variant", key, "task", "seed"], "variant")
    (folder / "predictions").mkdir()
    measured = [m for row in rows for m in measure(row)]
    write_rows(folder / "predictions" / f"{TASK}.arrow", measured, PREDICTIONS)
    grid = find_grid(summarize(folder))
    assert [row[grid.headers.index(key)] for row in grid.rows] == ["-", "2"]
    assert not any(note.startswith("-:") for note in grid.notes)


def test_several_sweeps_are_not_told_of_together(tmp_path):
    rows = make_rows()
    measured = [m for row in rows for m in measure(row)]
    folders = [write(tmp_path / name, rows, measured) for name in ("s", "t")]
    assert find_grid(summarize(*folders)) is None


def test_sweep_that_nobody_measured_has_no_table(tmp_path):
    write_trials(tmp_path / "s", make_rows(), ["variant", "task", "seed"], "variant")
    summary = summarize(tmp_path / "s")
    assert find_grid(summary) is None
    assert "predicted_rewards" not in list_figures(summary)


def test_broken_file_is_named(tmp_path):
    folder = write(tmp_path / "s", make_rows(), [])
    path = folder / "predictions" / f"{TASK}.arrow"
    path.write_bytes(b"cut")
    with pytest.raises(ValueError, match=str(path)):
        summarize(folder)


def test_json_has_the_shares_of_each_model(tmp_path):
    rows = make_rows()
    summary = summarize(write(tmp_path / "s", rows, [m for r in rows for m in measure(r, 2)]))
    (found, _) = json.loads(render_json(summary, False))["predictions"]
    assert found["variant"] == "baseline"
    assert found["models"] == [pytest.approx([0.25 + by, 1.25 + by]) for by in (0.0, 0.01, 0.02)]
    assert (found["num_windows"], found["num_agents"], found["num_trials"]) == (90, 6, 3)


def test_figure_has_the_height_of_each_tasks_own_errors(tmp_path):
    rows = [row | {"task": task} for task in (TASK, "walker-stand") for row in make_rows()]
    rows = [row | {"trial": f"{row['task']}-{row['trial']}"} for row in rows]
    tall = {TASK: 0.2, "walker-stand": 0.02}  # sds of rewards: a tenth is ten times the share
    measured = [m for row in rows for m in measure(row, 2, reward_sd=tall[row["task"]])]
    figure = list_figures(summarize(write(tmp_path / "s", rows, measured)))["predicted_rewards"]
    highest = [max(max(line.get_ydata()) for line in axes.lines) for axes in figure.axes]
    assert highest == pytest.approx([1.52, 15.2])
    for axes, height in zip(figure.axes, highest, strict=True):
        assert height < axes.get_ylim()[1] < 1.2 * height


def test_title_names_a_budget_only_where_several_were_measured(tmp_path):
    rows = make_rows(epochs=(100, 200))
    measured = [m for row in rows if row["epochs"] == 100 for m in measure(row)]
    figure = list_figures(summarize(write(tmp_path / "s", rows, measured)))["predicted_rewards"]
    assert "budget" not in figure.legends[0].get_title().get_text()


@pytest.mark.parametrize(("num_steps", "is_near"), [(1, False), (3, True)])
def test_figure_draws_every_model_of_the_largest_budget(tmp_path, num_steps, is_near):
    rows = make_rows(epochs=(100, 200))
    measured = [m for row in rows for m in measure(row, num_steps)]
    figure = list_figures(summarize(write(tmp_path / "s", rows, measured)))["predicted_rewards"]
    (axes,) = figure.axes
    drawn = [list(line.get_ydata()) for line in axes.lines if line.get_linestyle() != ":"]
    assert drawn == [
        pytest.approx([share + by + step for step in range(num_steps)])
        for share in SHARES.values()
        for by in (0.0, 0.01, 0.02)
    ]
    assert list(axes.lines[0].get_xdata()) == list(range(1, num_steps + 1))
    labels = [handle.get_label() for handle in figure.legends[0].legend_handles]
    assert labels == ["baseline", "fullflow", *["no better than their mean"] * is_near]
    assert (axes.get_ylim()[1] > 1.0) == is_near
    assert "equally many of each policy (6)" in footnote(figure)
    title = figure.legends[0].get_title().get_text().split()
    assert title[-2:] == ["largest", "budget"]
    check_legend(figure)
