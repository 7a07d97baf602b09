"""What a summary says beside its numbers where they alone would mislead."""

import json
import re
from pathlib import Path

import pytest

from analysis.drawing.cost_figures import draw_costs
from analysis.figures import list_figures
from analysis.load import load_sweep
from analysis.report import summarize_sweep
from analysis.summarize import main
from tests.made_sweeps import KINDS, changed_trials, make_row, make_sweep, read_csv
from tests.seen_figures import footnote
from tests.squares import write_square, write_trials

SAME = dict.fromkeys(KINDS, (500.0, 510.0, 520.0))
TASKS = ("reacher-easy", "walker-stand", "cheetah-run")


def write_changed(folder: Path, change) -> None:
    """Write the 2x2 on three tasks with equal returns; `change` edits each row."""
    rows = [
        make_row(task, variant, 100, seed, return_mean=500.0 + 10.0 * seed, device="cpu", host="a")
        for task in TASKS
        for variant in KINDS
        for seed in (1, 2, 3)
    ]
    write_trials(folder, [r | change(r) for r in rows], ["variant", "task", "seed"], "variant")


def summarize(folder: Path, capsys) -> str:
    """Return what the command prints, in one line."""
    assert main([str(folder)]) == 0
    return " ".join(capsys.readouterr().out.split())


def diverge(row: dict) -> dict:
    is_chosen = row["trial"] == "walker-stand-fullflow-100-3"
    reason = "FloatingPointError: diverged: critic_loss is nan at epoch 7"
    return {"status": "FAILED", "reason": reason} if is_chosen else {}


@pytest.mark.parametrize(
    ("higher", "said"),
    [
        ((120.0, 124.0, 128.0), ["one would win in 1 of these: acrobot-swingup, fullflow +102."]),
        ((60.0, 64.0, 68.0), []),
    ],
)
def test_arms_that_are_both_low_and_clearly_apart_are_named(higher, said, tmp_path, capsys):
    cells = dict.fromkeys(KINDS, (20.0, 22.0, 24.0)) | {"fullflow": higher}
    printed = summarize(write_square(tmp_path / "s", {"acrobot-swingup": cells}), capsys)
    assert printed.count("Tie (Both Low)") >= 3
    assert re.findall(r"one would win in .*? \+\d+\.", printed) == said


def test_what_wins_where_seeds_spread_most_stands_beside_the_median(tmp_path, capsys):
    cells = SAME | {"fullflow": (200.0, 500.0, 800.0)}  # error 245
    printed = summarize(write_square(tmp_path / "s", {"reacher-easy": cells}), capsys)
    assert "at this table's median sd of 10 a" in printed
    assert (
        "Where two arms spread most, it takes 347 points." in printed
    )  # 2 sqrt((10^2 + 300^2) / 3)
    assert "Fix the number beforehand" in printed  # who adds seeds


def test_spreads_that_are_alike_are_said_once(tmp_path, capsys):
    printed = summarize(write_square(tmp_path / "s", {"reacher-easy": SAME}), capsys)
    assert "spread most" not in printed


@pytest.mark.parametrize(("budgets", "share"), [((100, 200, 400), "33%"), ((1, 2, 3, 4), "8%")])
def test_direction_of_a_trend_stands_beside_how_often_chance_gives_one(
    budgets, share, tmp_path, capsys
):
    rows = [
        make_row("reacher-easy", "baseline", epochs, seed, return_mean=500.0 + seed)
        for epochs in budgets
        for seed in (1, 2)
    ]
    write_trials(tmp_path / "s", rows, ["epochs", "task", "seed"], "epochs")
    printed = summarize(tmp_path / "s", capsys)
    assert f"if {len(budgets)} levels were alike, {share} of such rows would rise or" in printed


def test_a_diverged_trial_flatters_the_mean_of_its_arm_and_leaves_its_task_out(tmp_path, capsys):
    write_changed(tmp_path / "s", diverge)
    printed = summarize(tmp_path / "s", capsys)
    said = "1 trial that diverged, without a return: walker-stand fullflow seed 3. The mean"
    assert said in printed
    said = "Not in this table, for lack of a verdict or of seeds: walker-stand"
    assert f"{said}, fullflow." in printed
    assert f"{said}." in printed  # of the 2x2


def test_means_over_all_tasks_leave_none_out(tmp_path, capsys):
    write_changed(tmp_path / "s", lambda row: {})
    printed = summarize(tmp_path / "s", capsys)
    assert "Not in this table" not in printed
    assert "diverged" not in printed


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kernels": "off: no compiler"}, "kernels (off: no compiler; on)"),
        ({"cuda_graph": "on"}, "CUDA graph (off; on)"),
        ({"host": "b"}, "host (a; b)"),
        ({"device": "H100"}, "device (H100; cpu)"),
        ({"config": json.dumps({"runtime": {"num_cpus": 4}})}, "CPUs (1; 4)"),
        ({"config": json.dumps({"runtime": {"gpu_fraction": 0.5}})}, "share of a GPU (0.5; 1.0)"),
    ],
)
def test_what_is_in_times_and_no_arm_is_about_is_named(values, said, tmp_path, capsys):
    usual = {"kernels": "on", "cuda_graph": "off"}
    usual["config"] = json.dumps({"runtime": {"num_cpus": 1, "gpu_fraction": 1.0}})
    write_changed(
        tmp_path / "s", lambda row: usual | (values if row["variant"] == "fullflow" else {})
    )
    assert f"Trials ran under unlike {said}: compare times" in summarize(tmp_path / "s", capsys)


@pytest.mark.parametrize(
    "alike",
    [lambda row: {"kernels": "on"}, lambda row: {"device": "H100", "host": row["variant"]}],
    ids=["machines", "hosts of one kind of GPU"],
)
def test_what_is_alike_enough_is_not_spoken_of(alike, tmp_path, capsys):
    write_changed(tmp_path / "s", alike)
    assert "ran under unlike" not in summarize(tmp_path / "s", capsys)


def test_what_trials_do_not_tell_of_themselves_is_not_spoken_of(tmp_path, capsys):
    config = {"config": json.dumps({"runtime": 5}), "world_model_from": None}  # edited, imported
    write_changed(tmp_path / "s", lambda row: config if row["seed"] == 1 else {})
    printed = summarize(tmp_path / "s", capsys)
    assert "ran under unlike" not in printed
    assert "took to train" not in printed


def test_pretraining_is_said_to_be_in_no_time(tmp_path, capsys):
    def pretrain(row):
        return {"world_model_from": "flow-9-a"} if row["world_model"] == "flow" else {}

    write_changed(tmp_path / "s", pretrain)
    write_changed(tmp_path / "scratch", lambda row: {})
    assert "pretrained world models took to train is in none" in summarize(tmp_path / "s", capsys)
    assert "took to train" not in summarize(tmp_path / "scratch", capsys)


def test_figure_of_costs_says_the_same_of_its_times(tmp_path):
    changes = {"baseline": {"kernels": "on"}, "fullflow": {"kernels": "off"}}
    pretrained = {"world_model_from": "mlp-9-a"}
    write_changed(tmp_path / "s", lambda row: pretrained | changes.get(row["variant"], {}))
    figure = draw_costs(summarize_sweep(load_sweep(tmp_path / "s")))
    assert figure is not None
    said = " ".join(figure.get_supxlabel().split())
    assert "unlike kernels (off; on): compare times with care." in said
    assert "pretrained world models took to train is in none of these." in said


def test_what_the_floors_of_a_suite_score_stands_beside_its_scores(tmp_path, capsys):
    # Floors of 353.2 and 45.1.
    tasks = {"cartpole-balance-sparse": SAME, "reacher-easy": SAME}
    printed = summarize(write_square(tmp_path / "s", tasks), capsys)
    assert "of themselves they score 0.20 here." in printed


def test_every_summary_tells_its_commit_and_versions(tmp_path, capsys):
    write_changed(tmp_path / "s", lambda row: {})
    said = "Trials of commit c1, package 0.1.0, torch 2.13.0, MuJoCo 3.17.0, "
    said += "DMControl 1.0.45."
    for shown in ("table", "md", "tex", "json"):
        assert main([str(tmp_path / "s"), "--format", shown]) == 0
        assert said in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        ({"code_fingerprint": "f1"}, "DMControl 1.0.45. Some recorded no learner code."),
        ({"git_commit": "c1+changes.0123abcd"}, "No commit holds what +changes stands for"),
    ],
)
def test_code_that_some_trials_did_not_record_or_commit_is_told(recorded, said, tmp_path, capsys):
    write_changed(tmp_path / "s", lambda row: recorded if row["seed"] == 1 else {})
    assert said in summarize(tmp_path / "s", capsys)


def test_summary_of_two_commits_tells_that_their_learner_is_one(tmp_path, capsys):
    def change(row):
        return {"git_commit": f"c{row['seed']}", "code_fingerprint": "f1"}

    write_changed(tmp_path / "s", change)
    printed = summarize(tmp_path / "s", capsys)
    assert "Trials of commit c1; c2; c3, learner code f1, package" in printed
    assert "against c" not in printed


@pytest.mark.parametrize(
    ("recorded", "mixed"),
    [
        ({"git_commit": "c1 and c2"}, 3),
        ({"git_commit": "c1 and c2", "code_fingerprint": "f1"}, 0),
        ({"git_commit": "c1", "code_fingerprint": "f1 and f2"}, 3),
        ({"git_commit": "c1", "code_fingerprint": "f1", "policy_code": "mlp a and mlp b"}, 3),
    ],
)
def test_trials_that_two_versions_of_the_code_trained_are_counted(
    recorded, mixed, tmp_path, capsys
):
    def change(row):
        is_one = (row["task"], row["variant"]) == ("reacher-easy", "baseline")
        return recorded if is_one and row["epochs"] == 100 else {}

    write_changed(tmp_path / "s", change)
    said = (
        f"{mixed} trials trained by more than one version of the code: reacher-easy baseline seed 1"
    )
    assert (said in summarize(tmp_path / "s", capsys)) == (mixed > 0)


def test_tasks_that_the_reader_does_not_see_are_counted(tmp_path, capsys):
    write_changed(tmp_path / "s", lambda row: {})
    assert main([str(tmp_path / "s"), "--tasks", "walker-stand"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Shown: 1 of the sweep's 3 tasks. Corrections, and means over tasks, are" in printed
    assert "of the sweep's" not in summarize(tmp_path / "s", capsys)


METHODOLOGIES = ("policy_finetuning", "policy_and_wm_finetuning")


def write_frozen(folder: Path, change=lambda row: {}) -> None:
    """Write the 2x2 on two tasks, on a frozen and on a fine-tuned world model."""
    rows = [
        make_row(task, variant, 100, seed, return_mean=500.0 + seed, methodology=methodology)
        | {"trial": f"{task}-{variant}-{methodology}-{seed}"}
        for task in TASKS
        for variant in KINDS
        for methodology in METHODOLOGIES
        for seed in (1, 2, 3)
    ]
    varies = ["variant", "methodology", "task", "seed"]
    write_trials(folder, [row | change(row) for row in rows], varies, "variant")


def lose_one(row: dict) -> dict:
    reason = "FloatingPointError: diverged: critic_loss is nan at epoch 7"
    is_chosen = row["trial"] == "reacher-easy-flowpolicy-policy_finetuning-2"
    return {"status": "FAILED", "reason": reason} if is_chosen else {}


def test_notes_name_trials_and_arms_as_the_tables_do(tmp_path, capsys):
    write_frozen(tmp_path / "s", lose_one)
    printed = summarize(tmp_path / "s", capsys)
    assert printed.count("policy_finetuning") == 1  # what "frozen" stands for
    assert printed.count("reacher-easy flowpolicy frozen seed 2") == 2
    assert "for lack of a verdict or of seeds: reacher-easy, frozen, flowpolicy." in printed
    assert main([str(tmp_path / "s"), "--format", "json"]) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert notes[0].startswith("methodology: frozen = policy_finetuning; ")


def test_means_over_tasks_stand_in_one_order_though_the_first_task_is_in_none(tmp_path):
    write_frozen(tmp_path / "s", lose_one)
    summary = summarize_sweep(load_sweep(tmp_path / "s"))
    found = [(row.group["methodology"], row.level) for row in summary.comparisons[0].aggregates]
    assert found == [(m, v) for m in METHODOLOGIES for v in ("flowpolicy", "flowwm", "fullflow")]
    assert [row.group["methodology"] for row in summary.factorial.suite[::3]] == [*METHODOLOGIES]


def test_means_of_some_tasks_are_not_called_those_of_all(tmp_path):
    write_frozen(tmp_path / "s", lose_one)
    figures = list_figures(summarize_sweep(load_sweep(tmp_path / "s")))
    effects = figures["effects_of_the_2x2"].axes[0]
    assert [label.get_text() for label in effects.get_yticklabels()][-2:] == [
        "2 tasks, frozen", "3 tasks, fine-tuned",
    ]  # fmt: skip
    said = footnote(figures["performance_profile_by_variant"])
    assert said.startswith("2 to 3 tasks, each weighing the same.")


def test_evidence_has_a_column_and_a_note_where_there_is_any(tmp_path, capsys):
    write_square(tmp_path / "ties", dict.fromkeys(TASKS, SAME))
    assert "vidence" not in summarize(tmp_path / "ties", capsys)
    cells = SAME | {"fullflow": (800.0, 810.0, 820.0)}
    write_square(tmp_path / "wins", {**dict.fromkeys(TASKS, SAME), "cup-spin": cells})
    printed = summarize(tmp_path / "wins", capsys)
    assert " verdict evidence " in printed
    assert "Evidence of a win: " in printed


def test_profiles_of_the_same_runs_are_printed_once(tmp_path, capsys):
    make_sweep(tmp_path / "s")
    printed = summarize(tmp_path / "s", capsys)
    assert printed.count("Over the suite, by ") == 2
    assert printed.count("Performance profile: ") == 1


def test_a_variant_that_nobody_varied_has_no_heading(tmp_path, capsys):
    rows = [make_row("cup-spin", "baseline", n, seed) for n in (100, 200) for seed in (1, 2)]
    write_trials(tmp_path / "s", rows, ["variant", "epochs", "task", "seed"], "epochs")
    printed = summarize(tmp_path / "s", capsys)
    assert "Verdicts along epochs" in printed
    assert "Verdicts along variant" not in printed
    assert main([str(tmp_path / "s"), "--format", "csv"]) == 0
    assert "variant_verdict" in read_csv(capsys.readouterr().out)[0]  # programs find their columns


def test_arms_that_differ_in_both_factors_are_told_so_of_both(tmp_path, capsys):
    cells = (("baseline", 100), ("fullflow", 200))
    rows = [make_row("cup-spin", *cell, seed) for cell in cells for seed in (1, 2)]
    write_trials(tmp_path / "s", rows, ["variant", "epochs", "task", "seed"], "epochs")
    printed = summarize(tmp_path / "s", capsys)
    assert "the levels of epochs differ in variant too" in printed
    assert "the levels of variant differ in epochs too" in printed


def test_trials_of_many_settings_are_named_by_fingerprint_and_told_apart_by_all(tmp_path):
    keys = [f"k{number}" for number in range(6)]
    rows = [
        make_row("cup-spin", "baseline", 100, seed)
        | {"trial": f"{level}{seed}-a-fingerprint"}
        | {"config": json.dumps({"learner": dict.fromkeys(keys, level)})}
        for level in (1, 2)
        for seed in (1, 2)
    ]
    held = json.loads(rows[0]["config"]) | {"lr": 1}
    rows += [rows[0] | {"trial": "99-a-fingerprint", "config": json.dumps(held)}]
    varies = [*(f"learner.{key}" for key in keys), "task", "seed"]
    write_trials(tmp_path / "s", rows, varies, varies[0])
    said = "several trials of one seed of an arm, of which the latest counts"
    notes = summarize_sweep(load_sweep(tmp_path / "s")).notes
    assert f"{said}: cup-spin 11-a-fin (2 trials)" in notes


def test_levels_with_one_label_are_several_all_the_same(tmp_path):
    rows = [
        make_row("cup-spin", "fullflow", 100, seed)
        | {"trial": f"{number}-{seed}", "world_model_from": f"run{number}/model.pt"}
        | {"data_fingerprint": f"{number}"}
        for number in range(28)  # more than there are letters
        for seed in (1, 2)
    ]
    write_trials(tmp_path / "s", rows, ["world_model_from", "task", "seed"], "world_model_from")
    notes = summarize_sweep(load_sweep(tmp_path / "s")).notes
    assert not [note for note in notes if "several" in note]


def test_a_level_called_none_does_not_win_as_nobody_does(tmp_path, capsys):
    returns = {"none": 600.0, "all": 500.0}
    rows = [
        make_row("cup-spin", "fullflow", 100, seed)
        | {"trial": f"{error}-{seed}", "return_mean": returns[error]}
        for error in returns
        for seed in (1, 2, 3)
    ]
    write_trials(tmp_path / "s", rows, ["error", "task", "seed"], "error")
    with changed_trials(tmp_path / "s", "error") as rows:
        for row in rows:
            row["error"] = row["trial"].partition("-")[0]
    assert "Error none wins" in summarize(tmp_path / "s", capsys)
    figure = list_figures(summarize_sweep(load_sweep(tmp_path / "s")))["winners_by_error"]
    assert "orange: error none wins" in footnote(figure)
