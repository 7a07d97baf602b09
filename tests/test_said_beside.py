"""What a summary says beside its numbers where they alone would mislead."""

import json
from pathlib import Path

import pytest

from analysis.drawing.cost_figures import draw_costs
from analysis.load import load_sweep
from analysis.report import summarize_sweep
from analysis.summarize import main
from tests.made_sweeps import CONTROLS
from tests.squares import KINDS, write_square, write_trials

SAME = dict.fromkeys(KINDS, (500.0, 510.0, 520.0))
TASKS = ("reacher-easy", "walker-stand", "cheetah-run")


def write_changed(folder: Path, change) -> None:
    """Write the 2x2 on three tasks with equal returns; `change` edits each row."""
    rows = [
        CONTROLS
        | {"trial": f"{task}-{variant}-{seed}", "task": task, "variant": variant, "seed": seed}
        | {"world_model": world_model, "policy": policy, "epochs": 100, "epochs_reached": 100}
        | {"return_mean": 500.0 + 10.0 * seed, "device": "cpu", "host": "a"}
        for task in TASKS
        for variant, (world_model, policy) in KINDS.items()
        for seed in (1, 2, 3)
    ]
    write_trials(folder, [r | change(r) for r in rows], ["variant", "task", "seed"], "variant")


def summarize(folder: Path, capsys) -> str:
    """Return what the command prints, in one line."""
    assert main([str(folder)]) == 0
    return " ".join(capsys.readouterr().out.split())


def diverge(row: dict) -> dict:
    is_chosen = row["trial"] == "walker-stand-fullflow-3"
    reason = "FloatingPointError: diverged: critic_loss is nan at epoch 7"
    return {"status": "FAILED", "reason": reason} if is_chosen else {}


def test_arms_that_are_both_low_and_clearly_apart_are_named(tmp_path, capsys):
    cells = dict.fromkeys(KINDS, (20.0, 22.0, 24.0)) | {"fullflow": (120.0, 124.0, 128.0)}
    printed = summarize(write_square(tmp_path / "s", {"acrobot-swingup": cells}), capsys)
    assert "By their difference one would win in 1 of these: acrobot-swingup, " in printed
    assert "fullflow +102." in printed


def test_arms_that_are_both_low_and_alike_are_not_called_apart(tmp_path, capsys):
    cells = dict.fromkeys(KINDS, (20.0, 22.0, 24.0)) | {"fullflow": (60.0, 64.0, 68.0)}
    printed = summarize(write_square(tmp_path / "s", {"acrobot-swingup": cells}), capsys)
    assert printed.count("Tie (Both Low)") == 3
    assert "one would win" not in printed


def test_what_wins_where_seeds_spread_most_stands_beside_the_median(tmp_path, capsys):
    cells = SAME | {"fullflow": (200.0, 500.0, 800.0)}  # error 245
    printed = summarize(write_square(tmp_path / "s", {"reacher-easy": cells}), capsys)
    assert "at this table's median sd of 10 a" in printed
    assert (
        "Where two arms spread most, it takes 347 points." in printed
    )  # 2 sqrt((10^2 + 300^2) / 3)


def test_spreads_that_are_alike_are_said_once(tmp_path, capsys):
    printed = summarize(write_square(tmp_path / "s", {"reacher-easy": SAME}), capsys)
    assert "spread most" not in printed


@pytest.mark.parametrize(("budgets", "share"), [((100, 200, 400), "33%"), ((1, 2, 3, 4), "8%")])
def test_direction_of_a_trend_stands_beside_how_often_chance_gives_one(
    budgets, share, tmp_path, capsys
):
    rows = [
        CONTROLS
        | {"trial": f"{epochs}-{seed}", "task": "reacher-easy", "variant": "baseline"}
        | {"world_model": "mlp", "policy": "gaussian", "seed": seed, "epochs": epochs}
        | {"epochs_reached": epochs, "return_mean": 500.0 + seed}
        for epochs in budgets
        for seed in (1, 2)
    ]
    write_trials(tmp_path / "s", rows, ["epochs", "task", "seed"], "epochs")
    printed = summarize(tmp_path / "s", capsys)
    assert f"if {len(budgets)} levels were alike, {share} of such rows would rise or" in printed


def test_a_diverged_trial_is_said_to_flatter_the_mean_of_its_arm(tmp_path, capsys):
    write_changed(tmp_path / "s", diverge)
    printed = summarize(tmp_path / "s", capsys)
    said = "1 trial that diverged, without a return: walker-stand fullflow 100 seed 3. The mean"
    assert said in printed


def test_tasks_without_a_verdict_are_named_beside_the_means_over_tasks(tmp_path, capsys):
    write_changed(tmp_path / "s", diverge)
    printed = summarize(tmp_path / "s", capsys)
    said = "Not in this table, for lack of a verdict or of seeds: walker-stand, epochs 100"
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


def test_alike_machines_are_not_spoken_of(tmp_path, capsys):
    write_changed(tmp_path / "s", lambda row: {"kernels": "on"})
    assert "unlike" not in summarize(tmp_path / "s", capsys)


def test_what_trials_do_not_tell_of_themselves_is_not_spoken_of(tmp_path, capsys):
    config = {"config": json.dumps({"runtime": 5}), "world_model_from": None}  # edited, imported
    write_changed(tmp_path / "s", lambda row: config if row["seed"] == 1 else {})
    printed = summarize(tmp_path / "s", capsys)
    assert "ran under unlike" not in printed
    assert "took to train" not in printed


def test_hosts_of_one_kind_of_gpu_are_not_unlike(tmp_path, capsys):
    write_changed(tmp_path / "s", lambda row: {"device": "H100", "host": row["variant"]})
    assert "ran under unlike" not in summarize(tmp_path / "s", capsys)


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


def test_whoever_adds_seeds_is_told_to_fix_their_number(tmp_path, capsys):
    cells = SAME | {"fullflow": (200.0, 500.0, 800.0)}
    printed = summarize(write_square(tmp_path / "s", {"reacher-easy": cells}), capsys)
    assert "Fix the number beforehand" in printed


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


def test_code_that_some_trials_did_not_record_is_not_said_to_be_theirs(tmp_path, capsys):
    def change(row):
        return {"code_fingerprint": "f1"} if row["seed"] == 1 else {}

    write_changed(tmp_path / "s", change)
    assert "DMControl 1.0.45. Some recorded no learner code." in summarize(tmp_path / "s", capsys)


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
    said = f"{mixed} trials trained by more than one version of the code: reacher-easy baseline 100"
    assert (said in summarize(tmp_path / "s", capsys)) == (mixed > 0)


def test_code_that_no_commit_holds_is_named(tmp_path, capsys):
    def change(row):
        return {"git_commit": "c1+changes.0123abcd"} if row["seed"] == 1 else {}

    write_changed(tmp_path / "s", change)
    assert "No commit holds what +changes stands for" in summarize(tmp_path / "s", capsys)


def test_tasks_that_the_reader_does_not_see_are_counted(tmp_path, capsys):
    write_changed(tmp_path / "s", lambda row: {})
    assert main([str(tmp_path / "s"), "--tasks", "walker-stand"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Shown: 1 of the sweep's 3 tasks. Corrections, and means over tasks, are" in printed
    assert "of the sweep's" not in summarize(tmp_path / "s", capsys)
