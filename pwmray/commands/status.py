"""`pwmray status`: how many trials are in which state, and how far the running ones have come."""

import argparse
import sys
import time
from pathlib import Path

from pwmray import lost
from pwmray.commands import Subcommands, add_results_option, is_screen
from pwmray.registry.listing import list_trials
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
from pwmray.registry.sweep_folders import find_sweep, list_fingerprints, list_sweeps
from pwmray.wording import number_of

_WATCH_SECONDS = 2.0
_SLURM_SECONDS = 2.0  # for Slurm to answer; without an answer its trials stay as recorded
_RUNNING_HEADER = ("running", "epoch", "epochs/s", "time left", "return")
_CLEAR = "\x1b[H\x1b[2J"  # cursor home, erase the screen


def add_status_command(commands: Subcommands) -> None:
    """Add `status`."""
    status = commands.add_parser("status", help="count the trials by where they stand")
    status.add_argument("sweep", nargs="?", metavar="SWEEP", help="default: all sweeps")
    status.add_argument("--watch", action="store_true", help="refresh until all have ended")
    add_results_option(status)
    status.set_defaults(run=_show)


def _show(chosen: argparse.Namespace) -> None:
    while True:
        text, is_over = _status(chosen.results, chosen.sweep)
        is_cleared = chosen.watch and is_screen(sys.stdout)
        print(f"{_CLEAR}{text}" if is_cleared else text, flush=True)
        if is_over or not chosen.watch:
            return
        time.sleep(_WATCH_SECONDS)


def _status(results: Path, sweep: str | None) -> tuple[str, bool]:
    """Return the text, and whether nothing runs or waits any more."""
    if sweep is None:
        folders = [results / name for name in list_sweeps(results)]
    else:
        folders = [find_sweep(results, sweep)]
    asked, imported = read_asked(folders)
    every = list_fingerprints(results) if sweep is None else asked[folders[0].name]
    unreadable: dict[str, str] = {}
    trials = list_trials(results, [name for name in every if name not in imported], unreadable)
    unwritten: set[str] = set()
    found = lost.settle_all(results, trials, _SLURM_SECONDS, unwritten)
    trials |= list_trials(results, found)
    states = states_of(results, trials) | imported
    counts = count_states(asked, states, unreadable)
    lines = [
        *count_lines(counts),
        f"{number_of(len(states), 'trial')} in {results}",
        *lost.describe(found),
    ]
    lines += [*describe_unreadable(unreadable), *sorted(unwritten)]
    running = {name: trials[name] for name, state in states.items() if state == "running"}
    if rows := running_rows(results, folders, running).values():
        lines += ["", *as_lines(_RUNNING_HEADER, sorted(rows))]
    # A new trial is not waiting: perhaps no driver ever comes for it.
    is_beginning = any(begins(folder, counts[folder.name]) for folder in folders)
    is_over = not is_beginning and not {"running", "waiting"} & set(states.values())
    return "\n".join(lines), is_over
