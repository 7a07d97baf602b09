"""What the driver does about trials that failed: which run again, with what, and when to give up.

How often a trial was retried is in its own events, so a driver that takes over knows it.
"""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pwmray import slurm_jobs
from pwmray.commands import how_to_make_room, say
from pwmray.failures import (
    KILLED_FOR_MEMORY,
    POLICIES,
    Failure,
    Remedy,
    essence,
    failure_of,
    has_retry,
    share_of,
)
from pwmray.placement import request
from pwmray.registry import Record, Status
from pwmray.room import takes
from pwmray.runtime import RuntimeConfig

NUM_FIRST = 3  # trials that die of one bug before it is taken to be that of all
_POLL_SECONDS = 5.0


def is_first_start() -> bool:
    """Whether a person started this process, and not Slurm, which requeued its job.

    Then what failed is tried again, whatever the cause.
    """
    return slurm_jobs.num_restarts() == 0


class FirstDeaths:
    """Find out whether the first trials of a sweep all die of one bug.

    Once any trial has come to its end, now or in an earlier run, there is no bug that all share. A
    trial that had failed before this run does not count: it says nothing of those not tried yet.
    """

    def __init__(self, is_over: bool = False) -> None:
        self.bug: str | None = None  # the reason, once it is found
        self._reasons: list[str] = []
        self._is_over = is_over
        self._running: dict[str, int] = {}  # by fingerprint: its place in the order of starts
        self._num_started = 0
        self._last_start = 0  # among the first three of the dead
        self._dead_at = 0  # the furthest epoch of the dead
        self._alive_at = 0  # and of the others

    def start(self, fingerprint: str) -> None:
        """A trial started."""
        self._num_started += 1
        self._running[fingerprint] = self._num_started

    def survive(self, epoch: int) -> None:
        """A trial came to an epoch."""
        self._alive_at = max(self._alive_at, epoch)

    def finish(self) -> None:
        """A trial came to its end, so there is no bug that all share."""
        self._is_over = True

    def leave(self, fingerprint: str) -> None:
        """A trial no longer runs here, and nothing is known of its end."""
        self._running.pop(fingerprint, None)
        self._decide()

    def die(self, fingerprint: str, record: Record) -> None:
        """A trial failed; after the third of one bug `bug` has its reason.

        Other trials that came further than the dead ones show that it is not everyone's, and those
        that started with them may yet.
        """
        start = self._running.pop(fingerprint, self._num_started)
        if record.count(Status.FAILED) <= 1:
            if failure_of(record) not in (Failure.CONFIG, Failure.CODE):
                self._is_over = True
            if len(self._reasons) < NUM_FIRST:
                self._last_start = max(self._last_start, start)
            self._reasons.append(str(record.last("reason")))
            self._dead_at = max(self._dead_at, record.last("epochs_reached") or 0)
        self._decide()

    def _decide(self) -> None:
        is_one_bug = len(set(map(essence, self._reasons))) == 1
        if self._is_over or not is_one_bug or len(self._reasons) < NUM_FIRST:
            return
        may_come_further = min(self._running.values(), default=math.inf) < self._last_start
        if self._alive_at <= self._dead_at and not may_come_further:
            self.bug = self._reasons[0]


class WaitForRoom:
    """Waiting for room on the disk of a results folder: once for all trials that lack it.

    A wait that ran out is over for the next trial, too, until room was found again: each in turn
    would hold a job's GPUs, of dozens of trials for days.
    """

    def __init__(self, results: Path, may_go_on: Callable[[], bool] = lambda: True):
        self._results, self._may_go_on = results, may_go_on
        self._deadline: float | None = None  # of the wait that is not over, or was in vain

    def ends_well(self, num_bytes: int, limit: float) -> bool:
        """Return whether there came to be room for so many bytes within `limit` seconds."""
        while not takes(self._results, num_bytes):
            if self._deadline is None:
                self._deadline = time.monotonic() + limit
                say(
                    f"disk full: waiting up to {limit:.0f} s for room in {self._results}; "
                    f"{how_to_make_room(self._results)}"
                )
            if time.monotonic() >= self._deadline or not self._may_go_on():
                return False
            time.sleep(_POLL_SECONDS)
        self._deadline = None
        return True


def can_retry(
    record: Record,
    runtime: RuntimeConfig,
    num_bytes: int,
    room: WaitForRoom,
    machine: Callable[[], Mapping[str, float]],
) -> bool:
    """Tell whether a failed trial has a retry left that can help; `machine` is the largest one.

    Where the disk was full it waits for room for its `num_bytes` that are still to be written.
    """
    failure = failure_of(record)
    if failure is None or not has_retry(record):
        return False
    remedy = POLICIES[failure].remedy
    if remedy is Remedy.MORE_MEMORY:
        share, largest = share_of(record), machine()  # the share counts this failure
        is_more = request(runtime, share, largest) != request(runtime, share // 2, largest)
        # Where it was not its own memory alone, another time may do.
        return is_more or record.last("reason") == KILLED_FOR_MEMORY
    if remedy is Remedy.WAIT_FOR_ROOM:
        return room.ends_well(num_bytes, runtime.disk_wait_seconds)
    return remedy is Remedy.RESUME
