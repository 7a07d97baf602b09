"""The commands about trials, as a user types them, over records that trials left behind."""

import dataclasses
import datetime
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cluster.watch import Watcher
from pwmray import cli, registry, results, tables
from pwmray import plan as planning
from pwmray.commands import prune as prune_command
from pwmray.commands.status import _status
from pwmray.driver import launch
from pwmray.registry import BEST_FILE, CHECKPOINT_FILE, CLAIM_FILE, Status, claim, listing
from pwmray.tracking.recording import Mode
from tests.tiny import sweep

REACHED = {
    Status.PENDING: "PENDING",
    Status.QUEUED: "PENDING QUEUED",
    Status.RUNNING: "PENDING QUEUED RUNNING",
    Status.EVALUATED: "PENDING QUEUED RUNNING COMPLETED EVALUATED",
    Status.FAILED: "PENDING QUEUED RUNNING FAILED",
    Status.CANCELLED: "PENDING QUEUED CANCELLED",
}
TRIALS = sweep.trials("tiny")
NAMES = [f"{t.label}" for t in TRIALS]


def run(capsys, results_dir, *arguments):
    """Run the command line; return its exit code, output and error output."""
    code = cli.main([*map(str, arguments), "--results", str(results_dir)])
    return (code, *capsys.readouterr())


def folder_of(results_dir, index):
    return registry.trial_folder(results_dir, TRIALS[index].fingerprint)


def stand_at(results_dir, index, status, return_mean=10.0, **fields):
    """Leave what a trial has at `status`; `fields` are those of its last event."""
    folder, moves = folder_of(results_dir, index), REACHED[status].split()
    asked = {"PENDING": {"config": TRIALS[index].to_dict()}}
    seconds = {"train_seconds": 1.0, "evaluation_seconds": 1.0}
    known = {
        "COMPLETED": seconds,
        "RUNNING": {"epoch": 0, "device": "NVIDIA H100", "slurm_job_id": f"40125{index}"},
    }
    for move in moves:
        more = fields if move == moves[-1] else {}
        registry.record(
            folder, Status(move), **{**asked.get(move, {}), **known.get(move, {}), **more}
        )
    row = {"trial": folder.name, "actor": "policy", "episode": 0, "seed": 1, "length": 500}
    if status is Status.EVALUATED:
        rows = [{**row, "return": return_mean - 1}, {**row, "return": return_mean + 1}]
        results.write_rows(folder / "evaluations.arrow", rows, results.EVALUATIONS)
    if "RUNNING" in moves:
        curve = [{"trial": folder.name, "epoch": 2, "seconds": 1.0, "return_mean": 7.25}]
        results.write_rows(folder / "curve.arrow", curve, results.CURVE)
        (folder / CHECKPOINT_FILE).write_bytes(bytes(2_000_000))
        (folder / BEST_FILE).write_bytes(bytes(1_000_000))


@pytest.fixture
def made(tmp_path):
    """A results folder with a sweep whose eight trials stand where trials may stand."""
    folder = tmp_path / "results"
    stand_at(folder, 0, Status.EVALUATED, 30.0)
    stand_at(folder, 1, Status.EVALUATED, 50.0)
    stand_at(folder, 2, Status.EVALUATED, 20.0)
    stand_at(folder, 3, Status.RUNNING)
    stand_at(folder, 4, Status.EVALUATED, 34.0)
    reason = "ValueError: no window of 9 steps"
    traceback = "Traceback (most recent call last):\n  File 'sampler.py'\n" + reason
    for index in (5, 6):
        failed = {"failure": "config", "epochs_reached": 0, "traceback": traceback}
        stand_at(folder, index, Status.FAILED, reason=reason.replace("9", str(index)), **failed)
    tables.open_sweep(planning.make(sweep, "tiny", TRIALS[:7], folder), "python tiny.py")
    return folder


# Status.


def test_status_counts_the_trials_of_every_sweep(made, capsys):
    with claim.acquire(folder_of(made, 3) / CLAIM_FILE):
        code, out, _ = run(capsys, made, "status")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "sweep  trials  done  running  waiting  stopped  failed  cancelled  early"
    assert lines[1].split() == ["tiny", "7", "4", "1", "0", "0", "2", "0", "0"]
    assert lines[2] == f"7 trials in {made}"


@pytest.mark.parametrize("command", ["status", "log", "prune"])
def test_what_else_lies_among_the_trials_is_none(made, capsys, command):
    before = run(capsys, made, command)[1]
    (made / "trials" / ".DS_Store").write_bytes(b"x")
    (made / "trials" / "old").mkdir()
    code, out, err = run(capsys, made, command)
    assert (code, out, err) == (0, before, "")


def test_status_shows_how_far_the_running_trials_are(made, capsys):
    folder = folder_of(made, 3)
    started = datetime.datetime.fromisoformat(registry.read(folder).last("time")).timestamp()
    os.utime(folder / "curve.arrow", (started + 4, started + 4))  # two epochs in four seconds
    with claim.acquire(folder / CLAIM_FILE):
        _, out, _ = run(capsys, made, "status", "tiny")
    row = out.splitlines()[-1].split()
    assert row[:3] == [NAMES[3], "2/6", "0.50"]
    assert row[4:] == ["s", "7.2"]
    assert 6 <= int(row[3]) <= 12  # four epochs are left, from four seconds after the start


def test_trial_whose_process_is_gone_is_stopped(made, capsys):
    _, out, _ = run(capsys, made, "status", "tiny")
    assert out.splitlines()[1].split() == ["tiny", "7", "4", "0", "0", "1", "2", "0", "0"]
    assert "epochs/s" not in out


def test_waiting_trial_whose_drivers_here_are_gone_is_stopped(tmp_path, capsys):
    queue = "import sys, pathlib; from pwmray import registry; "
    queue += "registry.queue(pathlib.Path(sys.argv[1]), {'epochs': 4})"
    for index in (0, 1, 2):
        command = [sys.executable, "-c", queue, str(folder_of(tmp_path, index))]
        subprocess.run(command, check=True)
    registry.queue(folder_of(tmp_path, 1), {})  # this process has it on its list, too
    elsewhere = {**claim.this_process(), "machine": "another", "pid": 1}
    registry.record(folder_of(tmp_path, 2), Status.QUEUED, driver=elsewhere)
    tables.open_sweep(planning.make(sweep, "tiny", TRIALS[:3], tmp_path), "python tiny.py")
    out = run(capsys, tmp_path, "status", "tiny")[1]
    assert out.splitlines()[1].split() == ["tiny", "3", "0", "0", "2", "1", "0", "0", "0"]


@pytest.mark.parametrize(
    "recorded",
    [
        {"reason": "worse than others", "stopped_early": True},
        {"reason": "the search stopped early at epoch 5"},  # by an earlier version
    ],
)
def test_trial_that_was_stopped_early_is_counted_apart(recorded, tmp_path, capsys):
    stand_at(tmp_path, 0, Status.CANCELLED, **recorded)
    stand_at(tmp_path, 1, Status.CANCELLED)
    tables.open_sweep(planning.make(sweep, "tiny", TRIALS[:2], tmp_path), "python tiny.py")
    out = run(capsys, tmp_path, "status", "tiny")[1]
    assert out.splitlines()[1].split() == ["tiny", "2", "0", "0", "0", "0", "0", "1", "1"]
    registry.record(folder_of(tmp_path, 0), Status.QUEUED)
    out = run(capsys, tmp_path, "status", "tiny")[1]
    assert out.splitlines()[1].split() == ["tiny", "2", "0", "0", "1", "0", "0", "1", "0"]


def test_status_watches_until_nothing_runs(made):
    command = [sys.executable, "-m", "pwmray.cli", "status", "tiny", "--watch"]
    held = claim.acquire(folder_of(made, 3) / CLAIM_FILE)
    process = subprocess.Popen(
        [*command, "--results", str(made)], stdout=subprocess.PIPE, text=True
    )
    first = [process.stdout.readline() for _ in range(2)]
    held.release()
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert first[1].split()[3] == "1"
    assert rest.splitlines()[-2].split() == ["tiny", "7", "4", "0", "0", "1", "2", "0", "0"]


def test_sweep_of_which_nothing_is_queued_yet_is_watched_for_a_while(tmp_path, capsys):
    planned = planning.make(sweep, "tiny", TRIALS[:2], tmp_path)
    folder = tables.open_sweep(planned, "python tiny.py")
    watcher = Watcher(tmp_path, [folder])
    assert (_status(tmp_path, "tiny")[1], watcher.look().is_over) == (False, False)
    os.utime(folder / "sweep.json", (0, time.time() - 60))
    assert (_status(tmp_path, "tiny")[1], watcher.look().is_over) == (True, True)
    shutil.rmtree(folder)
    assert watcher.look().is_over


def test_trial_whose_folder_was_deleted_is_counted_apart_and_not_waited_for(made, capsys):
    shutil.rmtree(folder_of(made, 0))
    for command in (["status", "tiny"], ["status"], ["status", "tiny", "--watch"]):
        _, out, _ = run(capsys, made, *command)
        header, counts = map(str.split, out.splitlines()[:2])
        assert header[-1] == "new"
        assert counts == ["tiny", "7", "3", "0", "0", "1", "2", "0", "0", "1"]


def test_listing_is_folded_again_when_a_record_grows_and_its_cache_is_only_a_cache(made):
    before = listing.list_trials(made, [TRIALS[3].fingerprint])
    assert before[TRIALS[3].fingerprint].status == "RUNNING"
    registry.record(folder_of(made, 3), Status.CANCELLED)
    cache = made / listing.CACHE_FILE
    for spoil in (lambda: None, cache.unlink, lambda: cache.write_text("{nonsense")):
        spoil()
        after = listing.list_trials(made, [TRIALS[3].fingerprint])
        assert after[TRIALS[3].fingerprint].status == "CANCELLED"


def test_listing_equals_what_the_records_say(made):
    fingerprints = [trial.fingerprint for trial in TRIALS]
    read = {f: registry.read(registry.trial_folder(made, f)) for f in fingerprints}
    first, second = (listing.list_trials(made, fingerprints) for _ in range(2))
    assert first == second == {f: listing.summarize(record) for f, record in read.items()}


# Show and note.


@pytest.mark.parametrize("how", ["fingerprint", "prefix", "name"])
def test_show_finds_a_trial_by_fingerprint_prefix_or_name(made, capsys, how):
    fingerprint = TRIALS[0].fingerprint
    text = {"fingerprint": fingerprint, "prefix": fingerprint[:10], "name": NAMES[0]}[how]
    code, out, err = run(capsys, made, "show", text)
    assert (code, err) == (0, "")
    assert out.splitlines()[:3] == [
        f"trial        {fingerprint}",
        f"name         {NAMES[0]}",
        "status       EVALUATED",
    ]
    assert "policy   2 episodes, return 30.00, min 29.00, max 31.00" in out
    assert re.search(r"return_mean +7\.25", out)
    assert re.search(r"world_model\.latent_dim +16", out)
    assert "best.pt        1.0 MB" in out


def test_show_says_what_a_trial_runs_without(tmp_path, capsys):
    why = "off: " + "no compiler " * 12
    stand_at(tmp_path, 0, Status.RUNNING, kernels=why, cuda_graph="off")
    lines = run(capsys, tmp_path, "show", folder_of(tmp_path, 0).name)[1].splitlines()
    assert lines[3:5] == [f"kernels      {why}", "cuda_graph   off"]


def test_note_is_shown_and_kept_for_good(made, capsys):
    for text in ("looks odd", "it was the seed"):
        code, out, _ = run(capsys, made, "note", NAMES[3], text)
        assert (code, out) == (0, f"noted on {NAMES[3]}\n")
    before = (folder_of(made, 3) / "events.jsonl").read_bytes()
    _, out, _ = run(capsys, made, "show", NAMES[3])
    assert [line.rpartition(": ")[2] for line in out.splitlines()[-2:]] == [
        "looks odd",
        "it was the seed",
    ]
    assert (folder_of(made, 3) / "events.jsonl").read_bytes() == before
    assert registry.read(folder_of(made, 3)).status is Status.RUNNING


def test_note_of_a_user_without_a_name_is_kept_under_a_number(made, capsys, monkeypatch):
    def raise_key_error():
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", raise_key_error)
    assert run(capsys, made, "note", NAMES[0], "hello")[0] == 0
    assert registry.read_notes(folder_of(made, 0))[0]["user"] == str(os.getuid())


def test_notes_of_two_at_once_are_both_kept(made):
    threads = [
        threading.Thread(target=registry.add_note, args=(folder_of(made, 0), f"{i}", "u"))
        for i in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    notes = {note["note"] for note in registry.read_notes(folder_of(made, 0))}
    assert notes == {str(i) for i in range(20)}


# Failures.


def test_failures_are_grouped_by_class_and_reason(made, capsys):
    code, out, _ = run(capsys, made, "failures", "tiny")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "config, 2 trials: ValueError: no window of 5 steps"
    assert [line.split()[0] for line in lines[2:4]] == [NAMES[5], NAMES[6]]
    assert lines[4].strip() == "Traceback (most recent call last):"
    assert out.count("Traceback") == 1


def test_failure_of_a_class_that_this_version_does_not_know_is_shown(tmp_path, capsys):
    stand_at(tmp_path, 0, Status.FAILED, failure="gpu on fire", reason="it burns")
    tables.open_sweep(planning.make(sweep, "tiny", TRIALS[:1], tmp_path), "python tiny.py")
    assert "code, 1 trial: it burns" in run(capsys, tmp_path, "failures", "tiny")[1]
    assert "status       FAILED (code)" in run(capsys, tmp_path, "show", NAMES[0])[1]


def test_sweep_without_failures_says_so(tmp_path, capsys):
    stand_at(tmp_path, 0, Status.EVALUATED)
    tables.open_sweep(planning.make(sweep, "tiny", TRIALS[:1], tmp_path), "python tiny.py")
    assert run(capsys, tmp_path, "failures", "tiny")[:2] == (0, "no trial of tiny has failed\n")


# Prune.


def test_prune_without_yes_changes_nothing(made, capsys):
    before = sorted(made.rglob("*"))
    code, out, _ = run(capsys, made, "prune", "tiny", "--keep", "best")
    assert code == 0
    assert out.splitlines()[0] == f"{NAMES[0]}: checkpoint.pt, 2.0 MB"
    assert out.splitlines()[-1] == "8.0 MB would be freed; --yes does it"
    assert sorted(made.rglob("*")) == before


def test_prune_frees_what_the_rule_does_not_keep_and_records_it(made, capsys):
    _, out, _ = run(capsys, made, "prune", "--keep", "best", "--yes")
    assert out.splitlines()[-1] == "8.0 MB freed"
    left = {i: (folder_of(made, i) / CHECKPOINT_FILE).exists() for i in range(7)}
    # What is not evaluated needs its last checkpoint to go on.
    assert left == {0: False, 1: False, 2: False, 3: True, 4: False, 5: True, 6: True}
    record = registry.read(folder_of(made, 0))
    assert record.status is Status.EVALUATED
    assert (record.last("pruned"), record.last("freed_bytes")) == ([CHECKPOINT_FILE], 2_000_000)
    assert (folder_of(made, 0) / BEST_FILE).exists()
    again = run(capsys, made, "prune", "--keep", "best", "--yes")[1]
    assert again == "0.0 MB freed\n"


def test_prune_keeps_both_by_default_and_clears_what_kills_left(made, capsys):
    draft = folder_of(made, 0) / ".checkpoint.pt.0123abcd.tmp"
    draft.write_bytes(bytes(500_000))
    _, out, _ = run(capsys, made, "prune", "--yes")
    assert out.splitlines() == [f"{NAMES[0]}: {draft.name}, 0.5 MB", "0.5 MB freed"]
    assert not draft.exists()


def test_prune_leaves_out_what_processes_take_claims_with_and_what_is_gone_by_then(
    made, capsys, monkeypatch
):
    folder = folder_of(made, 0)
    taking = folder / f".{CLAIM_FILE}.0123abcd.tmp"
    taking.write_text("{}")
    gone = folder / ".curve.arrow.0123abcd.tmp"
    gone.write_bytes(bytes(1000))
    stats_of = prune_command._stats_of

    def lose(files):
        gone.unlink(missing_ok=True)
        return stats_of(files)

    monkeypatch.setattr(prune_command, "_stats_of", lose)
    code, out, _ = run(capsys, made, "prune", "--keep", "best", "--yes")
    assert code == 0
    assert taking.exists()
    assert taking.name not in out
    assert registry.read(folder).last("pruned") is not None


def test_prune_clears_what_killed_pretrainings_left(made, capsys):
    folder = made / "pretrained" / "0123456789abcdef"
    folder.mkdir(parents=True)
    draft = folder / ".resume.ckpt.0123abcd.tmp"
    draft.write_bytes(bytes(500_000))
    said = f"pretrained/{folder.name}: {draft.name}, 0.5 MB"
    with claim.acquire(folder / "claim"):
        assert said not in run(capsys, made, "prune", "--yes")[1]
    assert said in run(capsys, made, "prune")[1]
    assert draft.exists()
    assert said not in run(capsys, made, "prune", "tiny", "--yes")[1]
    assert said in run(capsys, made, "prune", "--yes")[1]
    assert not draft.exists()


def test_prune_leaves_a_running_trial_alone(made, capsys):
    with claim.acquire(folder_of(made, 0) / CLAIM_FILE):
        run(capsys, made, "prune", "--keep", "none", "--yes")
    assert (folder_of(made, 0) / CHECKPOINT_FILE).exists()
    assert not (folder_of(made, 1) / CHECKPOINT_FILE).exists()


def test_prune_counts_a_file_with_two_names_once_it_has_none(made, capsys):
    folder = folder_of(made, 0)
    (folder / BEST_FILE).unlink()
    os.link(folder / CHECKPOINT_FILE, folder / BEST_FILE)
    out = {keep: run(capsys, made, "prune", "--keep", keep)[1] for keep in ("best", "none")}
    assert f"{NAMES[0]}: checkpoint.pt, 0.0 MB" in out["best"]
    assert f"{NAMES[0]}: checkpoint.pt, best.pt, 2.0 MB" in out["none"]


def test_prune_frees_only_what_is_old_enough(made, capsys):
    assert "0.0 MB would" in run(capsys, made, "prune", "--keep", "none", "--older-than", "1d")[1]
    path = folder_of(made, 1) / "events.jsonl"
    path.write_text(re.sub(r'"time": "\d{4}', '"time": "2020', path.read_text()))
    _, out, _ = run(capsys, made, "prune", "--keep", "none", "--older-than", "30d")
    assert [line.partition(":")[0] for line in out.splitlines()[:-1]] == [NAMES[1]]


def test_prune_frees_nothing_that_it_may_not_record_and_goes_on(made, capsys, monkeypatch):
    mine, theirs = folder_of(made, 0), folder_of(made, 1)
    may = os.access
    is_mine = lambda path, mode: theirs not in Path(path).parents and may(path, mode)  # noqa: E731
    monkeypatch.setattr(os, "access", is_mine)
    code, out, _ = run(capsys, made, "prune", "tiny", "--keep", "none", "--yes")
    assert code == 0
    assert f"left out: Permission denied: {theirs}/events.jsonl" in out
    assert (theirs / CHECKPOINT_FILE).exists()
    assert not (mine / CHECKPOINT_FILE).exists()


def test_pruned_trial_is_still_done(made, capsys):
    run(capsys, made, "prune", "--keep", "none", "--yes")
    planned = planning.make(sweep, "tiny", TRIALS[:7], made)
    assert [trial.state for trial in planned.trials][:3] == ["done"] * 3


# The experiment log.


def sections_of(log):
    return re.findall(r"^## (?:\W+ )?(.*)$", log, flags=re.MULTILINE)


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
    user = registry.read_notes(folder_of(made, 0))[0]["user"]
    assert row == (
        "| 401250 | pendulum-spin | baseline | 4 | 42 | NVIDIA H100 | \u2705 EVALUATED | 30.00 |  "
        f"| {folder}/checkpoint.pt<br>{folder}/best.pt |  | a \\| b &lt;script&gt;<br>c ({user}, "
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}) |"
    )
    assert log.count("<details>") == log.count("</details>") == 1


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


def test_driver_names_what_its_tables_lack_though_all_is_done(tmp_path, capsys):
    stand_at(tmp_path, 0, Status.EVALUATED)
    (folder_of(tmp_path, 0) / "evaluations.arrow").unlink()
    made = planning.make(sweep, "tiny", TRIALS[:1], tmp_path)
    assert launch.run(made, tmp_path, None, "python tiny.py", Mode.OFF) == 0
    said = f"left out of the tables: {folder_of(tmp_path, 0)}: EVALUATED without evaluations.arrow"
    assert capsys.readouterr().out.count(said) == 1


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
    assert sections_of(run(capsys, tmp_path, "log")[1]) == ["Completed Phases"]


def test_trial_whose_sweep_is_gone_stays_in_the_log(made, capsys):
    (made / "tiny" / "sweep.json").unlink()
    log = run(capsys, made, "log")[1]
    assert sections_of(log) == ["Trials of no sweep here"]
    assert all(trial.fingerprint in log for trial in TRIALS[:7])


def test_log_is_written_whole_into_a_file(made, tmp_path, capsys):
    out = tmp_path / "EXPERIMENT_LOG.md"
    code, said, _ = run(capsys, made, "log", "--out", out)
    assert (code, said) == (0, f"wrote {out}\n")
    assert out.read_text() == run(capsys, made, "log")[1]


def test_note_that_is_no_text_is_refused_and_an_earlier_one_spoils_nothing(made, tmp_path, capsys):
    code, _, err = run(capsys, made, "note", NAMES[0], "a\udcffb")
    assert (code, err) == (2, "error: the note 'a\\udcffb' is not in UTF-8\n")
    registry.add_note(folder_of(made, 0), "a\udcffb", "me")
    assert run(capsys, made, "show", NAMES[0])[1].rstrip().endswith("me: a?b")
    assert run(capsys, made, "log", "--out", tmp_path / "log.md")[0] == 0
    assert "a?b" in (tmp_path / "log.md").read_text(encoding="utf-8")


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["status", "tny"], "unknown sweep 'tny'; did you mean 'tiny'?; valid: tiny in "),
        (["status", "../tiny"], "unknown sweep '../tiny'"),
        (["show", "pendulum-spin-baseline-4-seed4"], f"did you mean '{NAMES[0]}'"),
        (["show", ""], "no trial ''"),
        (["show", "../../etc"], "no trial '../../etc'"),
        (["note", "zzzz", "text"], "no trial 'zzzz'"),
        (["note", NAMES[0], " "], "the note is empty"),
        (["note", NAMES[0]], "the following arguments are required: TEXT"),
        (["failures"], "the following arguments are required: SWEEP"),
        (["failures", "tny"], "did you mean 'tiny'"),
        (["prune", "tny"], "did you mean 'tiny'"),
        (["prune", "--older-than", "30"], "'30' is no age; valid: 12h, 30d, 8w"),
        (["prune", "--older-than", "999999w"], "'999999w' is too long; valid: up to 36500d"),
        (["prune", "--older-than", "36501d"], "'36501d' is too long; valid: up to 36500d"),
        (["prune", "--keep", "first"], "'first' cannot be kept; valid: last, best, none"),
        (["prune", "--keep", "best,none"], "'none' stands alone; valid: last, best, none"),
        (["prune", "--keep", "last,last"], "'last' is given twice"),
        (["log", "--out", ""], "argument --out: it is empty (see pwmray log --help)"),
        (["log", "--out", "/dev/null/log.md"], "/dev/null"),
        (["log", "--out", "/dev"], "Is a directory: /dev\n"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(made, capsys, arguments, message):
    code, out, err = run(capsys, made, *arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert message in err


@pytest.mark.parametrize("command", ["status", "log", "prune", "failures x", "show x", "note x y"])
def test_results_folder_that_is_not_there_is_named(tmp_path, capsys, command):
    code, _, err = run(capsys, tmp_path / "absent", *command.split())
    assert code == 2
    assert "there is no results folder" in err


def test_prefix_of_two_trials_is_refused_with_both(tmp_path, capsys):
    for name in ("ab12000000000000", "ab34000000000000"):
        registry.record(registry.trial_folder(tmp_path, name), Status.PENDING)
    code, _, err = run(capsys, tmp_path, "show", "ab")
    assert (code, "'ab' stands for 2 trials: ab12000000000000, ab34000000000000" in err) == (
        2,
        True,
    )


def test_broken_record_stops_who_asks_for_it_or_would_run_it(made, capsys):
    (folder_of(made, 0) / "events.jsonl").write_text("{broken\n")
    code, _, err = run(capsys, made, "show", TRIALS[0].fingerprint)
    assert (code, "events.jsonl line 1 is not an event" in err) == (2, True)
    with pytest.raises(ValueError, match=r"events\.jsonl line 1 is not an event"):
        planning.make(sweep, "tiny", TRIALS[:7], made)


def test_prune_frees_nothing_of_a_trial_whose_record_is_broken_and_of_the_others_what_it_may(
    made, capsys
):
    path = folder_of(made, 0) / "events.jsonl"
    path.write_text("{broken\n")
    left_out = f"left out: {path} line 1 is not an event"
    code, out, err = run(capsys, made, "prune", "--keep", "none")
    assert (code, err, left_out in out) == (0, "", True)
    code, out, err = run(capsys, made, "prune", "--keep", "none", "--yes")
    assert (code, err, left_out in out) == (0, "", True)
    assert (folder_of(made, 0) / CHECKPOINT_FILE).exists()
    assert (folder_of(made, 0) / BEST_FILE).exists()
    assert not (folder_of(made, 1) / CHECKPOINT_FILE).exists()


def test_status_and_watch_name_a_trial_whose_record_is_broken_and_count_the_others(made, capsys):
    path = folder_of(made, 0) / "events.jsonl"
    path.write_text(path.read_text() + '{"note": 1}\n')
    for command in (["status"], ["status", "tiny"], ["watch", "--once"]):
        code, out, _ = run(capsys, made, *command)
        assert code == 0
        assert out.splitlines()[1].split() == ["tiny", "6", "3", "0", "0", "1", "2", "0", "0"]
        assert f"left out: {path} line 6 is not an event: time is None, not text" in out


def test_broken_note_is_named_and_the_others_are_shown(made, capsys):
    path = folder_of(made, 0) / "notes.jsonl"
    for text in ("before", "after"):
        run(capsys, made, "note", NAMES[0], text)
    before, after = path.read_text().splitlines(keepends=True)
    path.write_text(f"{before}<<<<<<< HEAD\n{after}")
    for command in (["show", NAMES[0]], ["log"]):
        code, out, err = run(capsys, made, *command)
        assert (code, err) == (0, "")
        assert "before" in out and "after" in out
        assert f"left out: {path} line 2 is not an event" in out
        assert "put it right or delete it" in out
    run(capsys, made, "note", NAMES[0], "later")
    assert "later" in run(capsys, made, "log")[1]


def test_part_of_a_trial_that_cannot_be_read_hides_no_other(made, capsys):
    (folder_of(made, 0) / "curve.arrow").write_bytes(b"half")
    (folder_of(made, 0) / "notes.jsonl").mkdir()
    code, out, err = run(capsys, made, "show", NAMES[0])
    assert (code, err) == (0, "")
    assert "policy   2 episodes, return 30.00" in out
    assert out.count("left out: ") == 2


def test_what_killed_processes_left_half_written_is_cleared_by_the_next(made, capsys):
    folder = made / "tiny"
    drafts = [
        folder / ".curves.arrow.0123abcd.tmp",
        folder / ".sweep.json.0123abcd.tmp",
        folder / f".tables.claim.{'0' * 32}.tmp",
        made / "..listing.json.0123abcd.tmp",
    ]
    for draft in drafts:
        draft.write_bytes(b"half")
    tables.open_sweep(planning.make(sweep, "tiny", TRIALS[:7], made), "python tiny.py")
    assert run(capsys, made, "status")[0] == 0
    assert not [draft for draft in drafts if draft.exists()]


def test_status_names_a_trial_whose_folder_is_none_and_counts_the_others(made, capsys):
    folder = folder_of(made, 0)
    shutil.rmtree(folder)
    folder.write_text("a file")
    for command in (["status"], ["status", "tiny"], ["watch", "--once"]):
        code, out, _ = run(capsys, made, *command)
        assert (code, out.splitlines()[1].split()[:3]) == (0, ["tiny", "6", "3"])
        assert f"left out: Not a directory: {folder}/events.jsonl" in out


def test_failures_name_a_trial_whose_record_is_broken_and_show_the_others(made, capsys):
    path = folder_of(made, 5) / "events.jsonl"
    path.write_text("{broken\n")
    code, out, _ = run(capsys, made, "failures", "tiny")
    assert code == 0
    assert f"left out: {path} line 1 is not an event" in out
    assert "config, 1 trial: ValueError: no window of 6 steps" in out


def test_watch_of_a_sweep_with_a_broken_record_does_not_end_as_if_all_were_done(tmp_path, capsys):
    for index in (0, 1):
        stand_at(tmp_path, index, Status.EVALUATED)
    tables.open_sweep(planning.make(sweep, "tiny", TRIALS[:2], tmp_path), "python tiny.py")
    assert run(capsys, tmp_path, "watch", "tiny")[0] == 0
    (folder_of(tmp_path, 0) / "events.jsonl").write_text("{broken\n")
    assert run(capsys, tmp_path, "watch", "tiny")[0] == 1


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


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1, 2]", "is no JSON object"),
        ("null", "is no JSON object"),
        ('{"trials": 5}', "trials is 5, not a list of texts"),
        ('{"trials": ["ab", null]}', "trials is ['ab', None], not a list of texts"),
        ('{"trials": [], "name": 5}', "name is 5, not text"),
        ('{"trials": [], "axes": []}', "axes is [], not an object"),
        ('{"trials": [], "named_levels": "x"}', "named_levels is 'x', not an object"),
        ('{"trials": [], "world_models": ["x"]}', "world_models is ['x'], not an object"),
    ],
)
@pytest.mark.parametrize(
    "command", ["status", "watch --once", "failures tiny", "prune tiny", "log"]
)
def test_description_of_a_sweep_that_is_none_is_named(made, capsys, content, said, command):
    path = made / "tiny" / "sweep.json"
    path.write_text(content)
    code, _, err = run(capsys, made, *command.split())
    assert (code, len(err.splitlines())) == (2, 1)
    assert err.startswith(f"error: {path}")
    assert said in err


def test_sweep_that_lists_no_trials_has_none(made, capsys):
    (made / "tiny" / "sweep.json").write_text("{}")
    assert run(capsys, made, "status")[1].splitlines()[1].split()[:2] == ["tiny", "0"]
    assert run(capsys, made, "log")[0] == 0


@pytest.mark.parametrize("content", ["[1, 2]", '{"trials": 5}'])
def test_plan_names_a_description_of_its_sweep_that_is_none(made, content):
    (made / "tiny" / "sweep.json").write_text(content)
    with pytest.raises(ValueError, match=r"tiny/sweep\.json"):
        planning.make(sweep, "tiny", TRIALS, made)


def test_status_of_an_empty_folder_is_nothing(tmp_path, capsys):
    code, out, _ = run(capsys, tmp_path, "status")
    assert code == 0
    assert out.splitlines()[1:] == [f"0 trials in {tmp_path}"]


def test_commands_about_records_load_neither_torch_nor_ray(made):
    program = (
        "import sys, pwmray.cli\n"
        f"for c in ('status', 'failures tiny', 'show {NAMES[0]}', 'prune'):\n"
        f"    assert pwmray.cli.main([*c.split(), '--results', {str(made)!r}]) == 0\n"
        "assert not {'ray', 'torch', 'pandas', 'mujoco'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


def test_cache_says_what_it_is(made):
    listing.list_trials(made, [TRIALS[0].fingerprint])
    assert json.loads((made / listing.CACHE_FILE).read_text())["format"] == "pwmray-listing-4"


def test_run_that_a_kill_cut_off_spoils_no_later_line(tmp_path):
    tables.log_run(tmp_path, seconds=1.0)
    with open(tmp_path / "runs.jsonl", "a") as file:
        file.write('{"seconds": 2')
    tables.log_run(tmp_path, seconds=3.0)
    assert (tmp_path / "runs.jsonl").read_text() == '{"seconds": 1.0}\n{"seconds": 3.0}\n'


def test_run_is_no_failure_where_another_user_keeps_the_list_of_runs(tmp_path, monkeypatch, capsys):
    def refuse(path, _):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(tables, "append_lines", refuse)
    tables.log_run(tmp_path, seconds=1.0)
    said = f"Permission denied: {tmp_path}/runs.jsonl: this run is not noted there\n"
    assert capsys.readouterr().out == said
