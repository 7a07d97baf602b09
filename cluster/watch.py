"""`pwmray watch`: a sweep's Slurm jobs and its trials in one table, refreshed until it is over.

`Watcher.look` collects what there is to see, and `as_text` draws it.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cluster import dashboards, submissions
from cluster.slurm import ASK_SECONDS
from cluster.submissions import Submission
from pwmray import lost, registry, slurm_jobs
from pwmray.commands import Subcommands, add_results_option, is_screen
from pwmray.lost import Lost
from pwmray.registry import Status
from pwmray.registry.listing import Summary, list_trials
from pwmray.registry.states import (
    as_lines,
    begins,
    count_lines,
    count_states,
    describe_unreadable,
    read_asked,
    running_rows,
    states_of,
)
from pwmray.registry.sweep_folders import find_sweep, list_sweeps
from pwmray.slurm_jobs import Job

NOT_ALL_DONE = 1  # exit code: the sweep is over, and not every trial is done
_REFRESH_SECONDS = 5.0  # all users' commands ask one controller
_NO_ANSWER = "Slurm does not answer: its jobs are shown as last seen"
_JOB_HEADER = ("job", "profile", "state", "nodes", "where", "time", "limit", "restarts", "trials")
_TRIAL_HEADER = ("running", "epoch", "epochs/s", "time left", "return", "job", "node", "device")


class JobRow(NamedTuple):
    """A job, and in `why` whose it is, the reason that it waits or how it ended, as need be."""

    cells: tuple[str, ...]  # as _JOB_HEADER
    why: str


class View(NamedTuple):
    """What there is to see of some sweeps at one moment."""

    counts: dict[str, Counter]  # of each sweep's trials by state
    jobs: list[JobRow]
    trials: list[tuple[str, ...]]  # as _TRIAL_HEADER
    remarks: list[str]
    is_over: bool
    is_whole: bool  # all records could be read

    @property
    def is_done(self) -> bool:
        """Whether every trial is done."""
        return self.is_whole and all(
            count["done"] == count.total() for count in self.counts.values()
        )


def add_watch_command(commands: Subcommands) -> None:
    """Add `watch`."""
    watch = commands.add_parser("watch", help="show Slurm jobs and trials until the sweep is over")
    watch.add_argument("sweep", nargs="?", metavar="SWEEP", help="default: all sweeps")
    watch.add_argument("--once", action="store_true", help="print the table once and exit")
    add_results_option(watch)
    watch.set_defaults(run=_watch)


def _watch(chosen: argparse.Namespace) -> int:
    results = chosen.results
    names = list_sweeps(results) if chosen.sweep is None else [chosen.sweep]
    watcher = Watcher(results, [find_sweep(results, name) for name in names])
    if chosen.once:
        print(as_text(watcher.look()))
        return 0
    last = _show_on_screen(watcher) if is_screen(sys.stdout) else _print_on(watcher)
    return 0 if last.is_done else NOT_ALL_DONE


def _show_on_screen(watcher: "Watcher") -> View:
    from rich.text import Text

    from pwmray.commands.display import Display

    view = watcher.look()
    with Display(sys.stdout, lambda: Text(as_text(view)), auto_refresh=False) as display:
        display.refresh()
        while not view.is_over:
            time.sleep(_REFRESH_SECONDS)
            view = watcher.look()
            display.refresh()
    return view


def _print_on(watcher: "Watcher") -> View:
    """Print the view whenever it has changed, for a log file."""
    said = ""
    while True:
        view = watcher.look()
        text = as_text(view)
        if text != said:
            print(text, flush=True)
        if view.is_over:
            return view
        said = text
        time.sleep(_REFRESH_SECONDS)


class Watcher:
    """Look at some sweeps of a results folder again and again."""

    def __init__(self, results: Path, folders: Sequence[Path]):
        self._results = results
        self._folders = folders
        self._past: dict[str, list[Job]] = {}  # what accounting says of jobs that squeue forgot
        self._jobs: list[tuple[Submission, Job]] = []
        self._set_right: dict[str, Lost] = {}
        self._unwritten: set[str] = set()  # why some trials cannot be set right

    def look(self) -> View:
        """Return the view, after setting right the trials whose jobs are gone."""
        asked, imported = read_asked(self._folders)
        recorded = {name for of in asked.values() for name in of} - imported.keys()
        unreadable: dict[str, str] = {}
        trials = list_trials(self._results, recorded, unreadable)
        broken: list[str] = []  # lines of the record of jobs: such a job may be running
        submitted = [s for folder in self._folders for s in submissions.read(folder, broken)]
        jobs, remark = self._ask(submitted, trials)
        remark += [f"left out: {why}" for why in broken]
        # Read again after asking Slurm: the trials of a job that is over no longer change.
        open_ = {name for name, trial in trials.items() if trial.status != Status.EVALUATED}
        trials |= list_trials(self._results, open_, unreadable)
        states = states_of(self._results, trials) | imported
        is_active = any(not job.is_over for _, job in jobs)
        waiting = [trials[n] for n, state in states.items() if state == "waiting" and n in trials]
        # If Slurm says that no job is left, only a driver outside it can begin waiting trials.
        is_slurms = submitted and not remark
        outside = [trial for trial in waiting if not trial.jobs and trial.status != Status.PENDING]
        may_begin = bool(outside if is_slurms else waiting)
        running = {name: trials[name] for name, state in states.items() if state == "running"}
        counts = count_states(asked, states, unreadable)
        may_begin |= any(begins(folder, counts[folder.name]) for folder in self._folders)
        is_over = not (running or is_active or may_begin)
        if _NO_ANSWER in remark:
            is_over = not unreadable and _are_all_done(states, submitted)
        return View(
            counts=counts,
            jobs=[_job_row(s, job, running.values()) for s, job in jobs],
            trials=self._trial_rows(running, {job.job_id: job.shown_id for _, job in jobs}),
            remarks=[
                *remark,
                *lost.describe(self._set_right),
                *sorted(self._unwritten),
                *describe_unreadable(unreadable),
                *dashboards.describe(self._folders, [job for _, job in jobs]),
            ],
            is_over=is_over,
            is_whole=not (unreadable or broken),
        )

    def _ask(
        self, submitted: Sequence[Submission], trials: Mapping[str, Summary]
    ) -> tuple[list[tuple[Submission, Job]], list[str]]:
        """Ask Slurm for the jobs and set trials right; return the jobs and remarks."""
        if not slurm_jobs.is_here():
            return [], ["no Slurm on this machine: this is what the trials' records say"]
        if not submitted and not any(trial.jobs for trial in trials.values()):
            return [], []
        here = slurm_jobs.cluster_name(ASK_SECONDS)
        if here is None:
            return self._jobs, [_NO_ANSWER]
        doubtful = lost.find_doubtful(self._results, trials, here)
        ours = [s for s in submitted if s.cluster == here]
        names = {s.name for s in ours} | {n for trial in doubtful.values() for n in trial.jobs}
        told = slurm_jobs.ask(names, ASK_SECONDS, self._past)
        if told is None:
            return self._jobs, [_NO_ANSWER]
        self._unwritten.clear()
        self._set_right |= lost.settle(self._results, doubtful, told, self._unwritten)
        self._jobs = [(s, job) for s in ours for job in s.find(told)]
        others = sorted({s.cluster for s in submitted} - {here})
        return self._jobs, [f"more jobs were submitted on {name}: look there" for name in others]

    def _trial_rows(
        self, running: Mapping[str, Summary], ids: Mapping[str, str]
    ) -> list[tuple[str, ...]]:
        """Return a row for each running trial; `ids` has the jobs' ids as people know them."""
        rows = []
        for name, row in running_rows(self._results, self._folders, running).items():
            record = registry.read(registry.trial_folder(self._results, name))
            job, *place = (
                str(record.last(key) or "-") for key in ("slurm_job_id", "host", "device")
            )
            rows.append((*row, ids.get(job, job), *place))
        return sorted(rows)


def as_text(view: View) -> str:
    """Draw a view: the trials by state, the jobs, remarks, and the running trials."""
    lines = count_lines(view.counts)
    if view.jobs:
        header, *table = as_lines(_JOB_HEADER, [row.cells for row in view.jobs])
        lines += ["", header]
        for row, line in zip(view.jobs, table, strict=True):
            lines += [line, *([f"  {row.why}"] if row.why else [])]
    if view.remarks:
        lines += ["", *view.remarks]
    if view.trials:  # last: it may be longer than the screen
        lines += ["", *as_lines(_TRIAL_HEADER, view.trials)]
    return "\n".join(lines)


def _job_row(submission: Submission, job: Job, running: Iterable[Summary]) -> JobRow:
    in_it = {job.job_id, *job.array_tasks}
    number = sum(not in_it.isdisjoint(trial.jobs) for trial in running)
    is_past = not job.num_nodes  # from accounting, which was only asked how it ended
    num_nodes, restarts = ("-", "-") if is_past else (str(job.num_nodes), str(job.restarts))
    cells = (
        job.shown_id, submission.profile, job.state, num_nodes, job.nodes or "-",
        job.time_used or "-", job.time_limit or "-", restarts, str(number),
    )  # fmt: skip
    how = slurm_jobs.describe_end(job)
    why = slurm_jobs.describe_wait(job) or ("" if how == job.state else how)
    whose = "" if job.user in ("", slurm_jobs.user()) else f"{job.user}'s"
    return JobRow(cells, "; ".join(filter(None, [whose, why])))


def _are_all_done(states: Mapping[str, str], submitted: Sequence[Submission]) -> bool:
    """Tell whether every trial is done, and a search has no more to propose."""
    num_expected = max((submission.trials for submission in submitted), default=0)
    return set(states.values()) == {"done"} and len(states) >= num_expected


if __name__ == "__main__":
    from pwmray.cli import main  # which gathers this command with the others

    sys.exit(main(["watch", *sys.argv[1:]]))
