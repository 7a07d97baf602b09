"""The record of every trial: append-only events in the trial's own folder.

results/trials/<fingerprint>/
    events.jsonl       a line for each event: its time, the new status, and what else is known
    notes.jsonl        what people wrote about the trial; a file of its own, because the process
                       that runs the trial may be writing events at the same moment
    claim.json         which process runs it now (pwmray.registry.claim)
    checkpoint.pt      the last good state
    best.pt            the state with the highest return of an evaluation during training
    curve.arrow, evaluations.arrow
"""

import contextlib
import datetime
import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from pwmray.files import append_lines, read_lines, see_afresh
from pwmray.registry import claim, processes
from pwmray.wording import one_line

EVENTS_FILE = "events.jsonl"
NOTES_FILE = "notes.jsonl"
CLAIM_FILE = "claim.json"
CHECKPOINT_FILE = "checkpoint.pt"
BEST_FILE = "best.pt"
CURVE_FILE = "curve.arrow"
EVALUATIONS_FILE = "evaluations.arrow"
STOPPED_EARLY = "stopped_early"  # field of a CANCELLED event: a search is done with the trial
_EARLY = "the search stopped early at "  # how its `reason` begins; earlier versions had no field


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
    _S.FAILED: {_S.QUEUED, _S.CANCELLED},  # cancelled while it waits for a retry
    _S.CANCELLED: {_S.QUEUED, _S.RUNNING},  # runs if another driver had queued it, too
    _S.EVALUATED: set(),
}


_STATUSES = tuple(Status)
ENDS = (_S.EVALUATED, _S.FAILED)  # how the process that runs a trial leaves it
IN_HANDS = (_S.QUEUED, _S.RUNNING, _S.COMPLETED)  # of a scheduler or a process, if that lives


@dataclass
class Record:
    """A trial's events, the oldest first: each is a dictionary with a `time` (ISO 8601).

    An event with a `status` moves the trial there. One without, such as a pruning, only adds
    fields. The last value of a field counts.
    """

    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def status(self) -> Status | None:
        """Where the trial stands; None if no sweep ever asked for it."""
        status = self.last("status")
        return None if status is None else Status(status)

    @property
    def is_stopped_early(self) -> bool:
        """Whether a search stopped the trial for good, and nothing has run it since."""
        moves = [event for event in self.events if "status" in event]
        if not moves:
            return False
        return moves[-1].get(STOPPED_EARLY, str(moves[-1].get("reason")).startswith(_EARLY)) is True

    def last(self, name: str) -> Any:
        """Return the last value recorded for `name`, or None."""
        return next((e[name] for e in reversed(self.events) if name in e), None)

    def all(self, name: str) -> list[Any]:
        """Return every value recorded for `name`, the oldest first."""
        return [e[name] for e in self.events if name in e]

    def time_of(self, *statuses: Status) -> datetime.datetime | None:
        """Return when the trial last entered one of `statuses`."""
        times = [e["time"] for e in self.events if e.get("status") in statuses]
        return datetime.datetime.fromisoformat(times[-1]) if times else None

    def first_time_of(self, status: Status) -> datetime.datetime | None:
        """Return when the trial first entered `status`."""
        times = [e["time"] for e in self.events if e.get("status") == status]
        return datetime.datetime.fromisoformat(times[0]) if times else None

    def count(self, status: Status) -> int:
        """Return how often the trial entered `status`."""
        return sum(e.get("status") == status for e in self.events)


def trial_folder(results: Path, fingerprint: str) -> Path:
    """Return a trial's folder, which all sweeps share that ask for the trial."""
    return results / "trials" / fingerprint


def read(folder: Path) -> Record:
    """Return the record in `folder`, empty if no sweep ever asked for the trial.

    A last line that a kill cut off is ignored. Raises ValueError for any other unreadable line.
    """
    return Record(read_lines(folder / EVENTS_FILE, _read_event, "an event"))


def read_newest(folder: Path) -> Record:
    """Return the record as the last holder of the claim left it. The caller holds the claim.

    `read` may return an older one, which a network file system remembers.
    """
    see_afresh(folder / EVENTS_FILE)
    return read(folder)


def read_notes(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return people's notes on the trial (time, note, user), the oldest first.

    Also return a line for each note that cannot be read, which says why.
    """
    read_note = functools.partial(_read_event, names=("note", "user"))
    broken: list[str] = []
    try:
        return read_lines(folder / NOTES_FILE, read_note, "an event", broken), broken
    except OSError as error:
        return [], [one_line(error)]


def record(folder: Path, status: Status, **fields: Any) -> None:
    """Append an event that moves the trial to `status`. The caller holds its claim.

    `fields` are plain data. Asserts that the move is legal. Raises OSError if the disk has no room,
    and has written nothing then.
    """
    before = read(folder).status
    assert status in LEGAL_MOVES[before], f"{folder.name}: {before} -> {status} is not a legal move"
    _append(folder / EVENTS_FILE, {"status": status, **fields})


def queue(folder: Path, config: dict[str, Any], **fields: Any) -> None:
    """Append the event QUEUED, and before it PENDING with the `config` if the trial is new.

    The two are written together. QUEUED names this process as the driver that has the trial on its
    list, unless `fields` name a Slurm job, of which Slurm knows more. Otherwise as `record`.
    """
    if "slurm_job_id" not in fields:
        fields["driver"] = processes.this_process()
    before = read(folder).status
    asked = [{"status": _S.PENDING, "config": config}] if before is None else []
    is_legal = _S.QUEUED in LEGAL_MOVES[before or _S.PENDING]
    assert is_legal, f"{folder.name}: {before} -> QUEUED is not a legal move"
    _append(folder / EVENTS_FILE, *asked, {"status": _S.QUEUED, **fields})


def leave(folder: Path, status: Status, why: str, **job: Any) -> None:
    """Append the event by which a driver leaves a trial: QUEUED, as `queue` does, or CANCELLED.

    A driver that is a notebook's lives on, so a trial that it cancelled says by whom it was.
    """
    if status is Status.QUEUED:
        queue(folder, {}, reason=why, **job)
    else:
        record(folder, status, reason=why, left_by=processes.this_process())


def remark(folder: Path, **fields: Any) -> None:
    """Append an event that leaves the trial where it stands. The caller holds its claim."""
    _append(folder / EVENTS_FILE, fields)


def add_note(folder: Path, note: str, user: str) -> None:
    """Append a person's note on the trial; this needs no claim."""
    _append(folder / NOTES_FILE, {"note": note, "user": user})


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[Record | None]:
    """Hold the trial's claim for a few events; yield its record, or None if a process runs it.

    Only the holder of the claim writes events, so that the record stays as it was read.
    """
    held = claim.acquire(folder / CLAIM_FILE, is_brief=True)
    if held is None:
        yield None
        return
    with held:
        yield read_newest(folder)


def flat_settings(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of a recorded config by their dotted keys."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flat_settings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def running_elsewhere(folder: Path) -> dict | None:
    """Return the live process that runs the trial, as `claim.holder` does, or None."""
    return claim.owner(folder / CLAIM_FILE)


def is_refused_by_another(folder: Path, error: OSError) -> bool:
    """Tell whether writing a trial failed because its folder is another user's."""
    try:
        return isinstance(error, PermissionError) and folder.stat().st_uid != os.geteuid()
    except OSError:
        return False


def _read_event(line: bytes, names: Sequence[str] = ()) -> dict[str, Any]:
    """Read an event that has a time and text under `names`; raise ValueError for anything else."""
    event = json.loads(line)
    if b"\\ud" in line:  # bytes that are no text, in a file's name or an earlier version's note
        text = json.dumps(event, ensure_ascii=False)
        event = json.loads(text.encode(errors="replace"))
    if not isinstance(event, dict):
        raise ValueError("no JSON object")
    for name in ("time", *names):
        if not isinstance(event.get(name), str):
            raise ValueError(f"{name} is {event.get(name)!r}, not text")
    if datetime.datetime.fromisoformat(event["time"]).tzinfo is None:
        raise ValueError(f"the time {event['time']!r} has no zone")
    if "status" in event and event["status"] not in _STATUSES:
        raise ValueError(f"unknown status {event['status']!r}; valid: {', '.join(Status)}")
    return event


def _append(path: Path, *events: dict[str, Any]) -> None:
    """Append a line for each event and sync, or raise OSError and leave the file as it was."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    lines = (json.dumps({"time": now, **fields}) + "\n" for fields in events)
    append_lines(path, "".join(lines))
