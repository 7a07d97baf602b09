"""Which failed trials run again, with what; on records as trials leave them."""

import dataclasses

import pytest

from pwmray import claim, plan, registry, retries
from pwmray.registry import CLAIM_FILE, Status
from tests import small_disk
from tests.tiny import sweep

REMARK = '{"time": "2026-01-01T00:00:00.000+00:00", "pad": ""}\n'
MACHINE = {"CPU": 2, "GPU": 0}


@pytest.fixture
def planned(tmp_path):
    return plan.make(sweep, "tiny", sweep.trials("tiny")[:2], tmp_path).trials


def folder_of(results, trial):
    return registry.trial_folder(results, trial.config.fingerprint)


def stand_at(results, trial, *statuses, **fields):
    for status in (Status.PENDING, Status.QUEUED, *statuses):
        registry.record(folder_of(results, trial), status, **fields)


def test_killed_trial_is_queued_again_and_its_neighbour_is_not(planned, tmp_path):
    stand_at(tmp_path, planned[0], Status.RUNNING, Status.FAILED, failure="process died")
    stand_at(tmp_path, planned[1], Status.RUNNING, Status.COMPLETED, Status.EVALUATED)
    assert retries.queue_again(planned, tmp_path, MACHINE) == [planned[0]]
    record = registry.read(folder_of(tmp_path, planned[0]))
    assert (record.status, record.last("retry")) == (Status.QUEUED, "process died")
    assert registry.read(folder_of(tmp_path, planned[1])).status is Status.EVALUATED


def test_trial_out_of_memory_runs_again_while_it_can_be_given_more(planned, tmp_path):
    trial, folder = planned[0], folder_of(tmp_path, planned[0])
    stand_at(tmp_path, trial)
    registry.record(folder, Status.FAILED, failure="out of memory")
    assert retries.queue_again([trial], tmp_path, MACHINE) == [trial]
    share = retries.share_of(registry.read(folder))
    assert retries.resources(trial.config.runtime, share, MACHINE) == {"CPU": 2}
    registry.record(folder, Status.FAILED, failure="out of memory")  # with the whole machine
    assert retries.queue_again([trial], tmp_path, MACHINE) == []
    assert registry.read(folder).status is Status.FAILED


def test_trial_that_found_a_full_disk_runs_again_once_there_is_room(planned, tmp_path, capsys):
    stand_at(tmp_path, planned[0])
    registry.record(folder_of(tmp_path, planned[0]), Status.FAILED, failure="disk full")
    runtime = dataclasses.replace(planned[0].config.runtime, disk_wait_seconds=0.0)
    config = dataclasses.replace(planned[0].config, runtime=runtime)
    huge = dataclasses.replace(planned[0], config=config, checkpoint_bytes=10**18)
    assert retries.queue_again([huge], tmp_path, MACHINE) == []
    assert "disk full: waiting up to 0 s for room" in capsys.readouterr().out
    assert retries.queue_again([planned[0]], tmp_path, MACHINE) == [planned[0]]


def test_trial_that_another_process_has_by_now_is_left_to_it(planned, tmp_path):
    stand_at(tmp_path, planned[0])
    registry.record(folder_of(tmp_path, planned[0]), Status.FAILED, failure="process died")
    with claim.acquire(folder_of(tmp_path, planned[0]) / CLAIM_FILE):
        assert retries.queue_again(planned[:1], tmp_path, MACHINE) == []


def test_trial_that_ray_lost_is_recorded_as_failed(planned, tmp_path, monkeypatch):
    monkeypatch.setattr(retries, "_DYING_SECONDS", 0.1)
    stand_at(tmp_path, planned[0], Status.RUNNING)
    stand_at(tmp_path, planned[1], Status.RUNNING)
    with claim.acquire(folder_of(tmp_path, planned[1]) / CLAIM_FILE):
        retries.bury_lost(planned, tmp_path)
    records = [registry.read(folder_of(tmp_path, trial)) for trial in planned]
    assert [record.status for record in records] == [Status.FAILED, Status.RUNNING]
    assert records[0].last("failure") == "process died"


def test_driver_survives_a_disk_too_full_for_its_own_events(tmp_path):
    disk = tmp_path / "disk"
    small_disk.mount(disk, 1 << 20)
    try:
        trials = plan.make(sweep, "tiny", sweep.trials("tiny")[:2], disk).trials
        trials = [dataclasses.replace(trial, checkpoint_bytes=0, curve_bytes=0) for trial in trials]
        stand_at(disk, trials[0], Status.RUNNING, traceback="x" * 3000)
        stand_at(disk, trials[1], Status.FAILED, failure="process died", traceback="x" * 3000)
        for trial in trials:  # whole pages, so that not a byte more fits
            path = folder_of(disk, trial) / registry.EVENTS_FILE
            size = path.stat().st_size
            registry.remark(path.parent, pad="x" * (-size % 4096 - len(REMARK)))
            assert path.stat().st_size % 4096 == 0
        small_disk.fill(disk)
        retries.bury_lost(trials, disk)
        assert retries.queue_again(trials, disk, MACHINE) == []
        found = [registry.read(folder_of(disk, trial)).status for trial in trials]
        assert found == [Status.RUNNING, Status.FAILED]
    finally:
        small_disk.unmount(disk)
