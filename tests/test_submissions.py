"""The record of the jobs that a sweep was submitted as."""

import dataclasses

import pytest

from cluster import submissions
from cluster.submissions import Submission

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


def test_trial_queued_in_an_array_tells_both_ids():
    assert "slurm_array_job_id" not in JOB.event
    array = dataclasses.replace(JOB, num_tasks=4)
    assert array.event["slurm_array_job_id"] == array.event["slurm_job_id"] == "1234"
