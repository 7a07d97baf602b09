"""What was submitted of a sweep: a line a job in its folder, and the trials' QUEUED events.

results/<sweep>/
    jobs.jsonl         one line a submitted job, appended by cluster/submit.py and never changed:
                       the fields of `Submission`
    jobs/              <profile>-<number>.sbatch, the script as it was submitted;
                       <job id>.log, what it printed (of an array <job id>_<task>.log), requeued
                       or not; <job id>.json, written by the running job itself: the address of
                       its Ray and of the dashboard, gone when it ends

A QUEUED event that is recorded at submission has `slurm_job_id` (a string, as in the events of
RUNNING), `slurm_cluster`, `profile` and `log` (an absolute path). Of a job array `slurm_job_id` is
the array's own id, also in `slurm_array_job_id`, until the driver in a task of it queues the trial
again: with the task's raw id, `slurm_array_job_id` and `slurm_array_task_id`. A driver that stops
before its job's time limit, or for a preemption, leaves its trials QUEUED with a `reason`.
"""

import datetime
import json
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
    job_id: str  # raw; an array's is that of the whole array
    num_tasks: int  # of the array; 1 for a job that is none
    cluster: str  # Slurm's name of it
    profile: str
    script: str  # absolute paths
    log: str  # of an array with %a for the task
    command: str  # of the sweep, as the driver in the job is started
    trials: int  # that it was submitted for

    @property
    def name(self) -> str:
        """Its name to ask Slurm by, see pwmray.slurm_jobs.find."""
        return self.job_id + (ANY_TASK if self.num_tasks > 1 else "")

    def find(self, jobs: Iterable[Job]) -> list[Job]:
        """Return its jobs: those of its number that run its script.

        Slurm counts from one again where its state was lost.
        """
        return [job for job in slurm_jobs.find(jobs, self.name) if job.script in ("", self.script)]

    @property
    def event(self) -> dict[str, Any]:
        """The fields of its trials' QUEUED events."""
        job = {"slurm_job_id": self.job_id, "slurm_cluster": self.cluster}
        if self.num_tasks > 1:
            job["slurm_array_job_id"] = self.job_id
        return {**job, "profile": self.profile, "log": self.log}


def now() -> str:
    """Return the time as records have it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def check_writable(sweep_folder: Path) -> None:
    """Raise OSError or ValueError where a job could not be added to the sweep's record."""
    read(sweep_folder)
    append_lines(sweep_folder / JOBS_FILE, "")


def append(sweep_folder: Path, submission: Submission) -> None:
    """Add a job to the sweep's record, or leave that as it was and raise OSError."""
    append_lines(sweep_folder / JOBS_FILE, json.dumps(asdict(submission)) + "\n")


def read(sweep_folder: Path, broken: list[str] | None = None) -> list[Submission]:
    """Return the jobs ever submitted of a sweep, the oldest first.

    A last line cut by a kill is left out; why another one is no job is put down in `broken`, or
    raised as ValueError for who gives none.
    """
    return read_lines(sweep_folder / JOBS_FILE, _read_submission, "a job", broken)


def queue(results: Path, trials: "Iterable[TrialConfig]", submission: Submission) -> None:
    """Record that trials wait for a job; those that a process already runs are left alone.

    So are those that the job came to already: what became of them there is the last word. And
    those in folders of another user, of which the job's driver tells when it leaves them out.
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
