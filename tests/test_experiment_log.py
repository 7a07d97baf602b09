"""The experiment log, as `pwmray log` prints it."""

import dataclasses
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from pwmray import cli, registry, results, tables
from pwmray import plan as planning
from pwmray.registry import CHECKPOINT_FILE, Status
from tests.records import NAMES, TRIALS, folder_of, make_results, run, stand_at
from tests.tiny import sweep


@pytest.fixture
def made(tmp_path):
    return make_results(tmp_path / "results")


def sections_of(log):
    return re.findall(r"^## (?:\W+ )?(.*)$", log, flags=re.MULTILINE)


def widths_of(log):
    """Return the numbers of cells in each table's lines: of unlike lines Markdown makes none."""
    lines = [len(re.findall(r"(?<!\\)\|", line)) - 1 for line in log.splitlines()]
    tables_or_text = itertools.groupby(lines, key=lambda width: width > 0)
    return [set(widths) for is_table, widths in tables_or_text if is_table]


def test_log_shows_a_sweep_with_its_aggregate_and_its_seeds(made, capsys):
    run(capsys, made, "note", NAMES[0], "a | b <script>\nc")
    code, log, _ = run(capsys, made, "log")
    assert code == 0
    assert sections_of(log) == ["Active Experiments"]
    assert "### tiny (tiny)" in log
    assert "**Method**: Joint Training (From Scratch)" in log
    assert "\u2705 4 EVALUATED" in log
    assert "\u274c 2 FAILED" in log
    assert "| pendulum-spin | baseline | 4 | 32.0 \u00b1 2.8 | 2 of 2 |" in log
    row = next(line for line in log.splitlines() if line.startswith("| 401250 |"))
    folder = f"trials/{TRIALS[0].fingerprint}"
    note = registry.read_notes(folder_of(made, 0))[0][0]
    assert row == (
        "| 401250 | pendulum-spin | baseline | 4 | 42 | NVIDIA H100 | \u2705 EVALUATED | 30.00 |  "
        f"| {folder}/checkpoint.pt<br>{folder}/best.pt |  | a \\| b &lt;script&gt;<br>c "
        f"({note['user']}, {note['time'][:10]}) |"
    )
    assert log.count("<details>") == log.count("</details>") == 1
    assert widths_of(log) == [{5}, {12}]


def test_sweep_that_was_stopped_is_not_complete_in_the_log(tmp_path, capsys):
    stand_at(tmp_path, 0, Status.EVALUATED)
    stand_at(tmp_path, 1, Status.CANCELLED)
    tables.open_sweep(planning.make(sweep, "tiny", TRIALS[:2], tmp_path), "python tiny.py")
    assert sections_of(run(capsys, tmp_path, "log")[1]) == ["Stopped (the same command goes on)"]
    registry.queue(folder_of(tmp_path, 1), TRIALS[1].to_dict())
    registry.record(folder_of(tmp_path, 1), Status.CANCELLED, **{registry.STOPPED_EARLY: True})
    assert sections_of(run(capsys, tmp_path, "log")[1]) == ["Completed Phases"]


@pytest.mark.parametrize(
    ("encoding", "errors"),
    [("latin-1", "strict"), ("ascii", "strict"), ("ascii", "surrogateescape")],
)
def test_log_is_printed_where_the_locale_lacks_its_signs(encoding, errors, made, monkeypatch):
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding, errors))
    assert cli.main(["log", "--results", str(made)]) == 0
    assert b"? 4 EVALUATED" in printed.getvalue()


@pytest.mark.parametrize(("name", "shown"), [("\u03c0", rb"\u03c0"), ("\udcff", rb"\udcff")])
@pytest.mark.parametrize("encoding", ["latin-1", "ascii:surrogateescape"])
def test_a_name_that_the_output_lacks_comes_out_as_its_codes(encoding, name, shown, made, tmp_path):
    folder = tmp_path / name
    shutil.copytree(made, folder)
    command = [sys.executable, "-m", "pwmray", "status", "--results", str(folder)]
    encoding = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "1"}
    done = subprocess.run(command, env={**os.environ, **encoding}, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout


def test_log_names_a_trial_that_cannot_be_read_and_shows_the_others(made, capsys):
    (folder_of(made, 0) / "evaluations.arrow").unlink()
    code, log, _ = run(capsys, made, "log")
    assert code == 0
    assert f"**Left out**: {folder_of(made, 0)}: EVALUATED without evaluations.arrow" in log
    assert "| pendulum-spin | baseline | 4 | 34.0 | 1 of 1 |" in log


def test_log_averages_no_trials_of_unlike_settings(made, capsys):
    learner = dataclasses.replace(TRIALS[0].learner, discount=0.5)
    odd = dataclasses.replace(TRIALS[0], learner=learner)
    folder = registry.trial_folder(made, odd.fingerprint)
    shutil.copytree(folder_of(made, 0), folder)
    before, after = (json.dumps(config.to_dict()) for config in (TRIALS[0], odd))
    events = folder / "events.jsonl"
    events.write_text(events.read_text().replace(before, after))
    tables.open_sweep(planning.make(sweep, "tiny", [odd], made), "python tiny.py")
    log = run(capsys, made, "log")[1]
    usual = TRIALS[0].learner.discount
    assert "| pendulum-spin | baseline | 4 | learner.discount 0.5 | 30.0 | 1 of 1 |" in log
    assert f"| baseline | 4 | learner.discount {usual} | 32.0 \u00b1 2.8 | 2 of 2 |" in log


def test_log_averages_seeds_over_a_pretrained_world_model_that_was_moved(made, capsys):
    places = {0: "/scratch/pretrained/a/best.ckpt", 4: "/home/pretrained/a/best.ckpt"}
    for index, place in places.items():
        events = folder_of(made, index) / "events.jsonl"
        moved = events.read_text().replace('"scratch"', f'"{place}"')
        events.write_text(moved.replace('"epoch": 0', '"world_model_id": "mlp-2-ab12"'))
    log = run(capsys, made, "log")[1]
    assert "| pendulum-spin | baseline | 4 | 32.0 \u00b1 2.8 | 2 of 2 |" in log
    assert "| Held |" not in log


def test_log_counts_a_trial_that_has_not_begun_with_the_model_that_is_there_now(made, capsys):
    for index, model in {0: "mlp-2-new", 1: "mlp-2-old", 4: None}.items():
        events = folder_of(made, index) / "events.jsonl"
        text = events.read_text().replace('"scratch"', '"/pretrained/best.ckpt"')
        if model is None:
            text = text.partition("\n")[0] + "\n"
        events.write_text(text.replace('"epoch": 0', f'"world_model_id": "{model}"'))
    log = run(capsys, made, "log")[1]
    assert "| pendulum-spin | baseline | 4 |  | 30.0 | 1 of 2 |" in log


def test_log_shows_the_trials_of_an_imported_sweep(tmp_path, capsys):
    row = {"trial": "f" * 16, "status": "EVALUATED", "task": "walker-stand", "variant": "baseline"}
    row |= {"epochs": 15000, "seed": 42, "return_mean": 958.1, "slurm_job_id": "4012434_0"}
    results.write_rows(tmp_path / "legacy_x" / "trials.arrow", [row], results.TRIALS)
    described = {"name": "legacy_x", "scale": "legacy", "trials": [row["trial"]]}
    (tmp_path / "legacy_x" / "sweep.json").write_text(json.dumps(described))
    log = run(capsys, tmp_path, "log")[1]
    assert "**Last event**: not recorded" in log
    assert "| walker-stand | baseline | 15000 | 958.1 | 1 of 1 |" in log
    assert "| 4012434_0 | walker-stand | baseline | 15000 | 42 |" in log


def test_log_has_the_newest_first(made, capsys):
    other = dataclasses.replace(sweep, name="other")
    stand_at(made, 7, Status.QUEUED)
    time.sleep(0.01)
    tables.open_sweep(planning.make(other, "tiny", TRIALS[7:], made), "python other.py")
    assert re.findall(r"^### (\w+)", run(capsys, made, "log")[1], re.MULTILINE) == ["other", "tiny"]
    registry.add_note(folder_of(made, 0), "late", "u")  # a note is no event of the trial
    assert re.findall(r"^### (\w+)", run(capsys, made, "log")[1], re.MULTILINE) == ["other", "tiny"]
    registry.record(folder_of(made, 3), Status.CANCELLED)
    log = run(capsys, made, "log")[1]
    assert sections_of(log) == ["Active Experiments", "Stopped (the same command goes on)"]


def test_sweep_whose_checkpoints_were_freed_is_archived_and_never_deleted(tmp_path, capsys):
    stand_at(tmp_path, 0, Status.EVALUATED)
    tables.open_sweep(planning.make(sweep, "tiny", TRIALS[:1], tmp_path), "python tiny.py")
    assert sections_of(run(capsys, tmp_path, "log")[1]) == ["Completed Phases"]
    run(capsys, tmp_path, "prune", "--keep", "none", "--yes")
    log = run(capsys, tmp_path, "log")[1]
    assert sections_of(log) == ["Archived (checkpoints freed)"]
    assert "checkpoint.pt freed<br>best.pt freed" in log
    (folder_of(tmp_path, 0) / CHECKPOINT_FILE).touch()  # put back from a copy
    log = run(capsys, tmp_path, "log")[1]
    assert sections_of(log) == ["Completed Phases"]
    assert f"| trials/{TRIALS[0].fingerprint}/checkpoint.pt<br>best.pt freed |" in log


def test_trial_whose_sweep_is_gone_stays_in_the_log(made, capsys):
    (made / "tiny" / "sweep.json").unlink()
    (made / "trials" / ("0" * 16)).mkdir()  # without a record
    log = run(capsys, made, "log")[1]
    assert sections_of(log) == ["Trials of no sweep here"]
    last = registry.read(folder_of(made, 0)).last("time")[:16].replace("T", " ")
    begun = f"| {TRIALS[0].fingerprint} | pendulum-spin | 42 | "
    assert f"{begun}\u2705 EVALUATED | {last} |" in log.splitlines()
    assert all(trial.fingerprint in log for trial in TRIALS[:7])
    assert "0" * 16 not in log


def test_trial_of_no_sweep_is_named_though_it_is_the_only_one_and_broken(tmp_path, capsys):
    folder_of(tmp_path, 0).mkdir(parents=True)
    (folder_of(tmp_path, 0) / "events.jsonl").write_text("{broken\n")
    assert f"**Left out**: {folder_of(tmp_path, 0)}: " in run(capsys, tmp_path, "log")[1]


def test_log_is_written_whole_into_a_file(made, tmp_path, capsys):
    out = tmp_path / "EXPERIMENT_LOG.md"
    code, said, _ = run(capsys, made, "log", "--out", out)
    assert (code, said) == (0, f"wrote {out}\n")
    assert out.read_text() == run(capsys, made, "log")[1]


@pytest.mark.parametrize("is_of_a_sweep", [True, False])
def test_log_names_a_trial_whose_record_is_broken_and_shows_the_others(made, capsys, is_of_a_sweep):
    folder = folder_of(made, 0)
    (folder / "events.jsonl").write_text("{broken\n")
    if not is_of_a_sweep:
        (made / "tiny" / "sweep.json").unlink()
    code, log, _ = run(capsys, made, "log")
    assert code == 0
    assert log.count(f"**Left out**: {folder}: {folder}/events.jsonl line 1 is not an event") == 1
    assert all(trial.fingerprint in log for trial in TRIALS[1:5])
