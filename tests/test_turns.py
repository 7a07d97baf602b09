"""Several drivers on one results folder: whose turn a trial is; on records, without Ray."""

import json
import os
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from pwmray import deaths, registry, results, tables
from pwmray.driver import turns
from pwmray.driver.interruption import Interruption, TerminatedError
from pwmray.failures import Failure
from pwmray.registry import CLAIM_FILE, Status, claim
from pwmray.system import user_name
from tests import small_disk
from tests.claims import do_not_watch, leave_claim, refuse_claims
from tests.made_turns import driver, folder_of, no_machine, stand_at

NUM_DRIVERS = 3
# Waits for a word, then makes its turns and says which trials it has queued.
DRIVER = """
import sys
from pathlib import Path
from tests.made_turns import driver, no_machine
turns, _ = driver(Path(sys.argv[1]), 8)
print("ready", flush=True)
sys.stdin.readline()
print(len(turns.next(no_machine)), flush=True)
"""
# Grows the sweep by trials of its own and writes its tables, twenty times.
WRITER = """
import sys
from pathlib import Path
from pwmray import plan, registry, tables
from tests.tiny import sweep
folder, first = Path(sys.argv[1]), int(sys.argv[2])
for index in range(20):
    trials = sweep.trials("tiny", {"seed": [first + index]}, folder)[:1]
    made = plan.make(sweep, "tiny", trials, folder)
    place = registry.trial_folder(folder, trials[0].fingerprint)
    registry.record(place, registry.Status.PENDING, config=trials[0].to_dict())
    tables.Tables(tables.open_sweep(made, "python tiny.py")).write()
    tables.log_run(folder / "tiny", index=first + index, pad="x" * 20_000)
"""


def run_on(results, trial):
    for status in (Status.RUNNING, Status.COMPLETED, Status.EVALUATED):
        registry.record(folder_of(results, trial), status)


def statuses(results, trial):
    return [e["status"] for e in registry.read(folder_of(results, trial)).events]


def test_driver_queues_what_no_process_runs_and_leaves_the_rest(tmp_path):
    first, trials = driver(tmp_path, 2)
    first.next(no_machine)
    with claim.acquire(folder_of(tmp_path, trials[0]) / CLAIM_FILE):
        registry.record(folder_of(tmp_path, trials[0]), Status.RUNNING)
        second, _ = driver(tmp_path, 2)
        assert [t.name for t in second.next(no_machine)] == [trials[1].name]
        assert registry.read(folder_of(tmp_path, trials[0])).status is Status.RUNNING


def test_trials_that_had_not_begun_when_ray_was_lost_are_queued_again(tmp_path):
    ours, (begun, waiting) = driver(tmp_path, 2)
    ours.next(no_machine)
    registry.record(folder_of(tmp_path, begun), Status.RUNNING)
    ours.release()
    assert ours.ours == [begun.config.fingerprint]
    ours.next(no_machine)
    assert statuses(tmp_path, waiting) == ["PENDING", "QUEUED", "QUEUED"]


@pytest.mark.parametrize("reason", [None, "preempted"])
def test_driver_waits_for_others_until_its_patience_ends_or_it_is_asked_to_stop(tmp_path, reason):
    interruption = Interruption()
    ours, (trial,) = driver(tmp_path, 1, interruption, patience_seconds=0.0 if not reason else 60)
    interruption.reason = reason
    with claim.acquire(folder_of(tmp_path, trial) / CLAIM_FILE):
        assert ours.next(no_machine) == []
    assert not ours.is_over


def test_trials_left_in_the_queue_tell_their_job(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "11")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    ours, (trial,) = driver(tmp_path, 1)
    ours.next(no_machine)
    ours.settle("time limit", Status.QUEUED)
    *_, queued, left = registry.read(folder_of(tmp_path, trial)).events
    job = {"slurm_job_id": "12", "slurm_array_job_id": "11", "slurm_array_task_id": "1"}
    assert job.items() <= queued.items()
    assert {**job, "status": "QUEUED", "reason": "time limit"}.items() <= left.items()


def test_trial_that_was_just_queued_when_a_signal_came_is_settled(tmp_path, monkeypatch):
    def queue(*arguments, **fields):
        before(*arguments, **fields)
        raise TerminatedError

    before = registry.queue
    ours, trials = driver(tmp_path, 2)
    monkeypatch.setattr(registry, "queue", queue)
    with pytest.raises(TerminatedError):
        ours.next(no_machine)
    ours.settle("cancelled by SIGTERM")
    assert registry.read(folder_of(tmp_path, trials[0])).status is Status.CANCELLED


@pytest.mark.parametrize(
    ("failure", "num_retries", "status"),
    [
        (Failure.NODE_LOST, 0, Status.CANCELLED),
        (Failure.PROCESS_DIED, 1, Status.CANCELLED),
        (Failure.PROCESS_DIED, 2, Status.FAILED),  # it would not have been tried again
        (Failure.OUT_OF_MEMORY, 0, Status.FAILED),
        (Failure.CODE, 0, Status.FAILED),
    ],
)
def test_trial_that_waits_for_its_retry_is_cancelled_with_the_others(
    failure, num_retries, status, tmp_path
):
    ours, (trial,) = driver(tmp_path, 1)
    ours.next(no_machine)
    folder = folder_of(tmp_path, trial)
    for _ in range(num_retries):
        registry.record(folder, Status.FAILED, failure=failure)
        registry.record(folder, Status.QUEUED, retry=failure)
    registry.record(folder, Status.RUNNING)
    registry.record(folder, Status.FAILED, reason="its process died", failure=failure)
    ours.settle("cancelled by SIGTERM")
    assert registry.read(folder).status is status


@pytest.mark.parametrize(("restarts", "queued"), [(None, 1), ("0", 1), ("2", 0)])
def test_diverged_trial_is_tried_again_by_a_person_and_not_by_slurm(
    restarts, queued, tmp_path, monkeypatch
):
    if restarts is not None:
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    (trial,) = driver(tmp_path, 1)[1]
    stand_at(tmp_path, trial, Status.RUNNING, Status.FAILED, failure=Failure.NON_FINITE)
    ours, _ = driver(tmp_path, 1)
    assert len(ours.next(no_machine)) == queued
    assert ours.is_over == (not queued)


def test_trial_that_ended_elsewhere_since_it_was_queued_has_no_turn_any_more(tmp_path, capsys):
    ours, trials = driver(tmp_path, 2)
    ours.next(no_machine)
    for trial in trials:
        run_on(tmp_path, trial)
        ours.skip(trial.config.fingerprint)
    assert ours.next(no_machine) == []
    assert ours.is_over
    assert ours.ours == []
    assert capsys.readouterr().out.count("in another process") == 2
    assert statuses(tmp_path, trials[0])[-1] == "EVALUATED"


def test_machine_that_does_not_see_the_results_is_named_and_is_no_reason_to_go_on_for_ever(
    tmp_path, capsys
):
    ours, trials = driver(tmp_path, 2)
    assert len(ours.next(no_machine)) == 2
    run_on(tmp_path, trials[0])  # on another one
    ours.skip(trials[1].config.fingerprint, "n2")
    assert len(ours.next(no_machine)) == 1
    told = f"{tmp_path} is not visible on n2, as it must be on all of Ray's machines"
    assert capsys.readouterr().out.count(told) == 1
    for _ in range(4):
        ours.skip(trials[1].config.fingerprint, "n3")
        assert len(ours.next(no_machine)) == 1
    ours.skip(trials[1].config.fingerprint, "n3")
    why = r"no trial is left that can run: .* is not visible on n2, n3, as it must"
    with pytest.raises(ValueError, match=why):
        ours.next(no_machine)


def test_trial_whose_folder_was_deleted_since_it_was_queued_is_queued_again(tmp_path, capsys):
    ours, (trial,) = driver(tmp_path, 1)
    for _ in range(2):
        assert len(ours.next(no_machine)) == 1
        shutil.rmtree(folder_of(tmp_path, trial))
        ours.skip(trial.config.fingerprint, "n2")
    assert len(ours.next(no_machine)) == 1
    assert "is not visible on" not in capsys.readouterr().out


def test_what_a_dead_driver_left_is_taken_over_without_a_failure(tmp_path, monkeypatch, capsys):
    _, trials = driver(tmp_path, 2)
    stand_at(tmp_path, trials[0], Status.RUNNING)
    run_elsewhere = claim.acquire(folder_of(tmp_path, trials[0]) / CLAIM_FILE)
    ends, seconds = (Status.RUNNING, Status.COMPLETED, Status.EVALUATED), {"train_seconds": 1.0}
    stand_at(tmp_path, trials[1], *ends, **seconds, evaluation_seconds=1.0)
    ours, trials = driver(tmp_path, 2)
    waits = []

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            run_elsewhere.release()

    clock = SimpleNamespace(monotonic=time.monotonic, sleep=wait)
    monkeypatch.setattr(turns, "time", clock)
    assert ours.next(no_machine) == [trials[0]]
    assert waits == [1.0, 1.0]
    assert statuses(tmp_path, trials[0])[-2:] == ["RUNNING", "QUEUED"]
    out = capsys.readouterr().out
    assert out.count("waiting for trials that run elsewhere: pid ") == 1
    assert "taken over pendulum-spin-baseline-4-seed42" in out


def test_what_a_lost_machine_left_is_taken_over_in_one_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(turns, "_POLL_SECONDS", 0.01)
    do_not_watch(monkeypatch)
    waits = []
    monkeypatch.setattr(claim, "_wait_for_takers", lambda: waits.append(1))
    _, trials = driver(tmp_path, 4)
    for trial in trials:
        stand_at(tmp_path, trial, Status.RUNNING)
        leave_claim(folder_of(tmp_path, trial) / CLAIM_FILE, 4711, host="n9", age=600)
    ours, trials = driver(tmp_path, 4)
    assert ours.next(no_machine) == trials
    assert len(waits) == 1


def test_trial_that_ray_lost_is_recorded_as_failed_and_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(turns, "_POLL_SECONDS", 0.01)
    ours, trials = driver(tmp_path, 1)
    for granted in (True, True, True, False):  # the first time and two retries
        assert bool(ours.next(no_machine)) is granted
        if granted:
            registry.record(folder_of(tmp_path, trials[0]), Status.RUNNING)
    record = registry.read(folder_of(tmp_path, trials[0]))
    assert (record.status, record.last("reason")) == (Status.FAILED, "Ray ended without it")
    assert record.all("failure") == ["process died"] * 3


def test_death_on_a_lost_machine_is_recorded_when_its_claim_is_free(tmp_path, monkeypatch):
    monkeypatch.setattr(turns, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(deaths, "_DYING_SECONDS", 0.1)
    ours, trials = driver(tmp_path, 1)
    ours.next(no_machine)
    registry.record(folder_of(tmp_path, trials[0]), Status.RUNNING)
    held = claim.acquire(folder_of(tmp_path, trials[0]) / CLAIM_FILE)
    record = ours.bury(trials[0].config.fingerprint, "The node has died")
    assert record.status is Status.RUNNING
    held.release()
    assert ours.next(no_machine) == trials
    record = registry.read(folder_of(tmp_path, trials[0]))
    assert (record.last("failure"), record.last("retry")) == ("node lost", "node lost")


def test_trial_whose_folder_is_deleted_under_its_driver_is_queued_anew(tmp_path):
    ours, (trial,) = driver(tmp_path, 1)
    ours.next(no_machine)
    shutil.rmtree(folder_of(tmp_path, trial))
    assert ours.bury(trial.config.fingerprint, "The actor is dead").events == []
    assert ours.next(no_machine) == [trial]
    shutil.rmtree(folder_of(tmp_path, trial))
    ours.settle("the sweep stopped before it was done")
    assert registry.read(folder_of(tmp_path, trial)).events == []


def test_sweep_whose_disk_is_unmounted_begins_nothing_anew_in_its_place(tmp_path):
    disk = tmp_path / "disk"
    small_disk.mount(disk, 1 << 20)
    try:
        ours, (trial,) = driver(disk, 1)
        assert ours.next(no_machine) == [trial]
    finally:
        small_disk.unmount(disk)
    ours.skip(trial.config.fingerprint, "n2")
    for go_on in (lambda: ours.next(no_machine), lambda: ours.settle("it stopped")):
        with pytest.raises(ValueError, match=f"{disk}/tiny is gone: its disk was unmounted; mount"):
            go_on()
    assert list(disk.iterdir()) == []


def test_trial_whose_record_is_cut_under_its_driver_is_queued_anew(tmp_path):
    ours, (trial,) = driver(tmp_path, 1)
    ours.next(no_machine)
    events = folder_of(tmp_path, trial) / registry.EVENTS_FILE
    events.write_text(events.read_text().splitlines(keepends=True)[0])
    assert ours.bury(trial.config.fingerprint, "The actor is dead").status is Status.PENDING
    assert ours.next(no_machine) == [trial]
    assert statuses(tmp_path, trial) == ["PENDING", "QUEUED"]


def test_trial_whose_folder_cannot_be_written_any_more_ends_no_sweep(tmp_path, monkeypatch, capsys):
    ours, (locked, other) = driver(tmp_path, 2)
    ours.next(no_machine)
    for trial in (locked, other):
        registry.record(folder_of(tmp_path, trial), Status.RUNNING)
    refuse_claims(monkeypatch, folder_of(tmp_path, locked))
    ours.bury(locked.config.fingerprint, "The actor is dead")
    ours.settle("it is looked at before it is dropped")
    said = f"claim.json: what became of {locked.config.fingerprint} could not be recorded"
    assert capsys.readouterr().out.count(said) == 2
    assert statuses(tmp_path, other)[-1] == "CANCELLED"
    assert ours.next(no_machine) == [other]


def test_trial_that_another_user_left_undone_is_left_out_and_the_others_run(
    tmp_path, monkeypatch, capsys
):
    ours, (theirs, other) = driver(tmp_path, 2)
    stand_at(tmp_path, theirs, Status.RUNNING)
    refuse_claims(monkeypatch, folder_of(tmp_path, theirs))
    monkeypatch.setattr(os, "geteuid", lambda: -1)
    assert ours.next(no_machine) == [other]
    claim_file = folder_of(tmp_path, theirs) / CLAIM_FILE
    said = f"left out: {theirs.name}, which another user began: Permission denied: {claim_file}"
    whose = f"{claim_file.parent} is {user_name(os.getuid())}'s"
    assert f"{said}; {whose}\n" in capsys.readouterr().out
    assert statuses(tmp_path, theirs)[-1] == "RUNNING"


def test_results_in_which_no_trial_can_be_begun_end_the_driver(tmp_path, monkeypatch):
    ours, _ = driver(tmp_path, 2)
    refuse_claims(monkeypatch)
    with pytest.raises(PermissionError):
        ours.next(no_machine)


def test_process_that_cannot_be_loaded_is_a_bug_and_not_tried_again(tmp_path):
    ours, (trial,) = driver(tmp_path, 1)
    ours.next(no_machine)
    told = (
        "The actor died because of an error raised in its creation task, ray::Trainable.__init__()"
        "\nRuntimeError: The actor with name Trainable failed to import on the worker."
        "\nModuleNotFoundError: No module named 'mujoco'\n"
    )
    record = ours.bury(trial.config.fingerprint, told)
    assert (record.status, record.last("failure")) == (Status.FAILED, "code")
    assert record.last("reason") == (
        "its process did not start: ModuleNotFoundError: No module named 'mujoco'"
    )
    assert ours.next(no_machine) == []


def test_driver_that_stops_cancels_what_it_queued_and_another_goes_on(tmp_path):
    first, trials = driver(tmp_path, 2)
    second, _ = driver(tmp_path, 2)
    first.next(no_machine)
    second.next(no_machine)
    first.settle("the sweep stopped before it was done")
    assert [statuses(tmp_path, trial)[-1] for trial in trials] == ["CANCELLED"] * 2
    run_on(tmp_path, trials[0])  # the second's turn comes


@pytest.mark.slow
def test_drivers_that_start_at_once_keep_every_record_whole(tmp_path):
    command = [sys.executable, "-c", DRIVER, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    rivals = [subprocess.Popen(command, **pipes) for _ in range(NUM_DRIVERS)]
    for rival in rivals:
        assert "ready\n" in iter(rival.stdout.readline, "")
    outs = [rival.communicate("go\n", timeout=60)[0] for rival in rivals]
    assert [out.split()[-1] for out in outs] == ["8"] * NUM_DRIVERS
    _, trials = driver(tmp_path, 8)
    expected = ["PENDING", *["QUEUED"] * NUM_DRIVERS]
    assert [statuses(tmp_path, trial) for trial in trials] == [expected] * 8
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.slow
def test_sweep_with_two_writers_loses_nothing(tmp_path):
    commands = [[sys.executable, "-c", WRITER, str(tmp_path), str(n)] for n in (100, 200)]
    writers = [subprocess.Popen(command) for command in commands]
    while any(writer.poll() is None for writer in writers):
        path = tmp_path / "tiny" / "trials.arrow"
        assert not path.exists() or results.read_table(path) is not None  # whole at any moment
        time.sleep(0.02)
    assert [writer.returncode for writer in writers] == [0, 0]
    folder = tmp_path / "tiny"
    assert len(json.loads((folder / "sweep.json").read_text())["trials"]) == 40
    assert len(results.read_table(folder / "trials.arrow")) == 40
    assert len(list((folder / "trials").iterdir())) == 40
    runs = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
    assert len({run["index"] for run in runs}) == 40
    assert [path.name for path in folder.glob(".*")] == []
    assert tables.read_sweep(folder)["name"] == "tiny"
