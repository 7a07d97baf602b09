"""The 2x2's effects and the suite's aggregates, against hand-worked numbers."""

import json
from types import MappingProxyType

import numpy as np
import pytest
from scipy.special import stdtrit

from analysis.aggregates import (
    DRAWS,
    draw_seeds,
    estimate,
    estimate_improvement,
    estimate_profile,
    interquartile_mean,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
)
from analysis.factorial import CONTRASTS, contrast
from analysis.figures import list_figures
from analysis.load import load_sweep
from analysis.report import summarize_sweep
from analysis.suite import THRESHOLDS
from analysis.summarize import main
from pwmray.results import TRIALS, read_table, write_rows
from tests.made_sweeps import changed_description, changed_trials
from tests.squares import write_square, write_trials

# Means 150, 200, 350, 550; every variance 5,000 over two seeds.
CELLS = {
    "baseline": (100.0, 200.0),
    "flowpolicy": (150.0, 250.0),
    "flowwm": (300.0, 400.0),
    "fullflow": (500.0, 600.0),
}
# The same plus 40 for the second seed of the full flow: interaction 150 and 190 by seed.
OTHER = CELLS | {"fullflow": (500.0, 640.0)}
TWO_TASKS = {"reacher-easy": CELLS, "walker-stand": OTHER}


def one(scores):
    return [np.asarray(task, float)[None, :] for task in scores]


def effects_of(folder):
    return summarize_sweep(load_sweep(folder)).factorial


# By task.


@pytest.mark.parametrize(
    ("name", "points"), [("world model", 275.0), ("policy", 125.0), ("interaction", 150.0)]
)
def test_effects_match_hand_worked_contrasts(name, points):
    assert contrast(list(CELLS.values()), name).estimate == points


def test_interval_of_an_effect_matches_hand_worked_numbers():
    # Standard error sqrt(4 * 0.25 * 5000 / 2) = 50 on 4 degrees of freedom: t = 2.776445.
    found = contrast(list(CELLS.values()), "world model")
    assert found.standard_error == pytest.approx(50.0)
    assert (found.low, found.high) == pytest.approx((275 - 138.82225, 275 + 138.82225))
    # t = 5.5 on 4: 1/2 + 3/8 * 1.879591 * (1 - 3.532847 / 12) = 0.997336 on one side.
    assert found.p == pytest.approx(0.005328, abs=1e-6)
    assert contrast(list(CELLS.values()), "interaction").standard_error == pytest.approx(100.0)


def test_a_negative_effect_is_as_certain_as_a_positive_one():
    found = contrast([CELLS[name] for name in reversed(CELLS)], "world model")
    assert (found.estimate, found.p) == (-275.0, pytest.approx(0.005328, abs=1e-6))


def test_unequal_spreads_cost_degrees_of_freedom():
    # Variances 0, 0, 0 and 5,000: error sqrt(0.25 * 2500) = 25 on one degree of freedom.
    found = contrast([(100, 100), (100, 100), (100, 100), (100, 200)], "policy")
    assert found.standard_error == pytest.approx(25.0)
    assert found.high - found.estimate == pytest.approx(12.706205 * 25.0)


def test_effects_of_one_seed_have_no_interval_and_of_equal_ones_no_p():
    assert contrast([(1,), (2,), (3,), (5,)], "policy")[2:] == (None,) * 5
    assert contrast([(1, 1), (2, 2), (3, 3), (5, 5)], "policy").p is None


def test_equal_returns_whose_mean_is_rounded_have_no_p_either():
    uneven = [435.01] * 5
    assert np.var(uneven) > 0.0
    assert contrast([uneven, uneven, uneven, [500.0] * 5], "policy").p is None


def test_a_sweep_of_the_four_variants_has_its_effects_by_task(tmp_path):
    found = effects_of(write_square(tmp_path / "s", {"reacher-easy": CELLS}))
    assert [effect.name for effect in found.tasks[0].effects] == list(CONTRASTS)
    assert [effect.estimate for effect in found.tasks[0].effects] == [275.0, 125.0, 150.0]
    assert found.suite == ()
    assert summarize_sweep(load_sweep(tmp_path / "s")).comparisons[0].aggregates == ()


def test_a_sweep_without_all_four_cells_has_none(tmp_path):
    some = {name: CELLS[name] for name in ("baseline", "fullflow", "flowwm")}
    assert effects_of(write_square(tmp_path / "s", {"reacher-easy": some})).tasks == ()


@pytest.mark.parametrize("within", [["task"], []])
@pytest.mark.parametrize("variant", ["baseline", "fullflow"])
def test_a_seed_that_diverged_in_either_arm_is_said_to_have_in_averages_and_effects_too(
    tmp_path, variant, within
):
    folder = write_square(tmp_path / "s", {"reacher-easy": CELLS, "walker-stand": CELLS})
    with changed_trials(folder) as rows:
        for row in rows:
            if (row["variant"], row["seed"]) == (variant, rows[-1]["seed"]):
                row.update(status="FAILED", reason="FloatingPointError: diverged: loss is nan")
    found = summarize_sweep(load_sweep(folder), "variant", within=within)
    verdicts = {row.verdict.name for row in found.comparisons[0].rows if variant in str(row)}
    assert "Diverged (1/2 seeds)" in verdicts
    assert {task.problem for task in found.factorial.tasks} == {"Diverged (1/2 seeds)"}


def test_a_seed_whose_diverged_trial_was_replaced_by_one_that_runs_is_only_missing(tmp_path):
    folder = write_square(tmp_path / "whole", {"reacher-easy": CELLS})
    *rows, last = read_table(folder / "trials.arrow").to_pylist()
    latest = last | {"status": "RUNNING"}
    replaced = last | {"trial": "old", "status": "FAILED", "reason": "diverged: loss is nan"}
    for trials, said in (
        ([*rows, latest, replaced], "Incomplete (1/2 seeds)"),  # the latest stands first
        ([*rows, replaced, latest], "Diverged (1/2 seeds)"),
    ):
        folder = tmp_path / trials[-1]["trial"]
        write_trials(folder, trials, ["variant", "task", "seed"], "variant")
        assert effects_of(folder).tasks[0].problem == said


def test_a_missing_seed_or_another_control_leaves_no_effect(tmp_path):
    folder = write_square(tmp_path / "s", {"reacher-easy": CELLS, "walker-stand": CELLS})
    with changed_trials(folder) as rows:
        rows[-1]["status"] = "FAILED"
        rows[0]["git_commit"] = "c2"
    found = effects_of(folder)
    assert [task.problem for task in found.tasks] == ["Not comparable", "Incomplete (1/2 seeds)"]
    assert [task.effects for task in found.tasks] == [(), ()]
    assert found.suite == ()


def write_pretrained(folder, models_of_kind, returns=MappingProxyType(TWO_TASKS)):
    """Write a square whose seeds take in turn so many pretrained models of each kind."""
    write_square(folder, returns)
    with changed_trials(folder) as rows:
        for row in rows:
            row["world_model_from"] = f"{row['world_model']}-600-{row['seed'] % models_of_kind}"
            row["methodology"] = "policy_finetuning"
    return folder


def test_the_cells_of_the_other_world_model_are_compared_with_each_other(tmp_path):
    folder = write_pretrained(tmp_path / "s", 1)
    with changed_trials(folder) as rows:
        for row in rows:
            if row["variant"] == "fullflow":
                row["world_model_from"] = "flow-700-0"
    found = effects_of(folder).tasks[0]
    assert found.problem == "Not comparable"
    said = [str(difference) for difference in found.differences]
    assert said == ["world_model_from: flow-600-0 against flow-700-0"]


def test_the_cells_of_the_other_policy_are_compared_with_each_other(tmp_path):
    folder = write_square(tmp_path / "s", {"reacher-easy": CELLS})
    flows = {"flowpolicy": {"kind": "flow", "num_substeps": 2}}
    flows["fullflow"] = {"kind": "flow", "num_substeps": 4}
    with changed_trials(folder) as rows:
        for row in rows:
            parts = {"policy": flows.get(row["variant"], {"kind": "gaussian"})}
            row["config"] = json.dumps({**parts, "world_model": {"kind": row["world_model"]}})
    found = effects_of(folder).tasks[0]
    assert found.problem == "Not comparable"
    assert [str(difference) for difference in found.differences] == [
        "policy.num_substeps: 2 against 4"
    ]


@pytest.mark.parametrize("format", ["table", "md", "html", "tex", "json"])
def test_verdicts_and_effects_on_one_pretrained_model_a_kind_say_so(format, tmp_path, capsys):
    write_pretrained(tmp_path / "s", 1)
    assert main(["s", "--results", str(tmp_path), "--format", format]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("n counts training seeds on it, not pretrainings") == 3 - (
        format == "json"
    )


def test_verdicts_on_a_pretrained_model_a_seed_say_nothing_of_it(tmp_path):
    summary = summarize_sweep(load_sweep(write_pretrained(tmp_path / "s", 2)))
    assert summary.factorial.notes == ()
    assert "Pretrained world models" not in str([table.notes for table in summary.comparisons])


def test_verdicts_on_fewer_pretrained_models_than_seeds_say_what_n_counts(tmp_path):
    more = {name: (*returns, returns[0]) for name, returns in CELLS.items()}
    folder = write_pretrained(tmp_path / "s", 2, {"reacher-easy": more})
    (note,) = summarize_sweep(load_sweep(folder)).factorial.notes
    assert note.startswith(
        "Pretrained world models: 2 for each arm compared, and 3 training seeds."
    )


def test_policies_on_the_same_pretrained_model_are_no_comparison_of_pretrainings(tmp_path):
    policies = {name: CELLS[name] for name in ("baseline", "flowpolicy")}
    folder = write_pretrained(tmp_path / "s", 1, {"reacher-easy": policies})
    summary = summarize_sweep(load_sweep(folder))
    assert "Pretrained world models" not in str([table.notes for table in summary.comparisons])


# Over tasks.


def test_variants_that_an_axis_of_another_name_sets_are_a_square(tmp_path):
    folder = write_square(tmp_path / "s", {"reacher-easy": CELLS})
    with changed_trials(folder, "arm") as rows:
        for row in rows:
            row["arm"] = f"the {row['variant']}"
    with changed_description(folder) as described:
        described |= {"compare": "arm", "varies": ["arm", "task", "seed"]}
        described["axes"] = {"arm": ["variant"]}
    sweep = load_sweep(folder)
    for within in (None, ["task"]):
        (task,) = summarize_sweep(sweep, within=within).factorial.tasks
        assert [effect.estimate for effect in task.effects] == [275.0, 125.0, 150.0]


def test_effects_of_averages_say_over_what(tmp_path):
    rows = [
        row | {"trial": f"{row['trial']}-{epochs}", "epochs": epochs, "epochs_reached": epochs}
        for folder in [write_square(tmp_path / "first", {"reacher-easy": CELLS})]
        for row in read_table(folder / "trials.arrow").to_pylist()
        for epochs in (100, 200)
    ]
    write_trials(tmp_path / "s", rows, ["variant", "epochs", "task", "seed"], "epochs")
    sweep = load_sweep(tmp_path / "s")
    assert summarize_sweep(sweep).factorial.notes == ()
    (note,) = summarize_sweep(sweep, within=["variant", "task"]).factorial.notes
    assert note.startswith("Each seed's return is the mean over epochs (2 trials)")


def test_effects_over_tasks_are_paired_by_seed(tmp_path):
    found = effects_of(write_square(tmp_path / "s", TWO_TASKS))
    world_model, _, interaction = found.suite
    assert (world_model.num_tasks, world_model.num_blocks) == (2, 4)
    # By seed 275, 275 | 275, 295 and 150, 150 | 150, 190.
    assert world_model.interval.estimate == 280.0
    assert (world_model.interval.low, world_model.interval.high) == (275.0, 285.0)
    assert interaction.interval.estimate == 160.0
    # sd 20 over 4 blocks: error 10 on 3 degrees of freedom.
    assert interaction.over_blocks.high == pytest.approx(160.0 + 3.182446 * 10.0)


def test_over_tasks_of_unlike_numbers_of_seeds_the_t_interval_is_around_the_mean_over_tasks(
    tmp_path,
):
    rest = {"baseline": 300.0, "flowpolicy": 300.0}  # the world model's effect is that of fullflow
    returns = {
        task: {name: [value] * len(effects) for name, value in rest.items()}
        | {"flowwm": [300.0 + effect for effect in effects]}
        | {"fullflow": [300.0 + effect for effect in effects]}
        for task, effects in (
            ("reacher-easy", (90.0, 110.0)),
            ("walker-stand", (10.0, 10.0, 30.0, 30.0)),
        )
    }
    world_model = effects_of(write_square(tmp_path / "s", returns)).suite[0]
    found = world_model.over_blocks
    assert world_model.interval.estimate == found.estimate == pytest.approx(60.0)
    # Seeds weigh 1/4 and 1/8: squares 212.5 + 106.25, on 1 / 0.1875 - 1 = 13/3 degrees.
    assert found.standard_error == pytest.approx((318.75 * 16 / 13) ** 0.5)
    half = stdtrit(13 / 3, 0.975) * found.standard_error
    assert (found.low, found.high) == pytest.approx((60.0 - half, 60.0 + half))


# The suite's aggregates.


def test_interquartile_mean_is_of_the_middle_half_of_all_runs():
    assert interquartile_mean(one([[0.0, 0.7, 0.2, 0.4], [0.1, 0.6, 0.3, 0.5]])) == 0.35
    assert interquartile_mean(one([[0.1, 0.2], [0.9]])) == pytest.approx([0.4])  # none to trim


def test_optimality_gap_counts_no_surplus_and_weighs_tasks_alike():
    assert optimality_gap(one([[0.2, 0.6], [1.2]])) == pytest.approx([0.3])


def test_performance_profile_is_the_share_above_each_score():
    found = performance_profile(one([[0.1, 0.5, 0.9], [0.5]]), np.array([0.0, 0.4, 0.5]))
    assert found[0] == pytest.approx([1.0, (2 / 3 + 1) / 2, 1 / 6])


def test_probability_of_improvement_counts_pairs_and_halves_ties():
    assert probability_of_improvement(one([[1, 2, 3]]), one([[2, 3, 4]])) == pytest.approx([7 / 9])
    assert probability_of_improvement(one([[1, 2], [5]]), one([[1, 2], [9]])) == [0.75]


def test_bootstrap_draws_seeds_within_tasks_and_alike_in_both_arms():
    arms = [[np.array([1.0, 2.0, 3.0]), np.array([7.0, 8.0])]] * 2
    ours, theirs = map(draw_seeds, arms)
    assert [task.shape for task in ours] == [(DRAWS, 3), (DRAWS, 2)]
    assert set(np.unique(ours[1])) == {7.0, 8.0}
    assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))


def test_products_with_the_draws_are_the_bootstrap_itself():
    rng = np.random.default_rng(1)
    ours, theirs = ([rng.normal(place, 0.3, n).round(1) for n in (3, 10)] for place in (0.4, 0.5))
    thresholds = np.linspace(0.0, 1.0, 11)
    shares = performance_profile(draw_seeds(ours), thresholds)
    whole, low, high = zip(*estimate_profile(ours, thresholds, 0.9), strict=True)
    assert np.allclose(whole, performance_profile(one(ours), thresholds)[0])
    assert np.allclose([low, high], np.quantile(shares, [0.05, 0.95], axis=0))
    chances = probability_of_improvement(draw_seeds(ours), draw_seeds(theirs))
    whole, low, high = estimate_improvement(ours, theirs, 0.9)
    assert whole == pytest.approx(probability_of_improvement(one(ours), one(theirs))[0])
    assert np.allclose([low, high], np.quantile(chances, [0.05, 0.95]))
    assert low < high


def test_interval_of_the_interquartile_mean_covers_what_it_can_draw():
    # Two seeds 0 and 1 of one task: the mean of a draw is 0, 1/2, 1/2 or 1.
    scores = [np.array([0.0, 1.0])]
    assert estimate(interquartile_mean, scores, 0.9) == (0.5, 0.0, 1.0)
    assert estimate(interquartile_mean, scores, 0.4) == (0.5, 0.5, 0.5)


def test_suite_compares_every_variant_with_the_baseline(tmp_path):
    folder = write_square(tmp_path / "s", TWO_TASKS)
    suite = summarize_sweep(load_sweep(folder)).suites[0]
    names = [level.name for level in suite.levels]
    assert names == ["baseline", "flowpolicy", "flowwm", "fullflow"]
    assert [level.mean for level in suite.levels] == [150.0, 200.0, 350.0, 560.0]
    assert suite.levels[0].improvement is None
    # flowpolicy wins 150 > 100, 250 > 100, 250 > 200 of four pairs on both tasks.
    assert suite.levels[1].improvement.estimate == 0.75
    assert suite.levels[3].gap.estimate == pytest.approx(0.44)
    shares = dict(zip(THRESHOLDS, suite.levels[3].profile, strict=True))
    assert [shares[over].estimate for over in (475, 500, 600, 650)] == [1.0, 0.5, 0.25, 0.0]


def test_returns_of_the_suite_stand_by_seed_however_the_trials_are_listed(tmp_path):
    first = write_square(tmp_path / "first", TWO_TASKS)
    rows = read_table(first / "trials.arrow").to_pylist()
    rows.sort(key=lambda row: -row["seed"] if row["variant"] == "fullflow" else row["seed"])
    write_trials(tmp_path / "s", rows, ["variant", "task", "seed"], "variant")
    levels = summarize_sweep(load_sweep(tmp_path / "s")).suites[0].levels
    returns = {level.name: level.returns for level in levels}
    assert returns["baseline"] == ((100.0, 200.0), (100.0, 200.0))
    assert returns["fullflow"] == ((500.0, 600.0), (500.0, 640.0))


def test_tasks_that_are_not_decided_are_left_out_of_the_suite_by_name(tmp_path):
    tasks = {"reacher-easy": CELLS, "walker-stand": OTHER, "cheetah-run": CELLS}
    folder = write_square(tmp_path / "s", tasks)
    rows = read_table(folder / "trials.arrow").to_pylist()
    rows[0]["status"] = "RUNNING"
    write_rows(folder / "trials.arrow", rows, TRIALS)
    suite = summarize_sweep(load_sweep(folder)).suites[0]
    assert (suite.tasks, suite.left_out) == (("walker-stand", "cheetah-run"), ("reacher-easy",))


def test_suite_is_of_the_tasks_that_have_the_same_levels(tmp_path):
    other = {name: CELLS[name] for name in ("baseline", "flowpolicy")}
    third = {name: CELLS[name] for name in ("baseline", "fullflow")}
    tasks = {"reacher-easy": other, "walker-stand": third, "cheetah-run": third}
    folder = write_square(tmp_path / "s", tasks)
    (suite,) = summarize_sweep(load_sweep(folder)).suites
    assert (suite.tasks, suite.left_out) == (("walker-stand", "cheetah-run"), ("reacher-easy",))
    assert [level.name for level in suite.levels] == ["baseline", "fullflow"]


def test_suite_takes_the_more_levels_where_as_many_tasks_have_fewer(tmp_path):
    few = {name: CELLS[name] for name in ("baseline", "fullflow")}
    tasks = {"reacher-easy": few, "reacher-hard": few, "walker-stand": CELLS, "walker-walk": CELLS}
    (suite,) = summarize_sweep(load_sweep(write_square(tmp_path / "s", tasks))).suites
    assert (suite.tasks, len(suite.levels)) == (("walker-stand", "walker-walk"), 4)


def test_suite_counts_the_fewest_and_the_most_seeds_of_a_task(tmp_path):
    more = {name: (*returns, returns[0]) for name, returns in CELLS.items()}
    folder = write_square(tmp_path / "s", {"reacher-easy": CELLS, "walker-stand": more})
    assert summarize_sweep(load_sweep(folder)).suites[0].num_seeds == (2, 3)


def test_suite_pairs_arms_by_seed_whatever_the_order_of_their_trials(tmp_path):
    folder = write_square(tmp_path / "s", TWO_TASKS)
    expected = summarize_sweep(load_sweep(folder)).suites[0].levels[1].improvement
    with changed_description(folder) as described:
        described["trials"].sort(key=lambda name: "flowpolicy" in name and name.endswith("-1"))
    levels = {level.name: level for level in summarize_sweep(load_sweep(folder)).suites[0].levels}
    assert levels["flowpolicy"].improvement == expected


def test_suite_of_one_seed_has_no_spread_and_is_left_out(tmp_path):
    single = {name: returns[:1] for name, returns in CELLS.items()}
    folder = write_square(tmp_path / "s", {"reacher-easy": single, "walker-stand": single})
    assert summarize_sweep(load_sweep(folder)).suites == ()


def test_a_task_of_one_seed_leaves_the_aggregates_of_the_others(tmp_path):
    single = {name: returns[:1] for name, returns in CELLS.items()}
    tasks = {"reacher-easy": CELLS, "walker-stand": OTHER, "cheetah-run": single}
    summary = summarize_sweep(load_sweep(write_square(tmp_path / "s", tasks)))
    assert {found.num_tasks for found in summary.comparisons[0].aggregates} == {2}
    assert summary.suites[0].tasks == ("reacher-easy", "walker-stand")


# Of several baselines.


def test_levels_compared_with_several_baselines_say_with_which(tmp_path, capsys):
    whole = {name: CELLS[name] for name in ("baseline", "flowpolicy", "fullflow")}
    lacking = {name: CELLS[name] for name in ("flowpolicy", "fullflow")}
    tasks = {"reacher-easy": whole, "walker-stand": whole}
    tasks |= {"cup-spin": lacking, "cheetah-run": lacking}
    write_square(tmp_path / "s", tasks)
    assert main(["s", "--results", str(tmp_path), "--format", "md"]) == 0
    printed = capsys.readouterr().out
    assert "| walker-stand | fullflow | baseline | +400.0 |" in printed
    assert "| cup-spin | fullflow | flowpolicy | +350.0 |" in printed
    assert "| fullflow | baseline | 2 | 4 | 2 | 0 | 0 | 0 | +400.0 |" in printed
    assert "| fullflow | flowpolicy | 2 | 4 | 2 | 0 | 0 | 0 | +350.0 |" in printed
    figures = list_figures(summarize_sweep(load_sweep(tmp_path / "s")))
    cells = [text.get_text() for text in figures["winners_by_variant"].axes[0].texts]
    assert sum(cell.endswith("against flowpolicy") for cell in cells) == 2
    shown = [axes.get_xlabel() for axes in figures["pairs_of_seeds_by_variant"].axes]
    assert shown == ["return, baseline", "return, baseline", "return, flowpolicy"]


# Printed.


def test_tables_print_effects_and_aggregates(tmp_path, capsys):
    write_square(tmp_path / "s", TWO_TASKS)
    assert main(["s", "--results", str(tmp_path), "--format", "md"]) == 0
    printed = capsys.readouterr().out
    assert (
        "| reacher-easy | flow + flow | interaction | 2 | +150.0 | [-128, 428] | .208 |" in printed
    )
    assert "| flow + flow | world model | 2 | 4 | +280.0 | [275, 285] |" in printed
    assert "IQM: mean of the middle half of all runs" in printed
    assert main(["s", "--results", str(tmp_path)]) == 0
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= 100


def print_square(folder, tasks, capsys):
    write_square(folder / "s", tasks)
    assert main(["s", "--results", str(folder), "--format", "md"]) == 0
    return capsys.readouterr().out


def test_effects_say_how_many_p_values_chance_alone_makes_small(tmp_path, capsys):
    printed = print_square(tmp_path, TWO_TASKS, capsys)
    assert "without any true effect, about 0.3 of 6 would lie below .050" in printed
    assert "without any true effect, about 0.2 of 3 would lie below .050" in printed  # over tasks


def test_p_values_of_effects_are_corrected_over_all_of_their_table(tmp_path):
    tasks = {task: CELLS for task in ("reacher-easy", "walker-stand", "cup-spin")}
    found = effects_of(write_square(tmp_path / "s", tasks))
    effects = [effect for task in found.tasks for effect in task.effects]
    # Nine tests, and the three smallest p are one and the same: see above.
    assert [effects[place].p_holm for place in (0, 3, 6)] == pytest.approx([9 * 0.005328] * 3, 1e-4)
    # The same three effects over tasks: equal in all blocks, so that there is nothing to test.
    assert [effect.over_blocks.p_holm for effect in found.suite] == [None] * 3
    found = effects_of(write_square(tmp_path / "t", TWO_TASKS))
    # Means 280, 130 and 160 with errors 5, 5 and 10: t = 56, 26 and 16.
    world_model, policy, interaction = (effect.over_blocks for effect in found.suite)
    assert [effect.p_holm for effect in (world_model, policy, interaction)] == pytest.approx(
        [3 * world_model.p, 2 * policy.p, interaction.p]
    )


def test_corrected_p_values_stand_in_the_tables_and_in_json(tmp_path, capsys):
    printed = print_square(tmp_path, TWO_TASKS, capsys)
    assert "| world model | 2 | +275.0 | [136, 414] | .005 | .032 |" in printed
    assert main(["s", "--results", str(tmp_path), "--format", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    (effect, *_) = shown["effects"]["tasks"][0]["effects"]
    assert effect["p_holm"] == pytest.approx(6 * effect["p"])
    tests = [row for row in shown["comparisons"][0]["rows"] if row["p"] is not None]
    least = min(tests, key=lambda row: row["p"])
    assert least["p_holm"] == pytest.approx(len(tests) * least["p"])


def test_interquartile_mean_of_tasks_of_unlike_numbers_of_seeds_says_that_they_weigh_so(
    tmp_path, capsys
):
    more = {name: (*returns, returns[0]) for name, returns in CELLS.items()}
    said = "IQM is taken over runs, so tasks with more seeds weigh more in it"
    assert said in print_square(tmp_path / "a", {"reacher-easy": CELLS, "cup-spin": more}, capsys)
    alike = print_square(tmp_path / "b", {"reacher-easy": CELLS, "cup-spin": CELLS}, capsys)
    assert said not in alike


def test_json_has_effects_and_aggregates(tmp_path, capsys):
    write_square(tmp_path / "s", TWO_TASKS)
    assert main(["s", "--results", str(tmp_path), "--format", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["effects"]["tasks"][0]["effects"][2]["estimate"] == 150.0
    assert shown["effects"]["suite"][0]["interval"]["estimate"] == 280.0
    assert shown["suites"][0]["levels"][1]["improvement"]["estimate"] == 0.75


def test_all_that_rests_on_arms_that_differ_is_marked_where_they_are_judged_anyway(
    tmp_path, capsys
):
    first = write_square(tmp_path / "first", {"reacher-easy": CELLS, "walker-stand": CELLS})
    rows = read_table(first / "trials.arrow").to_pylist()
    for row in rows:
        # One task is enough.
        is_other = row["task"] == "walker-stand" and row["variant"] == "fullflow"
        row["git_commit"] = "c2" if is_other else "c1"
    write_trials(tmp_path / "s", rows, ["variant", "task", "seed"], "variant")
    assert main([str(tmp_path / "s"), "--anyway", "--format", "md"]) == 0
    titles = [line for line in capsys.readouterr().out.splitlines() if line.startswith("## ")]
    assert [title[3:] for title in titles if title.endswith(" [despite differences]")] == [
        "Over tasks, along variant, each against baseline [despite differences]",
        "The 2x2: effects over tasks [despite differences]",
        "Over the suite, by variant [despite differences]",
        "Performance profile: share of runs above a return, by variant [despite differences]",
    ]
    summary = summarize_sweep(load_sweep(tmp_path / "s"), despite_differences=True)
    aggregates = summary.comparisons[0].aggregates
    assert [row.despite_differences for row in aggregates] == [False, False, True]
    figures = list_figures(summary)
    told = {name for name, figure in figures.items() if "despite differences" in texts(figure)}
    assert told == {
        "winners_by_variant",
        "effects_of_the_2x2",
        "pairs_of_seeds_by_variant",
        "performance_profile_by_variant",
    }


def texts(figure) -> str:
    found = figure.findobj(lambda artist: hasattr(artist, "get_text"))
    return " ".join(" ".join(artist.get_text().split()) for artist in found)
