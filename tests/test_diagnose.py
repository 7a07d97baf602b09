"""Runs that went wrong, or that are one run, are named."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.curves import load_curves
from analysis.diagnose import diagnose
from analysis.load import load_sweep
from analysis.summarize import main
from pwmray.results import CURVE, EVALUATIONS, read_table, write_rows
from tests.made_sweeps import changed_trials
from tests.squares import write_square

FIRST, SECOND = "s-reacher-easy-baseline-100-1", "s-reacher-easy-baseline-100-2"
STEADY = [100, 300, 400, 450, 470, 480, 485, 480, 488, 482, 485, 487]


def write_curves(
    folder: Path, *curves: Sequence[float], losses: Sequence[float] | None = None, **changes: Any
) -> Path:
    """Write a sweep of one arm whose seeds have these curves; `changes` edits its first trial.

    Without `losses` each trial has its own.
    """
    ends = {"reacher-easy": {"baseline": [curve[-1] + 0.25 * i for i, curve in enumerate(curves)]}}
    write_square(folder, ends)
    rows = [
        {"trial": f"s-reacher-easy-baseline-100-{seed}", "epoch": 10 * place, "return_mean": value}
        | {"critic_loss": losses[place] if losses else 1.0 + seed / 100.0}
        for seed, curve in enumerate(curves, start=1)
        for place, value in enumerate(curve)
    ]
    write_rows(folder / "curves.arrow", rows, CURVE)
    with changed_trials(folder) as trials:
        trials[0] |= changes
    return folder


def names_of(folder: Path, trial: str = FIRST) -> list[str]:
    return diagnose(load_sweep(folder))[trial]


@pytest.mark.parametrize(
    ("curve", "names"),
    [
        (STEADY, []),
        ([20, 40, 60, 90, 120, 160, 200, 250, 300, 360, 420, 480], ["undertrained"]),
        ([100, 300, 600, 700, 710, 700, 705, 690, 200, 150, 160, 140], ["collapsed"]),
        ([100, 300, 600, 700, 100, 700, 705, 690, 700, 695, 690, 150], []),  # one bad evaluation
        ([200] * 9 + [98] * 3, ["collapsed"]),  # by 102, more than half of 200 - 45.1
        ([200] * 9 + [102] * 3, []),  # by 98
        ([400] * 9 + [230] * 3, []),  # by 170, less than half of 400 - 45.1
        ([30, 35, 30, 32, 30, 38, 36, 35, 30, 32, 34, 35], ["at floor"]),
        ([100, 300, 500, 700], []),  # too short to judge
    ],
)
def test_the_shape_of_a_curve_is_named(tmp_path, curve, names):
    assert names_of(write_curves(tmp_path / "s", curve)) == names


def test_a_noisy_curve_that_ends_higher_by_chance_is_not_undertrained(tmp_path):
    noise = [0, 400, 50, 350, 30, 420, 10, 380, 60, 410, 40, 460]
    assert names_of(write_curves(tmp_path / "s", noise)) == []


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"epochs_reached": 99}, "stopped early"),
        ({"imagined_start_value": 11.2, "real_start_value": 5.5}, "exploited"),
        ({"status": "FAILED", "reason": "diverged: critic_loss is nan at epoch 3"}, "diverged"),
    ],
)
def test_the_record_of_a_trial_is_named(tmp_path, changes, name):
    assert names_of(write_curves(tmp_path / "s", STEADY, **changes)) == [name]


@pytest.mark.parametrize(("imagined", "real"), [(21.0, 11.0), (5.3, 0.5)])
def test_a_trial_that_imagines_little_more_than_it_gets_is_not_exploited(tmp_path, imagined, real):
    values = {"imagined_start_value": imagined, "real_start_value": real}  # less than twice; by 4.8
    assert names_of(write_curves(tmp_path / "s", STEADY, **values)) == []


@pytest.mark.parametrize(
    ("first", "last", "names"),
    [
        (1.0, 1e6, ["diverged"]),
        (1.0, np.inf, ["diverged"]),
        (1.0, 3.0, []),
        (1e-6, 1e-2, []),  # a tiny loss may grow
    ],
)
def test_a_loss_that_blows_up_is_named(tmp_path, first, last, names):
    assert names_of(write_curves(tmp_path / "s", STEADY, losses=[first] * 11 + [last])) == names


# One run counted twice.


def test_two_seeds_with_the_same_curve_are_named(tmp_path):
    folder = write_curves(tmp_path / "s", STEADY, STEADY, STEADY[::-1], losses=[1.0] * 12)
    found = diagnose(load_sweep(folder))
    assert [found[name] for name in (FIRST, SECOND)] == [["identical"], ["identical"]]
    assert "identical" not in found["s-reacher-easy-baseline-100-3"]


def test_the_same_returns_with_other_losses_are_two_runs(tmp_path):
    assert names_of(write_curves(tmp_path / "s", STEADY, STEADY)) == []


def test_curves_of_one_value_are_not_called_one_run(tmp_path):
    folder = write_curves(tmp_path / "s", [500.0] * 12, [500.0] * 12, losses=[1.0] * 12)
    assert names_of(folder) == []


def test_the_same_episodes_are_one_run(tmp_path):
    folder = write_curves(tmp_path / "s", STEADY, STEADY[::-1])
    rows = [
        {"trial": trial, "return": value} for trial in (FIRST, SECOND) for value in (500.0, 510.0)
    ]
    write_rows(folder / "evaluations.arrow", rows, EVALUATIONS)
    assert names_of(folder) == ["identical"]


@pytest.mark.parametrize(("value", "names"), [(0.0, ["at floor"]), (1000.0, [])])
def test_episodes_that_all_return_nothing_or_all_there_is_are_not_called_one_run(
    value, names, tmp_path
):
    folder = write_curves(tmp_path / "s", STEADY, STEADY[::-1])
    rows = [{"trial": trial, "return": value} for trial in (FIRST, SECOND)]
    write_rows(folder / "evaluations.arrow", rows, EVALUATIONS)
    assert names_of(folder) == names


# Printed.


def test_names_stand_in_the_notes_and_beside_every_trial(tmp_path, capsys):
    rising = [20, 40, 60, 90, 120, 160, 200, 250, 300, 360, 420, 480]
    write_curves(tmp_path / "s", rising, STEADY)
    assert main(["s", "--results", str(tmp_path), "--per-seed", "--compare", "variant"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Undertrained (rises by 50 points or more from the third" in printed
    assert "1 trial: reacher-easy seed 1" in printed
    assert "undertrained" in printed


def test_a_sweep_without_curves_has_the_names_of_its_records(tmp_path):
    folder = write_curves(tmp_path / "s", STEADY, epochs_reached=99)
    (folder / "curves.arrow").unlink()
    assert names_of(folder) == ["stopped early"]


def test_a_cut_file_of_curves_is_named(tmp_path, capsys):
    path = write_curves(tmp_path / "s", STEADY) / "curves.arrow"
    path.write_bytes(path.read_bytes()[:300])
    assert main(["s", "--results", str(tmp_path)]) == 2
    assert "curves.arrow" in capsys.readouterr().err


def test_curves_are_put_in_order_of_epoch(tmp_path):
    folder = write_curves(tmp_path / "s", STEADY, STEADY[::-1])
    rows = read_table(folder / "curves.arrow").to_pylist()
    for order in (rows[::-1], rows[::2] + rows[1::2]):
        write_rows(folder / "curves.arrow", order, CURVE)
        curves = load_curves(load_sweep(folder))
        assert list(curves[FIRST].epochs) == list(range(0, 120, 10))
        assert list(curves[FIRST].returns) == STEADY
        assert list(curves[SECOND].returns) == STEADY[::-1]
