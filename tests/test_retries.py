"""Which failed trials run again, with what; on records as trials leave them."""

import dataclasses
import errno
import os
from types import SimpleNamespace

import pytest

from pwmray import placement, plan, registry, room, tables
from pwmray.driver import retries
from pwmray.driver import turns as driver_turns
from pwmray.driver.interruption import Interruption
from pwmray.driver.notify import Notices
from pwmray.driver.progress import SweepProgress
from pwmray.driver.tune_callbacks import StopEarly, TuneWatch, is_to_stop
from pwmray.driver.turns import Turns
from pwmray.failures import KILLED_FOR_MEMORY
from pwmray.registry import Status
from tests import small_disk
from tests.made_turns import driver, folder_of, stand_at
from tests.tiny import sweep

REMARK = '{"time": "2026-01-01T00:00:00.000+00:00", "pad": ""}\n'
MACHINE = {"CPU": 2, "GPU": 0}


def machine():
    return MACHINE


@pytest.fixture
def planned(tmp_path):
    return plan.make(sweep, "tiny", sweep.trials("tiny")[:2], tmp_path).trials


def test_killed_trial_is_queued_again_and_its_neighbour_is_not(tmp_path):
    turns, trials = driver(tmp_path, 2)
    assert turns.next(machine) == trials
    for status in (Status.RUNNING, Status.COMPLETED, Status.EVALUATED):
        registry.record(folder_of(tmp_path, trials[1]), status)
    registry.record(folder_of(tmp_path, trials[0]), Status.FAILED, failure="process died")
    assert turns.next(machine) == [trials[0]]
    record = registry.read(folder_of(tmp_path, trials[0]))
    assert (record.status, record.last("retry")) == (Status.QUEUED, "process died")


def test_trial_out_of_memory_runs_again_while_it_can_be_given_more(tmp_path):
    turns, (trial,) = driver(tmp_path, 1)
    folder = folder_of(tmp_path, trial)
    turns.next(machine)
    registry.record(folder, Status.FAILED, failure="out of memory")
    assert turns.next(machine) == [trial]
    share = retries.share_of(registry.read(folder))
    assert placement.request(trial.config.runtime, share, MACHINE) == {"CPU": 2}
    registry.record(folder, Status.FAILED, failure="out of memory")  # with the whole machine
    assert turns.next(machine) == []
    assert turns.is_over
    assert registry.read(folder).status is Status.FAILED


def test_trial_that_others_may_have_left_too_little_memory_runs_again_with_the_same(tmp_path):
    turns, (trial,) = driver(tmp_path, 1)
    folder = folder_of(tmp_path, trial)
    turns.next(lambda: {"CPU": 1})
    for told in ([trial], [trial], []):  # as often as its class allows
        killed = {"failure": "out of memory", "reason": KILLED_FOR_MEMORY}
        registry.record(folder, Status.FAILED, **killed)
        assert turns.next(lambda: {"CPU": 1}) == told


def test_trial_that_found_a_full_disk_runs_again_once_there_is_room(planned, tmp_path, capsys):
    stand_at(tmp_path, planned[0])
    registry.record(folder_of(tmp_path, planned[0]), Status.FAILED, failure="disk full")
    record = registry.read(folder_of(tmp_path, planned[0]))
    runtime = dataclasses.replace(planned[0].config.runtime, disk_wait_seconds=0.0)
    wait = retries.WaitForRoom(tmp_path)
    assert not retries.can_retry(record, runtime, 10**18, wait, machine)
    assert "disk full: waiting up to 0 s for room" in capsys.readouterr().out
    assert retries.can_retry(record, runtime, planned[0].disk_bytes, wait, machine)


def test_room_is_waited_for_once_for_all_trials_until_there_was_some(tmp_path, monkeypatch, capsys):
    now, free = [0.0], [0]
    is_asked_to_stop = False
    fake = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda s: now.append(now.pop() + s))
    monkeypatch.setattr(retries, "time", fake)
    monkeypatch.setattr(retries, "takes", lambda folder, num_bytes: num_bytes <= free[0])
    wait = retries.WaitForRoom(tmp_path, lambda: not is_asked_to_stop)
    found = [wait.ends_well(10, 1800.0) for _ in range(70)]
    assert (any(found), now) == (False, [1800.0])
    assert capsys.readouterr().out.count("waiting up to 1800 s") == 1
    free[0] = 10
    assert wait.ends_well(10, 1800.0)
    free[0] = 0
    assert not wait.ends_well(10, 1800.0)
    assert now == [3600.0]
    free[0] = 10
    assert wait.ends_well(10, 1800.0)
    free[0], is_asked_to_stop = 0, True
    assert not wait.ends_well(10, 1800.0)
    assert now == [3600.0]


@pytest.mark.parametrize("lacks", ["bytes", "files"])
def test_room_is_what_can_be_written_whatever_the_disk_says_is_free(tmp_path, monkeypatch, lacks):
    """A quota leaves the disk's free bytes as they are, and so does the want of inodes."""
    disk = tmp_path / "disk"
    small_disk.mount(disk, 1 << 20, num_files=2 if lacks == "files" else 0)
    try:
        monkeypatch.setattr(room, "free_bytes", lambda folder: 10**12)
        filler = small_disk.fill(disk, spare=0 if lacks == "bytes" else 1 << 19)
        assert not room.takes(disk, 1 << 16)
        filler.unlink()
        assert room.takes(disk, 1 << 16)
        assert list(disk.iterdir()) == []
    finally:
        small_disk.unmount(disk)


def test_retry_is_not_spent_while_a_quota_lets_nothing_be_written(
    tmp_path, planned, monkeypatch, capsys
):
    stand_at(tmp_path, planned[0])
    registry.record(folder_of(tmp_path, planned[0]), Status.FAILED, failure="disk full")
    record = registry.read(folder_of(tmp_path, planned[0]))
    runtime = dataclasses.replace(planned[0].config.runtime, disk_wait_seconds=0.0)
    asked = (record, runtime, 1 << 16, retries.WaitForRoom(tmp_path), machine)

    def exceed(file):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    assert retries.can_retry(*asked)
    monkeypatch.setattr(os, "fsync", exceed)
    assert not retries.can_retry(*asked)
    assert "disk full: waiting up to 0 s for room" in capsys.readouterr().out


@pytest.fixture
def full_disk(tmp_path):
    """Turns of two trials that ended on a disk which takes not a byte more, and what fills it."""
    disk = tmp_path / "disk"
    small_disk.mount(disk, 1 << 20)
    turns, trials = driver(disk, 2, patience_seconds=60.0)
    turns.next(machine)
    registry.record(folder_of(disk, trials[0]), Status.RUNNING, traceback="x" * 3000)
    failed = {"failure": "process died", "traceback": "x" * 3000}
    registry.record(folder_of(disk, trials[1]), Status.FAILED, **failed)
    for trial in trials:  # whole pages, so that not a byte more fits
        path = folder_of(disk, trial) / registry.EVENTS_FILE
        size = path.stat().st_size
        registry.remark(path.parent, pad="x" * (-size % 4096 - len(REMARK)))
        assert path.stat().st_size % 4096 == 0
    yield turns, trials, small_disk.fill(disk)
    small_disk.unmount(disk)


@pytest.mark.parametrize("is_room", [False, True])  # but for the trials on a disk of their own
def test_driver_survives_a_disk_too_full_for_its_own_events(
    is_room, full_disk, monkeypatch, capsys
):
    turns, trials, filler = full_disk
    monkeypatch.setattr(turns._room, "ends_well", lambda num_bytes, limit: is_room)
    turns.bury(trials[0].config.fingerprint, "The actor died unexpectedly")
    assert turns.next(machine) == []
    found = [registry.read(folder_of(filler.parent, trial)).status for trial in trials]
    assert found == [Status.RUNNING, Status.FAILED]
    assert "could not be recorded" in capsys.readouterr().out


def test_driver_waits_for_room_where_not_even_a_failure_could_be_recorded(full_disk, monkeypatch):
    turns, trials, filler = full_disk
    waits = []

    def make_room(*asked):
        waits.append(asked)
        filler.unlink(missing_ok=True)
        return True

    monkeypatch.setattr(turns._room, "ends_well", make_room)
    turns.bury(trials[0].config.fingerprint, "OSError: [Errno 28] No space left on device")
    assert turns.next(machine) == trials
    record = registry.read(folder_of(filler.parent, trials[0]))
    assert (record.status, record.last("failure")) == (Status.QUEUED, "disk full")
    assert waits[0] == (trials[0].disk_bytes, trials[0].config.runtime.disk_wait_seconds)


def test_driver_that_waited_for_room_for_long_runs_the_trial_then(full_disk, monkeypatch):
    turns, (trial, other), filler = full_disk
    now = [0.0]

    def make_room(_, limit):
        filler.unlink(missing_ok=True)
        now[0] += limit
        return True

    del turns._open[other.config.fingerprint]
    turns.bury(trial.config.fingerprint, "OSError: [Errno 28] No space left on device")
    fake = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: None)
    monkeypatch.setattr(driver_turns, "time", fake)
    monkeypatch.setattr(turns._room, "ends_well", make_room)
    assert turns.next(machine) == [trial]


@pytest.fixture
def filled(tmp_path, monkeypatch):
    """Turns of three trials, the first of which got no room in time, and what room there is."""
    now, free = [0.0], [0]
    fake = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda s: now.append(now.pop() + s))
    monkeypatch.setattr(retries, "time", fake)
    for module in (retries, driver_turns):
        monkeypatch.setattr(module, "takes", lambda folder, num_bytes: num_bytes <= free[0])
    turns, trials = driver(tmp_path, 3)
    turns.next(machine)
    registry.record(folder_of(tmp_path, trials[1]), Status.RUNNING)
    assert not is_to_stop(retries.FirstDeaths(), turns)
    registry.record(folder_of(tmp_path, trials[0]), Status.FAILED, failure="disk full")
    turns.bury(trials[0].config.fingerprint, "No space left on device")
    return turns, trials, free, now


def test_trial_that_got_no_room_stops_the_others_which_run_again_once_there_is_some(
    filled, tmp_path
):
    turns, trials, free, now = filled
    assert is_to_stop(retries.FirstDeaths(), turns)
    turns.pause()
    free[0] = 10**12
    assert turns.next(machine) == trials
    assert (now, turns.lacks_room) == ([0.0], False)
    retried = [registry.read(folder_of(tmp_path, trial)).all("retry") for trial in trials]
    assert retried == [["disk full"], [], []]


def test_full_disk_ends_a_sweep_once_and_not_each_of_its_trials_in_turn(filled, tmp_path):
    turns, trials, _, now = filled
    turns.pause()
    assert turns.next(machine) == []
    assert (now, turns.is_over) == ([1800.0], True)
    found = [registry.read(folder_of(tmp_path, trial)).status for trial in trials]
    assert found == [Status.FAILED, Status.QUEUED, Status.QUEUED]


def test_trial_whose_own_disk_is_full_stops_no_other(filled):
    turns, trials, free, _ = filled
    free[0] = 10**12  # on the disk of the results
    for was_stopping in (True, False):
        turns.lacks_room = was_stopping
        turns.bury(trials[0].config.fingerprint, "No space left on device")
        assert is_to_stop(retries.FirstDeaths(), turns) is was_stopping


def test_driver_that_is_asked_to_stop_waits_for_no_room(tmp_path, monkeypatch):
    asked = Interruption()
    turns, _ = driver(tmp_path, 1, asked)
    asked.reason = "preempted"
    monkeypatch.setattr(retries, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=pytest.fail))
    assert not turns._room.ends_well(10**18, 60.0)


def test_sweep_goes_on_while_a_trial_that_began_with_the_dead_ones_runs(tmp_path):
    made = plan.make(sweep, "tiny", sweep.trials("tiny")[:5], tmp_path)
    tunes = [
        SimpleNamespace(config={"grid": {"fingerprint": t.config.fingerprint}}, error_file=None)
        for t in made.trials
    ]
    joined = tables.Tables(tables.open_sweep(made, "python tiny.py"))
    deaths, progress = retries.FirstDeaths(), SweepProgress(made, Notices("tiny", None))
    with progress:
        turns = Turns(made, progress, Interruption(), float("inf"))
        turns.next(machine)
        watch = TuneWatch(made, turns, progress, joined, deaths, Interruption())
        stopper = StopEarly(lambda: is_to_stop(deaths, turns))

        def die(index):
            folder = folder_of(tmp_path, made.trials[index])
            registry.record(folder, Status.FAILED, reason="TypeError", failure="code")
            watch.on_trial_error(0, tunes, tunes[index])

        watch.on_trial_start(0, tunes, tunes[0])
        for index in (1, 2, 3):
            watch.on_trial_start(0, tunes, tunes[index])
            die(index)
        assert not stopper.stop_all()
        watch.on_trial_start(0, tunes, tunes[4])
        die(0)
        assert stopper.stop_all()
