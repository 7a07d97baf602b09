"""The analysis of a sweep's tables: what it reads, guards against and prints."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from analysis.arms import build_arms
from analysis.flags import find_flags
from analysis.load import Trial, encode, find_factor, find_sweep, load_sweep
from analysis.merge import keep_tasks
from analysis.report import summarize_sweep
from analysis.short_names import shorten_levels
from analysis.summarize import main
from pwmray.results import EVALUATIONS, TRIALS, read_table, write_rows, write_table
from tests.made_sweeps import (
    change_fullflow,
    changed_description,
    fail_all,
    fail_one,
    make_row,
    make_sweep,
    read_csv,
    write_description,
)
from tests.squares import write_square

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    make_sweep(tmp_path / "results" / "phase6_epochs")
    return tmp_path / "results"


# Reading.


def test_final_return_is_recomputed_from_the_episodes(tmp_path):
    folder = make_sweep(tmp_path / "s", lambda row: {"return_mean": 1.0})
    assert load_sweep(folder).trials[0].final_return == pytest.approx(510.42)


def test_final_return_is_of_all_episodes_in_whatever_order_their_rows_are(results):
    folder = results / "phase6_epochs"
    expected = [trial.returns.tolist() for trial in load_sweep(folder).trials]
    rows = read_table(folder / "evaluations.arrow").to_pylist()
    rows.sort(key=lambda row: row["episode"])  # each trial's lie apart
    write_rows(folder / "evaluations.arrow", rows, EVALUATIONS)
    assert [trial.returns.tolist() for trial in load_sweep(folder).trials] == expected


def test_a_factor_is_a_column_or_a_dotted_key_of_the_config():
    row = make_row("reacher-easy", "baseline", 100, 42)
    assert find_factor(row, "epochs") == 100
    assert find_factor(row, "policy.num_substeps") == 2
    assert find_factor(row, "policy[flow].integrator") is None
    with pytest.raises(ValueError, match=r"policy\.width"):
        find_factor(row, "policy.width")


def test_a_sweep_is_the_latest_one_or_that_at_a_path(results):
    older = make_sweep(results / "phase5")
    os.utime(older / "sweep.json", (1, 1))
    assert find_sweep(None, results).name == "phase6_epochs"
    assert find_sweep(str(older), Path("nowhere")).name == "phase5"


# Plan returns.


def add_plans(folder: Path) -> None:
    """Let the planner act in two episodes of each baseline trial, 100 above the policy's."""
    rows = read_table(folder / "evaluations.arrow").to_pylist()
    planned = [
        row | {"actor": "planner", "return": row["return"] + 100.0}
        for row in rows
        if row["episode"] < 2 and "baseline" in row["trial"]
    ]
    write_rows(folder / "evaluations.arrow", rows + planned, EVALUATIONS)


def test_plan_returns_change_no_return_and_no_verdict(results):
    folder = results / "phase6_epochs"
    before, flags = summarize_sweep(load_sweep(folder)), flags_of(folder)
    add_plans(folder)
    after = summarize_sweep(load_sweep(folder))
    assert after.comparisons[0].rows[0].verdict == before.comparisons[0].rows[0].verdict
    assert [arm.returns for arm in after.arms] == [arm.returns for arm in before.arms]
    assert flags_of(folder) == flags


def test_plan_return_stands_beside_the_return_where_there_is_any(results, capsys):
    run(results, "phase6_epochs", "--format", "md")
    assert "plan return" not in capsys.readouterr().out.lower()

    add_plans(results / "phase6_epochs")
    run(results, "phase6_epochs", "--format", "md")
    printed = capsys.readouterr().out

    # Seeds 42, 123, 456 end on 510.42, 511.23, 514.56; two episodes at -10 and 0 of that, + 100.
    assert "| n | return | return there | plan return |" in printed
    assert "| 3 | 512.1 +- 2.2 | 507.1 +- 2.2 | 607.1 +- 2.2 |" in printed
    assert "on the first 2 of the evaluation episodes; no verdict rests on it" in printed


def test_plan_returns_are_listed_per_seed_too(results, capsys):
    add_plans(results / "phase6_epochs")
    run(results, "phase6_epochs", "--format", "md", "--per-seed")
    assert "| 42 | 510.42 | 505.42 | 605.42 |" in capsys.readouterr().out


def test_plan_return_is_exported(results, capsys):
    add_plans(results / "phase6_epochs")
    run(results, "phase6_epochs", "--format", "csv")
    rows = read_csv(capsys.readouterr().out)
    assert rows[0]["plan_return_mean"].startswith("607.07")
    assert rows[-1]["plan_return_mean"] == ""


@pytest.mark.parametrize("options", [(), ("--per-seed",)])
def test_table_with_plan_returns_fits_a_hundred_columns(results, capsys, options):
    folder = make_sweep(results / "long", tasks=("cartpole-balance-sparse", "walker-stand"))
    add_plans(folder)
    assert run(results, "long", *options) == 0
    printed = capsys.readouterr().out
    assert max(len(line) for line in printed.splitlines()) <= 100
    assert "353.2 (nothing)" in printed


def test_tables_of_an_earlier_version_hold_the_policy_alone(results):
    folder = results / "phase6_epochs"
    for name, added in (("evaluations", "actor"), ("trials", "plan_return_mean")):
        path = folder / f"{name}.arrow"
        write_table(path, read_table(path).drop_columns([added]))
    trial = load_sweep(folder).trials[0]
    assert len(trial.returns) == 3
    assert trial.plan_return is None


def test_planned_episodes_without_a_return_are_none():
    planned = np.array([500.0, np.nan])
    assert Trial({}, {}, np.array([500.0, 510.0]), planned).plan_return is None
    assert Trial({}, {}, planned, np.array([500.0, 510.0])).return_where_planned is None


def test_return_where_planned_is_of_the_first_episodes_and_of_all_that_were_planned():
    returns, planned = np.array([500.0, 510.0, 580.0]), np.array([600.0, 610.0])
    assert Trial({}, {}, returns, planned).return_where_planned == 505.0
    assert Trial({}, {}, returns[:1], planned).return_where_planned is None
    assert Trial({"origin": "run 1"}, {}, returns, planned).return_where_planned is None


# Flags.


def flags_of(folder: Path) -> list[str]:
    sweep = load_sweep(folder)
    return find_flags(sweep, shorten_levels(build_arms(sweep)))


def test_clean_trials_raise_only_the_flag_for_few_episodes(results):
    flags = flags_of(results / "phase6_epochs")
    assert flags == ["a final return rests on only 3 evaluation episodes, fewer than 50"]


def test_the_trial_with_the_fewest_episodes_is_the_one_that_is_flagged(results):
    path = results / "phase6_epochs" / "evaluations.arrow"
    rows = read_table(path).to_pylist()
    write_rows(path, [*rows, *rows[:3] * 16], EVALUATIONS)  # 51 of the first trial
    flags = " | ".join(flags_of(results / "phase6_epochs"))
    assert "a final return rests on only 3 evaluation episodes" in flags


def change_data_of_seed_42(row: dict[str, Any]) -> dict[str, Any]:
    return {"data_fingerprint": "d2"} if row["seed"] == 42 else {}


def test_arms_whose_settings_ask_for_several_data_are_not_flagged(tmp_path):
    def change(row):
        return change_data_of_seed_42(row) | {"config": json.dumps({"data": {"seed": row["seed"]}})}

    flags = flags_of(make_sweep(tmp_path / "s", change))
    assert not [flag for flag in flags if "several datasets" in flag]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (change_fullflow(return_mean=980.0), "18 trials whose recorded final return is not"),
        (change_fullflow(policy_parameters=440_000), "policy_parameters differ by 7.3%"),
        (change_fullflow(evaluation_episodes=50), "18 trials whose number of episodes is not"),
        (change_data_of_seed_42, "12 arms trained on several datasets: "),
    ],
)
def test_an_odd_trial_is_flagged(tmp_path, change, said):
    flags = " | ".join(flags_of(make_sweep(tmp_path / "s", change)))
    assert said in flags


def test_trials_without_episodes_are_flagged(tmp_path):
    folder = make_sweep(tmp_path / "s")
    trials = [trial.record["trial"] for trial in load_sweep(folder).trials]
    write_rows(
        folder / "evaluations.arrow",
        [{"trial": t, "return": 500.0} for t in trials[:2]],
        EVALUATIONS,
    )
    flags = " | ".join(flags_of(folder))
    assert "34 trials evaluated without usable episodes" in flags


# Comparing.


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        ({("baseline", 100): 1, ("fullflow", 100): 4}, "baseline 1; fullflow 4. One of the world"),
        ({("fullflow", 100): 1, ("fullflow", 200): 4}, "fullflow 1, 4. One of the world"),
        ({("fullflow", 100): 4}, None),
    ],
)
def test_network_calls_are_compared_where_they_were_recorded(tmp_path, calls, said):
    make_sweep(
        tmp_path / "some",
        lambda row: {"velocity_calls": calls.get((row["variant"], row["epochs"]))},
    )
    notes = summarize_sweep(load_sweep(tmp_path / "some")).notes
    found = [note for note in notes if "Network calls" in note]
    assert len(found) == (said is not None)
    assert all(f"plus one action differ: {said} model costs more" in note for note in found)


def test_epochs_are_compared_with_the_smallest_budget_within_variant_and_task(results):
    table = summarize_sweep(load_sweep(results / "phase6_epochs")).comparisons[0]
    assert table.factor == "epochs"
    assert len(table.rows) == 8
    assert {row.baseline.factors["epochs"] for row in table.rows} == {100}
    assert table.rows[0].verdict.name == "Epochs 200 wins"
    assert [trend.direction for trend in table.trends] == ["rises"] * 4


@pytest.mark.parametrize(
    ("finals", "direction"),
    [((900.0, 600.0, 300.0), "falls"), ((300.0, 900.0, 600.0), "is mixed")],
)
def test_trend_falls_or_is_mixed(tmp_path, finals, direction):
    by_epochs = dict(zip((100, 200, 400), finals, strict=True))
    folder = make_sweep(tmp_path / "s")
    rows = read_table(folder / "evaluations.arrow").to_pylist()
    for row in rows:
        row["return"] = by_epochs[int(row["trial"].split("-")[-2])] + row["seed"]
    write_rows(folder / "evaluations.arrow", rows, EVALUATIONS)
    table = summarize_sweep(load_sweep(folder)).comparisons[0]
    assert [trend.direction for trend in table.trends] == [direction] * 4
    assert table.trends[0].levels == (100, 200, 400)


def test_the_variant_is_compared_at_each_budget_too(results):
    table = summarize_sweep(load_sweep(results / "phase6_epochs")).comparisons[1]
    assert table.factor == "variant"
    assert len(table.rows) == 6
    assert {row.verdict.name for row in table.rows} == {"Baseline wins"}
    assert {row.level.factors["variant"] for row in table.rows} == {"fullflow"}
    assert table.aggregates[0].interval.estimate == pytest.approx(-110.0)
    assert table.aggregates[0].correlation == pytest.approx(1.0)


def test_verdicts_are_counted_over_the_tasks_that_have_one(tmp_path, capsys):
    finals = {
        "walker-stand": (500.0, 700.0),  # wins
        "walker-walk": (700.0, 500.0),  # loses
        "cup-spin": (500.0, 501.0),
        "reacher-easy": (50.0, 51.0),  # both low
        "cup-catch": (400.0, 449.0),  # too close to tell
    }
    shifts = (-20.0, 0.0, 20.0)
    returns = {
        task: {"baseline": [ours + by for by in shifts], "flowwm": [theirs + by for by in shifts]}
        for task, (ours, theirs) in finals.items()
    }
    write_square(tmp_path / "s", returns | {"fish-swim": {"baseline": [1.0] * 3, "flowwm": [1.0]}})
    assert main(["s", "--results", str(tmp_path), "--format", "md"]) == 0
    printed = capsys.readouterr().out
    assert "| variant | tasks | blocks | wins | losses | ties | open | mean diff |" in printed
    assert "| flowwm | 5 | 15 | 1 | 1 | 2 | 1 | +10.2 |" in printed
    assert "Not in this table, for lack of a verdict or of seeds: fish-swim" in printed


def test_arms_that_are_not_comparable_are_judged_only_when_told_to(tmp_path):
    sweep = load_sweep(make_sweep(tmp_path / "s", change_fullflow(git_commit="c2")))
    kept = summarize_sweep(sweep, "variant").comparisons[0]
    forced = summarize_sweep(sweep, "variant", despite_differences=True).comparisons[0]
    assert kept.rows[0].verdict_name == "Not comparable"
    assert forced.rows[0].verdict_name == "Baseline wins [despite differences]"


def test_a_failed_seed_leaves_only_its_comparisons_incomplete(tmp_path):
    summary = summarize_sweep(load_sweep(make_sweep(tmp_path / "s", fail_one)))
    names = [row.verdict.name for table in summary.comparisons for row in table.rows]
    assert names.count("Incomplete (2/3 seeds)") == 2
    assert summary.progress == ("35 of 36 trials evaluated, 1 failed (reasons: 1 x out of memory)")


def test_a_seed_that_diverged_is_told_from_one_that_failed_otherwise(tmp_path):
    def names(folder: Path, **values: Any) -> set[str]:
        make_sweep(folder, lambda row: fail_one(row) and {"status": "FAILED", **values})
        tables = summarize_sweep(load_sweep(folder)).comparisons
        return {row.verdict.name.partition(" (")[0] for table in tables for row in table.rows}

    reason = "FloatingPointError: diverged: actor_loss is nan at epoch 3"
    assert "Diverged" in names(tmp_path / "s", reason=reason)
    assert "Diverged" not in names(tmp_path / "t", reason="out of memory")


def test_trials_without_a_row_are_counted(tmp_path):
    folder = make_sweep(tmp_path / "s")
    with changed_description(folder) as described:
        described["trials"].append("not-started")
    assert summarize_sweep(load_sweep(folder)).progress == (
        "36 of 37 trials evaluated, 1 without a row yet"
    )


def test_trials_that_only_links_know_are_counted(results):
    folder = results / "phase6_epochs"
    (folder / "trials").mkdir()
    listed = json.loads((folder / "sweep.json").read_text())["trials"][0]
    for number, fingerprint in enumerate((listed, "0" * 16, "1" * 16)):
        (folder / "trials" / f"name {number}").symlink_to(f"../../trials/{fingerprint}")
    said = summarize_sweep(load_sweep(folder)).progress
    assert "36 of 36 trials evaluated, 2 more in trials/ that sweep.json does not list" in said
    of_a_task = keep_tasks(load_sweep(folder), ["reacher-easy"])  # nobody knows whose these are
    assert summarize_sweep(of_a_task).progress == "18 of 18 trials evaluated"


# The command.


def run(results: Path, *options: str) -> int:
    return main(["--results", str(results), *options])


def test_the_default_says_which_sweep_it_took(results, capsys):
    assert run(results) == 0
    printed = capsys.readouterr()
    assert "phase6_epochs, the latest sweep there" in printed.err
    assert "36 of 36 trials evaluated" in printed.out


def test_sweep_that_plot_took_for_its_folder_is_not_drawn_into(results, capsys):
    assert run(results, "--plot", "phase6_epochs") == 2
    assert "put it first: phase6_epochs --plot\n" in capsys.readouterr().err
    assert not (results / "phase6_epochs" / "figures").exists()


def test_the_table_fits_a_hundred_columns_without_colours(results, capsys):
    make_sweep(results / "long", tasks=("cartpole-balance-sparse", "walker-walk-backwards"))
    assert run(results, "long", "--per-seed") == 0
    printed = capsys.readouterr().out
    assert max(len(line) for line in printed.splitlines()) <= 100
    assert "\x1b" not in printed
    assert "353.2 (nothing)" in printed


def test_what_must_be_said_stands_beside_the_table(results, capsys):
    run(results, "phase6_epochs", "--compare", "variant")
    printed = " ".join(capsys.readouterr().out.split())
    assert "about 0.7 spurious winners would be expected in 6 comparisons" in printed
    assert "With 3 seeds no exact test can reach p < .05 (smallest: 0.10 unpaired, 0.25" in printed
    assert "Verdicts along epochs" not in printed


def test_four_seeds_are_enough_for_an_exact_test(tmp_path, capsys):
    returns = {"baseline": (1.0, 2.0, 3.0, 4.0), "fullflow": (5.0, 6.0, 7.0, 8.0)}
    write_square(tmp_path / "s", {"reacher-easy": returns})
    run(tmp_path, "s")
    printed = capsys.readouterr().out
    assert "1 comparison (simulated rate" in " ".join(printed.split())
    assert "exact test" not in printed


def test_a_sweep_that_compares_what_no_verdict_is_about_compares_the_variants(results):
    sweep = load_sweep(results / "phase6_epochs")._replace(compare="task")
    assert [table.factor for table in summarize_sweep(sweep).comparisons] == ["variant"]


def test_not_comparable_lists_the_differences_field_by_field(tmp_path, capsys):
    make_sweep(tmp_path / "s", change_fullflow(git_commit="c2", torch_version="2.12.0"))
    assert run(tmp_path, "s", "--format", "md") == 0
    printed = capsys.readouterr().out
    assert "baseline against fullflow: git_commit: c1 against c2; torch_version:" in printed


def test_csv_has_one_row_an_arm_with_its_verdicts(results, capsys):
    run(results, "phase6_epochs", "--format", "csv")
    rows = read_csv(capsys.readouterr().out)
    assert len(rows) == 12
    assert rows[0]["return_mean"].startswith("512.07")
    assert rows[0]["floor"] == "45.1"
    assert rows[0]["epochs_verdict"] == ""
    assert rows[1]["epochs_verdict"] == "Epochs 200 wins"
    assert rows[3]["variant_verdict"] == "Baseline wins"


def test_csv_per_seed_has_one_row_a_trial(tmp_path, capsys):
    make_sweep(tmp_path / "s", fail_one)
    run(tmp_path, "s", "--format", "csv", "--per-seed")
    rows = read_csv(capsys.readouterr().out)
    assert len(rows) == 36
    assert [row["reason"] for row in rows if row["return"] == ""] == ["out of memory"]


def test_json_is_one_object(results, capsys):
    run(results, "phase6_epochs", "--format", "json", "--per-seed")
    shown = json.loads(capsys.readouterr().out)
    assert shown["counts"] == {"planned": 36, "EVALUATED": 36}
    assert [len(shown["arms"]), len(shown["seeds"])] == [12, 36]
    assert [table["compare"] for table in shown["comparisons"]] == ["epochs", "variant"]
    assert shown["comparisons"][1]["rows"][0]["evidence"] == "supported"


def test_a_sweep_of_one_arm_a_task_is_held_against_the_floor(results, capsys):
    path = results / "phase6_epochs" / "trials.arrow"
    rows = [row for row in read_table(path).to_pylist() if row["epochs"] == 100]
    write_rows(path, [row for row in rows if row["variant"] == "fullflow"], TRIALS)
    # 400.42, 401.23, 404.56 less 45.1: sd 2.194, error 1.267, times 4.303.
    run(results, "phase6_epochs", "--format", "md")
    shown = capsys.readouterr().out
    assert "Nothing to compare: epochs has one level here." in shown
    assert "| reacher-easy | 45.1 (random) | 3 | +357.0 | [352, 362] | <.001 |" in shown
    run(results, "phase6_epochs")
    assert "Returns over the floor" in capsys.readouterr().out
    run(results, "phase6_epochs", "--format", "json")
    (arm, _) = json.loads(capsys.readouterr().out)["arms"]
    assert arm["over_floor"] == pytest.approx(356.97)
    assert arm["over_floor_low"] == pytest.approx(351.52, abs=0.01)
    run(results, "phase6_epochs", "--format", "csv")
    (row, _) = read_csv(capsys.readouterr().out)
    assert float(row["over_floor_high"]) == arm["over_floor_high"]


def test_sweeps_that_compare_arms_print_no_table_of_the_floor(results, capsys):
    run(results, "phase6_epochs")
    assert "Returns over the floor" not in capsys.readouterr().out


def test_markdown_tables_are_regular(results, capsys):
    run(results, "phase6_epochs", "--format", "md", "--compare", "variant")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines[:14]}) == 1


def test_markdown_shows_what_looks_like_a_tag(tmp_path, capsys):
    reasons = {"status": "FAILED", "reason": "<urlopen error> for <b>"}
    make_sweep(tmp_path / "s", lambda row: fail_one(row) and reasons)
    run(tmp_path, "s", "--format", "md")
    printed = capsys.readouterr().out
    assert "&lt;urlopen error> for &lt;b>" in printed
    assert "<u" not in printed
    assert "<.001" in printed


def test_markdown_shows_signs_that_are_its_own(tmp_path, capsys):
    reason = "A.__init__() got *args, `x` [y](z) ~~w~~ ~w~ &lt; \\_ of num_substeps, 3 * 4"
    make_sweep(tmp_path / "s", lambda row: fail_one(row) and {"status": "FAILED", "reason": reason})
    run(tmp_path, "s", "--format", "md")
    printed = capsys.readouterr().out
    assert r"A.\_\_init\_\_() got \*args, \`x\` [y\](z) \~\~w\~\~ \~w\~ &amp;lt; \\\_ of" in printed
    assert "of num_substeps, 3 * 4" in printed


# Bad input: one line on stderr and exit code 2.


def fails_with(capsys, code: int) -> str:
    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    return printed.err


def test_an_unknown_sweep_is_told_the_nearest_name(results, capsys):
    said = fails_with(capsys, run(results, "phase6_epoch"))
    assert "did you mean 'phase6_epochs'? there: phase6_epochs" in said


def test_a_missing_or_empty_results_folder_is_named(tmp_path, capsys):
    assert "no results folder" in fails_with(capsys, run(tmp_path / "nowhere"))
    assert "no sweep in" in fails_with(capsys, run(tmp_path))


def test_a_sweep_with_nothing_evaluated_says_what_is_there(tmp_path, capsys):
    make_sweep(tmp_path / "s", fail_all)
    said = fails_with(capsys, run(tmp_path, "s"))
    assert "0 of 36 trials evaluated, 12 pending, 24 failed (reasons: 24 x disk)" in said


def test_a_sweep_without_tables_says_so(tmp_path, capsys):
    write_description(tmp_path / "s", [])
    assert "written no results yet" in fails_with(capsys, run(tmp_path, "s"))


@pytest.mark.parametrize("name", ["trials.arrow", "evaluations.arrow", "sweep.json"])
def test_a_cut_file_is_named(results, capsys, name):
    path = results / "phase6_epochs" / name
    path.write_bytes(path.read_bytes()[:200])
    assert name in fails_with(capsys, run(results, "phase6_epochs"))


def test_a_factor_that_the_sweep_does_not_vary_is_refused(results, capsys):
    said = fails_with(capsys, run(results, "phase6_epochs", "--compare", "seed"))
    assert "it varies: variant, epochs" in said


def test_an_unknown_option_is_one_line(results, capsys):
    assert "--colour" in fails_with(capsys, run(results, "--colour"))


# As a script.


def run_python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize("parts", [[["b", "b", None, "a", "b"]], [["b"], ["b", None, "a"], ["b"]]])
def test_texts_become_numbers_in_order_of_appearance(parts):
    numbers, texts = encode(pa.chunked_array(parts, pa.string()), missing="none")
    assert texts == ["b", "none", "a"]
    assert numbers.tolist() == [0, 0, 1, 2, 0]


def test_the_script_runs_from_any_folder(results, tmp_path):
    script = str(ROOT / "analysis" / "summarize.py")
    done = run_python(script, "--results", str(results), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Final returns" in done.stdout


def test_analysis_imports_neither_torch_nor_ray(tmp_path):
    code = (
        "import sys, analysis.summarize, analysis.figures; print({'torch','ray'} & {*sys.modules})"
    )
    done = run_python("-c", code, cwd=tmp_path)
    assert done.stdout.strip() == "set()", done.stderr
