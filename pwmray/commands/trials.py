"""`pwmray show`, `pwmray note` and `pwmray failures`: single trials, in detail and with notes."""

import argparse
import contextlib
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pwmray import registry
from pwmray.commands import Subcommands, add_results_option
from pwmray.failures import Failure, essence, failure_of
from pwmray.registry import (
    BEST_FILE,
    CHECKPOINT_FILE,
    CURVE_FILE,
    EVALUATIONS_FILE,
    Record,
    Status,
    claim,
)
from pwmray.registry.states import as_lines, last_row
from pwmray.registry.sweep_folders import find_sweep, find_trial, names_in, names_of_all, read_sweep
from pwmray.system import user_name
from pwmray.tensorboard_file import EVENT_FILES
from pwmray.tracking import wandb_state
from pwmray.wording import number_of, one_line

_TRIAL = "its fingerprint, the beginning of it, or its name in results/<sweep>/trials"
_NOT_SHOWN = ("time", "status", "config", "traceback")  # fields that an event's line leaves out
_NUM_LINES = 6  # of a traceback, from its end
_Row = tuple[str, str, str]


def add_trial_commands(commands: Subcommands) -> None:
    """Add `show`, `note` and `failures`."""
    show = commands.add_parser("show", help="show everything about a trial")
    show.add_argument("trial", metavar="TRIAL", help=_TRIAL)
    add_results_option(show)
    show.set_defaults(run=_show)
    note = commands.add_parser("note", help="add a note to a trial's record, for good")
    note.add_argument("trial", metavar="TRIAL", help=_TRIAL)
    note.add_argument("text", metavar="TEXT")
    add_results_option(note)
    note.set_defaults(run=_note)
    failures = commands.add_parser("failures", help="list a sweep's failed trials by cause")
    failures.add_argument("sweep", metavar="SWEEP")
    add_results_option(failures)
    failures.set_defaults(run=_list_failures)


def _note(chosen: argparse.Namespace) -> None:
    folder = find_trial(chosen.results, chosen.trial)
    if not chosen.text.strip():
        raise ValueError("the note is empty; notes are never deleted, so an empty one says nothing")
    if any("\ud800" <= letter <= "\udfff" for letter in chosen.text):  # bytes that are no text
        raise ValueError(f"the note {chosen.text!r} is not valid UTF-8")
    # LOGNAME may be another's, as after `su` without a dash.
    registry.add_note(folder, chosen.text, user_name(os.geteuid()))
    print(f"noted on {names_of_all(chosen.results).get(folder.name, folder.name)}")


def _show(chosen: argparse.Namespace) -> None:
    folder = find_trial(chosen.results, chosen.trial)
    record = registry.read(folder)
    print(f"trial        {folder.name}")
    print(f"name         {names_of_all(chosen.results).get(folder.name, folder.name)}")
    print(f"status       {_describe_status(folder, record)}")
    for name in ("kernels", "cuda_graph"):
        if record.last(name):
            print(f"{name:<12} {record.last(name)}")
    sections: dict[str, Callable[[], list[str]]] = {
        "config": lambda: _config_lines(record),
        "events": lambda: _event_lines(record),
        "curve": lambda: _curve_lines(folder),
        "evaluation": lambda: _evaluation_lines(folder),
        "checkpoints": lambda: _checkpoint_lines(folder),
        "tracking": lambda: _tracking_lines(folder),
        "traceback": lambda: _last_lines(record) if record.status is Status.FAILED else [],
        "notes": lambda: _note_lines(folder),
    }
    for title, read in sections.items():
        if lines := _readable(read):
            print("\n".join(["", title, *(f"  {line}" for line in lines)]))


def _describe_status(folder: Path, record: Record) -> str:
    if record.status is None:
        return "never asked for"
    owner = registry.running_elsewhere(folder)
    where = f", in process {claim.describe(owner)}" if owner else ""
    failure = failure_of(record)
    return f"{record.status}{f' ({failure})' if failure else ''}{where}"


def _config_lines(record: Record) -> list[str]:
    flat = dict(registry.flat_settings(record.last("config") or {}))
    width = max(map(len, flat), default=0)
    return [f"{key:<{width}}  {value}" for key, value in flat.items()]


def _event_lines(record: Record) -> list[str]:
    return [
        f"{event['time'][:19]} {event.get('status', '-'):<9} "
        + ", ".join(f"{k} {_short(v)}" for k, v in event.items() if k not in _NOT_SHOWN)
        for event in record.events
    ]


def _curve_lines(folder: Path) -> list[str]:
    path = folder / CURVE_FILE
    row = last_row(path) if path.exists() else None
    return [] if row is None else [f"{k:<26} {_short(v)}" for k, v in row.items() if k != "trial"]


def _evaluation_lines(folder: Path) -> list[str]:
    path = folder / EVALUATIONS_FILE
    if not path.exists():
        return []
    import numpy as np

    from pwmray.results import EVALUATIONS, POLICY, read_table

    returns: dict[str, list[float]] = defaultdict(list)
    for row in read_table(path, EVALUATIONS).to_pylist():
        returns[row["actor"] or POLICY].append(row["return"])
    return [
        f"{actor:<8} {number_of(len(values), 'episode')}, return {np.mean(values):.2f}, "
        f"min {min(values):.2f}, max {max(values):.2f}"
        for actor, values in returns.items()
    ]


def _checkpoint_lines(folder: Path) -> list[str]:
    paths = [folder / name for name in (CHECKPOINT_FILE, BEST_FILE)]
    return [f"{p.name:<14} {p.stat().st_size / 1e6:.1f} MB  {p}" for p in paths if p.exists()]


def _tracking_lines(folder: Path) -> list[str]:
    place = wandb_state.place_of(folder)
    lines = [f"W&B          {place}"] if place else []
    return lines + [f"TensorBoard  {path}" for path in sorted(folder.glob(EVENT_FILES))]


def _list_failures(chosen: argparse.Namespace) -> None:
    sweep = find_sweep(chosen.results, chosen.sweep)
    names = names_in(sweep)
    groups: dict[tuple[Failure, str], list[tuple[Record, _Row]]] = defaultdict(list)
    for fingerprint in read_sweep(sweep).get("trials", []):
        folder = registry.trial_folder(chosen.results, fingerprint)
        try:
            record = registry.read(folder)
        except (ValueError, OSError) as error:
            print(f"left out: {one_line(error)}")
            continue
        failure = failure_of(record)
        if failure is not None:
            shown = f"  {names.get(fingerprint) or fingerprint}"
            retries = record.all("retry").count(failure)
            row = (shown, str(_epoch_reached(folder, record)), str(retries))
            groups[failure, essence(str(record.last("reason")))].append((record, row))
    if not groups:
        print(f"no trial of {chosen.sweep} has failed")
    for (failure, _), trials in sorted(groups.items(), key=lambda item: -len(item[1])):
        print("\n".join([*_group_lines(failure, trials), ""]))


def _epoch_reached(folder: Path, record: Record) -> int:
    """Return how far a trial came: one that was killed could not record it, but left its rows."""
    row = None
    with contextlib.suppress(ValueError, OSError):  # there are none, or they are broken
        row = last_row(folder / CURVE_FILE)
    return max(record.last("epochs_reached") or 0, row["epoch"] if row else 0)


def _group_lines(failure: Failure, trials: list[tuple[Record, _Row]]) -> list[str]:
    """Return the lines of one cause: its trials, and the different ends of their tracebacks."""
    lines = [f"{failure}, {number_of(len(trials), 'trial')}: {trials[0][0].last('reason')}"]
    lines += as_lines(("  trial", "epoch", "retries"), [row for _, row in trials])
    ends = {essence("\n".join(end)): end for record, _ in trials if (end := _last_lines(record))}
    for end in ends.values():
        lines += [f"    {line}" for line in end]
    return lines


def _readable(read: Callable[[], list[str]]) -> list[str]:
    """Return the lines of a section, or why it cannot be read: the others may still help."""
    try:
        return read()
    except (ValueError, OSError) as error:
        return [f"left out: {one_line(error)}"]


def _note_lines(folder: Path) -> list[str]:
    notes, broken = registry.read_notes(folder)
    lines = [f"{note['time'][:19]} {note['user']}: {note['note']}" for note in notes]
    return lines + [f"left out: {why}" for why in broken]


def _last_lines(record: Record) -> list[str]:
    return str(record.last("traceback") or "").rstrip().splitlines()[-_NUM_LINES:]


def _short(value: Any) -> str:
    text = f"{value:z.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
