"""Figures of many tasks, levels or answers: nothing is left out, and each arm can be named."""

import itertools
import json

import matplotlib
import pytest
from matplotlib.figure import Figure

from analysis.curves import load_curves
from analysis.drawing.layout import Tick
from analysis.drawing.panels import _name_ticks, choose_markers
from analysis.drawing.plots import plan_curves, plan_returns, plan_starts
from analysis.figures import STYLE, draw_plot, list_figures
from analysis.load import load_sweep
from analysis.report import summarize_sweep
from pwmray.tasks import TASKS as MANY_TASKS
from search_spaces import ERRORS
from tests.corrections import make_corrections, write_corrections
from tests.made_sweeps import SEEDS, TASKS, Rows, make_row, make_sweep
from tests.seen_figures import check_legend, footnote
from tests.squares import write_square, write_trials

MANY = tuple(MANY_TASKS)


def make_levels(number: int) -> Rows:
    """Return the trials of one variant at many fidelities with long names."""
    return [
        row | {"fidelity": f"an_error_of_a_long_name_{level}", "trial": f"{row['trial']}-{level}"}
        for row in make_corrections(["fullflow"], ["joint_from_scratch"])
        if row["fidelity"] == "published"
        for level in range(number)
    ]


def list_marks(figure: Figure) -> dict[str, int]:
    """Return the number of marks in each panel, by its title."""
    return {
        axes.get_title(): sum(
            len(line.get_xydata()) for line in axes.lines if line.get_linestyle() == "None"
        )
        for axes in figure.axes
        if axes.axison
    }


# Panels.


def test_pairs_have_a_panel_for_each_level_and_group(tmp_path):
    figures = list_figures(summarize_sweep(load_sweep(make_sweep(tmp_path / "s"))))
    by_epochs = list_marks(figures["pairs_of_seeds_by_epochs"])
    assert by_epochs == {
        f"epochs {epochs}\n{variant}": len(TASKS) * len(SEEDS)
        for epochs in (200, 400)
        for variant in ("baseline", "fullflow")
    }
    by_variant = list_marks(figures["pairs_of_seeds_by_variant"])
    assert by_variant == {
        f"fullflow\nepochs {epochs}": len(TASKS) * len(SEEDS) for epochs in (100, 200, 400)
    }


@pytest.mark.parametrize("num_tasks", [12, 30])
def test_pairs_of_many_tasks_have_their_legend_above_the_panels(tmp_path, num_tasks):
    returns = {task: {"baseline": (1.0, 2.0), "flowwm": (3.0, 4.0)} for task in MANY[:num_tasks]}
    summary = summarize_sweep(load_sweep(write_square(tmp_path / "s", returns)))
    figure = list_figures(summary)["pairs_of_seeds_by_variant"]
    assert sum(list_marks(figure).values()) == 2 * num_tasks
    shapes = {handle.get_marker() for handle in figure.legends[0].legend_handles}
    assert len(shapes) == len(figure.legends[0].legend_handles)
    check_legend(figure)


def test_figures_of_all_tasks_fit_a_page(tmp_path):
    returns = {task: {"baseline": (1.0, 2.0), "flowwm": (3.0, 4.0)} for task in MANY}
    summary = summarize_sweep(load_sweep(write_square(tmp_path / "s", returns)))
    figures = list_figures(summary)
    assert figures["winners_by_variant"].get_figheight() <= 11.0
    cost = figures["return_against_cost"]
    assert cost.get_figheight() / cost.get_figwidth() <= 1.5


def test_a_profile_reaches_from_0_to_1000_and_counts_the_seeds_of_its_own_tasks(tmp_path):
    cells = {"baseline": (1.0, 2.0, 3.0), "flowwm": (990.0, 995.0, 999.0)}
    short = {"baseline": (1.0, 2.0), "flowwm": (3.0,)}  # no verdict: a seed is missing
    returns = {MANY[0]: cells, MANY[1]: cells, MANY[2]: short}
    summary = summarize_sweep(load_sweep(write_square(tmp_path / "s", returns)))
    figure = list_figures(summary)["performance_profile_by_variant"]
    for line in figure.axes[0].lines:
        assert line.get_xdata()[[0, -1]].tolist() == [0, 1000]
        assert line.get_ydata()[-1] == 0.0
    assert footnote(figure).startswith("2 tasks, each weighing the same. n = 3 training seeds")


def test_no_panel_is_left_out(tmp_path):
    rows = [
        make_row(task, "fullflow", 100, seed)
        | {"trial": f"{task}-{substeps}-{integrator}-{seed}"}
        | {"config": json.dumps({"policy": {"num_substeps": substeps, "integrator": integrator}})}
        for task in MANY[:14]
        for substeps in (2, 4)
        for integrator in ("euler", "heun")
        for seed in SEEDS[:1]
    ]
    varies = ["policy.num_substeps", "policy.integrator", "task", "seed"]
    write_trials(tmp_path / "s", rows, varies, "policy.num_substeps")
    figures = list_figures(summarize_sweep(load_sweep(tmp_path / "s")))
    drawn = [axes for axes in figures["flow_settings"].axes if axes.axison]
    assert [axes.get_title() for axes in drawn] == [*MANY[:14]]


def test_more_categories_than_a_page_has_room_for_go_on_in_further_rows(tmp_path):
    sweep = write_corrections(tmp_path / "s", make_levels(15))
    figure = draw_plot(plan_curves(sweep, load_curves(sweep)))
    drawn = [axes for axes in figure.axes if axes.axison]
    assert figure.get_figwidth() <= 16.5
    assert [axes.get_title() for axes in drawn] == [*"ABCDEFGHIJKLMNO"] * len(TASKS)
    firsts = [axes.get_ylabel().partition("\n")[0] for axes in drawn if axes.get_ylabel()]
    assert firsts == [task for task in TASKS for _ in range(2)]


# Levels.


def test_many_levels_compared_stand_along_x_and_have_marks_of_their_own(tmp_path):
    sweep = write_corrections(tmp_path / "s", make_levels(15))
    ticks = plan_returns(sweep).layout.ticks
    markers = [tuple(marker.values()) for marker in choose_markers(ticks)]
    assert len(ticks) == len(set(markers)) == 15


def test_many_levels_that_need_colours_have_one_each(tmp_path):
    figures = list_figures(summarize_sweep(write_corrections(tmp_path / "s", make_levels(15))))
    handles = figures["performance_profile_by_fidelity"].legends[0].legend_handles
    assert len({handle.get_color() for handle in handles}) == len(handles) == 15
    check_legend(figures["performance_profile_by_fidelity"])


def test_lines_are_told_apart_beyond_all_colours(tmp_path):
    rows = [
        row | {"epochs": epochs, "trial": f"{row['trial']}-{epochs}"}
        for row in make_levels(25)
        for epochs in (100, 300)
    ]
    handles = draw_plot(plan_returns(write_corrections(tmp_path / "s", rows))).legends[0]
    lines = [(h.get_color(), h.get_linestyle()) for h in handles.legend_handles[:25]]
    assert len(set(lines)) == 25


def test_names_of_groups_do_not_run_into_each_other():
    levels = ("12", ("euler", "heun"), ("published", "corrected"), ("0.98", "0.99"))
    groups = [" / ".join(some) for some in itertools.product(*levels)]
    ticks = [Tick(name, group) for group in groups for name in ("A", "B", "plain")]
    axes = Figure(figsize=(16.5, 4.0), layout="constrained").subplots()
    axes.set_xlim(-0.6, len(ticks) - 0.4)
    _name_ticks(axes, ticks)
    axes.figure.draw_without_rendering()
    (below,) = axes.child_axes
    boxes = [label.get_window_extent() for label in below.get_xticklabels()]
    assert len(boxes) == len(groups)
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_marks_are_told_apart_though_a_group_has_more_levels_than_fillings():
    ticks = [Tick(name, group) for group in ("frozen", "scratch") for name in "ABCDEF"]
    assert len({tuple(marker.values()) for marker in choose_markers(ticks)}) == len(ticks)


def test_many_marks_leave_their_panels_room(tmp_path):
    rows = [row | {"real_start_value": float(row["seed"])} for row in make_levels(26)]
    with matplotlib.rc_context(STYLE):
        figure = draw_plot(plan_starts(write_corrections(tmp_path / "s", rows)))
        check_legend(figure)
        panel = figure.axes[0].get_window_extent()
    assert panel.height > 2.0 * figure.dpi


def test_long_names_of_ticks_do_not_lie_on_one_another(tmp_path):
    rows = [
        row | {"fidelity": list(ERRORS)[int(row["fidelity"].rpartition("_")[2])]}
        for row in make_levels(len(ERRORS))
    ]
    with matplotlib.rc_context(STYLE):
        figure = draw_plot(plan_returns(write_corrections(tmp_path / "s", rows)))
        figure.draw_without_rendering()
    labels = figure.axes[0].get_xticklabels()
    boxes = [label.get_window_extent() for label in labels]
    assert labels[2].get_text() == "reward_\ncross_\nentropy"
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_more_ticks_than_a_page_is_wide_stand_upright(tmp_path):
    figure = draw_plot(plan_returns(write_corrections(tmp_path / "s", make_levels(25))))
    labels = figure.axes[0].get_xticklabels()
    assert figure.get_figwidth() <= 16.5
    assert {label.get_rotation() for label in labels} == {90.0}


def test_more_places_than_marks_are_not_told_apart_and_that_is_said(tmp_path):
    plot = plan_starts(write_corrections(tmp_path / "s", make_levels(33)))
    assert len(plot.layout.ticks) == 1
    assert len(plot.panels[0].series[0].marks) == 33 * len(SEEDS)
    assert "Settings are not told apart." in plot.footnote


# Footnotes.


def test_a_map_of_winners_explains_its_hatching(tmp_path):
    figure = list_figures(summarize_sweep(load_sweep(make_sweep(tmp_path / "s"))))
    assert "hatched: no verdict." in footnote(figure["winners_by_variant"])


def test_many_answers_are_left_to_the_table(tmp_path):
    few = summarize_sweep(load_sweep(make_sweep(tmp_path / "few")))
    many = summarize_sweep(load_sweep(make_sweep(tmp_path / "many", tasks=MANY[:4])))
    said = [footnote(list_figures(some)["return_against_epochs"]) for some in (few, many)]
    assert "reacher-easy, baseline: " in said[0]
    assert "reacher-easy, baseline: " not in said[1]
    assert "Answers: in the table." in said[1]


def test_curves_of_more_levels_than_colours_have_a_panel_each(tmp_path):
    sweep = write_corrections(tmp_path / "s", make_levels(8))
    panels = plan_curves(sweep, load_curves(sweep)).panels
    assert {len(panel.series) for panel in panels} == {1}
    assert len(panels) == 8 * len(TASKS)
