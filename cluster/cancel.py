"""`pwmray cancel`: end a sweep's Slurm jobs and record what became of their trials."""

import argparse
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cluster import submissions
from cluster.slurm import ASK_SECONDS, read_complaint
from cluster.submissions import Submission
from pwmray import lost, slurm_jobs
from pwmray.commands import Subcommands, add_results_option, give_results
from pwmray.lost import Lost
from pwmray.registry.claim import LEASE_SECONDS
from pwmray.registry.listing import list_trials
from pwmray.registry.sweep_folders import find_sweep, read_sweep
from pwmray.slurm_jobs import Job
from pwmray.wording import as_typed, number_of, unknown

_POLL_SECONDS = 1.0
_NO_ANSWER = "Slurm does not answer: the controller is down or busy; try again"
_END_SECONDS = 180.0  # for the jobs' processes to be killed, and for their nodes' epilogs


def add_cancel_command(commands: Subcommands) -> None:
    """Add `cancel`."""
    cancel = commands.add_parser("cancel", help="end a sweep's Slurm jobs; to go on submit again")
    cancel.add_argument("sweep", metavar="SWEEP")
    cancel.add_argument("--job", metavar="ID", help="only this job; of an array all tasks")
    cancel.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    add_results_option(cancel)
    cancel.set_defaults(run=_cancel)


def _cancel(chosen: argparse.Namespace) -> None:
    folder = find_sweep(chosen.results, chosen.sweep)
    if not slurm_jobs.is_here():
        raise ValueError("no Slurm on this machine; cancel where the sweep was submitted")
    here = _ask_where()
    submitted = _choose(folder, chosen.job, here)
    living, others = _living(submitted)
    if others and not living:
        raise ValueError("; ".join(others))
    print("".join(f"{line}\n" for line in others), end="")
    for submission, jobs in living:
        states = ", ".join(sorted({job.state for job in jobs}))
        print(f"{submission.job_id} ({submission.profile}): {states}")
    if not living:
        print(f"no job of {chosen.sweep} waits or runs")
    elif chosen.yes or _agrees(chosen.sweep, len(living)):
        _scancel([submission.job_id for submission, _ in living])
        print("scancel is sent; waiting until all processes are gone", flush=True)
        _wait_for_the_end(submitted)
    else:
        print("nothing was cancelled")
        return
    _record_trials(chosen.results, folder, here)


def _ask_where() -> str:
    """Return the cluster's name: only its own jobs are looked at."""
    here = slurm_jobs.cluster_name(ASK_SECONDS)
    if here is None:
        raise ValueError(_NO_ANSWER)
    return here


def _choose(folder: Path, job: str | None, here: str) -> list[Submission]:
    """Return the jobs of a sweep on this cluster, or the one of them that is named."""
    submitted = [s for s in submissions.read(folder) if s.cluster == here]
    if job is None:
        return submitted
    known = {s.job_id: s for s in submitted}
    if job not in known:
        raise ValueError(f"{unknown('job', job, known)} (those of {folder.name} on {here})")
    return [known[job]]


def _living(
    submitted: Sequence[Submission],
) -> tuple[list[tuple[Submission, list[Job]]], list[str]]:
    """Return this user's jobs that have not ended, and a line for each of another user."""
    told = slurm_jobs.ask([s.name for s in submitted], ASK_SECONDS)
    if told is None:
        raise ValueError(_NO_ANSWER)
    living, others = [], []
    for submission in submitted:
        jobs = [job for job in submission.find(told) if not job.is_over]
        # Accounting does not say whose they are.
        users = {job.user for job in jobs} - {"", slurm_jobs.user()}
        if users:
            whose = ", ".join(sorted(users))
            others.append(f"job {submission.job_id} belongs to {whose}, who alone may cancel it")
        elif jobs:
            living.append((submission, jobs))
    return living, others


def _agrees(sweep: str, number: int) -> bool:
    if not sys.stdin.isatty():
        raise ValueError("no terminal to ask on; --yes cancels without asking")
    which = "this job" if number == 1 else f"these {number} jobs"
    try:
        answer = input(f"cancel {which} of {sweep}? [y/N] ")
    except EOFError:  # Ctrl-D, which leaves the cursor behind the question
        print()
        return False
    return answer.strip().lower() in ("y", "yes")


def _scancel(jobs: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            ["scancel", *jobs], env=slurm_jobs.environment("scancel"), capture_output=True,
            text=True, timeout=_END_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ValueError(_NO_ANSWER) from None
    if done.returncode:
        raise ValueError(f"scancel: {read_complaint(done.stderr) or done.returncode}")


def _wait_for_the_end(submitted: Sequence[Submission]) -> None:
    deadline = time.monotonic() + _END_SECONDS
    while _living(submitted)[0]:
        if time.monotonic() > deadline:
            raise ValueError(
                f"its jobs have not ended {_END_SECONDS:.0f} s after scancel; see squeue"
            )
        time.sleep(_POLL_SECONDS)


def _record_trials(results: Path, folder: Path, here: str) -> None:
    """Record the trials of jobs that are gone; wait for claims that still look alive."""
    deadline = time.monotonic() + 1.5 * LEASE_SECONDS  # a lease, and watching the claim after it
    found, held = _record_free(results, folder, here)
    if held:
        print(f"waiting until the processes of {number_of(held, 'trial')} let go", flush=True)
    while held and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        more, held = _record_free(results, folder, here)
        found |= more
    print("\n".join([*lost.describe(found), _count(results, folder)]))
    if held:
        watch = as_typed(shlex.join(["pwmray", "watch", folder.name, *give_results(results)]))
        later = f"`{watch}` records them later"
        print(f"still held: {number_of(held, 'trial')}; {later}")


def _record_free(results: Path, folder: Path, here: str) -> tuple[dict[str, Lost], int]:
    """Record trials of gone jobs that nobody holds; return them, and how many are still held."""
    trials = lost.in_hands(list_trials(results, read_sweep(folder).get("trials", [])), here)
    known = slurm_jobs.ask({name for t in trials.values() for name in t.jobs}, ASK_SECONDS)
    gone = {name: t for name, t in trials.items() if known is not None and lost.judge(t, known)}
    found = lost.settle(results, gone, known or [])
    return found, len(gone) - len(found)


def _count(results: Path, folder: Path) -> str:
    """Return how many of the sweep's trials have each status, which their driver may have set."""
    trials = list_trials(results, read_sweep(folder).get("trials", []))
    counts = Counter(trial.status or "not asked for" for trial in trials.values())
    return f"{folder.name}: {', '.join(f'{number} {status}' for status, number in counts.items())}"


if __name__ == "__main__":
    from pwmray.cli import main  # which gathers this command with the others

    sys.exit(main(["cancel", *sys.argv[1:]]))
