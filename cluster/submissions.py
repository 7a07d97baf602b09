"""The record of a sweep's submitted jobs: a file in its folder, and the trials' QUEUED events.

results/<sweep>/
    jobs.jsonl         a line for each submitted job, with the fields of `Submission`; it is
                       appended by cluster/submit.py and never changed
    jobs/              <profile>-<number>.sbatch, the script as it was submitted;
                       <job id>.log (of an array <job id>_<task>.log), what the job printed in all
                       its lives; <job id>.json, with the addresses of the job's Ray and dashboard,
                       which the job writes when it runs and deletes when it ends

Submission records a QUEUED event with `slurm_job_id` (a string, as in RUNNING events),
`slurm_cluster`, `slurm_uid` (whose job it is), `profile` and `log` (an absolute path). For a job
array, `slurm_job_id` and `slurm_array_job_id` are both the array's id. Later the driver in one of
its tasks queues the trial again, with that task's raw id, `slurm_array_job_id` and
`slurm_array_task_id`. A driver that stops before its job's time limit, or for a preemption, leaves
its trials QUEUED with a `reason`.
"""

import datetime
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pwmray import registry, slurm_jobs
from pwmray.files import append_lines, read_lines
from pwmray.registry import Status
from pwmray.slurm_jobs import ANY_TASK, Job

if TYPE_CHECKING:  # it loads torch, and `pwmray cancel` does not
    from pwmray.config import TrialConfig

JOBS_FILE = "jobs.jsonl"
JOBS_FOLDER = "jobs"
_JOB_FIELDS = ("slurm_job_id", "slurm_array_job_id")  # of events that a job's processes record


@dataclass(frozen=True)
class Submission:
    """A job as it was submitted."""

    time: str  # ISO 8601, UTC
    job_id: str  # raw; for an array, that of the whole array
    num_tasks: int  # of the array; 1 for a single job
    cluster: str  # Slurm's name of the cluster
    profile: str
    script: str  # absolute paths
    log: str  # for an array, with %a in place of the task
    command: str  # of the sweep, as the job starts its driver
    trials: int  # how many it was submitted for

    @property
    def name(self) -> str:
        """The name by which to ask Slurm for the job, see pwmray.slurm_jobs.find."""
        return self.job_id + (ANY_TASK if self.num_tasks > 1 else "")

    def find(self, jobs: Iterable[Job]) -> list[Job]:
        """Return this submission's jobs: those with its number that run its script.

        A Slurm that lost its state counts from one again, so another job may have the number.
        """
        return [job for job in slurm_jobs.find(jobs, self.name) if job.script in ("", self.script)]

    @property
    def event(self) -> dict[str, Any]:
        """The fields of the QUEUED events of its trials."""
        job = {"slurm_job_id": self.job_id, "slurm_cluster": self.cluster}
        job["slurm_uid"] = str(os.geteuid())
        if self.num_tasks > 1:
            job["slurm_array_job_id"] = self.job_id
        return {**job, "profile": self.profile, "log": self.log}


def now() -> str:
    """Return the time as records have it: ISO 8601, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def check_writable(sweep_folder: Path) -> None:
    """Raise OSError or ValueError if a job could not be added to the sweep's record."""
    read(sweep_folder)
    append_lines(sweep_folder / JOBS_FILE, "")


def append(sweep_folder: Path, submission: Submission) -> None:
    """Add a job to the sweep's record, or raise OSError and leave the record as it was."""
    append_lines(sweep_folder / JOBS_FILE, json.dumps(asdict(submission)) + "\n")


def read(sweep_folder: Path, broken: list[str] | None = None) -> list[Submission]:
    """Return all jobs that were ever submitted of a sweep, the oldest first.

    A last line that a kill cut off is ignored. For any other broken line `broken` gets the reason;
    without `broken` that raises ValueError.
    """
    return read_lines(sweep_folder / JOBS_FILE, _read_submission, "a job", broken)


def queue(results: Path, trials: "Iterable[TrialConfig]", submission: Submission) -> None:
    """Record that trials wait for a job.

    Trials are left alone that are done, that a process already runs, that the job itself has
    already dealt with, and those in folders of another user, which the job's driver will report
    when it leaves them out.
    """
    for trial in trials:
        folder = registry.trial_folder(results, trial.fingerprint)
        try:
            _queue(folder, trial, submission)
        except OSError as error:
            if not registry.is_refused_by_another(folder, error):
                raise


def _queue(folder: Path, trial: "TrialConfig", submission: Submission) -> None:
    with registry.claimed(folder) as record:
        if record is None or record.status is Status.EVALUATED:
            return
        if any(submission.job_id in record.all(name) for name in _JOB_FIELDS):
            return
        registry.queue(folder, trial.to_dict(), **submission.event)


def _read_submission(line: bytes) -> Submission:
    return Submission(**json.loads(line))
