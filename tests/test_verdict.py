"""Verdicts, their statistics and the guard, against hand-worked numbers and real returns."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from analysis.guard import find_differences
from analysis.load import NO_EPISODES, Trial
from analysis.stats import (
    bootstrap_blocks,
    compare_with,
    expected_false_winners,
    holm,
    sample_sd,
    seed_correlation,
    smallest_exact_p,
    welch,
)
from analysis.verdict import decide, grade_evidence, judge, seeds_to_decide
from pwmray.tasks import find_task
from tests.made_sweeps import CONTROLS

RECORD = {**CONTROLS, "epochs": 100, "epochs_reached": 100}
MLP = {"variant": "baseline", "world_model": "mlp", "policy": "gaussian"}
FLOW = {"variant": "fullflow", "world_model": "flow", "policy": "flow"}
NAMES = ("baseline", "fullflow")
LEGACY = Path(__file__).parent / "data" / "legacy_phase3.csv"  # real returns, three seeds an arm


def read_legacy(task: str, variant: str) -> dict[int, float]:
    with open(LEGACY, newline="") as file:
        rows = [r for r in csv.DictReader(file) if (r["task"], r["variant"]) == (task, variant)]
    return {int(row["seed"]): float(row["return"]) for row in rows}


def judge_legacy(task: str):
    baseline, flow = read_legacy(task, "baseline"), read_legacy(task, "flowpolicy")
    floor = find_task(task).floor
    return judge(baseline, flow, floor=floor, names=("baseline", "flowpolicy"))


def decide_at(baseline: list[float], level: list[float], floor: float = 0.0):
    return decide(baseline, level, floor, NAMES)


def false_winner_rate(num_seeds: int, repeats: int) -> float:
    rng = np.random.default_rng(0)
    draws = rng.normal(500.0, 60.0, (repeats, 2, num_seeds))
    return sum(decide_at(list(a), list(b)).winner is not None for a, b in draws) / repeats


def make_arms(
    ours: Mapping[str, Any] = MappingProxyType({}), **theirs: Any
) -> tuple[list[Trial], list[Trial]]:
    """Return a baseline and a full flow arm; `ours` and `theirs` edit every row of each."""
    arms = [
        [
            Trial(
                RECORD | kind | {"trial": f"{kind['variant']}-{seed}", "seed": seed} | edit,
                {},
                np.array([500.0, 510.0, 520.0]),
                NO_EPISODES,
            )
            for seed in (42, 123, 456)
        ]
        for kind, edit in ((MLP, ours), (FLOW, theirs))
    ]
    return arms[0], arms[1]


# The worked example: flow minus baseline, three seeds.


@pytest.mark.parametrize(
    ("task", "name", "evidence"),
    [
        ("reacher-easy", "Tie (Solved)", ""),
        ("walker-stand", "Baseline wins", "suggestive"),
        ("cheetah-run", "Tie (Both Low)", ""),
    ],
)
def test_worked_example_gives_the_known_verdicts(task, name, evidence):
    verdict = judge_legacy(task)
    assert verdict.name == name
    assert grade_evidence([verdict]) == [evidence]


@pytest.mark.parametrize(
    ("task", "difference", "errors", "p", "interval"),
    [
        ("reacher-easy", -1.63, 0.76, 0.51, (-9, 6)),
        ("walker-stand", -117.93, 2.19, 0.136, (-313, 78)),
        ("cheetah-run", -13.74, 0.82, 0.46, (-60, 33)),
    ],
)
def test_worked_example_gives_the_known_numbers(task, difference, errors, p, interval):
    found = judge_legacy(task).welch
    assert found is not None
    assert found.difference == pytest.approx(difference, abs=0.005)
    assert abs(found.difference) / found.standard_error == pytest.approx(errors, abs=0.005)
    assert found.p == pytest.approx(p, abs=0.005)
    assert (round(found.low), round(found.high)) == interval


@pytest.mark.parametrize(
    ("task", "variant", "sd"),
    [
        ("reacher-easy", "baseline", 1.15),
        ("walker-stand", "flowpolicy", 88.42),
        ("cheetah-run", "flowpolicy", 20.07),
    ],
)
def test_worked_example_gives_the_known_spread(task, variant, sd):
    assert sample_sd(list(read_legacy(task, variant).values())) == pytest.approx(sd, abs=0.005)


# Every branch, in the order it is checked.


def test_arms_that_differ_in_a_control_are_not_comparable():
    verdict = judge({1: 0.0}, {2: 900.0}, floor=0.0, names=NAMES, is_comparable=False)
    assert verdict.name == "Not comparable"
    assert verdict.welch is None


@pytest.mark.parametrize(
    ("baseline", "level", "planned", "name"),
    [
        ({1: 900.0, 2: 900.0, 3: 900.0}, {1: 100.0, 2: 100.0}, (), "Incomplete (2/3 seeds)"),
        ({1: 900.0, 2: 900.0}, {1: 100.0, 2: 100.0}, (1, 2, 3), "Incomplete (2/3 seeds)"),
        ({1: 900.0, 2: 900.0}, {1: 100.0, 3: 100.0}, (), "Incomplete (1/3 seeds)"),
        ({1: 900.0}, {}, (1, 2, 3), "Incomplete (0/3 seeds)"),
        ({}, {}, (), "Incomplete (0/0 seeds)"),
    ],
)
def test_arms_with_missing_seeds_are_incomplete(baseline, level, planned, name):
    verdict = judge(baseline, level, floor=0.0, names=NAMES, seeds=frozenset(planned))
    assert verdict.name == name
    assert not verdict.has_decision


@pytest.mark.parametrize(
    ("diverged", "name"),
    [
        ((2, 3), "Diverged (2/3 seeds)"),
        ((1, 2, 3), "Diverged (2/3 seeds)"),
        ((2,), "Incomplete (1/3 seeds)"),
    ],
)
def test_arms_are_said_to_have_diverged_where_all_that_is_missing_has(diverged, name):
    returns = {1: 900.0, 3: 900.0}, {1: 100.0}
    seeds = frozenset((1, 2, 3))
    verdict = judge(*returns, floor=0.0, names=NAMES, seeds=seeds, diverged=frozenset(diverged))
    assert verdict.name == name
    assert not verdict.has_decision


def test_both_low_comes_before_a_win():
    assert decide_at([10.0, 11.0, 12.0], [180.0, 181.0, 182.0]).name == "Tie (Both Low)"
    assert decide_at([10.0, 11.0, 12.0], [210.0, 211.0, 212.0]).name == "Fullflow wins"


def test_both_low_depends_on_the_floor_of_the_task():
    arms = [700.0, 701.0, 702.0], [780.0, 781.0, 782.0]
    assert decide_at(*arms, floor=749.0).name == "Tie (Both Low)"
    assert decide_at(*arms, floor=45.0).name == "Fullflow wins"


def test_low_ends_exactly_at_floor_plus_a_fifth_of_the_rest():
    assert decide_at([200.0, 200.0], [200.0, 200.0]).name == "Tie"
    assert decide_at([199.9, 199.9], [199.9, 199.9]).name == "Tie (Both Low)"
    assert decide_at([280.0, 280.0], [280.0, 280.0], floor=100.0).name == "Tie"
    assert decide_at([279.9, 279.9], [279.9, 279.9], floor=100.0).name == "Tie (Both Low)"


def test_a_large_and_certain_difference_wins_for_either_side():
    assert decide_at([300.0, 310.0, 320.0], [600.0, 610.0, 620.0]).winner == "fullflow"
    assert decide_at([600.0, 610.0, 620.0], [300.0, 310.0, 320.0]).winner == "baseline"


def test_a_win_begins_at_fifty():
    assert decide_at([500.0, 500.0], [550.0, 550.0]).name == "Fullflow wins"
    assert decide_at([500.0, 500.0], [549.9, 549.9]).name == "Tie"


def test_exactly_two_standard_errors_is_no_win():
    # The squared standard error is 30^2 + 40^2 = 50^2, the difference 100.
    verdict = decide_at([370.0, 430.0], [460.0, 540.0])
    assert verdict.welch is not None
    assert verdict.welch.standard_error == 50.0
    assert verdict.name.startswith("Inconclusive")


def test_a_tie_is_solved_only_when_both_means_are_at_950():
    assert decide_at([950.0, 950.0], [951.0, 951.0]).name == "Tie (Solved)"
    assert decide_at([949.0, 949.0], [951.0, 951.0]).name == "Tie"


def test_a_wide_interval_is_inconclusive_and_says_how_many_seeds_would_decide():
    # sd 100 an arm, difference 60: 2 standard errors take n > 4 * 20000 / 3600 = 22.2.
    verdict = decide_at([400.0, 500.0, 600.0], [460.0, 560.0, 660.0])
    assert verdict.name == "Inconclusive (23 seeds)"
    assert verdict.seeds_needed == 23


def test_an_interval_that_passes_the_margin_on_one_side_is_no_tie_for_either_side():
    # sd 42 an arm, difference 60: 60 +- 95, and 2 standard errors take n > 3.9.
    arms = [458.0, 500.0, 542.0], [518.0, 560.0, 602.0]
    for one, other in (arms, arms[::-1]):
        verdict = decide_at(one, other)
        assert verdict.is_open
        assert verdict.name == "Inconclusive (4 seeds)"


def test_seeds_for_a_tie_come_from_the_interval_whichever_arm_is_better():
    # sd 20 an arm, difference 20: t(2n - 2) * 20 * sqrt(2 / n) <= 30 first at n = 5 (29.2).
    arms = [600.0, 620.0, 640.0], [620.0, 640.0, 660.0]
    assert seeds_to_decide(*arms) == seeds_to_decide(*arms[::-1]) == 5


def test_seeds_for_a_tie_take_the_degrees_of_freedom_of_unequal_spreads():
    # sd 0 and 40, difference 20: t(n - 1) * 40 / sqrt(n) <= 30 first at n = 10 (28.6).
    assert seeds_to_decide([620.0, 620.0, 620.0], [600.0, 640.0, 680.0]) == 10


def test_a_hundred_seeds_are_the_most_that_are_counted():
    # A win takes n > 8 sd^2 / 60^2: 99.5 and 100.3.
    assert seeds_to_decide([288.4, 500.0, 711.6], [348.4, 560.0, 771.6]) == 100
    assert seeds_to_decide([287.5, 500.0, 712.5], [347.5, 560.0, 772.5]) is None


def test_a_difference_close_to_the_margin_needs_more_seeds_than_are_counted():
    verdict = decide_at([400.0, 500.0, 600.0], [449.0, 549.0, 649.0])
    assert verdict.name == "Inconclusive (over 100 seeds)"
    assert verdict.seeds_needed is None


def test_one_seed_shows_no_spread_and_decides_nothing():
    verdict = decide_at([300.0], [900.0])
    assert verdict.name == "Inconclusive (one seed shows no spread)"
    assert verdict.welch is not None
    assert verdict.welch.p is None


def test_arms_without_any_spread_do_not_divide_by_zero():
    verdict = decide_at([300.0, 300.0, 300.0], [900.0, 900.0, 900.0])
    assert verdict.name == "Fullflow wins"
    assert grade_evidence([verdict]) == ["suggestive"]


# Its mean over five seeds is rounded, as one number of six is.
UNEVEN = 435.01


def test_arms_without_any_spread_are_no_more_certain_where_their_mean_is_rounded():
    assert np.var([UNEVEN] * 5) > 0.0
    verdict = decide_at([UNEVEN] * 5, [UNEVEN + 80.0] * 5)
    assert verdict.welch is not None
    assert (verdict.welch.standard_error, verdict.welch.p) == (0.0, None)
    assert grade_evidence([verdict]) == ["suggestive"]
    assert sample_sd([UNEVEN] * 5) == 0.0


# Evidence.


@pytest.mark.parametrize(
    ("num_seeds", "evidence"), [(3, "supported"), (4, "supported"), (5, "confirmed")]
)
def test_fewer_than_five_seeds_are_never_confirmed(num_seeds, evidence):
    verdict = decide_at(
        [300.0 + n for n in range(num_seeds)], [900.0 + n for n in range(num_seeds)]
    )
    assert grade_evidence([verdict]) == [evidence]


def test_holm_over_the_table_can_take_a_confirmation_away():
    # p = .017 alone; .34 as one of twenty equal ones.
    verdict = decide_at([400.0, 450.0, 500.0, 550.0, 600.0], [550.0, 600.0, 650.0, 700.0, 750.0])
    assert verdict.welch is not None
    assert verdict.welch.p == pytest.approx(0.0171, abs=0.0005)
    assert grade_evidence([verdict]) == ["confirmed"]
    assert grade_evidence([verdict] * 20) == ["supported"] * 20


# Statistics.


def test_welch_matches_hand_worked_numbers():
    # variances 4 and 1 over 3: error sqrt(5/3); degrees (5/3)^2 / ((16/9 + 1/9) / 2) = 2.941.
    found = welch([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], 0.95)
    assert found.difference == 2.0
    assert found.standard_error == pytest.approx((5 / 3) ** 0.5)
    assert found.p == pytest.approx(0.22088, abs=1e-5)
    assert (found.low, found.high) == pytest.approx((-2.15540, 6.15540), abs=1e-5)


def test_welch_matches_hand_worked_numbers_for_unequal_numbers_of_seeds():
    # 2.5 / 5 and 4 / 3: error sqrt(1.8333); degrees 1.8333^2 / (.5^2 / 4 + 1.3333^2 / 2) = 3.533.
    found = welch([1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 4.0, 6.0], 0.95)
    assert found == pytest.approx((-1.0, 1.354006, -4.963726, 2.963726, 0.506214), abs=1e-5)


def test_one_sample_against_a_number_matches_hand_worked_numbers():
    # sd 10 over 3: error 5.7735; t = 3.4641 on 2 degrees, of which 95 % lie within 4.30265.
    found = compare_with(100.0, [110.0, 120.0, 130.0], 0.95)
    assert found == pytest.approx((20.0, 5.77350, -4.84138, 44.84138, 0.07418), abs=1e-5)
    assert compare_with(100.0, [110.0], 0.95) == (10.0, None, None, None, None)
    assert compare_with(100.0, [110.0, 110.0], 0.95) == (10.0, 0.0, 10.0, 10.0, None)


def test_holm_matches_hand_worked_numbers():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([0.01, None, 0.04]) == [0.02, None, 0.04]  # what was not tested does not count


def test_smallest_exact_p_is_that_of_the_most_extreme_arrangement():
    assert smallest_exact_p(3) == (0.1, 0.25)
    assert smallest_exact_p(5) == pytest.approx((2 / 252, 2 / 32))


def test_expected_false_winners_add_up_by_number_of_seeds():
    assert expected_false_winners([3] * 30) == pytest.approx(3.3)
    assert expected_false_winners([1, 3, 5, 7, 20]) == pytest.approx(0.11 + 0.07 + 0.07 + 0.05)


def test_the_false_winner_rate_at_three_seeds_is_as_stated():
    assert false_winner_rate(num_seeds=3, repeats=3000) == pytest.approx(0.11, abs=0.02)


def test_seed_correlation_leaves_task_means_out():
    assert seed_correlation([[(1, 2), (3, 4)], [(110, 105), (112, 107)]]) == pytest.approx(1.0)
    assert seed_correlation([[(1, 2), (3, 4)], [(10, 5), (12, 3)]]) == pytest.approx(0.0)
    assert seed_correlation([[(1, 2), (1, 4)]]) is None
    assert seed_correlation([[(UNEVEN, float(seed)) for seed in range(5)]]) is None


def test_bootstrap_weighs_tasks_alike_and_repeats_itself():
    first = bootstrap_blocks([[1.0, 2.0, 3.0], [10.0]], 0.95)
    assert first.estimate == 6.0
    assert (first.low, first.high) == (5.5, 6.5)
    assert first == bootstrap_blocks([[1.0, 2.0, 3.0], [10.0]], 0.95)


# The guard.


def test_arms_that_differ_in_the_factor_alone_are_comparable():
    assert find_differences("variant", *make_arms()) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("methodology", "policy_and_wm_finetuning"),
        ("fidelity", "published"),
        ("evaluation_protocol", "seeds 4-6"),
        ("evaluation_episodes", 10),
        ("code_version", "0.2.0"),
        ("git_commit", "c1+changes"),
        ("torch_version", "2.12.0"),
        ("mujoco_version", "3.16.0"),
        ("dm_control_version", "1.0.44"),
        ("data_fingerprint", "d2"),
        ("world_model_from", "flow-133000"),
    ],
)
def test_a_control_that_differs_is_named(field, value):
    found = find_differences("variant", *make_arms(**{field: value}))
    assert [difference.field for difference in found] == [field]


def test_a_collection_for_each_training_seed_is_a_control_seed_by_seed():
    arms = make_arms(data_fingerprint="d2")
    for arm, num_episodes in zip(arms, (12, 24), strict=True):
        for trial in arm:
            data = {"num_episodes": num_episodes, "seed": trial.seed}
            trial.record["config"] = json.dumps({"data": data})
    assert find_differences("data.num_episodes", *arms) == []
    last = arms[1][-1].record
    last["config"] = last["config"].replace(f'"seed": {arms[1][-1].seed}', '"seed": 99')
    (found,) = find_differences("data.num_episodes", *arms)
    assert found.field == "data.seed"


def test_a_factor_is_not_its_own_control():
    assert find_differences("fidelity", *make_arms(fidelity="published")) == []


def test_trained_parameters_within_two_percent_match():
    # 20,558,000 in all: 2 % are 411,160.
    assert find_differences("variant", *make_arms(policy_parameters=820_000)) == []
    found = find_differences("variant", *make_arms(policy_parameters=822_000))
    assert str(found[0]) == "trained_parameters: 20,558,000 against 20,970,000 (2.0% apart)"
    other = {"world_model_parameters": 19_400_000, "policy_parameters": 10_000}
    assert find_differences("variant", *make_arms(**other)) == []  # of a whole that is trained


def test_parameters_that_nobody_recorded_are_no_difference():
    arms = make_arms({"critic_parameters": None}, critic_parameters=None)
    assert find_differences("variant", *arms) == []


FROZEN = {"methodology": "policy_finetuning"}


def test_a_frozen_world_model_does_not_dilute_the_parameters():
    found = find_differences("variant", *make_arms(FROZEN, **FROZEN, policy_parameters=450_000))
    assert str(found[0]) == "trained_parameters: 1,578,000 against 1,618,000 (2.5% apart)"


def test_frozen_world_models_must_match_in_size_of_themselves():
    arms = make_arms(FROZEN, **FROZEN, world_model_parameters=48_000_000)
    (found,) = find_differences("variant", *arms)
    assert str(found) == "world_model_parameters: 18,980,000 against 48,000,000 (152.9% apart)"
    unrecorded = make_arms(FROZEN, **FROZEN, world_model_parameters=None)
    assert find_differences("variant", *unrecorded) == []


def test_settings_that_no_kind_brings_with_it_are_controls_of_a_variant():
    def config(**settings):
        return {"config": json.dumps({"world_model": settings})}

    ours = config(kind="mlp", units=[512], standardize=False)
    flow = {"kind": "flow", "units": [508], "num_substeps": 4}
    assert find_differences("variant", *make_arms(ours, **config(**flow, standardize=False))) == []
    arms = make_arms(ours, **config(**flow, standardize=True))
    (found,) = find_differences("variant", *arms)
    assert str(found) == "world_model.standardize: False against True"
    assert find_differences("policy.kind", *arms)[0].field == "world_model.kind"


def test_setting_that_one_arm_lacks_is_a_difference_where_no_kind_brings_it():
    configs = {"learner": {"horizon": 5}}, {"learner": {}, "planner": {"num_samples": 8}}
    ours, theirs = (json.dumps(config) for config in configs)
    arms = make_arms({"config": ours}, config=theirs)
    found = [str(difference) for difference in find_differences("variant", *arms)]
    assert found == ["learner.horizon: 5 against -", "planner.num_samples: - against 8"]


def test_trials_are_not_compared_with_themselves():
    baseline, level = make_arms()
    (found,) = find_differences("sweep", baseline, [*level[:2], baseline[2]])[:1]
    assert str(found) == "trial: baseline-456 against the same"


def test_parameter_counts_are_no_control_of_other_factors():
    assert find_differences("epochs", *make_arms(policy_parameters=1)) == []


def test_epochs_typed_larger_than_those_reached_are_a_difference():
    found = find_differences("variant", *make_arms(epochs=15_000, epochs_reached=9_999))
    assert str(found[0]) == "epochs_reached: 100 of 100 against 9,999 of 15,000"


def test_epochs_differ_where_they_are_not_compared():
    (found,) = find_differences("variant", *make_arms(epochs=200, epochs_reached=200))
    assert str(found) == "epochs_reached: 100 of 100 against 200 of 200"
    baseline, level = make_arms()
    level[0].record.update(epochs=200, epochs_reached=200)
    (found,) = find_differences("variant", baseline, level)
    assert str(found) == "epochs_reached: 100 of 100 against 200 and 100 of 200 and 100"


def test_stopping_early_is_a_difference_even_where_epochs_are_compared():
    assert find_differences("epochs", *make_arms(epochs=200, epochs_reached=200)) == []
    assert len(find_differences("epochs", *make_arms(epochs=200, epochs_reached=150))) == 1


def test_seeds_that_are_one_are_a_difference():
    found = find_differences("variant", *make_arms(seed=42))
    assert str(found[0]) == "seed: once each against seed 42 3 times"
    baseline, level = make_arms()
    level[0].record["seed"] = 123
    (found,) = find_differences("variant", baseline, level)
    assert str(found) == "seed: once each against seed 123 2 times"


def test_pretrained_checkpoints_of_one_kind_must_be_the_same():
    arms = make_arms(world_model="mlp", world_model_from="mlp-197000")
    assert [difference.field for difference in find_differences("variant", *arms)] == [
        "world_model_from"
    ]


def test_published_and_corrected_learners_need_not_share_a_checkpoint():
    theirs = {"fidelity": "published", "world_model_from": "flow-197000"}
    (found,) = find_differences("fidelity", *make_arms(**theirs))
    assert found.field == "world_model_from"
    arms = make_arms({"world_model_from": "flow-196000"}, **theirs)
    assert find_differences("fidelity", *arms) == []


def test_checkpoints_of_two_kinds_must_have_been_trained_alike():
    long, short = (f"{n} iterations on data d1 of 30 tasks" for n in (197_000, 133_000))
    for ours, theirs, fields in [
        (long, long, []),
        (long, None, []),  # from scratch, or of an earlier version
        (None, long, []),
        (long, short, ["world_model_training"]),
        ("unknown iterations on data d1 of 30 tasks",) * 2 + (["world_model_training"],),
        (f"{long}, settings 1a2b3c4d", f"{long}, settings 1a2b3c4d", []),
        (f"{long}, settings 1a2b3c4d", f"{long}, settings 5e6f7a8b", ["world_model_training"]),
        (f"{long}, settings 1a2b3c4d", long, []),  # of an earlier version
        (long, f"{long}, settings 1a2b3c4d", []),
        (f"{long}, settings 1a2b3c4d", short, ["world_model_training"]),
        (
            f"{long}, settings 1a, code c1",
            f"{long}, settings 1a, code c2",
            ["world_model_training"],
        ),
        (f"{long}, settings 1a, code c1", f"{long}, settings 1a, code c1", []),
        (f"{long}, settings 1a, code c1", f"{long}, settings 1a", []),
        (f"{long}, settings 1a, code c1", f"{long}, settings 2b", ["world_model_training"]),
        (f"{long}, settings 1a, code c1", long, []),
    ]:
        of_mlp = {"world_model_from": "mlp-1", "world_model_training": ours}
        arms = make_arms(of_mlp, world_model_from="flow-2", world_model_training=theirs)
        assert [found.field for found in find_differences("variant", *arms)] == fields
        assert find_differences("x", *arms, keys=("world_model_from", "variant")) == []


def test_one_checkpoint_of_unknown_training_is_the_same_in_both_arms():
    known = {"world_model_from": "mlp-1", "world_model_training": "unknown iterations on data d1"}
    assert find_differences("variant", *make_arms(known, world_model="mlp", **known)) == []


def test_a_methodology_from_scratch_has_no_checkpoint_to_share():
    finetuned = {"methodology": "policy_and_wm_finetuning", "world_model_from": "mlp-1"}
    finetuned["world_model"] = "mlp"
    assert find_differences("methodology", *make_arms(**finetuned)) == []
    arms = make_arms({"world_model_from": "mlp-2"}, **finetuned)
    (found,) = find_differences("methodology", *arms)
    assert str(found) == "world_model_from: mlp-2 against mlp-1"


def test_axis_that_sets_a_variant_or_epochs_is_judged_as_these():
    arms = make_arms(epochs=200, epochs_reached=200)
    assert find_differences("arm", *arms, keys=("variant", "epochs")) == []
    arms = make_arms(policy_parameters=822_000)
    (found,) = find_differences("arm", *arms, keys=("variant", "learner.horizon"))
    assert found.field == "trained_parameters"
    assert find_differences("arm", *arms, keys=("variant", "size")) == []
    ours = {"world_model_from": "mlp-197000"}
    arms = make_arms(ours, world_model="mlp", world_model_from="mlp-133000")
    assert find_differences("start", *arms, keys=("world_model_from",)) == []


def test_an_arm_without_trials_differs_in_nothing():
    baseline, level = make_arms(git_commit="c2")
    assert find_differences("variant", [], level) == []
    assert find_differences("variant", baseline, []) == []


def test_commits_of_the_same_learner_code_are_comparable():
    same = {"code_fingerprint": "f1"}
    arms = make_arms(same, **same, git_commit="c2", code_version="0.2.0")
    assert find_differences("variant", *arms) == []
    arms[1][0].record["code_fingerprint"] = "f1 and f2"
    (found,) = find_differences("variant", *arms)
    assert str(found) == "code_fingerprint: f1 against f1 and f2 and f1"


def test_own_code_of_kinds_is_compared_where_arms_share_a_kind():
    ours = {"world_model_code": "mlp a1", "policy_code": "gaussian c3"}
    arms = make_arms(ours, **ours | {"world_model_code": "flow b2"}, policy="gaussian")
    assert find_differences("variant", *arms) == []
    arms[1][0].record["policy_code"] = "gaussian d4"
    (found,) = find_differences("variant", *arms)
    assert str(found) == "policy_code: gaussian c3 against gaussian d4 and gaussian c3"


def test_own_code_of_a_kind_that_changed_while_an_arm_was_trained_is_a_difference():
    changed = "flow b2 and flow c3"
    for first, others, said in [
        (changed, changed, changed),
        (changed, "flow b2", f"{changed} and flow b2"),
    ]:
        arms = make_arms({"world_model_code": "mlp a1"}, world_model_code=others)
        arms[1][0].record["world_model_code"] = first
        (found,) = find_differences("variant", *arms)
        assert str(found) == f"world_model_code: mlp a1 against {said}"


@pytest.mark.parametrize("own", [("flow b2", "flow c3"), ("flow b2 and flow c3",) * 2])
def test_own_code_of_the_checkpoints_of_the_other_kind_is_one(own):
    told = "9 iterations on data d1 of 1 task, settings 1a, code f1, world model"
    arms = make_arms()
    for place, (ours, theirs) in enumerate(zip(*arms, strict=True)):
        mine = f"{told} {own[place % 2]}"
        ours.record.update(world_model_from="m", world_model_training=f"{told} mlp a1")
        theirs.record.update(world_model_from="f", world_model_training=mine)
    assert [found.field for found in find_differences("variant", *arms)] == ["world_model_training"]


def test_trials_of_an_earlier_version_that_told_code_of_all_kinds_as_one_are_not_comparable():
    ours = {"code_fingerprint": "f1", "world_model_code": None, "policy_code": None}
    theirs = {"code_fingerprint": "f2", "world_model_code": "flow b2", "policy_code": "flow c3"}
    (found,) = find_differences("variant", *make_arms(ours, **theirs))
    assert str(found) == "code_fingerprint: f1 against f2"


def test_own_code_of_the_checkpoints_of_one_kind_is_compared():
    told = "9 iterations on data d1 of 1 task, settings 1a, code f1, world model"
    for ours, theirs, fields in [
        (f"{told} mlp a1", f"{told} mlp a1", []),
        (f"{told} mlp a1", f"{told} mlp b2", ["world_model_training"]),
        (f"{told} mlp a1", f"{told} flow b2", []),
        (f"{told} mlp a1", f"{told} flow b2".replace("f1", "f2"), ["world_model_training"]),
        (f"{told} mlp a1", told.partition(", world")[0], []),  # told by one alone
    ]:
        of_mlp = {"world_model_from": "mlp-1", "world_model_training": ours}
        arms = make_arms(of_mlp, world_model_from="flow-2", world_model_training=theirs)
        assert [found.field for found in find_differences("variant", *arms)] == fields


def test_commits_are_compared_where_an_earlier_version_recorded_no_more_of_the_code():
    baseline, level = make_arms(git_commit="c2", code_fingerprint="f1")
    (found,) = find_differences("variant", baseline, level)
    assert str(found) == "git_commit: c1 against c2"


def test_version_that_an_earlier_version_did_not_record_is_no_difference():
    assert find_differences("variant", *make_arms(dm_control_version=None)) == []
    (found,) = find_differences("variant", *make_arms(torch_version=None))
    assert found.field == "torch_version"  # which every version records


def test_an_arm_that_mixes_two_commits_is_a_difference():
    baseline, level = make_arms()
    level[0].record["git_commit"] = "c2"
    found = find_differences("variant", baseline, level)
    assert str(found[0]) == "git_commit: c1 against c2 and c1"
