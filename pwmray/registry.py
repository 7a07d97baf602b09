"""The record of every trial: one append-only file of events in the trial's own folder.

results/trials/<fingerprint>/
    events.jsonl       one line an event: time, status and what is known with it
    claim.json         who is running it now (pwmray.claim)
    checkpoint.pt      the last good state
    curve.arrow, evaluations.arrow
"""

import datetime
import json
import os
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from pwmray import claim

EVENTS_FILE = "events.jsonl"
CLAIM_FILE = "claim.json"


class Status(StrEnum):
    """Where a trial stands."""

    PENDING = "PENDING"  # asked for by a sweep
    QUEUED = "QUEUED"  # handed to the scheduler
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"  # trained to its last epoch
    EVALUATED = "EVALUATED"  # and its final checkpoint was run on the evaluation seeds
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


_S = Status
LEGAL_MOVES: dict[Status | None, set[Status]] = {
    None: {_S.PENDING},
    _S.PENDING: {_S.QUEUED, _S.CANCELLED},
    _S.QUEUED: {_S.QUEUED, _S.RUNNING, _S.FAILED, _S.CANCELLED},
    # A killed trial leaves its last status behind and is queued again from there.
    _S.RUNNING: {_S.QUEUED, _S.RUNNING, _S.COMPLETED, _S.FAILED, _S.CANCELLED},
    _S.COMPLETED: {_S.QUEUED, _S.RUNNING, _S.EVALUATED, _S.FAILED, _S.CANCELLED},
    _S.FAILED: {_S.QUEUED},
    _S.CANCELLED: {_S.QUEUED},
    _S.EVALUATED: set(),
}


@dataclass
class Record:
    """What a trial's events say: the last status, and every field's last value."""

    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def status(self) -> Status | None:
        return Status(self.events[-1]["status"]) if self.events else None

    def last(self, name: str) -> Any:
        """Return the last value recorded for `name`, or None."""
        return next((e[name] for e in reversed(self.events) if name in e), None)

    def time_of(self, *statuses: Status) -> datetime.datetime | None:
        """Return when the trial last entered one of `statuses`."""
        times = [e["time"] for e in self.events if e["status"] in statuses]
        return datetime.datetime.fromisoformat(times[-1]) if times else None

    def count(self, status: Status) -> int:
        """Return how often the trial entered `status`."""
        return sum(e["status"] == status for e in self.events)


def trial_folder(results: Path, fingerprint: str) -> Path:
    """Return the one folder of a trial, whichever sweeps ask for it."""
    return results / "trials" / fingerprint


def read(folder: Path) -> Record:
    """Return the record in `folder`, empty for a trial never asked for.

    A last line cut by a kill is left out; anything else unreadable raises ValueError.
    """
    path = folder / EVENTS_FILE
    if not path.exists():
        return Record()
    lines = path.read_bytes().split(b"\n")
    events = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            events.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path} line {number} is not an event: {error}") from error
    return Record(events)


def record(folder: Path, status: Status, **fields: Any) -> None:
    """Append an event; `fields` are plain data. An illegal move is an error of ours."""
    before = read(folder).status
    assert status in LEGAL_MOVES[before], f"{folder.name}: {before} -> {status} is not a legal move"
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    line = json.dumps({"time": now, "status": status, **fields}) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / EVENTS_FILE
    _drop_cut_line(path)
    with open(path, "ab") as file:
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def running_elsewhere(folder: Path) -> dict | None:
    """Return host and pid of the live process that runs the trial, or None."""
    return claim.owner(folder / CLAIM_FILE)


def _drop_cut_line(path: Path) -> None:
    """Cut what a kill left behind the last whole line, so that the next event starts afresh."""
    if not path.exists():
        return
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)
