"""`pwmray status`: how many trials stand where, and how far the running ones are."""

import argparse
import datetime
import functools
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pwmray import claim, lost, registry
from pwmray.commands import Subcommands, add_results_option
from pwmray.durations import format_duration
from pwmray.listing import Summary, list_trials
from pwmray.registry import CURVE_FILE, Status
from pwmray.sweep_folders import (
    IMPORTED,
    SWEEP_FILE,
    find_sweep,
    list_fingerprints,
    list_sweeps,
    names_in,
    read_sweep,
)

NEW = "new"  # without a record: no driver has come to it yet, or its folder was deleted
STATES = ("done", "running", "waiting", "stopped", "failed", "cancelled", "early", NEW)
_OF_STATUS = {
    Status.EVALUATED: "done",
    Status.FAILED: "failed",
    Status.CANCELLED: "cancelled",
    Status.PENDING: "waiting",
    Status.QUEUED: "waiting",
}
_WATCH_SECONDS = 2.0
_BEGIN_SECONDS = 30.0  # from a sweep's file to the first of its trials, at most
_SLURM_SECONDS = 2.0  # for Slurm to tell of trials in its hands; without an answer they stand
_CLEAR = "\x1b[H\x1b[2J"  # cursor home, erase the screen


def add_status_command(commands: Subcommands) -> None:
    """Add `status`."""
    status = commands.add_parser("status", help="how many trials stand where")
    status.add_argument("sweep", nargs="?", metavar="SWEEP", help="default: all sweeps")
    status.add_argument("--watch", action="store_true", help="again and again, until all ended")
    add_results_option(status)
    status.set_defaults(run=_show)


def _show(chosen: argparse.Namespace) -> None:
    while True:
        text, is_over = _status(chosen.results, chosen.sweep)
        is_screen = chosen.watch and sys.stdout.isatty()
        print(f"{_CLEAR}{text}" if is_screen else text, flush=True)
        if is_over or not chosen.watch:
            return
        time.sleep(_WATCH_SECONDS)


def _status(results: Path, sweep: str | None) -> tuple[str, bool]:
    """Return the text, and whether nothing runs or waits any more."""
    folders = [results / n for n in list_sweeps(results)] if sweep is None else []
    folders = folders or ([find_sweep(results, sweep)] if sweep is not None else [])
    sweeps = {folder: read_sweep(folder) for folder in folders}
    asked = {folder.name: found.get("trials", []) for folder, found in sweeps.items()}
    imported = imported_states(sweeps)
    every = list_fingerprints(results) if sweep is None else asked[folders[0].name]
    unreadable: dict[str, str] = {}
    trials = list_trials(results, [name for name in every if name not in imported], unreadable)
    unwritten: set[str] = set()
    found = lost.settle_all(results, trials, _SLURM_SECONDS, unwritten)
    trials |= list_trials(results, found)
    states = {name: state_of(results, name, trial) for name, trial in trials.items()} | imported
    counts = {
        name: Counter(states.get(t, NEW) for t in of if t not in unreadable)
        for name, of in asked.items()
    }
    lines = [*count_lines(counts), f"{len(states)} trials in {results}", *lost.describe(found)]
    lines += [*describe_unreadable(unreadable), *sorted(unwritten)]
    running = [name for name, state in states.items() if state == "running"]
    names = {k: v for folder in folders for k, v in names_in(folder).items()} if running else {}
    lines += _running_lines(results, running, trials, names)
    # Nobody need come for a new one; a driver that does queues it as it starts.
    is_beginning = any(begins(folder, counts[folder.name]) for folder in folders)
    is_over = not is_beginning and not {"running", "waiting"} & set(states.values())
    return "\n".join(lines), is_over


def begins(folder: Path, count: Counter) -> bool:
    """Tell whether a driver opened a sweep a moment ago and has queued none of its trials yet."""
    try:
        age = time.time() - (folder / SWEEP_FILE).stat().st_mtime
    except OSError:  # deleted meanwhile
        return False
    return count[NEW] == count.total() and abs(age) < _BEGIN_SECONDS


def state_of(results: Path, fingerprint: str, trial: Summary) -> str:
    """Return one of STATES.

    Stopped is a trial whose process is gone, or every driver that had it on its list; early one
    that was stopped as worse than others.
    """
    if not trial.may_run:
        if trial.is_early:
            return "early"
        if trial.drivers and all(_is_gone(*driver, _second()) for driver in trial.drivers):
            return "stopped"
        return _OF_STATUS[Status(trial.status)] if trial.status else NEW
    is_alive = registry.running_elsewhere(registry.trial_folder(results, fingerprint))
    return "running" if is_alive else "stopped"


@functools.lru_cache(maxsize=256)
def _is_gone(machine: str, pid: int, started: str | None, second: int) -> bool:
    """Ask of each process once a second: one driver may have thousands of trials on its list."""
    return claim.is_gone(machine, pid, started)


def _second() -> int:
    return int(time.monotonic())


def imported_states(sweeps: Mapping[Path, Mapping[str, Any]]) -> dict[str, str]:
    """Return the states of those sweeps' trials that were imported, by fingerprint.

    `sweeps` is by folder what it says of itself. Such trials have a row in its table, no record.
    """
    states = {}
    for folder, sweep in sweeps.items():
        if sweep.get("scale") == IMPORTED:
            from pwmray.results import read_table  # see last_row

            table = read_table(folder / "trials.arrow", columns=("trial", "status"))
            rows = zip(table["trial"].to_pylist(), table["status"].to_pylist(), strict=True)
            states |= {name: _OF_STATUS[Status(status)] for name, status in rows}
    return states


def count_lines(counts: Mapping[str, Counter]) -> list[str]:
    """Return the table of how many trials of each sweep are in each of STATES, new if any is."""
    states = STATES if any(count[NEW] for count in counts.values()) else STATES[:-1]
    rows = [
        (name, str(count.total()), *(str(count[state]) for state in states))
        for name, count in counts.items()
    ]
    return as_lines(("sweep", "trials", *states), rows)


def describe_unreadable(unreadable: Mapping[str, str]) -> list[str]:
    """Return a line for each trial that is not counted, by what `list_trials` says of it."""
    return [f"left out: {why}" for why in unreadable.values()]


def _running_lines(
    results: Path, running: Iterable[str], trials: Mapping[str, Summary], names: Mapping[str, str]
) -> list[str]:
    rows = []
    for fingerprint in running:
        folder = registry.trial_folder(results, fingerprint)
        rows.append((names.get(fingerprint, fingerprint), *how_far(folder, trials[fingerprint])))
    if not rows:
        return []
    header = ("running", "epoch", "epochs/s", "time left", "return")
    return ["", *as_lines(header, sorted(rows))]


def how_far(folder: Path, trial: Summary) -> tuple[str, str, str, str]:
    """Return epoch, epochs/s since its process took it up, time left and the newest return."""
    path = folder / CURVE_FILE
    row = last_row(path) if path.exists() else None
    if row is None or trial.started is None:
        return f"0/{trial.epochs}", "-", "-", "-"
    reached, written = row["epoch"], path.stat().st_mtime
    seconds = written - datetime.datetime.fromisoformat(trial.started).timestamp()
    done = reached - trial.started_at
    rate = done / seconds if done > 0 and seconds > 0 else None
    left = "-"
    if rate is not None:
        left = format_duration(max((trial.epochs - reached) / rate - (time.time() - written), 0.0))
    shown = "-" if row["return_mean"] is None else f"{row['return_mean']:.1f}"
    return f"{reached}/{trial.epochs}", "-" if rate is None else f"{rate:.2f}", left, shown


def last_row(path: Path) -> dict[str, Any] | None:
    """Return the newest row of a trial's curve."""
    from pwmray.results import read_table  # pyarrow takes as long to load as all the rest

    table = read_table(path)
    return table.slice(len(table) - 1).to_pylist()[0] if len(table) else None


def as_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table as lines, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, *rows)
    ]
