"""Epochs against return, and what arms cost: known curves, hand-worked numbers, honest doubt."""

import dataclasses
import json

import numpy as np
import pytest

from analysis.arms import build_arms
from analysis.cost import measure_costs
from analysis.load import load_sweep
from analysis.report import summarize_sweep
from analysis.scaling import SHAPES, Fit, fit_shape, foretell, lack_of_fit, scale_epochs
from analysis.summarize import main
from pwmray.results import read_table
from tests.made_sweeps import BUDGETS, FLOOR, NOISE, exponential, make_row
from tests.squares import write_trials


def write_budgets(folder, curves: dict[int, list[float]], **changes):
    """Write a sweep of one variant on reacher-easy: final returns by budget."""
    rows = [
        make_row("reacher-easy", "baseline", budget, seed, return_mean=float(value)) | changes
        for budget, values in curves.items()
        for seed, value in enumerate(values)
    ]
    write_trials(folder, rows, ["epochs", "task", "seed"], "epochs")
    return folder


def scale(tmp_path, curves):
    return scale_epochs(build_arms(load_sweep(write_budgets(tmp_path / "s", curves))))[0]


def around(curve, budgets=BUDGETS, noise=NOISE):
    return {budget: [curve(budget) + off for off in noise] for budget in budgets}


# The fit.


@pytest.mark.parametrize("shape", SHAPES)
def test_a_curve_without_noise_is_found_again(shape):
    epochs = np.repeat(np.array(BUDGETS, float), 3)
    fit = fit_shape(shape, epochs, FLOOR + 500.0 * shape.rise(epochs / 90.0), FLOOR)
    assert fit.tau == pytest.approx(90.0, rel=0.02)
    assert fit.gain == pytest.approx(500.0, rel=0.02)


def test_epochs_needed_are_the_shapes_own():
    # 1 - exp(-x) = 0.9 at x = ln 10; x / (x + 1) = 0.9 at x = 9.
    assert [shape.needed for shape in SHAPES] == pytest.approx([2.302585, 9.0])


def test_plateau_stays_within_a_thousand():
    epochs = np.repeat(np.array(BUDGETS, float), 2)
    fit = fit_shape(SHAPES[0], epochs, FLOOR + 2.0 * epochs, FLOOR)
    assert FLOOR + fit.gain == 1000.0
    assert fit.needed[0] > 400.0


def draw_fits(tau):
    """Fit curves that saturate by `tau` epochs, 400 times, each with other noise."""
    rng = np.random.default_rng(3)
    epochs = np.repeat(np.array(BUDGETS, float), 3)
    truth = exponential(epochs, tau=tau)
    noise = (rng.normal(0.0, 40.0, 12) for _ in range(400))
    return [fit_shape(SHAPES[0], epochs, truth + error, FLOOR) for error in noise]


def test_interval_of_the_epochs_needed_covers_as_it_says():
    needed = [fit.needed for fit in draw_fits(80.0)]
    inside = [low <= 80.0 * np.log(10.0) <= high for low, high in needed]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("tau", [8.0, 80.0])  # saturated at every budget; still rising at some
def test_interval_of_the_plateau_covers_as_it_says(tau):
    inside = [low <= FLOOR + 600.0 <= high for low, high in (f.plateau for f in draw_fits(tau))]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.03)


def test_lack_of_fit_is_the_f_test_against_each_budgets_mean():
    # Pure error 2 + 2 + 2 on 3 degrees; residual 14 leaves 8 on 1: F = 8 / 2 = 4, p = .1393.
    assert lack_of_fit([[1, 3], [5, 7], [9, 11]], 14.0) == pytest.approx(0.1393, abs=1e-4)
    assert lack_of_fit([[1], [5], [9]], 14.0) == 1.0


# What it says.


def test_a_clear_plateau_says_how_many_epochs_it_takes(tmp_path):
    found = scale(tmp_path, around(exponential))
    assert found.is_known
    assert found.answer.startswith("needs about 180 epochs (1")
    assert found.low < 80.0 * np.log(10.0) < found.high


def test_range_is_that_of_both_shapes_where_they_fit_nearly_as_well(tmp_path):
    # Residuals 9,801 and 12,823: 12 ln(12,823 / 9,801) = 3.2, and more with less noise.
    both = scale(tmp_path, around(exponential, noise=(-40.0, 15.0, 25.0)))
    assert [fit.shape for fit in both.fits] == ["exponential", "power"]
    assert (both.low, both.high) == (both.fits[0].needed[0], both.fits[1].needed[1])
    assert both.fits[0].needed[1] < both.fits[1].needed[0]
    assert both.answer == "cannot tell: 150 epochs or many more"


def test_a_shape_that_fits_clearly_worse_does_not_count(tmp_path):
    # 12 ln of the residuals' ratio is 7.4.
    found = scale(tmp_path, around(exponential, noise=(-24.0, 9.0, 15.0)))
    assert [fit.shape for fit in found.fits] == ["exponential"]
    assert found.answer == "needs about 180 epochs (170 to 210)"


@pytest.mark.parametrize(
    ("low", "high", "answer"),
    [
        (40.0, 50.0, "needs at most 50 epochs"),
        (60.0, 230.0, "needs about 120 epochs (60 to 230)"),
        (60.0, 250.0, "cannot tell: 60 epochs or up to 250"),
        (40.0, 210.0, "cannot tell: under 50 epochs or up to 210"),
        (250.0, 800.0, "needs about 450 epochs (250 to 800)"),
        (250.0, 801.0, "cannot tell: 250 epochs or many more"),
        (400.0, 2000.0, "cannot tell: 400 epochs or many more"),
        (401.0, np.inf, "needs more than 400 epochs"),
    ],
)
def test_answer_follows_from_the_range_and_the_budgets(low, high, answer):
    fit = Fit("exponential", 80.0, 600.0, 0.0, (600.0, 700.0), (low, high))
    returns = [(100.0 * place,) * 2 for place in range(4)]
    assert foretell([fit], BUDGETS, returns) == (low, high, answer)


def test_a_plateau_at_the_smallest_budget_says_at_most(tmp_path):
    assert scale(tmp_path, around(lambda _: 840.0)).answer == "needs at most 50 epochs"


def test_a_steady_rise_needs_more_than_was_tried_or_cannot_be_foretold(tmp_path):
    rise = around(lambda epochs: FLOOR + 1.5 * epochs, noise=(-60.0, 0.0, 60.0))
    found = scale(tmp_path, rise)
    assert found.answer == "needs more than 400 epochs"
    assert found.low > 400.0


def test_a_late_jump_is_no_saturating_curve(tmp_path):
    found = scale(tmp_path, around(lambda epochs: 700.0 if epochs > 300 else 210.0))
    assert found.answer == "cannot tell: the curve does not saturate smoothly (F test)"


@pytest.mark.parametrize(
    ("curves", "why"),
    [
        (around(exponential, BUDGETS[:2]), "2 budgets; it takes 3"),
        (around(lambda _: 60.0), "not learned at any budget"),
        (around(exponential, BUDGETS[:3], (0.0,)), "one seed a budget shows no spread"),
        (around(exponential, noise=(-400.0, 0.0, 400.0)), "under 50 epochs or many more"),
    ],
)
def test_what_the_data_do_not_show_is_not_told(tmp_path, curves, why):
    found = scale(tmp_path, curves)
    assert found.answer == f"cannot tell: {why}"
    assert not found.is_known


def test_an_axis_with_a_name_that_sets_the_epochs_alone_is_one_of_budgets(tmp_path):
    arms = build_arms(load_sweep(write_budgets(tmp_path / "s", around(exponential))))
    named = [
        dataclasses.replace(arm, factors=arm.factors | {"budget": f"b{arm.factors['epochs']}"})
        for arm in arms
    ]
    assert scale_epochs(named) == []
    assert scale_epochs(named, ["budget"]) == scale_epochs(arms)
    sweep = load_sweep(tmp_path / "s")
    axes = {"budget": ("epochs",), "arm": ("epochs", "variant"), "epochs": ("epochs",)}
    assert sweep._replace(axes=axes).find_names_of("epochs") == ("budget",)


def test_seeds_without_spread_say_nothing_of_lack_of_fit():
    assert lack_of_fit([[435.01] * 5, [500.0] * 5, [468.22] * 5], 1.0) == 1.0


def test_budgets_that_are_not_comparable_are_no_curve(tmp_path):
    folder = write_budgets(tmp_path / "s", around(exponential), epochs_reached=50)
    (found,) = summarize_sweep(load_sweep(folder)).scalings
    assert found.answer == "cannot tell: budgets are not comparable (epochs_reached)"
    assert found.fits == ()
    (found,) = summarize_sweep(load_sweep(folder), despite_differences=True).scalings
    assert found.answer.startswith("needs about 180 epochs (")
    assert found.answer.endswith(") [despite differences]")


def test_a_sweep_of_one_budget_has_no_scaling(tmp_path):
    curves = {100: [300.0, 310.0]}
    assert (
        summarize_sweep(load_sweep(write_budgets(tmp_path / "s", curves)), "epochs").scalings == ()
    )


# Cost.


def test_cost_is_of_all_seeds_and_the_gain_is_above_the_floor(tmp_path):
    curves = {100: [400.0, 500.0], 200: [600.0, 700.0]}
    times = {"train_seconds": 50.0, "evaluation_seconds": 10.0, "device": "cpu"}
    folder = write_budgets(tmp_path / "s", curves, **times, velocity_calls=8)
    cost = measure_costs(build_arms(load_sweep(folder)))[0]
    assert (cost.seconds, cost.epochs_per_second) == (120.0, 2.0)
    assert (cost.devices, cost.velocity_calls) == (("cpu",), (8,))
    # 450 points in 50 s; 404.9 above the floor.
    assert cost.return_per_hour == pytest.approx(450.0 * 72)
    assert cost.gain_per_hour == pytest.approx(404.9 * 72)


def test_an_arm_that_returns_nothing_has_lost_what_the_floor_gives(tmp_path):
    folder = write_budgets(tmp_path / "s", {100: [0.0, 0.0]}, train_seconds=50.0)
    cost = measure_costs(build_arms(load_sweep(folder)))[0]
    assert (cost.seconds, cost.return_per_hour) == (100.0, 0.0)
    assert cost.gain_per_hour == pytest.approx(-45.1 * 72)


def test_cost_that_was_not_recorded_is_a_dash(tmp_path, capsys):
    write_budgets(tmp_path / "s", around(exponential), train_seconds=None, velocity_calls=None)
    assert main(["s", "--results", str(tmp_path), "--format", "md"]) == 0
    assert "| 50 | ? | - | - | - | - |" in capsys.readouterr().out


def test_json_has_no_infinite_number(tmp_path, capsys):
    write_budgets(tmp_path / "s", {budget: [0.0, 520.0] for budget in BUDGETS[:3]})
    assert main(["s", "--results", str(tmp_path), "--format", "json"]) == 0
    printed = capsys.readouterr().out
    assert "Infinity" not in printed
    assert json.loads(printed)["scalings"][0]["high"] is None


def test_table_says_how_many_epochs_are_needed(tmp_path, capsys):
    write_budgets(tmp_path / "s", around(exponential))
    assert main(["s", "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "needs about 180 epochs" in printed
    assert max(len(line) for line in printed.splitlines()) <= 100


def test_budgets_that_lack_seeds_are_no_curve(tmp_path):
    folder = write_budgets(tmp_path / "s", around(exponential))
    rows = read_table(folder / "trials.arrow").to_pylist()
    for row in rows:
        if row["epochs"] == 400 or (row["epochs"] > 100 and row["seed"] == 2):
            row["status"], row["reason"] = "FAILED", "out of memory"
    write_trials(tmp_path / "t", rows, ["epochs", "task", "seed"], "epochs")
    summary = summarize_sweep(load_sweep(tmp_path / "t"))
    assert [row.verdict.name for row in summary.comparisons[0].rows][-2:] == [
        "Incomplete (2/3 seeds)",
        "Incomplete (0/3 seeds)",
    ]
    assert summary.scalings[0].answer == "cannot tell: seeds are missing at 200, 400 epochs"
    assert summary.scalings[0].fits == ()
