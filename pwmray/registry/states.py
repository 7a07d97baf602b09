"""Where trials stand, in a word each, and how far they have come, for `status` and `watch`."""

import contextlib
import datetime
import functools
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pwmray import registry
from pwmray.durations import format_duration
from pwmray.registry import CURVE_FILE, Status, processes
from pwmray.registry.listing import Summary, list_trials
from pwmray.registry.sweep_folders import IMPORTED, SWEEP_FILE, names_in, read_sweep

NEW = "new"  # without a record: no driver has queued it yet, or its folder was deleted
STATES = ("done", "running", "waiting", "stopped", "failed", "cancelled", "early", NEW)
_OF_STATUS = {
    Status.EVALUATED: "done",
    Status.FAILED: "failed",
    Status.CANCELLED: "cancelled",
    Status.PENDING: "waiting",
    Status.QUEUED: "waiting",
}
_BEGIN_SECONDS = 30.0  # at most, from writing a sweep's file to queueing its first trial


def begins(folder: Path, count: Counter) -> bool:
    """Tell whether a driver opened a sweep a moment ago and has queued none of its trials yet."""
    try:
        age = time.time() - (folder / SWEEP_FILE).stat().st_mtime
    except OSError:  # deleted meanwhile
        return False
    return count[NEW] == count.total() and abs(age) < _BEGIN_SECONDS


def state_of(results: Path, fingerprint: str, trial: Summary) -> str:
    """Return one of STATES.

    A trial is "stopped" if its process is gone, or every driver that had it on its list, and
    "early" if a search stopped it as worse than others. One that a driver cancelled is "waiting"
    while another driver here lives that has it on its list, too.
    """
    if trial.status in (Status.RUNNING, Status.COMPLETED):  # when it last wrote an event
        is_alive = registry.running_elsewhere(registry.trial_folder(results, fingerprint))
        return "running" if is_alive else "stopped"
    if trial.is_early:
        return "early"
    second = int(time.monotonic())
    living = [driver for driver in trial.drivers if not _is_gone(*driver, second)]
    if trial.status == Status.CANCELLED:
        here = processes.machine()
        return "waiting" if any(machine == here for machine, *_ in living) else "cancelled"
    if trial.drivers and not living:
        return "stopped"
    return _OF_STATUS[Status(trial.status)] if trial.status else NEW


def states_of(results: Path, trials: dict[str, Summary]) -> dict[str, str]:
    """Return the state of each trial; update `trials` for those that ended meanwhile."""
    states = {name: state_of(results, name, trial) for name, trial in trials.items()}
    stopped = [name for name, state in states.items() if state == "stopped"]
    # A process records how its trial ended before it releases the claim.
    freed = list_trials(results, stopped, {}, is_anew=True)
    trials.update(freed)
    return states | {name: state_of(results, name, trial) for name, trial in freed.items()}


@functools.lru_cache(maxsize=256)
def _is_gone(machine: str, pid: int, started: str | None, second: int) -> bool:
    """Ask once a second for each driver, which may have thousands of trials on its list."""
    return processes.is_gone(machine, pid, started)


def read_asked(folders: Iterable[Path]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return the trials that each sweep asks for, and the states of imported trials.

    Imported trials have no record; the table of their sweep has their statuses.
    """
    asked, states = {}, {}
    for folder in folders:
        sweep = read_sweep(folder)
        asked[folder.name] = sweep.get("trials", [])
        if sweep.get("scale") == IMPORTED:
            from pwmray.results import read_table  # which loads pyarrow, see last_row

            table = read_table(folder / "trials.arrow", columns=("trial", "status"))
            rows = zip(table["trial"].to_pylist(), table["status"].to_pylist(), strict=True)
            states |= {name: _OF_STATUS[Status(status)] for name, status in rows}
    return asked, states


def count_states(
    asked: Mapping[str, Iterable[str]], states: Mapping[str, str], unreadable: Collection[str]
) -> dict[str, Counter]:
    """Return how many of each sweep's trials are in each state; unreadable ones do not count."""
    return {
        name: Counter(states.get(trial, NEW) for trial in of if trial not in unreadable)
        for name, of in asked.items()
    }


def count_lines(counts: Mapping[str, Counter]) -> list[str]:
    """Return the counts as a table; it has a column for NEW only if there are new trials."""
    states = STATES if any(count[NEW] for count in counts.values()) else STATES[:-1]
    rows = [
        (name, str(count.total()), *(str(count[state]) for state in states))
        for name, count in counts.items()
    ]
    return as_lines(("sweep", "trials", *states), rows)


def describe_unreadable(unreadable: Mapping[str, str]) -> list[str]:
    """Return a line for each trial that `list_trials` could not read."""
    return [f"left out: {why}" for why in unreadable.values()]


def running_rows(
    results: Path, sweeps: Iterable[Path], running: Mapping[str, Summary]
) -> dict[str, tuple[str, ...]]:
    """Return by fingerprint what running trials are called in the sweeps, and how far they are."""
    names = {k: v for sweep in sweeps for k, v in names_in(sweep).items()} if running else {}
    return {
        name: (names.get(name, name), *_how_far(registry.trial_folder(results, name), trial))
        for name, trial in running.items()
    }


def _how_far(folder: Path, trial: Summary) -> tuple[str, str, str, str]:
    """Return a running trial's epoch, epochs/s of its process, time left and newest return."""
    path, row, written = folder / CURVE_FILE, None, 0.0
    with contextlib.suppress(ValueError, OSError):  # not there yet, just begun again, or broken
        written, row = path.stat().st_mtime, last_row(path)
    if row is None or trial.started is None:
        return f"0/{trial.epochs}", "-", "-", "-"
    reached = row["epoch"]
    seconds = written - datetime.datetime.fromisoformat(trial.started).timestamp()
    done = reached - trial.started_at
    rate = done / seconds if done > 0 and seconds > 0 else None
    left = "-"
    if rate is not None and reached < trial.epochs:  # then its final evaluation runs
        left = format_duration(max((trial.epochs - reached) / rate - (time.time() - written), 0.0))
    shown = "-" if row["return_mean"] is None else f"{row['return_mean']:.1f}"
    return f"{reached}/{trial.epochs}", "-" if rate is None else f"{rate:.2f}", left, shown


def last_row(path: Path) -> dict[str, Any] | None:
    """Return the newest row of a trial's curve, None for a curve without rows."""
    from pwmray.results import read_table  # pyarrow takes as long to load as all the rest

    table = read_table(path)
    return table.slice(len(table) - 1).to_pylist()[0] if len(table) else None


def as_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table as lines, the first column aligned left and the others right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, *rows)
    ]
