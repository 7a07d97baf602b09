"""Where all trials of a results folder stand, in a second for ten thousand of them.

The truth is in the trials' events. What was folded out of an events file is kept in
results/.listing.json together with the file's size and time, and folded again when those differ;
the file may be deleted at any moment.
"""

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pwmray import registry
from pwmray.files import replacing
from pwmray.registry import EVENTS_FILE, Record, Status

CACHE_FILE = ".listing.json"
_FORMAT = "pwmray-listing-1"


class Summary(NamedTuple):
    """A trial in a line of a list."""

    status: str | None
    since: str | None  # when it came to that status, ISO 8601
    epochs: int  # asked for; 0 where the record does not say
    started: str | None  # when its last process took it up
    started_at: int  # the epoch at which that was
    return_mean: float | None  # of the final evaluation

    @property
    def may_run(self) -> bool:
        """Whether its last word was of a running process, which may be gone by now."""
        return self.status in (Status.RUNNING, Status.COMPLETED)


def list_trials(results: Path, fingerprints: Iterable[str]) -> dict[str, Summary]:
    """Return the summaries of these trials; those without a record have one without a status.

    Raises ValueError naming an events file that cannot be read.
    """
    cache = results / CACHE_FILE
    known = _read_cache(cache)
    trials: dict[str, Summary] = {}
    is_news = False
    folder = os.path.join(results, "trials")
    for fingerprint in fingerprints:
        try:
            # Not through pathlib, which takes as long as the call itself.
            found = os.stat(os.path.join(folder, fingerprint, EVENTS_FILE))
        except FileNotFoundError:
            trials[fingerprint] = summarize(Record())
            continue
        stamp = [found.st_mtime_ns, found.st_size]
        entry = known.get(fingerprint)
        if entry is None or entry[0] != stamp:
            record = registry.read(registry.trial_folder(results, fingerprint))
            entry = [stamp, summarize(record)]
            known[fingerprint], is_news = entry, True
        trials[fingerprint] = Summary(*entry[1])
    if is_news:
        _write_cache(cache, known)
    return trials


def summarize(record: Record) -> Summary:
    """Fold a trial's events into its summary."""
    moves = [event for event in record.events if "status" in event]
    starts = [event for event in moves if event["status"] == Status.RUNNING]
    is_done = record.status is Status.EVALUATED
    return Summary(
        status=record.status,
        since=moves[-1]["time"] if moves else None,
        epochs=(record.last("config") or {}).get("epochs", 0),
        started=starts[-1]["time"] if starts else None,
        started_at=starts[-1].get("epoch", 0) if starts else 0,
        return_mean=record.last("return_mean") if is_done else None,
    )


def _read_cache(path: Path) -> dict[str, list]:
    try:
        content = json.loads(path.read_bytes())
        return content["trials"] if content["format"] == _FORMAT else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # it is only a cache


def _write_cache(path: Path, known: dict[str, list]) -> None:
    # Whoever may not write here, or has no room, folds again the next time.
    with contextlib.suppress(OSError), replacing(path) as draft:
        draft.write_text(json.dumps({"format": _FORMAT, "trials": known}))
