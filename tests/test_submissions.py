"""The record of the jobs that a sweep was submitted as."""

import dataclasses
import os

import pytest

from cluster import submissions
from cluster.submissions import Submission
from pwmray import registry
from pwmray.registry import Status, claim
from tests import small_disk, tiny
from tests.claims import refuse_claims

JOB = Submission(
    time=submissions.now(),
    job_id="1234",
    num_tasks=1,
    cluster="mini",
    profile="h100",
    script="/r/tiny/jobs/h100-1.sbatch",
    log="/r/tiny/jobs/1234.log",
    command="python sweeps/tiny.py",
    trials=4,
)


def test_jobs_are_read_as_they_were_submitted(tmp_path):
    second = dataclasses.replace(JOB, job_id="1235", profile="h200")
    submissions.append(tmp_path / "tiny", JOB)
    submissions.append(tmp_path / "tiny", second)
    assert submissions.read(tmp_path / "tiny") == [JOB, second]


def test_sweep_never_submitted_has_no_jobs(tmp_path):
    assert submissions.read(tmp_path) == []


def test_line_cut_by_a_kill_is_left_out_and_a_broken_one_named(tmp_path):
    submissions.append(tmp_path, JOB)
    path = tmp_path / submissions.JOBS_FILE
    whole = path.read_text()
    path.write_text(whole + '{"job_id": "12')
    assert submissions.read(tmp_path) == [JOB]
    path.write_text('{"job": 1}\n' + whole)
    with pytest.raises(ValueError, match=r"jobs\.jsonl line 1 is not a job"):
        submissions.read(tmp_path)


def test_next_job_is_a_line_of_its_own_behind_a_cut_one(tmp_path):
    second = dataclasses.replace(JOB, job_id="1235")
    submissions.append(tmp_path, JOB)
    path = tmp_path / submissions.JOBS_FILE
    path.write_text(path.read_text() + '{"job_id": "12')
    submissions.append(tmp_path, second)
    assert submissions.read(tmp_path) == [JOB, second]


def test_job_that_does_not_fit_leaves_the_record_as_it_was(tmp_path):
    disk = tmp_path / "disk"
    small_disk.mount(disk, 1 << 16)
    try:
        submissions.append(disk / "tiny", JOB)
        filler = small_disk.fill(disk)
        long = dataclasses.replace(JOB, command="x" * 5000)
        with pytest.raises(OSError, match="No space left on device"):
            submissions.append(disk / "tiny", long)
        assert submissions.read(disk / "tiny") == [JOB]
        filler.unlink()
        submissions.append(disk / "tiny", long)
        assert submissions.read(disk / "tiny") == [JOB, long]
    finally:
        small_disk.unmount(disk)


def test_record_is_checked_before_a_job_is_added(tmp_path):
    submissions.check_writable(tmp_path / "tiny")
    submissions.append(tmp_path / "tiny", JOB)
    path = tmp_path / "tiny" / submissions.JOBS_FILE
    before = path.read_bytes()
    submissions.check_writable(tmp_path / "tiny")
    assert path.read_bytes() == before
    path.write_text('{"job": 1}\n')
    with pytest.raises(ValueError, match=r"jobs\.jsonl line 1 is not a job"):
        submissions.check_writable(tmp_path / "tiny")
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        submissions.check_writable(tmp_path / "tiny")


def test_trials_that_are_done_or_run_are_not_queued(tmp_path):
    trials = tiny.sweep.trials("tiny")[:3]
    folders = [registry.trial_folder(tmp_path, trial.fingerprint) for trial in trials]
    for folder, trial in zip(folders, trials, strict=True):
        registry.record(folder, Status.PENDING, config=trial.to_dict())
    begun = Status.QUEUED, Status.RUNNING
    for status in (*begun, Status.COMPLETED, Status.EVALUATED):
        registry.record(folders[0], status)
    for status in (*begun, Status.FAILED):
        registry.record(folders[2], status, reason="a bug")
    with claim.acquire(folders[1] / registry.CLAIM_FILE):
        submissions.queue(tmp_path, trials, JOB)
    found = [registry.read(folder).status for folder in folders]
    assert found == [Status.EVALUATED, Status.PENDING, Status.QUEUED]


def test_trial_that_another_user_began_is_left_to_the_jobs_driver(tmp_path, monkeypatch):
    theirs, ours = tiny.sweep.trials("tiny")[:2]
    folder = registry.trial_folder(tmp_path, theirs.fingerprint)
    registry.record(folder, Status.PENDING, config=theirs.to_dict())
    refuse_claims(monkeypatch, folder)
    with pytest.raises(PermissionError):
        submissions.queue(tmp_path, [theirs, ours], JOB)
    monkeypatch.setattr(os, "geteuid", lambda: -1)
    submissions.queue(tmp_path, [theirs, ours], JOB)
    queued = registry.read(registry.trial_folder(tmp_path, ours.fingerprint))
    assert queued.last("slurm_job_id") == JOB.job_id


@pytest.mark.parametrize("field", ["slurm_job_id", "slurm_array_job_id"])
def test_what_the_job_did_before_it_was_recorded_is_the_last_word(tmp_path, field):
    (trial,) = tiny.sweep.trials("tiny")[:1]
    folder = registry.trial_folder(tmp_path, trial.fingerprint)
    registry.queue(folder, trial.to_dict(), slurm_job_id="1")
    registry.record(folder, Status.RUNNING, **{"slurm_job_id": "2", field: JOB.job_id})
    registry.record(folder, Status.FAILED, reason="a bug")
    submissions.queue(tmp_path, [trial], JOB)
    assert registry.read(folder).status is Status.FAILED


def test_trial_queued_in_an_array_tells_both_ids():
    assert "slurm_array_job_id" not in JOB.event
    array = dataclasses.replace(JOB, num_tasks=4)
    assert array.event["slurm_array_job_id"] == array.event["slurm_job_id"] == "1234"
