"""What figures draw is what was measured: places of marks, means and intervals, by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import AxLine, Line2D

from analysis.figures import list_figures
from analysis.load import load_sweep
from analysis.report import summarize_sweep
from pwmray.results import TRIALS, read_table, write_rows
from tests.made_sweeps import BUDGETS, FLOOR, NOISE, exponential, make_row, make_sweep
from tests.squares import write_square, write_trials

RETURNS = {
    "reacher-easy": {
        "baseline": (300.0, 302.0, 304.0, 306.0, 308.0),
        "flowpolicy": (400.0, 402.0, 404.0, 406.0, 413.0),
        "flowwm": (200.0, 202.0, 204.0, 206.0, 208.0),
        "fullflow": (304.0, 316.0, 310.0, 306.0, 309.0),
    },
    "walker-stand": {
        "baseline": (600.0, 602.0, 604.0, 606.0, 608.0),
        "flowpolicy": (900.0, 902.0, 904.0, 906.0, 913.0),
        "flowwm": (700.0, 702.0, 704.0, 706.0, 708.0),
        "fullflow": (804.0, 816.0, 810.0, 806.0, 809.0),
    },
}
BASELINE = RETURNS["reacher-easy"]["baseline"]
# Of five seeds whose sd is the root of 10: 2.776445 (t of 4 degrees) times sqrt(10 / 5).
HALF = 3.926486


def draw(folder: Path) -> dict[str, Figure]:
    return list_figures(summarize_sweep(load_sweep(folder)))


@pytest.fixture(scope="module")
def figures(tmp_path_factory) -> dict[str, Figure]:
    """Return the figures of the 2x2 whose n-th seeds trained 10 n minutes."""
    folder = write_square(tmp_path_factory.mktemp("results") / "s", RETURNS)
    rows = read_table(folder / "trials.arrow").to_pylist()
    for row in rows:
        row["train_seconds"] = 600.0 * row["seed"]
        row["real_start_value"], row["imagined_start_value"] = 10.0 + row["seed"], 30.0
    write_rows(folder / "trials.arrow", rows, TRIALS)
    return draw(folder)


def places(line: Line2D) -> list[list[float]]:
    return np.asarray(line.get_xydata()).tolist()


def marks(axes: Axes) -> list[list[list[float]]]:
    """Return the places of what is drawn without a line, series by series."""
    return [places(line) for line in axes.lines if line.get_linestyle() == "None"]


def heights(collection) -> list[float]:
    return sorted({float(y) for path in collection.get_paths() for _, y in path.vertices})


def test_an_arm_has_a_dot_a_seed_a_bar_at_the_mean_and_a_t_interval(figures):
    dots, bar, whisker = figures["returns_by_variant"].axes[0].collections[:3]
    assert dots.get_offsets()[:, 1].tolist() == list(BASELINE)
    assert heights(bar) == [304.0]
    assert heights(whisker) == pytest.approx([304.0 - HALF, 304.0 + HALF], abs=1e-4)


def test_arms_of_a_tick_stand_around_it_in_the_order_of_the_legend(figures):
    every = figures["returns_by_variant"].axes[0].collections[::3]
    assert [dots.get_offsets()[0].tolist() for dots in every] == [
        pytest.approx([-0.3, 300.0]),
        pytest.approx([-0.1, 400.0]),
        pytest.approx([0.1, 200.0]),
        pytest.approx([0.3, 304.0]),
    ]


def test_budgets_are_joined_at_their_means(tmp_path):
    axes = draw(make_sweep(tmp_path / "s"))["returns_by_epochs"].axes[0]
    baseline, fullflow = (places(line) for line in axes.lines if len(line.get_xdata()) == 3)
    # 300 and the epochs, for the baseline 110 more, and a hundredth of the mean seed, 207.
    assert [y for _, y in baseline] == pytest.approx([512.07, 612.07, 812.07])
    assert [y for _, y in fullflow] == pytest.approx([402.07, 502.07, 702.07])
    assert [x for x, _ in baseline] == pytest.approx([-0.045, 0.955, 1.955])


def test_the_band_of_curves_is_the_t_interval_of_their_mean(figures):
    axes = figures["learning_curves"].axes[0]
    middle = next(line for line in axes.lines if line.get_linewidth() == 1.6)
    assert places(middle) == [[50.0, 152.0], [100.0, 304.0]]
    ends = [304.0 - HALF, 304.0 + HALF]  # half way all were half as high
    assert heights(axes.collections[0]) == pytest.approx([y / 2 for y in ends] + ends, abs=1e-4)


def test_what_is_imagined_stands_above_the_line_where_it_is_more_than_comes(figures):
    axes = figures["imagined_against_real"].axes[0]
    assert marks(axes)[0] == [[11.0, 30.0]]
    (line,) = (line for line in axes.lines if isinstance(line, AxLine))
    assert (line.get_xy1(), line.get_slope()) == ((0.0, 0.0), 1.0)
    low, high = axes.get_xlim()
    assert axes.get_ylim() == (low, high)
    assert low < 11.0 < 30.0 < high


def test_a_pair_of_seeds_stands_above_the_line_where_the_level_returns_more(figures):
    reacher, walker = marks(figures["pairs_of_seeds_by_variant"].axes[0])
    for found, task in ((reacher, "reacher-easy"), (walker, "walker-stand")):
        pairs = zip(RETURNS[task]["baseline"], RETURNS[task]["flowpolicy"], strict=True)
        assert sorted(map(tuple, found)) == list(pairs)


def test_an_effect_of_the_2x2_stands_at_its_estimate_with_its_interval(figures):
    axes = figures["effects_of_the_2x2"].axes
    assert [panel.get_title() for panel in axes] == ["world model", "policy", "interaction"]
    # Of means 304, 405, 204, 309 and 604, 905, 704, 809, below them the mean of both tasks.
    for panel, effects in zip(axes, ([-98, 2, -48], [103, 203, 153], [4, -196, -96]), strict=True):
        found = [place for (place,) in marks(panel)]
        assert [x for x, _ in found] == pytest.approx(effects)
        assert [y for _, y in found] == [0.0, 1.0, 2.0]
        bars = [line for line in panel.lines if len(line.get_xdata()) == 2][:3]
        assert [np.mean(bar.get_xdata()) for bar in bars] == pytest.approx(effects)
        assert [bar.get_ydata()[0] for bar in bars] == [0.0, 1.0, 2.0]


def test_a_profile_is_the_share_of_runs_above_each_return(figures):
    (axes,) = figures["performance_profile_by_variant"].axes
    shares = dict(places(axes.lines[0]))
    # Of the baseline's: four of five on reacher-easy are above 300, none above 325.
    assert [shares[at] for at in (275, 300, 325, 600, 625)] == [1.0, 0.9, 0.5, 0.4, 0.0]


def test_costs_are_the_minutes_and_returns_of_seeds_and_their_mean(figures):
    axes = figures["return_against_cost"].axes[0]
    seeds, (mean,), *_ = marks(axes)
    assert seeds == [[10.0 * place, y] for place, y in enumerate(BASELINE, start=1)]
    assert mean == [30.0, 304.0]
    assert axes.get_xlabel() == "minutes of training a trial"


def test_a_fit_over_epochs_is_the_curve_with_the_interval_of_the_epochs_needed(tmp_path):
    rows = [
        make_row("reacher-easy", "baseline", epochs, seed)
        | {"return_mean": exponential(epochs) + noise}
        for epochs in BUDGETS
        for seed, noise in enumerate(NOISE)
    ]
    write_trials(tmp_path / "s", rows, ["epochs", "task", "seed"], "epochs")
    summary = summarize_sweep(load_sweep(tmp_path / "s"))
    (scaling,) = summary.scalings
    axes = list_figures(summary)["return_against_epochs"].axes[0]
    fit = next(line for line in axes.lines if len(line.get_xdata()) == 100)
    x, y = np.asarray(fit.get_xydata()).T
    assert (x[0], x[-1]) == pytest.approx((25.0, 600.0))
    np.testing.assert_allclose(y, exponential(x), atol=10.0)
    assert [places(line) for line in axes.lines[:4]] == [
        [[epochs, pytest.approx(exponential(epochs) + noise)] for noise in NOISE]
        for epochs in BUDGETS
    ]
    needed = next(line for line in axes.lines if np.all(line.get_ydata() == 18.0))
    assert needed.get_xdata() == pytest.approx([scaling.low, scaling.high])
    assert y.min() > FLOOR


def test_a_map_of_a_flows_settings_has_each_mean_in_its_cell(tmp_path):
    means = {("heun", 4): 400.0, ("heun", 2): 300.0, ("euler", 4): 200.0, ("euler", 2): 100.0}
    rows = [
        make_row("reacher-easy", "fullflow", 100, seed)
        | {"trial": f"{integrator}-{substeps}-{seed}", "return_mean": mean + seed}
        | {"config": json.dumps({"policy": {"num_substeps": substeps, "integrator": integrator}})}
        for (integrator, substeps), mean in means.items()
        for seed in (-1, 0, 1)
    ]
    varies = ["policy.num_substeps", "policy.integrator", "task", "seed"]
    write_trials(tmp_path / "s", rows, varies, "policy.num_substeps")
    axes = draw(tmp_path / "s")["flow_settings"].axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["2", "4"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["heun", "euler"]
    assert axes.images[0].get_array().tolist() == [[300.0, 400.0], [100.0, 200.0]]
    told = {text.get_position(): text.get_text() for text in axes.texts}
    assert told[(0, 1)] == "100\n+- 1"
    assert told[(1, 0)] == "400\n+- 1"
