"""`pwmray status` and `watch`, and the listing that they read."""

import dataclasses
import datetime
import json
import os
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from cluster.watch import Watcher
from pwmray import plan as planning
from pwmray import registry, results, system, tables
from pwmray.commands.status import _status
from pwmray.registry import CLAIM_FILE, Status, claim, listing, processes, states
from pwmray.registry.listing import list_trials
from pwmray.wording import number_of
from tests.records import NAMES, TRIALS, folder_of, make_results, run, stand_at
from tests.tiny import sweep


@pytest.fixture
def made(tmp_path):
    return make_results(tmp_path / "results")


def test_status_counts_the_trials_of_every_sweep(made, capsys):
    with claim.acquire(folder_of(made, 3) / CLAIM_FILE):
        code, out, _ = run(capsys, made, "status")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "sweep  trials  done  running  waiting  stopped  failed  cancelled  early"
    assert lines[1].split() == ["tiny", "7", "4", "1", "0", "0", "2", "0", "0"]
    assert lines[2] == f"7 trials in {made}"


def test_status_shows_how_far_the_running_trials_are(made, capsys, monkeypatch):
    folder = folder_of(made, 3)
    started = datetime.datetime.fromisoformat(registry.read(folder).last("time")).timestamp()
    os.utime(folder / "curve.arrow", (started + 4, started + 4))  # two epochs in four seconds
    monkeypatch.setattr(
        states, "time", SimpleNamespace(time=lambda: started + 5, monotonic=time.monotonic)
    )
    with claim.acquire(folder / CLAIM_FILE):
        _, out, _ = run(capsys, made, "status", "tiny")
    row = out.splitlines()[-1].split()
    assert row == [NAMES[3], "2/6", "0.50", "7", "s", "7.2"]  # of eight a second has gone by


def test_trial_in_its_final_evaluation_is_not_said_to_end_at_once(made, capsys):
    folder = folder_of(made, 3)
    row = {"trial": folder.name, "epoch": 6, "return_mean": 7.2}
    results.write_rows(folder / "curve.arrow", [row], results.CURVE)
    with claim.acquire(folder / CLAIM_FILE):
        _, out, _ = run(capsys, made, "status", "tiny")
    name, epoch, _, *left, value = out.splitlines()[-1].split()
    assert (name, epoch, left, value) == (NAMES[3], "6/6", ["-"], "7.2")


def test_trial_that_goes_on_has_no_rate_before_its_first_row(made, capsys):
    folder = folder_of(made, 3)
    registry.record(folder, Status.FAILED, failure="preempted")
    registry.record(folder, Status.QUEUED)
    registry.record(folder, Status.RUNNING, epoch=2)
    with claim.acquire(folder / CLAIM_FILE):
        _, out, _ = run(capsys, made, "status", "tiny")
    assert out.splitlines()[-1].split() == [NAMES[3], "2/6", "-", "-", "7.2"]


def test_running_trial_whose_curve_cannot_be_read_is_shown(made, capsys):
    (folder_of(made, 3) / "curve.arrow").write_bytes(b"no table")
    with claim.acquire(folder_of(made, 3) / CLAIM_FILE):
        code, out, err = run(capsys, made, "status", "tiny")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].split() == [NAMES[3], "0/6", "-", "-", "-"]


def test_trial_that_ends_while_it_is_looked_at_is_done(made, capsys, monkeypatch):
    def settle(*_):
        registry.record(folder_of(made, 3), Status.COMPLETED)
        registry.record(folder_of(made, 3), Status.EVALUATED, return_mean=1.0)
        return {}

    monkeypatch.setattr("pwmray.lost.settle_all", settle)
    _, out, _ = run(capsys, made, "status", "tiny")
    assert out.splitlines()[1].split() == ["tiny", "7", "5", "0", "0", "0", "2", "0", "0"]


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
    elsewhere = {**processes.this_process(), "machine": "another", "pid": 1}
    registry.record(folder_of(tmp_path, 2), Status.QUEUED, driver=elsewhere)
    tables.open_sweep(planning.make(sweep, "tiny", TRIALS[:3], tmp_path), "python tiny.py")
    out = run(capsys, tmp_path, "status", "tiny")[1]
    assert out.splitlines()[1].split() == ["tiny", "3", "0", "0", "2", "1", "0", "0", "0"]


def test_cancelled_trial_waits_while_another_driver_here_lives_that_has_it_on_its_list(
    tmp_path, capsys
):
    gone = {**processes.this_process(), "started": "before"}  # by another process of this number
    elsewhere = {**processes.this_process(), "machine": "another", "pid": 1}
    for index, first in enumerate([processes.this_process(), gone, elsewhere, gone]):
        stand_at(tmp_path, index, Status.QUEUED)
        for driver in (first, gone):
            registry.record(folder_of(tmp_path, index), Status.QUEUED, driver=driver)
        registry.record(folder_of(tmp_path, index), Status.RUNNING)
        registry.record(folder_of(tmp_path, index), Status.CANCELLED)
    registry.queue(folder_of(tmp_path, 3), {})
    registry.record(folder_of(tmp_path, 3), Status.FAILED)  # so that driver has no use for it
    registry.record(folder_of(tmp_path, 3), Status.CANCELLED)
    folder = tables.open_sweep(planning.make(sweep, "tiny", TRIALS[:4], tmp_path), "python tiny.py")
    out = run(capsys, tmp_path, "status", "tiny")[1]
    assert out.splitlines()[1].split() == ["tiny", "4", "0", "0", "1", "0", "0", "3", "0"]
    assert not Watcher(tmp_path, [folder]).look().is_over


def test_trial_that_a_driver_left_is_that_of_no_driver_although_its_process_lives(tmp_path, capsys):
    """As a notebook's does, whose sweep was interrupted."""
    folders = [folder_of(tmp_path, index) for index in range(3)]
    for folder in folders:
        registry.queue(folder, {"epochs": 4})
        registry.record(folder, Status.RUNNING)
        registry.leave(folder, Status.CANCELLED, "interrupted")
    registry.queue(folders[0], {})  # it goes on
    other = {**processes.this_process(), "pid": 1, "started": system.look_up(1).started}
    registry.record(folders[1], Status.QUEUED, driver=other)
    registry.leave(folders[1], Status.CANCELLED, "interrupted")
    tables.open_sweep(planning.make(sweep, "tiny", TRIALS[:3], tmp_path), "python tiny.py")
    out = run(capsys, tmp_path, "status", "tiny")[1]
    assert out.splitlines()[1].split() == ["tiny", "3", "0", "0", "2", "0", "0", "1", "0"]


def test_trial_that_a_driver_leaves_queued_has_no_other_driver(tmp_path):
    folder = folder_of(tmp_path, 0)
    registry.queue(folder, {"epochs": 4})
    registry.leave(folder, Status.QUEUED, "the disk stays full")
    found = list_trials(tmp_path, [folder.name])[folder.name].drivers
    assert [driver[1] for driver in found] == [os.getpid()]


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
    assert "\x1b" not in "".join([*first, rest])  # only a terminal is cleared
    assert first[1].split()[3] == "1"
    assert rest.splitlines()[-2].split() == ["tiny", "7", "4", "0", "0", "1", "2", "0", "0"]


def test_sweep_of_which_nothing_is_queued_yet_is_watched_for_a_while(tmp_path, capsys):
    planned = planning.make(sweep, "tiny", TRIALS[:2], tmp_path)
    folder = tables.open_sweep(planned, "python tiny.py")
    watcher = Watcher(tmp_path, [folder])
    assert (_status(tmp_path, "tiny")[1], watcher.look().is_over) == (False, False)
    os.utime(folder / "sweep.json", (0, time.time() - 60))
    assert (_status(tmp_path, "tiny")[1], watcher.look().is_over) == (True, True)
    other = planning.make(dataclasses.replace(sweep, name="other"), "tiny", TRIALS[2:4], tmp_path)
    tables.open_sweep(other, "python other.py")
    assert not _status(tmp_path, None)[1]  # one of the two begins
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


def test_listing_equals_what_the_records_say(made, monkeypatch):
    fingerprints = [trial.fingerprint for trial in TRIALS]
    read = {f: registry.read(registry.trial_folder(made, f)) for f in fingerprints}
    first = listing.list_trials(made, fingerprints)
    monkeypatch.setattr(registry, "read", None)  # what has not changed is not read again
    second = listing.list_trials(made, fingerprints)
    assert first == second == {f: listing.summarize(record) for f, record in read.items()}


def test_status_and_watch_name_a_trial_whose_record_is_broken_and_count_the_others(made, capsys):
    path = folder_of(made, 0) / "events.jsonl"
    path.write_text(path.read_text() + '{"note": 1}\n')
    for command in (["status"], ["status", "tiny"], ["watch", "--once"]):
        code, out, _ = run(capsys, made, *command)
        assert code == 0
        assert out.splitlines()[1].split() == ["tiny", "6", "3", "0", "0", "1", "2", "0", "0"]
        assert f"left out: {path} line 6 is not an event: time is None, not text" in out


def test_status_names_a_trial_whose_folder_is_none_and_counts_the_others(made, capsys):
    folder = folder_of(made, 0)
    shutil.rmtree(folder)
    folder.write_text("a file")
    for command in (["status"], ["status", "tiny"], ["watch", "--once"]):
        code, out, _ = run(capsys, made, *command)
        assert (code, out.splitlines()[1].split()[:3]) == (0, ["tiny", "6", "3"])
        assert f"left out: Not a directory: {folder}/events.jsonl" in out


def test_watch_of_a_sweep_with_a_broken_record_does_not_end_as_if_all_were_done(tmp_path, capsys):
    for index in (0, 1):
        stand_at(tmp_path, index, Status.EVALUATED)
    tables.open_sweep(planning.make(sweep, "tiny", TRIALS[:2], tmp_path), "python tiny.py")
    assert run(capsys, tmp_path, "watch", "tiny")[0] == 0
    (folder_of(tmp_path, 0) / "events.jsonl").write_text("{broken\n")
    assert run(capsys, tmp_path, "watch", "tiny")[0] == 1


def test_status_of_an_empty_folder_is_nothing(tmp_path, capsys):
    code, out, _ = run(capsys, tmp_path, "status")
    assert code == 0
    assert out.splitlines()[1:] == [f"0 trials in {tmp_path}"]


def test_cache_says_what_it_is(made):
    listing.list_trials(made, [TRIALS[0].fingerprint])
    assert json.loads((made / listing.CACHE_FILE).read_text())["format"] == "pwmray-listing-7"


def test_one_is_counted_in_the_singular():
    assert [number_of(number, "trial") for number in (0, 1, 2)] == [
        "0 trials",
        "1 trial",
        "2 trials",
    ]
