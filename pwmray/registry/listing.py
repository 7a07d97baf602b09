"""Where all trials of a results folder stand, in a second for ten thousand of them.

The truth is in the trials' events. The cache results/.listing.json keeps each trial's summary with
the size and time of its events file, and a summary is made again when these differ. The cache may
be deleted at any moment.
"""

import contextlib
import itertools
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from pwmray import registry
from pwmray.files import ask_anew, remove_drafts, replacing
from pwmray.registry import EVENTS_FILE, Record, Status
from pwmray.wording import one_line

CACHE_FILE = ".listing.json"
_FORMAT = "pwmray-listing-7"
_Driver = list  # machine, process and when that started


class Summary(NamedTuple):
    """What a list says of a trial."""

    status: str | None
    epochs: int  # asked for; 0 if the record does not say
    started: str | None  # when its last process began
    started_at: int  # the epoch from which that process went on
    jobs: list[str]  # Slurm jobs that may run it; empty if a driver outside Slurm may
    cluster: str | None  # of these jobs
    users: list[str]  # whose jobs these are, by their numbers; of earlier versions' nobody knows
    drivers: list[_Driver]  # outside Slurm that may run it; empty if any of them is unknown
    is_early: bool  # whether a search stopped it early


def list_trials(
    results: Path,
    fingerprints: Iterable[str],
    unreadable: dict[str, str] | None = None,
    is_anew: bool = False,
) -> dict[str, Summary]:
    """Return the summaries of these trials; one without a record has no status.

    A trial whose events file cannot be read is left out, and `unreadable` gets the reason. Without
    `unreadable` that raises ValueError or OSError naming the file. A network file system may show
    what was there a minute ago, unless `is_anew`, which costs a few calls for each trial.
    """
    cache = results / CACHE_FILE
    known = _read_cache(cache)
    trials: dict[str, Summary] = {}
    is_news = False
    for fingerprint in fingerprints:
        folder = os.path.join(results, "trials", fingerprint)
        if is_anew:
            ask_anew(Path(folder))  # a claim may have been taken since
            ask_anew(Path(folder, EVENTS_FILE))
        before = known.get(fingerprint)
        try:
            entry = _look_up(folder, before)
        except (ValueError, OSError) as error:  # a broken line, or the folder is another user's
            if unreadable is None:
                raise
            unreadable[fingerprint] = one_line(error)
            continue
        trials[fingerprint] = Summary(*entry[1])
        if entry is not before and entry[0] is not None:
            known[fingerprint], is_news = entry, True
    if is_news:
        _write_cache(cache, known)
    return trials


def _look_up(folder: str, known: list | None) -> list:
    """Return the stamp of a trial's events, None without any, and the trial's summary.

    That is what is `known` where its stamp is the same.
    """
    try:
        # Not through pathlib, which takes as long as the call itself.
        found = os.stat(os.path.join(folder, EVENTS_FILE))
    except FileNotFoundError:
        return [None, summarize(Record())]
    stamp = [found.st_mtime_ns, found.st_size]
    if known is not None and known[0] == stamp:
        return known
    return [stamp, summarize(registry.read(Path(folder)))]


def summarize(record: Record) -> Summary:
    """Return the summary of a trial's events."""
    moves = [event for event in record.events if "status" in event]
    starts = [event for event in moves if event["status"] == Status.RUNNING]
    holders = _holders(moves)
    return Summary(
        status=record.status,
        epochs=(record.last("config") or {}).get("epochs", 0),
        started=starts[-1]["time"] if starts else None,
        started_at=starts[-1].get("epoch", 0) if starts else 0,
        jobs=_jobs_of(holders),
        cluster=record.last("slurm_cluster"),
        users=_users_of(holders),
        drivers=_drivers_of(moves),
        is_early=record.is_stopped_early,
    )


def _holders(moves: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events by which drivers have the trial on their lists, or a process runs it."""
    if not moves or moves[-1]["status"] not in registry.IN_HANDS:
        return []
    if moves[-1]["status"] == Status.QUEUED:  # several jobs may have it on their lists
        return _last_queued(moves)
    return [event for event in moves if event["status"] == Status.RUNNING][-1:]


def _jobs_of(holders: list[dict[str, Any]]) -> list[str]:
    """Return their Slurm jobs, the newest last; none where any of them is outside Slurm."""
    jobs = [_job_of(event) for event in holders]
    known = [job for job in jobs if job is not None]
    return list(dict.fromkeys(known)) if len(known) == len(jobs) else []


def _users_of(holders: list[dict[str, Any]]) -> list[str]:
    """Return whose these are; nobody's where an earlier version recorded one of them."""
    users = [event.get("slurm_uid") for event in holders]
    return [] if None in users else sorted({str(user) for user in users})


def _drivers_of(moves: list[dict[str, Any]]) -> list[_Driver]:
    """Return the drivers that had a trial on their lists when it was last queued.

    Of a cancelled one, all that had it since it last ended, but for the one that left it then.
    """
    if moves and moves[-1]["status"] == Status.CANCELLED:
        since = itertools.takewhile(lambda e: e["status"] not in registry.ENDS, reversed(moves))
        left_by = moves[-1].get("left_by")
        asked = [e for e in since if "driver" in e and e["driver"] != left_by]
    else:
        asked = _last_queued(moves)
    found = [event["driver"] for event in asked if isinstance(event.get("driver"), dict)]
    if len(found) < len(asked):
        return []
    each = [[driver.get(name) for name in ("machine", "pid", "started")] for driver in found]
    return [driver for place, driver in enumerate(each) if driver not in each[:place]]


def _last_queued(moves: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the QUEUED events at the end of a trial's events, the newest last."""
    asked = itertools.takewhile(lambda e: e["status"] == Status.QUEUED, reversed(moves))
    return list(asked)[::-1]


def _job_of(event: dict[str, Any]) -> str | None:
    """Return the name of an event's job as Slurm writes it: 4012555, 4012555_7, 4012555_*."""
    job, array = event.get("slurm_job_id"), event.get("slurm_array_job_id")
    if array is None:
        return None if job is None else str(job)
    task = event.get("slurm_array_task_id")
    return f"{array}_{'*' if task is None else task}"


def _read_cache(path: Path) -> dict[str, list]:
    try:
        content = json.loads(path.read_bytes())
        return content["trials"] if content["format"] == _FORMAT else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # it is only a cache


def _write_cache(path: Path, known: dict[str, list]) -> None:
    # A process that may not write here, has no room, or loses its draft to another one reads the
    # events again the next time.
    with contextlib.suppress(OSError):
        remove_drafts(path)
        with replacing(path) as draft:
            draft.write_text(json.dumps({"format": _FORMAT, "trials": known}))
