"""Trials whose Slurm job is gone: find them and set their records right by what Slurm says.

Whoever looks may do it, several at once too: a trial is changed only by who holds its claim, so
one that runs is never touched. Nor is one that a living job, or a driver outside Slurm, may yet
begin, another cluster's, or another user's.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pwmray import failures, registry, slurm_jobs
from pwmray.driver.interruption import GO_ON
from pwmray.failures import Failure
from pwmray.registry import EVENTS_FILE, Status
from pwmray.registry.claim import clear_dead
from pwmray.registry.listing import Summary, list_trials, summarize
from pwmray.slurm_jobs import Job
from pwmray.wording import number_of


class Lost(NamedTuple):
    """Where a trial whose job is gone really stands."""

    status: Status
    fields: dict[str, Any]


def set_right(results: Path, fingerprints: Iterable[str]) -> list[str]:
    """Set right which of these trials are lost; return a line for each reason why.

    One whose record cannot be read is for others to name.
    """
    return describe(settle_all(results, list_trials(results, fingerprints, {}), seconds=10.0))


def settle_all(
    results: Path, trials: Mapping[str, Summary], seconds: float, unwritten: set[str] | None = None
) -> dict[str, Lost]:
    """Ask Slurm about the trials in its jobs' hands and set right which are lost.

    Returns those by their fingerprints: none without Slurm, or where it does not answer in time.
    Why others could not be recorded goes into `unwritten`; see `settle`.
    """
    if not slurm_jobs.is_here() or not any(trial.jobs for trial in trials.values()):
        return {}
    here = slurm_jobs.cluster_name(seconds)
    if here is None:
        return {}
    doubtful = find_doubtful(results, trials, here)
    known = slurm_jobs.ask({name for trial in doubtful.values() for name in trial.jobs}, seconds)
    return {} if known is None else settle(results, doubtful, known, unwritten)


def describe(found: Mapping[str, Lost]) -> list[str]:
    """Return a line for each reason why trials were lost."""
    counts = Counter((lost.status, lost.fields["reason"]) for lost in found.values())
    return [
        f"set right: {number_of(number, 'trial')} {status}, {reason}"
        for (status, reason), number in counts.items()
    ]


def in_hands(trials: Mapping[str, Summary], here: str) -> dict[str, Summary]:
    """Return the trials that are in the hands of this user's jobs of the cluster `here`."""
    theirs = {name: t for name, t in trials.items() if t.jobs and t.status in registry.IN_HANDS}
    ours = {name: t for name, t in theirs.items() if not t.users or _user() in t.users}
    return {name: t for name, t in ours.items() if t.cluster in (None, here)}


def find_doubtful(results: Path, trials: Mapping[str, Summary], here: str) -> dict[str, Summary]:
    """Return the trials that only Slurm can tell of: in its jobs' hands, and without a process."""
    return {
        name: trial
        for name, trial in in_hands(trials, here).items()
        if not registry.running_elsewhere(registry.trial_folder(results, name))
    }


def settle(
    results: Path,
    trials: Mapping[str, Summary],
    known: Iterable[Job],
    unwritten: set[str] | None = None,
) -> dict[str, Lost]:
    """Record how trials stand whose jobs are gone by what Slurm knows; return those.

    Why one cannot be recorded, in results that are read-only, goes into `unwritten` as a line, and
    the trial stands as it says; who gives none gets an OSError.
    """
    known, found = list(known), {}
    gone = [name for name in trials if judge(trials[name], known)]
    clear_dead(registry.trial_folder(results, name) / registry.CLAIM_FILE for name in gone)
    for name in gone:
        try:
            lost = _settle(results, name, trials[name], known)
        except OSError as error:
            if unwritten is None:
                raise
            why = error.strerror or str(error)
            unwritten.add(f"trials in {results} whose job is gone cannot be set right: {why}")
            continue
        if lost is not None:
            found[name] = lost
    return found


def judge(trial: Summary, known: Iterable[Job]) -> Lost | None:
    """Return how a trial stands that no process runs, None where it stands as it says.

    It is lost when every job that may run it has ended, or is one that Slurm no longer knows.
    """
    if not trial.jobs or trial.status not in registry.IN_HANDS:
        return None
    known = list(known)
    found = {name: slurm_jobs.find(known, name) for name in trial.jobs}
    if any(not job.is_over for jobs in found.values() for job in jobs):
        return None
    if set(trial.users) - {_user()} and not all(found.values()):
        return None  # Slurm may hide others' jobs
    last = trial.jobs[-1]
    return _explain(trial, last.removesuffix(slurm_jobs.ANY_TASK), found[last])


def _user() -> str:
    return str(os.geteuid())


def _explain(trial: Summary, name: str, jobs: list[Job]) -> Lost:
    when = "before it began" if trial.status == Status.QUEUED else "while it ran"
    if not jobs:
        reason = f"job {name} is gone, Slurm no longer knows how: {when}"
        return Lost(Status.FAILED, {"reason": reason, "failure": Failure.PROCESS_DIED})
    job = max(jobs, key=lambda job: failures.of_slurm(job.state, job.exit_code) is not None)
    if job.exit_code == f"{GO_ON}:0":
        reason = f"job {name} stopped {when} and was not requeued; submit the sweep again"
        return Lost(Status.CANCELLED, {"reason": reason})
    reason = f"job {name} ended {when}: {slurm_jobs.describe_end(job)}"
    failure = failures.of_slurm(job.state, job.exit_code)
    if job.state == "CANCELLED" or (failure is None and trial.status == Status.QUEUED):
        return Lost(Status.CANCELLED, {"reason": reason})
    if failure is None or (failure, trial.status) == (Failure.OUT_OF_MEMORY, Status.QUEUED):
        failure = Failure.PROCESS_DIED  # what never ran needs no larger share of the memory
    return Lost(Status.FAILED, {"reason": reason, "failure": failure})


def _settle(results: Path, fingerprint: str, seen: Summary, known: list[Job]) -> Lost | None:
    folder = registry.trial_folder(results, fingerprint)
    # Whose job an earlier version had recorded nobody knows: maybe its who began the record.
    if not seen.users and os.stat(folder / EVENTS_FILE).st_uid != os.geteuid():
        return None
    with registry.claimed(folder) as record:
        if record is None:
            return None
        now = summarize(record)
        if not set(now.jobs) <= set(seen.jobs):  # Slurm was asked before it was submitted again
            return None
        lost = judge(now, known)
        if lost is not None:
            registry.record(folder, lost.status, **lost.fields)
        return lost
