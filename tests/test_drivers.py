"""Several drivers on one sweep, in processes of their own: they share it, come, go and die."""

import contextlib
import os
import signal

import pytest

from pwmray import registry
from pwmray.registry import Status
from tests.held import start_held
from tests.started_sweeps import curves, trial_statuses, wait_for_event
from tests.waiting import wait_for

ALONE, TWO = ("--scale", "alone", "--limit", "4"), ("--scale", "tiny", "--limit", "2")
# Ray counts as `alone` does; trials' threads, more than cores, do not wait for each other at work.
ONE_EACH = {"RAY_USE_MULTIPROCESSING_CPU_COUNT": "1", "OMP_WAIT_POLICY": "passive"}

pytestmark = pytest.mark.slow


def pids_of(folder):
    records = [registry.read(path) for path in (folder / "results" / "trials").glob("*")]
    return {record.last("pid") for record in records} - {None}


def life_of(folder):
    events = registry.read(folder).events
    return [event["status"] for event in events if event["status"] not in ("PENDING", "QUEUED")]


def test_drivers_that_start_at_once_share_the_trials(tmp_path, hold):
    drivers = [start_held(tmp_path, *ALONE, **ONE_EACH) for _ in range(2)]

    def is_each_at_work():  # with one process
        is_so = len(pids_of(tmp_path)) >= len(drivers)
        ended = [] if is_so else [d.communicate() for d in drivers if d.poll() is not None]
        assert not ended, ended
        return is_so

    wait_for(is_each_at_work, 400)
    hold.unlink()
    ends = [driver.communicate(timeout=400) for driver in drivers]

    assert [driver.returncode for driver in drivers] == [0, 0], ends
    assert "Traceback" not in str(ends)
    assert all("4 of 4 trials done" in out for out, _ in ends)
    assert trial_statuses(tmp_path) == ["EVALUATED"] * 4
    lives = [life_of(folder) for folder in (tmp_path / "results" / "trials").iterdir()]
    assert lives == [["RUNNING", "COMPLETED", "EVALUATED"]] * 4
    assert not list(tmp_path.rglob("*.tmp"))


def test_driver_that_joins_waits_for_another_and_takes_over_when_it_dies(
    tmp_path, hold, undisturbed
):
    first = start_held(tmp_path, *TWO)
    folder = wait_for_event(tmp_path, Status.RUNNING)
    worker = registry.read(folder).last("pid")
    os.kill(worker, signal.SIGSTOP)
    second = start_held(tmp_path, *TWO)
    said = next(line for line in second.stdout if line.startswith("waiting for trials"))
    first.kill()
    first.communicate(timeout=60)
    with contextlib.suppress(ProcessLookupError):  # Ray may have ended it with the driver
        os.kill(worker, signal.SIGKILL)
    hold.unlink()
    out, err = second.communicate(timeout=300)

    assert f"pid {worker} on " in said
    assert second.returncode == 0, err
    assert "taken over" in out
    assert "2 of 2 trials done" in out
    assert registry.read(folder).count(Status.FAILED) == 0
    own = {path.name for path in (tmp_path / "results" / "trials").iterdir()}
    assert curves(tmp_path) == [row for row in undisturbed if row["trial"] in own]
