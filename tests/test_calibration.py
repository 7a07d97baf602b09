"""The simulation of the verdict: it applies the verdict's own rule and finds the known rates."""

from pathlib import Path

import numpy as np
import pytest

from analysis.stats import FALSE_WINNER_RATES, welch
from analysis.verdict import CONFIDENCE, decide, grade_evidence
from benchmarks import calibration
from benchmarks.calibration import SHAPES, confirm, judge_many, main_effect_power, simulate

DOCUMENT = Path(__file__).parents[1] / "docs" / "statistics.md"
REPEATS = 40_000


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def wins_of(shape: str, num_seeds: int, difference: float) -> float:
    return simulate(shape, num_seeds, difference, REPEATS, rng()).is_win.mean()


@pytest.mark.parametrize("shape", list(SHAPES))
def test_arrays_follow_the_rule_of_the_verdict(shape):
    draws = rng()
    baseline, level = (500.0 + draw(draws, (200, 4)) for draw in SHAPES[shape])
    found = judge_many(baseline, level)
    verdicts = [
        decide(list(a), list(b), floor=-1e6, names=("a", "b"))
        for a, b in zip(baseline, level, strict=True)
    ]
    assert found.is_win.tolist() == [verdict.winner is not None for verdict in verdicts]
    assert found.is_tie.tolist() == [verdict.name.startswith("Tie") for verdict in verdicts]
    assert found.p == pytest.approx([verdict.welch.p for verdict in verdicts])
    assert found.low == pytest.approx([verdict.welch.low for verdict in verdicts])


def test_confirmed_winners_are_those_of_the_verdict():
    draws = rng()
    baseline = 500.0 + draws.normal(0.0, 60.0, (30, 5))
    level = 560.0 + draws.normal(0.0, 60.0, (30, 5)) + 20.0 * np.arange(30)[:, None]
    grades = grade_evidence(
        [
            decide(list(a), list(b), floor=-1e6, names=("a", "b"))
            for a, b in zip(baseline, level, strict=True)
        ]
    )
    assert 0 < grades.count("confirmed") < 30
    assert confirm(judge_many(baseline, level), 5).tolist() == [grades.count("confirmed")]
    assert confirm(judge_many(baseline, level), 4).tolist() == [0]


@pytest.mark.parametrize("num_seeds", list(FALSE_WINNER_RATES))
def test_false_winner_rates_that_tables_print_are_simulated(num_seeds):
    rate = FALSE_WINNER_RATES[num_seeds]
    assert wins_of("normal", num_seeds, 0.0) == pytest.approx(rate, abs=0.011)


def test_five_per_cent_better_is_wrong_nearly_every_second_time():
    assert calibration.relative_wins(3, REPEATS, rng()).mean() == pytest.approx(0.47, abs=0.01)


@pytest.mark.parametrize(("num_seeds", "power"), [(3, 0.59), (5, 0.85)])
def test_main_effect_of_fifty_points_has_the_known_power(num_seeds, power):
    assert main_effect_power(num_seeds, REPEATS, rng()) == pytest.approx(power, abs=0.01)


def test_percentile_bootstrap_of_three_seeds_covers_three_quarters():
    # The interval is [min, max] of the sample: it misses when all three are on one side, 1/4.
    assert calibration.bootstrap_coverage(1, 3, 2_000, rng()) == pytest.approx(0.75, abs=0.03)


def test_welch_interval_covers_as_it_says():
    found = simulate("normal", 5, 0.0, REPEATS, rng())
    assert np.mean((found.low <= 0) & (found.high >= 0)) == pytest.approx(0.955, abs=0.01)
    one = welch([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], CONFIDENCE)
    array = judge_many(np.array([[1.0, 2.0, 3.0]]), np.array([[2.0, 4.0, 6.0]]))
    assert (array.low[0], array.high[0]) == pytest.approx((one.low, one.high))


def test_too_few_repeats_are_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["calibration.py", "--repeats", "10"])
    assert calibration.main() == 2
    assert capsys.readouterr().err == "error: --repeats 10: must be 300 or more\n"


@pytest.mark.slow
def test_documented_numbers_are_those_printed(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["calibration.py"])
    assert calibration.main() == 0
    assert capsys.readouterr().out.strip() in DOCUMENT.read_text(encoding="utf-8")
