"""The figures of a sweep: what stands along x, what has a colour, what is drawn at all."""

import json
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
import pytest
from matplotlib.layout_engine import ConstrainedLayoutEngine

from analysis.curves import load_curves
from analysis.drawing import fonts
from analysis.drawing.colours import VARIANT_COLOURS
from analysis.drawing.plots import Plot, plan_curves, plan_returns, plan_starts
from analysis.figures import STYLE, _save, draw_figures, draw_plot, list_figures, style_series
from analysis.load import Sweep, load_sweep
from analysis.merge import merge_sweeps
from analysis.report import summarize_sweep
from analysis.summarize import main
from pwmray.results import TRIALS, read_table, write_table
from tests.corrections import FIDELITIES, make_corrections, write_corrections
from tests.made_sweeps import SEEDS, TASKS, Rows, make_flows, make_row, make_sweep
from tests.seen_figures import check_legend, list_looks
from tests.squares import write_square, write_trials

CATEGORIES = [
    ("published", "frozen"), ("corrected", "frozen"),
    ("published", "fine-tuned"), ("corrected", "fine-tuned"),
    ("published", "scratch"), ("corrected", "scratch"),
]  # fmt: skip


def make_budgets(variants, number: int) -> Rows:
    """Return the trials of a sweep over variant, epochs and a number of fidelities."""
    return [
        make_row(task, variant, epochs, seed)
        | {"fidelity": f"t{level}", "trial": f"{task}-{variant}-{epochs}-{level}-{seed}"}
        for task in TASKS
        for variant in variants
        for level in range(number)
        for epochs in (100, 300)
        for seed in SEEDS[:2]
    ]


def plan_curves_of(sweep: Sweep) -> Plot:
    return plan_curves(sweep, load_curves(sweep))


def draw(folder: Path) -> set[str]:
    """Draw the figures of the sweep in `folder`; return the names of the files."""
    assert main([str(folder), "--anyway", "--plot"]) == 0
    return {path.name for path in (folder / "figures").iterdir()}


def legend_colours(plot) -> dict[str, str]:
    handles = draw_plot(plot).legends[0].legend_handles
    return {handle.get_label(): handle.get_color() for handle in handles}


# What is written.


def test_figures_are_written_as_png_svg_and_pdf(tmp_path):
    drawn = draw(make_sweep(tmp_path / "s", tasks=("reacher-easy",)))
    assert {path for path in drawn if path.endswith(".png")} == {
        "learning_curves.png",
        "pairs_of_seeds_by_epochs.png",
        "pairs_of_seeds_by_variant.png",
        "return_against_cost.png",
        "return_against_epochs.png",
        "returns_by_epochs.png",
        "winners_by_epochs.png",
        "winners_by_variant.png",
    }
    kinds = ("png", "svg", "pdf")
    assert drawn == {f"{Path(path).stem}.{kind}" for path in drawn for kind in kinds}


def test_letters_that_no_font_has_are_named_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fonts, "_OTHERS", ("Noto Sans CJK SC",))
    monkeypatch.setattr(fonts, "get_font_names", list)
    sweep = load_sweep(make_sweep(tmp_path / "s"))._replace(name="\u6bd4\u8f83 \u0394")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_figures(summarize_sweep(sweep), tmp_path)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("note: no font here has \u6bd4 \u8f83: figures show boxes")


def test_a_font_with_more_letters_comes_after_the_usual_ones(monkeypatch):
    monkeypatch.setattr(fonts, "get_font_names", lambda: ["IPAGothic", "Noto Sans CJK JP", "X"])
    usual = matplotlib.rcParams["font.family"]
    assert fonts.list_families() == [*usual, "Noto Sans CJK JP"]


def test_a_figure_is_laid_out_once_for_all_of_its_files(tmp_path, monkeypatch):
    laid_out = []

    def lay_out(engine, figure):
        laid_out.append(figure)
        return execute(engine, figure)

    execute = ConstrainedLayoutEngine.execute
    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lay_out)
    figure = draw_plot(plan_returns(write_corrections(tmp_path / "s", make_corrections())))
    with matplotlib.rc_context(STYLE):
        png, svg, pdf = _save(figure, tmp_path / "figure")
    assert len(laid_out) == 1
    assert png.stat().st_size > 10_000
    assert svg.read_text().count("<path") > 100
    assert pdf.read_bytes().startswith(b"%PDF")


def test_fonts_of_a_pdf_are_embedded_as_truetype(tmp_path):
    sweep = load_sweep(make_sweep(tmp_path / "s", tasks=("reacher-easy",)))
    with matplotlib.rc_context(STYLE):
        *_, pdf = _save(draw_plot(plan_returns(sweep)), tmp_path / "figure")
    assert b"/FontFile2" in pdf.read_bytes()
    assert b"/Type3" not in pdf.read_bytes()
    assert b"/CreationDate" not in pdf.read_bytes()


def test_figures_go_where_they_are_told(tmp_path):
    folder = write_square(tmp_path / "s", {"reacher-easy": {"baseline": (300.0, 310.0)}})
    assert main([str(folder), "--compare", "variant", "--plot", str(tmp_path / "drawn")]) == 0
    assert "returns_by_variant.svg" in {path.name for path in (tmp_path / "drawn").iterdir()}


def test_figures_are_of_what_there_is(tmp_path):
    folder = make_sweep(tmp_path / "s")
    (folder / "curves.arrow").unlink()
    found = list_figures(summarize_sweep(load_sweep(folder)))
    assert {"returns_by_epochs", "performance_profile_by_variant"} <= found.keys()
    assert not {"learning_curves", "imagined_against_real", "flow_settings"} & found.keys()


def test_files_are_named_by_what_varies(tmp_path):
    sweep = write_corrections(tmp_path / "s", make_corrections())
    found = list_figures(summarize_sweep(sweep))
    assert {
        "returns_by_methodology_fidelity",
        "learning_curves",
        "imagined_against_real",
        "winners_by_fidelity",
        "winners_by_variant",
    } <= found.keys()


def test_flow_settings_have_a_map(tmp_path):
    rows = [
        make_row("reacher-easy", "fullflow", 100, seed)
        | {"trial": f"{substeps}-{integrator}-{seed}"}
        | {"config": json.dumps({"policy": {"num_substeps": substeps, "integrator": integrator}})}
        for substeps in (2, 4)
        for integrator in ("euler", "heun")
        for seed in SEEDS
    ]
    varies = ["policy.num_substeps", "policy.integrator", "task", "seed"]
    write_trials(tmp_path / "s", rows, varies, "policy.num_substeps")
    summary = summarize_sweep(load_sweep(tmp_path / "s"))
    axes = list_figures(summary)["flow_settings"].axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["2", "4"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["euler", "heun"]
    assert axes.images[0].get_array().tolist() == pytest.approx(np.full((2, 2), 402.07), abs=0.01)


def test_flow_settings_that_named_levels_set_have_a_map_for_each_flow(tmp_path):
    settings = {"wm_fine": (8, 2, "heun"), "policy_fine": (4, 4, "heun"), "fast": (4, 2, "euler")}
    rows = [
        make_row("reacher-easy", "fullflow", 100, seed)
        | {"trial": f"{name}-{seed}", "fidelity": name}
        | {"config": json.dumps(make_flows(*setting))}
        for name, setting in settings.items()
        for seed in SEEDS
    ]
    write_trials(tmp_path / "s", rows, ["fidelity", "task", "seed"], "fidelity")
    keys = [f"{part}.{key}" for part in make_flows(0, 0, "") for key in make_flows(0, 0, "")[part]]
    sweep = load_sweep(tmp_path / "s")
    sweep = sweep._replace(axes=sweep.axes | {"fidelity": tuple(keys)})
    figure = list_figures(summarize_sweep(sweep))["flow_settings"]
    sides = [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes]
    told = [{text.get_text() for text in axes.texts} for axes in figure.axes]
    assert sides == [
        ("world_model.num_substeps", "world_model.integrator"),
        ("policy.num_substeps", "policy.integrator"),
    ]
    assert told == [{f"{name}\n402 +- 2" for name in settings}] * 2


def test_levels_with_the_same_settings_of_a_flow_share_its_cell(tmp_path):
    settings = {"a": (4, 2, "heun"), "b": (4, 4, "heun"), "c": (2, 4, "euler")}
    rows = [
        make_row("reacher-easy", "fullflow", 100, 1)
        | {"trial": name, "fidelity": name, "config": json.dumps(make_flows(*setting))}
        for name, setting in settings.items()
    ]
    write_trials(tmp_path / "s", rows, ["fidelity", "task", "seed"], "fidelity")
    sweep = load_sweep(tmp_path / "s")
    keys = ("world_model.num_substeps", "world_model.integrator")
    sweep = sweep._replace(axes=sweep.axes | {"fidelity": keys})
    axes = list_figures(summarize_sweep(sweep))["flow_settings"].axes[0]
    assert {text.get_text() for text in axes.texts} == {"a\n400\nb\n400", "c\n400"}


def test_winners_map_tells_who_wins_by_words_and_by_colour(tmp_path):
    cells = {"baseline": (300.0, 310.0), "flowpolicy": (400.0, 410.0), "flowwm": (200.0, 201.0)}
    cells["fullflow"] = (302.0, 309.0)
    folder = write_square(tmp_path / "s", {"reacher-easy": cells})
    summary = summarize_sweep(load_sweep(folder))
    axes = list_figures(summary)["winners_by_variant"].axes[0]
    assert [text.get_text() for text in axes.texts] == ["+100 wins", "-104 loses", "+0 Tie"]
    assert len({patch.get_facecolor() for patch in axes.patches}) == 3


def test_number_is_told_with_what_it_is_a_number_of(tmp_path):
    summary = summarize_sweep(load_sweep(make_sweep(tmp_path / "s")))
    figure = list_figures(summary)["winners_by_epochs"]
    columns = {label.get_text() for label in figure.axes[0].get_xticklabels()}
    assert columns == {f"epochs {n}\n{v}" for n in (200, 400) for v in ("baseline", "fullflow")}
    title = figure.legends[0].get_title().get_text()
    assert title.endswith("verdicts along epochs, against epochs 100")


def test_marks_of_numbers_are_told_once_with_what_these_are_numbers_of(tmp_path):
    rows = [
        row | {"epochs": epochs, "trial": f"{row['trial']}-{epochs}"}
        for row in make_corrections(methodologies=("joint_from_scratch",))
        if row["fidelity"] == "corrected"
        for epochs in (100, 300)
    ]
    figure = draw_plot(plan_starts(write_corrections(tmp_path / "s", rows)))
    names = [handle.get_label() for handle in figure.legends[0].legend_handles]
    assert names == ["baseline", "fullflow", "epochs 100", "300"]


def test_a_dollar_in_a_name_begins_no_formula(tmp_path):
    rows = [
        row | {"fidelity": f"$10^{{$ {row['fidelity']}"}
        for row in make_corrections(["baseline"], ["joint_from_scratch"])
    ]
    folder = write_corrections(tmp_path / "s", rows).folder
    assert "returns_by_fidelity.png" in draw(folder)
    assert main([str(folder), "--format", "html", "--out", str(tmp_path)]) == 0
    assert "$10^{$ published" in (tmp_path / "summary.html").read_text()


# Along x.


def test_epochs_that_vary_are_joined_along_x(tmp_path):
    plot = plan_returns(load_sweep(make_sweep(tmp_path / "s")))
    assert plot.layout.is_joined
    assert [tick.name for tick in plot.layout.ticks] == ["100", "200", "400"]
    assert [series.label for series in plot.panels[0].series] == ["baseline", "fullflow"]
    assert [point.position for point in plot.panels[0].series[0].marks] == [0, 1, 2]


def test_the_mean_of_an_arm_with_one_budget_is_a_bar_where_others_are_joined(tmp_path):
    returns = {"reacher-easy": {"baseline": (300.0, 500.0)}}
    folders = [write_square(tmp_path / f"s{n}", returns, epochs=n) for n in (100, 200)]
    plot = plan_returns(merge_sweeps([load_sweep(folder) for folder in folders]))
    bars = [some.get_segments()[0] for some in draw_plot(plot).axes[0].collections[1::2]]
    assert plot.layout.is_joined
    assert [[end[1] for end in bar] for bar in bars] == [[400.0, 400.0]] * 2


def test_other_factors_are_categories_with_the_compared_one_innermost(tmp_path):
    plot = plan_returns(write_corrections(tmp_path / "s", make_corrections()))
    assert not plot.layout.is_joined
    assert [tuple(tick) for tick in plot.layout.ticks] == CATEGORIES
    assert [panel.task for panel in plot.panels] == list(TASKS)
    assert [series.label for series in plot.panels[0].series] == ["baseline", "fullflow"]
    assert sorted(point.position for point in plot.panels[0].series[1].marks) == [*range(6)]


def test_categories_keep_the_grids_order_while_trials_are_missing(tmp_path):
    rows = make_corrections()
    rows[0] |= {"status": "RUNNING"}
    rows[1] |= {"status": "RUNNING"}
    rows[2] |= {"status": "RUNNING"}  # every seed of the first category of the first task
    plot = plan_returns(write_corrections(tmp_path / "s", rows))
    assert [tuple(tick) for tick in plot.layout.ticks] == CATEGORIES
    assert len(plot.panels[0].series[0].marks) == 5


def test_short_names_are_explained_under_the_figure(tmp_path):
    plot = plan_returns(write_corrections(tmp_path / "s", make_corrections()))
    assert "frozen = policy_finetuning; fine-tuned = policy_and_wm_finetuning" in plot.footnote
    assert "bars: means" in plot.footnote
    assert "n = 3 an arm" in plot.footnote


def test_groups_of_ticks_are_named_once(tmp_path):
    plot = plan_returns(write_corrections(tmp_path / "s", make_corrections()))
    axes = draw_plot(plot).axes[0]
    groups = axes.child_axes[0].get_xticklabels()
    assert [label.get_text() for label in axes.get_xticklabels()] == [*FIDELITIES] * 3
    assert [label.get_text().strip() for label in groups] == ["frozen", "fine-tuned", "scratch"]


# Colours.


def test_every_variant_has_its_colour(tmp_path):
    plot = plan_returns(write_corrections(tmp_path / "s", make_corrections()))
    colours = legend_colours(plot)
    assert colours["baseline"] == VARIANT_COLOURS["baseline"]
    assert colours["fullflow"] == VARIANT_COLOURS["fullflow"]


def test_variants_are_told_apart_without_colours_in_every_figure(tmp_path):
    returns = {task: {name: [500.0, 600.0] for name in VARIANT_COLOURS} for task in TASKS}
    values = {"real_start_value": 10.0, "imagined_start_value": 9.0}
    figures = list_figures(
        summarize_sweep(load_sweep(write_square(tmp_path / "s", returns, **values)))
    )
    looks = {name: len(list_looks(figure)) for name, figure in figures.items() if figure.legends}
    told = {name: number for name, number in looks.items() if number}
    assert {*told.values()} == {len(VARIANT_COLOURS)}
    assert told.keys() == {
        "returns_by_variant",
        "learning_curves",
        "imagined_against_real",
        "performance_profile_by_variant",
        "return_against_cost",
    }


def test_levels_compared_have_the_colours_where_there_is_one_variant(tmp_path):
    plot = plan_returns(write_corrections(tmp_path / "s", make_corrections(["baseline"])))
    colours = legend_colours(plot)
    assert [tick.name for tick in plot.layout.ticks] == ["frozen", "fine-tuned", "scratch"]
    assert colours["fidelity published"] != colours["fidelity corrected"]
    assert not {*list(colours.values())[:2]} & {*VARIANT_COLOURS.values()}


def test_a_single_place_along_x_is_named_by_what_is_compared(tmp_path):
    rows = make_corrections(["baseline"], ["joint_from_scratch"])
    plot = plan_returns(write_corrections(tmp_path / "s", rows))
    assert plot.layout.by == ("fidelity",)
    assert [tick.name for tick in plot.layout.ticks] == ["100"]


@pytest.mark.parametrize("compare", ["epochs", "fidelity", "variant"])
def test_levels_of_one_variant_have_the_colours_where_epochs_stand_along_x(tmp_path, compare):
    sweep = write_corrections(tmp_path / "s", make_budgets(["baseline"], 6))
    colours = legend_colours(plan_returns(sweep._replace(compare=compare)))
    levels = [f"fidelity t{number}" for number in range(6)]
    assert list(colours) == [*levels, "floor (doing nothing or at random)"]
    assert len({colours[level] for level in levels}) == 6


def test_arms_of_one_colour_are_told_apart_however_many(tmp_path):
    sweep = write_corrections(tmp_path / "s", make_budgets(["baseline", "fullflow"], 6))
    styles = style_series(plan_returns(sweep)).values()
    assert len(styles) == 12
    assert len({tuple(style.values()) for style in styles}) == 12


def test_an_arm_looks_the_same_in_every_figure(tmp_path):
    rows = [
        row | {"status": "FAILED"} if is_first_of_the_first_task(row) else row
        for row in make_budgets(["baseline", "fullflow"], 3)
    ]
    sweep = write_corrections(tmp_path / "s", rows)
    looks = [
        {h.get_label(): (h.get_color(), h.get_linestyle()) for h in plot.legends[0].legend_handles}
        for plot in (draw_plot(plan_returns(sweep)), draw_plot(plan_curves_of(sweep)))
    ]
    assert looks[0] == looks[1]


def is_first_of_the_first_task(row: dict[str, Any]) -> bool:
    return (row["task"], row["fidelity"]) == (TASKS[0], "t0")


def test_curves_of_trials_that_others_replaced_are_not_drawn(tmp_path):
    first = write_square(tmp_path / "first", {TASKS[0]: {"baseline": (500.0, 600.0, 700.0)}})
    rows = read_table(first / "trials.arrow").to_pylist()
    replaced = [row | {"trial": f"{row['trial']}-old", "return_mean": 100.0} for row in rows]
    write_trials(tmp_path / "s", [*rows, *replaced], ["variant", "task", "seed"], "variant")
    figure = list_figures(summarize_sweep(load_sweep(tmp_path / "s")))["learning_curves"]
    ends = [line.get_ydata()[-1] for line in figure.axes[0].lines if len(line.get_ydata()) > 1]
    assert ends[:3] == [500.0, 600.0, 700.0]
    assert 100.0 not in ends
    assert not figure.axes[0].collections  # no interval of six seeds where there are three


@pytest.mark.parametrize("plan", [plan_returns, plan_starts])
def test_the_legend_stays_within_the_figure(tmp_path, plan):
    check_legend(draw_plot(plan(write_corrections(tmp_path / "s", make_corrections()))))


def test_the_legend_of_many_levels_stays_within_the_figure(tmp_path):
    rows = [
        row | {"fidelity": f"{row['fidelity']} {number}", "trial": f"{row['trial']}-{number}"}
        for row in make_corrections(["baseline"], ["joint_from_scratch"])
        for number in range(7)
    ]
    check_legend(draw_plot(plan_returns(write_corrections(tmp_path / "s", rows))))


# Learning curves.


def test_few_curves_share_a_panel_a_task(tmp_path):
    sweep = load_sweep(make_sweep(tmp_path / "s"))
    plot = plan_curves(sweep, load_curves(sweep))
    assert [panel.task for panel in plot.panels] == list(TASKS)
    assert [len(series.marks) for series in plot.panels[0].series] == [3, 3]


@pytest.mark.parametrize(("num_seeds", "num_bands"), [(4, 0), (5, 1)])
def test_curves_have_an_interval_from_five_seeds_on(tmp_path, num_seeds, num_bands):
    returns = {"reacher-easy": {"baseline": [300.0 + seed for seed in range(num_seeds)]}}
    sweep = load_sweep(write_square(tmp_path / "s", returns))
    plot = plan_curves(sweep, load_curves(sweep))
    axes = draw_plot(plot).axes[0]
    assert len(axes.collections) == num_bands
    widths = [line.get_linewidth() for line in axes.lines[:-1]]  # the last is the floor
    assert sum(width > 1.0 for width in widths) == num_bands  # the mean, above thin seeds
    assert len(widths) == num_seeds + num_bands
    assert ("bands: 95% t interval" in plot.footnote) == bool(num_bands)


def test_many_curves_have_a_panel_a_category(tmp_path):
    sweep = write_corrections(tmp_path / "s", make_corrections())
    plot = plan_curves(sweep, load_curves(sweep))
    places = [panel.category and tuple(panel.category) for panel in plot.panels[:6]]
    assert len(plot.panels) == 12
    assert places == CATEGORIES
    assert [series.label for series in plot.panels[0].series] == ["baseline", "fullflow"]


def test_many_curves_without_a_category_stay_in_a_panel_a_task(tmp_path, monkeypatch):
    monkeypatch.setattr("analysis.drawing.plots.PANEL_SERIES", 1)
    rows = make_corrections(["baseline"], ["joint_from_scratch"])
    sweep = write_corrections(tmp_path / "s", rows)
    panels = plan_curves(sweep, load_curves(sweep)).panels
    assert [len(panel.series) for panel in panels] == [2] * len({p.task for p in panels})


def test_the_curve_of_a_category_without_an_evaluated_trial_is_drawn(tmp_path):
    sweep = write_corrections(
        tmp_path / "s",
        [row | unfinished(row, "joint_from_scratch") for row in make_corrections()],
    )
    assert len(plan_returns(sweep).layout.ticks) == 4
    assert len(plan_curves(sweep, load_curves(sweep)).panels) == 12


def unfinished(row: dict[str, Any], methodology: str) -> dict[str, Any]:
    return {"status": "RUNNING"} if row["methodology"] == methodology else {}


def test_curves_are_those_of_each_tasks_and_each_sweeps_largest_budget(tmp_path):
    returns = {"reacher-easy": {"baseline": (1.0, 2.0)}, "walker-stand": {"baseline": (1.0, 2.0)}}
    folders = [
        write_square(tmp_path / "long", {"reacher-easy": returns["reacher-easy"]}, epochs=300),
        write_square(tmp_path / "short", returns, epochs=200),
    ]
    sweep = merge_sweeps([load_sweep(folder) for folder in folders])
    panels = plan_curves(sweep, load_curves(sweep)).panels
    assert {(p.task, s.label): len(s.marks) for p in panels for s in p.series} == {
        ("reacher-easy", "sweep long"): 2,
        ("reacher-easy", "sweep short"): 2,
        ("walker-stand", "sweep short"): 2,
    }


def test_an_axis_of_budgets_shows_the_curves_of_the_largest_alone(tmp_path):
    rows = [
        make_row("reacher-easy", variant, epochs, seed) | {"budget": f"{epochs} long"}
        for variant in ("baseline", "fullflow")
        for epochs in (100, 300)
        for seed in SEEDS
    ]
    sweep = load_budgets(tmp_path / "s", rows)
    panels = plan_curves(sweep, load_curves(sweep)).panels
    assert {series.marks[0][-1][0] for series in panels[0].series} == {300}
    assert [len(series.marks) for series in panels[0].series] == [3, 3]


def load_budgets(folder: Path, rows: Rows) -> Sweep:
    """Write and load a sweep with an axis whose levels set the epochs alone."""
    usual = [{name: row[name] for name in row if name != "budget"} for row in rows]
    write_trials(folder, usual, ["variant", "budget", "task", "seed"], "variant")
    table = pa.Table.from_pylist(rows, TRIALS.append(pa.field("budget", pa.string())))
    write_table(folder / "trials.arrow", table)
    sweep = load_sweep(folder)
    return sweep._replace(axes=sweep.axes | {"budget": ("epochs",)})


# Imagined against real.


def test_every_trial_that_knows_both_values_has_a_mark(tmp_path):
    rows = make_corrections()
    rows[0] |= {"imagined_start_value": None}
    rows[1] |= {"imagined_start_value": np.inf}
    plot = plan_starts(write_corrections(tmp_path / "s", rows))
    baseline = plot.panels[0].series[0]
    assert len(baseline.marks) == 3 * 6 - 2
    assert {(start.real, start.imagined) for start in baseline.marks} == {(10.0, 15.0)}
    assert "n = 70;" in plot.footnote


def test_what_marks_of_budgets_do_not_tell_is_said(tmp_path):
    values = {"imagined_start_value": 9.0, "real_start_value": 8.0}
    rows = [row | values for row in make_budgets(["baseline", "fullflow"], 2)]
    write_trials(tmp_path / "s", rows, ["variant", "epochs", "fidelity", "task", "seed"], "epochs")
    assert plan_starts(load_sweep(tmp_path / "s")).footnote.endswith("Not told apart: fidelity.")


def test_marks_tell_group_by_shape_and_level_by_filling(tmp_path):
    plot = plan_starts(write_corrections(tmp_path / "s", make_corrections()))
    handles = draw_plot(plot).legends[0].legend_handles[2:]
    marks = [(handle.get_marker(), handle.get_fillstyle()) for handle in handles]
    assert marks[:3] == [("o", "none"), ("o", "full"), ("s", "none")]
    assert handles[2].get_label() == "fine-tuned / published"
