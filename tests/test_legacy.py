"""Results from before this package: imported as they are, their contradictions listed."""

import csv
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pytest

from analysis.arms import build_arms
from analysis.import_legacy import main
from analysis.load import describe_episodes, load_sweep
from analysis.report import summarize_sweep
from analysis.summarize import main as summarize
from pwmray import cli, registry
from pwmray.results import read_table, write_table

DATA = Path(__file__).parent / "data" / "legacy"
REGISTRY, SUMMARY = DATA / "all_experiments.csv", DATA / "mt30_results_summary.csv"
CONFIG = """
task: walker-stand
epochs: 10000
finetune_wm: false
seed: 123
general: {seed: 42, checkpoint: wm/mt30_48M.pt, eval_runs: 10}
alg: {_target_: pwm.algorithms.pwm.PWM}
"""
CHOICES = "hydra: {runtime: {choices: {alg: pwm_48M_mt_baseline}}}"
RESULTS = """,iteration,total_time,actor_loss,episode_reward,episode_reward_planning
0,0,1.5,-1.0,30.0,
1,100,3.0,-2.0,,
2,200,4.5,-3.0,400.5,
3,9999,2400.0,-9.0,970.5,940.25
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory) -> Path:
    results = tmp_path_factory.mktemp("results")
    assert main([str(REGISTRY), str(SUMMARY), "--results", str(results)]) == 0
    return results


def verdicts(folder: Path) -> dict[str, str]:
    rows = summarize_sweep(load_sweep(folder)).comparisons[0].rows
    return {row.level.factors["task"]: row.verdict.name for row in rows}


def contradictions(results: Path, field: str) -> list[dict[str, str]]:
    with open(results / "legacy_contradictions.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row["field"] == field]


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def write_run(
    folder: Path, config: str | bytes = CONFIG, results: str | bytes | None = RESULTS
) -> Path:
    """Write one run folder as Hydra left them."""
    write(folder / ".hydra" / "config.yaml", config)
    write(folder / ".hydra" / "hydra.yaml", CHOICES)
    if results is not None:
        write(folder / "logs" / "walker-stand_results.csv", results)
    return folder


def import_runs(root: Path) -> list:
    assert main([str(root / "outputs"), "--results", str(root / "results")]) == 0
    return list(load_sweep(root / "results" / "legacy_runs").trials)


# The two tables.


@pytest.mark.parametrize("name", ["mt30_results_summary", "all_experiments_phase3"])
def test_verdicts_of_phase_3_are_those_of_the_log(imported, name):
    assert verdicts(imported / f"legacy_{name}") == {
        "reacher-easy": "Tie (Solved)",
        "walker-stand": "Baseline wins",
        "cheetah-run": "Tie (Both Low)",
    }


def test_phase_7_compares_its_flow_policies_with_the_gaussian_one(tmp_path):
    header = REGISTRY.read_text().splitlines()[0]
    runs = [
        f"phase7,1_{place}{seed},{config},15000,walker-stand,{seed},H100,44,{result + seed},"
        f"{result},finetune_wm,mt30_48M_4900000.pt"
        for place, (config, result) in enumerate(
            {"baseline": 95, "flow_std": 50, "flow_high": 51}.items()
        )
        for seed in (42, 123, 456)
    ]
    (tmp_path / "runs.csv").write_text("\n".join([header, *runs]))
    assert main([str(tmp_path / "runs.csv"), "--results", str(tmp_path)]) == 0
    rows = summarize_sweep(load_sweep(tmp_path / "legacy_runs_phase7")).comparisons[0].rows
    assert {(row.baseline_name, row.level_name) for row in rows} == {
        ("baseline", "flow_std"), ("baseline", "flow_high"),
    }  # fmt: skip
    assert len(rows) == 2


@pytest.mark.parametrize("sweep", [["legacy_runs"], []])
@pytest.mark.parametrize(("command", "code"), [(["status", "--watch"], 0), (["watch"], 1)])
def test_imported_runs_stand_where_they_ended_and_are_not_waited_for(
    tmp_path, capsys, monkeypatch, command, code, sweep
):
    write_run(tmp_path / "outputs" / "a")
    write_run(tmp_path / "outputs" / "b", results=None)
    import_runs(tmp_path)
    capsys.readouterr()
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waits"))
    assert cli.main([*command, *sweep, "--results", str(tmp_path / "results")]) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["legacy_runs", "2", "1", "0", "0", "0", "1", "0", "0"]


def test_imported_runs_are_counted_among_all_trials(tmp_path, capsys):
    write_run(tmp_path / "outputs" / "a")
    import_runs(tmp_path)
    registry.record(registry.trial_folder(tmp_path / "results", "a1" * 8), registry.Status.PENDING)
    assert cli.main(["status", "--results", str(tmp_path / "results")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"2 trials in {tmp_path / 'results'}"


def test_every_file_and_phase_is_a_sweep_of_its_own(imported):
    assert sorted(folder.name for folder in imported.iterdir() if folder.is_dir()) == [
        "legacy_all_experiments_phase3",
        "legacy_all_experiments_phase5",
        "legacy_all_experiments_phase7",
        "legacy_mt30_results_summary",
    ]


def test_a_run_keeps_its_numbers_and_its_origin(imported):
    trial = load_sweep(imported / "legacy_mt30_results_summary").trials[0]
    assert trial.record["origin"] == "mt30_results_summary.csv:2"
    assert trial.final_return == 108.7988052368164
    assert trial.plan_return == 81.67097473144531
    assert (trial.record["epochs_reached"], trial.record["fidelity"]) == (10_000, "published")


def test_methodologies_and_configurations_are_todays(imported):
    phase5 = load_sweep(imported / "legacy_all_experiments_phase5")
    arms = build_arms(phase5)
    assert {arm.factors["variant"] for arm in arms} == {"fullflow"}
    assert {arm.factors["config_name"] for arm in arms} == {
        "high_precision_wm", "high_precision_policy", "euler_fast",
    }  # fmt: skip
    assert {trial.record["methodology"] for trial in phase5.trials} == {"joint_from_scratch"}


def test_contradictions_between_the_files_are_listed_run_by_run(imported):
    epochs = contradictions(imported, "epochs")
    assert len(epochs) == 18
    assert epochs[0]["first"] == "15,000 (all_experiments.csv:2)"
    assert epochs[0]["second"] == "10,000 (mt30_results_summary.csv:6)"
    assert len(contradictions(imported, "plan return")) == 18
    assert len(contradictions(imported, "job")) == 17
    assert contradictions(imported, "return") == []


@pytest.mark.parametrize("order", [(REGISTRY, SUMMARY), (SUMMARY, REGISTRY)])
def test_the_order_of_the_files_changes_no_contradiction(tmp_path, capsys, order):
    assert main([*map(str, order), "--results", str(tmp_path)]) == 0
    assert "epochs: 18 contradictions" in capsys.readouterr().out


def test_a_return_that_differs_is_a_contradiction(tmp_path):
    changed = tmp_path / "summary.csv"
    changed.write_text(SUMMARY.read_text().replace("983.5,985", "893.5,985"))
    main([str(REGISTRY), str(changed), "--results", str(tmp_path / "r")])
    found = contradictions(tmp_path / "r", "return")
    assert [(row["first"], row["second"]) for row in found] == [
        ("983.50 (all_experiments.csv:3)", "893.50 (summary.csv:5)")
    ]


def test_a_job_of_two_runs_and_one_result_of_two_are_listed(imported):
    assert [row["run"] for row in contradictions(imported, "job of two runs")] == ["job 4011714_1"]
    same = [row["run"] for row in contradictions(imported, "one result of two runs")]
    assert "walker-stand: 142.26, planned 128.08" in same


@pytest.mark.parametrize(
    ("number", "rest"), [(3, []), (4, ["  and 1 more in legacy_contradictions.csv"])]
)
def test_of_more_than_three_contradictions_the_rest_are_counted(tmp_path, capsys, number, rest):
    rows = [registry_row(seed=str(n), final_reward=f"{500 + n}") for n in range(number + 1)]
    lines = [row.splitlines()[1] for row in rows]  # all of one job
    (tmp_path / "t.csv").write_text("\n".join([rows[0].splitlines()[0], *lines]))
    assert import_all(tmp_path, tmp_path / "t.csv") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1] == f"job of two runs: {number} contradictions"
    assert said[5:] == rest


def test_runs_that_end_alike_are_named_in_the_summary(imported):
    signs = summarize_sweep(load_sweep(imported / "legacy_all_experiments_phase5")).signs
    assert sum("identical" in some for some in signs.values()) == 4


def test_the_table_of_trials_shows_the_origin(imported, capsys):
    options = ["legacy_all_experiments_phase3", "--results", str(imported), "--per-seed"]
    assert summarize([*options, "--format", "md"]) == 0
    assert "| all_experiments.csv:12 |" in capsys.readouterr().out


def test_importing_again_gives_the_same_trials(imported, tmp_path):
    main([str(SUMMARY), "--results", str(tmp_path)])
    again = load_sweep(tmp_path / "legacy_mt30_results_summary").trials
    before = load_sweep(imported / "legacy_mt30_results_summary").trials
    assert [trial.record for trial in again] == [trial.record for trial in before]
    assert [t.returns.tolist() for t in again] == [t.returns.tolist() for t in before]


# Hydra's folders.


def test_a_run_folder_becomes_a_trial_with_its_curve(tmp_path):
    write_run(tmp_path / "outputs" / "4011713" / "0_s42")
    trial = import_runs(tmp_path)[0]
    assert (trial.final_return, trial.plan_return) == (970.5, 940.25)
    assert (trial.record["variant"], trial.seed) == ("baseline", 42)
    assert trial.record["methodology"] == "policy_finetuning"
    assert trial.record["world_model_from"] == "wm/mt30_48M.pt"
    assert trial.record["origin"] == "4011713/0_s42"
    assert trial.record["train_seconds"] == 2400.0


@pytest.mark.parametrize(
    ("runs", "recorded", "said"),
    [("10", 10, "a final return rests on only 10 evaluation episodes"), ("null", None, "")],
)
def test_the_number_of_evaluation_episodes_is_the_configs(tmp_path, capsys, runs, recorded, said):
    write_run(tmp_path / "outputs" / "run", changed("eval_runs: 10", f"eval_runs: {runs}"))
    assert import_runs(tmp_path)[0].record["evaluation_episodes"] == recorded
    capsys.readouterr()
    options = ["legacy_runs", "--results", str(tmp_path / "results"), "--per-seed"]
    assert summarize([*options, "--format", "md"]) == 0
    printed = capsys.readouterr().out
    assert said in printed
    assert " 1 evaluation episodes" not in printed
    assert "on the first 1 of" not in printed
    assert "number of episodes is not the recorded one" not in printed
    told = f"Every trial: episodes {recorded}" if recorded else "| 42 | 970.50 | - |"
    assert told in printed


def test_figures_say_that_the_number_of_episodes_was_not_recorded(imported):
    trials = load_sweep(imported / "legacy_all_experiments_phase3").trials
    assert describe_episodes(trials) == "an unrecorded number of"
    assert describe_episodes([]) == "0"


def test_a_seed_that_trained_nothing_is_a_contradiction(tmp_path):
    write_run(tmp_path / "outputs" / "run")
    import_runs(tmp_path)
    found = contradictions(tmp_path / "results", "seed")
    assert found[0]["first"] == "general.seed 42 (run)"
    assert "seed 123 was set, but trained nothing" in found[0]["second"]


@pytest.mark.parametrize("line", ["", "seed: 42\n"])
def test_one_seed_in_a_config_is_no_contradiction(tmp_path, line):
    write_run(tmp_path / "outputs" / "run", CONFIG.replace("seed: 123\n", line))
    import_runs(tmp_path)
    assert contradictions(tmp_path / "results", "seed") == []


@pytest.mark.parametrize(
    ("results", "reason"),
    [
        (None, "no results file"),
        (RESULTS.replace("970.5", "nan"), "ended at iteration 9999, not evaluated"),
        ("\n".join(RESULTS.splitlines()[:4]), "ended at iteration 200, not evaluated"),
    ],
)
def test_a_run_that_did_not_end_is_failed_and_says_why(tmp_path, results, reason):
    write_run(tmp_path / "outputs" / "run", results=results)
    write_run(tmp_path / "outputs" / "whole")
    trial = import_runs(tmp_path)[0]
    assert (trial.record["status"], trial.record["reason"]) == ("FAILED", reason)
    assert not trial.is_usable


def test_a_run_that_ended_before_its_last_epoch_is_a_contradiction_and_no_other(tmp_path):
    for name, num_lines in (("cut", 4), ("whole", 5)):
        results = "\n".join(RESULTS.splitlines()[:num_lines])
        write_run(tmp_path / "outputs" / name, results=results)
    import_runs(tmp_path)
    (found,) = contradictions(tmp_path / "results", "epochs reached")
    assert (found["first"], found["second"]) == ("10,000 asked for (cut)", "201 reached")


def test_a_run_that_was_not_planned_with_has_no_return_of_the_planner(tmp_path, capsys):
    (tmp_path / "t.csv").write_text(registry_row(planning_reward=""))
    assert import_all(tmp_path, tmp_path / "t.csv") == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [f"1 run -> {tmp_path / 'legacy_t_phase3'}", "no contradictions"]
    found = read_table(tmp_path / "legacy_t_phase3" / "evaluations.arrow")
    assert found["actor"].to_pylist() == ["policy"]


@pytest.mark.parametrize("cell", ["", " "])
def test_a_run_without_a_final_reward_is_failed(tmp_path, cell):
    (tmp_path / "t.csv").write_text(registry_row(final_reward=cell))
    assert import_all(tmp_path, tmp_path / "t.csv") == 0
    record = load_sweep(tmp_path / "legacy_t_phase3").trials[0].record
    assert (record["status"], record["reason"]) == ("FAILED", "no final reward in the registry")


def test_a_run_that_failed_with_a_return_is_failed(tmp_path):
    (tmp_path / "t.csv").write_text(summary_row("500", Status="TIMEOUT"))
    assert import_all(tmp_path, tmp_path / "t.csv") == 0
    record = load_sweep(tmp_path / "legacy_t").trials[0].record
    assert (record["status"], record["reason"]) == ("FAILED", "status 'TIMEOUT'")
    assert (record["epochs"], record["epochs_reached"]) == (None, 501)


@pytest.mark.parametrize("iteration", ["", "500"])
def test_a_failed_run_of_unknown_epochs_keeps_the_others_readable(tmp_path, capsys, iteration):
    lines = SUMMARY.read_text().splitlines()
    failed = summary_row(iteration, Status="FAILED", **{"Episode Reward": ""}).splitlines()[1]
    (tmp_path / "t.csv").write_text("\n".join([lines[0], failed, *lines[2:]]))
    assert import_all(tmp_path, tmp_path / "t.csv") == 0
    capsys.readouterr()
    options = ["legacy_t", "--results", str(tmp_path), "--per-seed"]
    assert summarize([*options, "--format", "html"]) == 0
    page = capsys.readouterr().out
    assert "17 of 18 trials evaluated, 1 failed (reasons: 1 x status &#39;FAILED&#39;)" in page
    assert "in all of them epochs 10,000" in page
    assert load_sweep(tmp_path / "legacy_t").varies == ("variant", "task", "seed")


# Several sources of one name.


def import_all(results: Path, *sources: Path) -> int:
    return main([*map(str, sources), "--results", str(results)])


def test_runs_of_one_name_in_two_folders_stay_apart(tmp_path):
    worse = RESULTS.replace("970.5", "170.5")
    roots = [tmp_path / name / "outputs" for name in "ab"]
    for root, results in zip(roots, (RESULTS, worse), strict=True):
        write_run(root / "0_s42", results=results)
    assert import_all(tmp_path / "r", *roots) == 0
    trials = load_sweep(tmp_path / "r" / "legacy_runs").trials
    assert [(t.record["origin"], t.returns.tolist(), t.plan_returns.tolist()) for t in trials] == [
        ("a/outputs/0_s42", [970.5], [940.25]),
        ("b/outputs/0_s42", [170.5], [940.25]),
    ]


def test_tables_of_one_name_are_sweeps_apart_that_contradict_each_other(tmp_path):
    tables = [tmp_path / name / "t.csv" for name in "ab"]
    for table, final in zip(tables, ("981.20", "181.20"), strict=True):
        write(table, registry_row(final_reward=final))
    assert import_all(tmp_path / "r", *tables) == 0
    sweeps = [load_sweep(tmp_path / "r" / f"legacy_{name}_t_phase3") for name in "ab"]
    assert [sweep.trials[0].final_return for sweep in sweeps] == [981.2, 181.2]
    found = contradictions(tmp_path / "r", "return")
    assert [(row["first"], row["second"]) for row in found] == [
        ("981.20 (a/t.csv:2)", "181.20 (b/t.csv:2)")
    ]


def test_a_trial_is_the_same_whatever_is_imported_beside_it(tmp_path):
    for name in "ab":
        write_run(tmp_path / name / "0_s42")
    alone, beside = tmp_path / "alone", tmp_path / "beside"
    import_all(alone, tmp_path / "a")
    import_all(beside, tmp_path / "a", tmp_path / "b")
    first, again = (load_sweep(r / "legacy_runs").trials[0].record for r in (alone, beside))
    assert first["trial"] == again["trial"]
    assert (first["origin"], again["origin"]) == ("0_s42", "a/0_s42")


def test_a_folder_within_another_source_is_refused(tmp_path, capsys):
    run = write_run(tmp_path / "outputs" / "4011713" / "0_s42")
    assert import_all(tmp_path / "r", tmp_path / "outputs", run.parent) == 2
    said = f"error: {run} is given twice: outputs/4011713/0_s42 and 4011713/0_s42\n"
    assert capsys.readouterr().err == said
    assert not (tmp_path / "r").exists()


def test_importing_again_replaces_runs_of_the_same_sources_alone(tmp_path, capsys):
    for name in "ab":
        write_run(tmp_path / name / "0_s42")
    results = tmp_path / "r"
    assert import_all(results, tmp_path / "a") == import_all(results, tmp_path / "a") == 0
    once, again = capsys.readouterr().out.split("1 run -> ")[1:]
    assert once == again
    assert import_all(results, tmp_path / "b") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {results}/legacy_runs has runs of {tmp_path}/a, which would be")
    assert said.endswith(f"along with {tmp_path}/b, or give another --results\n")
    assert import_all(results, tmp_path / "b", tmp_path / "a") == 0
    assert import_all(results, tmp_path) == 0  # in which both are
    assert len(load_sweep(results / "legacy_runs").trials) == 2


def test_contradictions_that_are_no_longer_listed_are_announced(tmp_path, capsys):
    import_all(tmp_path, REGISTRY, SUMMARY)
    import_all(tmp_path, REGISTRY, SUMMARY)
    assert "no longer" not in capsys.readouterr().out
    import_all(tmp_path, SUMMARY)
    gone = f"56 contradictions of an import before are no longer in {tmp_path}/legacy_contr"
    assert gone in capsys.readouterr().out


def test_a_sweep_of_unknown_sources_is_not_replaced(tmp_path, capsys):
    import_all(tmp_path, SUMMARY)
    path = tmp_path / "legacy_mt30_results_summary" / "sweep.json"
    path.write_text(path.read_text().replace('"sources"', '"others"'))
    before = path.read_text()
    assert import_all(tmp_path, SUMMARY) == 2
    assert "legacy_mt30_results_summary does not say what was" in capsys.readouterr().err
    assert path.read_text() == before


def test_a_table_shares_its_sweep_with_no_other_source(tmp_path, capsys):
    write_run(tmp_path / "outputs" / "0_s42")
    table = tmp_path / "runs.csv"
    table.write_text(SUMMARY.read_text())
    assert import_all(tmp_path / "r", tmp_path / "outputs", table) == 2
    said = f"error: {tmp_path}/outputs and {table} would both be sweep legacy_runs\n"
    assert capsys.readouterr().err == said
    assert not (tmp_path / "r").exists()


def test_a_sweep_that_has_a_trial_twice_is_refused(imported, tmp_path):
    folder = shutil.copytree(imported / "legacy_all_experiments_phase3", tmp_path / "sweep")
    rows = read_table(folder / "trials.arrow")
    write_table(folder / "trials.arrow", pa.concat_tables([rows, rows.slice(0, 1)]))
    with pytest.raises(ValueError, match=r"trials.arrow has trial \w{16} 2 times; run or import"):
        load_sweep(folder)


# Bad input.


def registry_row(**cells: str) -> str:
    """Return the registry's header and first run with some cells changed."""
    header, run = REGISTRY.read_text().splitlines()[:2]
    row = dict(zip(header.split(","), run.split(","), strict=True)) | cells
    return f"{header}\n{','.join(row.values())}\n"


def summary_row(iteration: str, **cells: str) -> str:
    header, run = SUMMARY.read_text().splitlines()[:2]
    row = dict(zip(header.split(","), run.split(","), strict=True))
    row |= {"Iteration": iteration, **cells}
    return f"{header}\n{','.join(row.values())}\n"


def test_a_table_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "t.csv").write_text(registry_row(), encoding="utf-8-sig")
    assert main([str(tmp_path / "t.csv"), "--results", str(tmp_path / "r")]) == 0


@pytest.mark.parametrize("empty", ["", "  ", ",,,,,,,,,,,", " , "])
def test_rows_of_empty_cells_are_left_out(tmp_path, empty):
    header, run = registry_row().splitlines()
    (tmp_path / "t.csv").write_text(f"{header}\n{empty}\n{run}\n{empty}\n")
    assert import_all(tmp_path, tmp_path / "t.csv") == 0
    (trial,) = load_sweep(tmp_path / "legacy_t_phase3").trials
    assert trial.record["origin"] == "t.csv:3"


def changed(old: str, new: str) -> str:
    """Return a run's config with another value."""
    assert old in CONFIG
    return CONFIG.replace(old, new)


def test_a_source_given_twice_is_refused(tmp_path, capsys):
    again = SUMMARY.parent / "." / ".." / SUMMARY.parent.name / SUMMARY.name
    assert main([str(SUMMARY), str(again), "--results", str(tmp_path / "r")]) == 2
    assert capsys.readouterr().err == f"error: {again} is given twice\n"
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "is no table of runs: it must have the columns"),
        (
            REGISTRY.read_text().replace("reacher-easy", "reacher-esay", 1),
            "line 2: unknown task 'reacher-esay'; did you mean 'reacher-easy'?",
        ),
        (REGISTRY.read_text().replace("frozen_wm", "frozen", 1), "unknown method 'frozen'; valid:"),
        (
            REGISTRY.read_text().replace("981.20", "many", 1),
            "final_reward is 'many'; valid: a number",
        ),
        (registry_row(final_reward="-"), "t.csv, line 2: final_reward is '-'; valid: a number fr"),
        (registry_row(final_reward="nan"), "line 2: final_reward is 'nan'; valid: a number from"),
        (registry_row(final_reward="inf"), "line 2: final_reward is 'inf'; valid: a number from"),
        (registry_row(final_reward="9812.0"), "final_reward is '9812.0'; valid: a number from 0"),
        (registry_row(final_reward="-981.2"), "final_reward is '-981.2'; valid: a number from 0"),
        (registry_row(final_reward="9_81"), "line 2: final_reward is '9_81'; valid: a number fr"),
        (registry_row(planning_reward="1001"), "line 2: planning_reward is '1001'; valid: a num"),
        (registry_row(runtime_min="0"), "line 2: runtime_min is '0'; valid: a positive number"),
        (registry_row(runtime_min="-15"), "line 2: runtime_min is '-15'; valid: a positive num"),
        (registry_row(runtime_min="nan"), "line 2: runtime_min is 'nan'; valid: a positive num"),
        (registry_row(runtime_min="1e999"), "line 2: runtime_min is '1e999'; valid: a positive"),
        (registry_row(seed="4_2"), "t.csv, line 2: seed is '4_2'; valid: a whole number from 0"),
        (
            summary_row("9999", **{"Planning Reward": "x"}),
            "line 2: Planning Reward is 'x'; valid: a number from 0 to 1,000",
        ),
        (registry_row(seed="abc"), "t.csv, line 2: seed is 'abc'; valid: a whole number from 0"),
        (registry_row(seed="-3"), "t.csv, line 2: seed is '-3'; valid: a whole number from 0"),
        (registry_row(seed="9" * 23), "line 2: seed is '99999999999999999999999'; valid: a whole"),
        (registry_row(epochs="-5"), "line 2: epochs is '-5'; valid: a whole number from 1 to 9"),
        (registry_row(epochs="0"), "t.csv, line 2: epochs is '0'; valid: a whole number from 1"),
        (registry_row(epochs="9" * 23), "line 2: epochs is '99999999999999999999999'; valid: a"),
        (registry_row(phase="../../evil"), "line 2: its sweep is called 'legacy_t_../../evil'; v"),
        (registry_row(phase=""), "t.csv, line 2: it has no phase, which is its sweep"),
        (registry_row(phase="a b/\u00fc"), "line 2: its sweep is called 'legacy_t_a b/"),
        (registry_row(phase="x" * 200), "line 2: its sweep is called 'legacy_t_xxx"),
        (registry_row(config="x" * 200_000), "t.csv, line 2: field larger than field limit"),
        (registry_row(hardware="H\u00fc00").encode("latin-1"), "t.csv is not in UTF-8: "),
        (registry_row().encode("utf-16"), "t.csv is not in UTF-8: "),
        (registry_row().splitlines()[0], "t.csv is a table without a row"),
        ("", "t.csv is a table without a row"),
        (registry_row(final_reward="981,20"), "t.csv, line 2 has 13 cells, the header 12"),
        (SUMMARY.read_text().rpartition("9.900")[0], "t.csv, line 19 has 6 cells, the header 9"),
        (summary_row("9999").rpartition(",")[0], "t.csv, line 2 has 8 cells, the header 9"),
        (summary_row("inf"), "line 2: Iteration is 'inf'; valid: a whole number from 0"),
        (summary_row(""), "line 2: Iteration is ''; valid: a whole number from 0"),
        (summary_row("nan"), "line 2: Iteration is 'nan'; valid: a whole number from 0"),
        (summary_row(str(2**63 - 1)), "line 2: Iteration is '9223372036854775807'; valid: a"),
    ],
)
def test_a_broken_table_is_one_line_that_names_the_place(tmp_path, capsys, text, message):
    write(path := tmp_path / "t.csv", text)
    assert main([str(path), "--results", str(tmp_path / "r")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("task: walker-stand\nepochs: 3\n", "config.yaml lacks general.seed"),
        ("task: [", "config.yaml is not valid YAML"),
        ("", "config.yaml holds no settings"),
        ("- 1\n", "config.yaml holds no settings"),
        ("day: 2026-02-31\n", "config.yaml is not valid YAML (day is out of range"),
        (CONFIG.encode() + b"x: \xfc\n", "config.yaml is not in UTF-8: "),
        (changed("seed: 42", "seed: [1]"), "config.yaml: general.seed is [1]; valid: a whole"),
        (changed("seed: 42", "seed: abc"), "config.yaml: general.seed is 'abc'; valid: a whole"),
        (changed("seed: 42", "seed: -1"), "config.yaml: general.seed is -1; valid: a whole"),
        (changed("seed: 42", f"seed: {10**22}"), f"general.seed is {10**22}; valid: a whole"),
        (changed("wm/mt30_48M.pt", "[1]"), "config.yaml: general.checkpoint is [1], not text"),
        (changed("walker-stand", "[a, b]"), "config.yaml: task is ['a', 'b'], not text"),
        (changed("walker-stand", "7"), "config.yaml: task is 7, not text"),
        (changed("walker-stand", "''"), "config.yaml lacks task"),
        (changed("walker-stand", "walkr-run"), "config.yaml: unknown task 'walkr-run'; did you"),
        (changed("10000", ".inf"), "config.yaml: epochs is inf; valid: a whole number from 1"),
        (changed("10000", "0"), "config.yaml: epochs is 0; valid: a whole number from 1"),
        (changed("eval_runs: 10", "eval_runs: 0"), "general.eval_runs is 0; valid: a whole number"),
        (changed("10000", "many"), "config.yaml: epochs is 'many'; valid: a whole number from 1"),
        ("general: hello\n", "config.yaml: general is 'hello', not settings by name"),
    ],
)
def test_a_broken_config_is_named(tmp_path, capsys, config, message):
    write_run(tmp_path / "outputs" / "run", config)
    check_refused(tmp_path, capsys, message)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ("hydra: [1]\n", "hydra.yaml: hydra is [1], not settings by name"),
        ("hydra:\n", "hydra.yaml: hydra is None, not settings by name"),
        ("hydra: {runtime: }\n", "hydra.yaml: hydra.runtime is None, not settings by name"),
        ("hydra: {runtime: {choices: {alg: [1]}}}", "hydra.yaml: hydra.runtime.choices.alg is [1]"),
        ("", "hydra.yaml holds no settings"),
        ("a: b\n", "config.yaml: alg is 'hello', not settings by name"),
    ],
)
def test_broken_choices_are_named(tmp_path, capsys, choices, message):
    text = changed("{_target_: pwm.algorithms.pwm.PWM}", "hello")
    folder = write_run(tmp_path / "outputs" / "run", text)
    (folder / ".hydra" / "hydra.yaml").write_text(choices)
    check_refused(tmp_path, capsys, message)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ("", "walker-stand_results.csv is a table without a row"),
        ("iteration,total_time\n99,600\n", "_results.csv lacks the column episode_reward"),
        (RESULTS.replace(",940.25", ""), "_results.csv, line 5 has 5 cells, the header 6"),
        (RESULTS.replace("400.5", "4005"), "_results.csv, line 4: episode_reward is '4005'; val"),
        (RESULTS.replace("940.25", "x"), "line 5: episode_reward_planning is 'x'; valid: a num"),
        (RESULTS.replace("2400.0", "-1"), "line 5: total_time is '-1'; valid: a positive number"),
        ("episode_reward\n600\n", "_results.csv lacks the column iteration"),
        ("iteration,episode_reward\nx,1\n", "_results.csv, line 2: iteration is 'x'; valid: a"),
        ("iteration,episode_reward\n1e30,1\n", "_results.csv, line 2: iteration is '1e30'; val"),
        (b"iteration,episode_reward\n\xff,1\n", "walker-stand_results.csv is not in UTF-8: "),
    ],
)
def test_broken_results_of_a_run_are_named(tmp_path, capsys, results, message):
    write_run(tmp_path / "outputs" / "run", results=results)
    check_refused(tmp_path, capsys, message)


def check_refused(root: Path, capsys, message: str) -> None:
    """Check that the run folders of `root` are refused with one line and nothing is written."""
    assert main([str(root / "outputs"), "--results", str(root / "r")]) == 2
    said = capsys.readouterr().err
    assert str(root / "outputs" / "run") in said
    assert message in said
    assert said.count("\n") == 1
    assert not (root / "r").exists()


def test_a_source_that_is_nothing_is_named(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere"), "--results", str(tmp_path)]) == 2
    assert "is neither a CSV file nor a folder with run folders" in capsys.readouterr().err
