"""Which trials are this driver's to run, where several drivers work on one results folder.

Drivers come and go. Each hands its scheduler the trials that no process runs; a trial belongs to
whoever gets its claim, and those who come later skip it. Trials of other processes are looked at
again when nothing else is left to do: once those processes are dead, anyone may take them.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pwmray import deaths, provenance, registry
from pwmray.driver import retries
from pwmray.driver.interruption import Interruption
from pwmray.driver.progress import SweepProgress, describe_blind
from pwmray.failures import (
    POLICIES,
    Failure,
    Remedy,
    describe_unwritten,
    failure_of,
    has_retry,
    is_disk_full,
    of_text,
)
from pwmray.plan import Plan, PlannedTrial
from pwmray.registry import CLAIM_FILE, EVENTS_FILE, Record, Status, claim
from pwmray.room import Mount, takes
from pwmray.watchdog import has_hung
from pwmray.wording import one_line

_POLL_SECONDS = 1.0
_MAX_IN_VAIN = 5  # of few trials all may come to the one machine that does not see them

Machine = Callable[[], Mapping[str, float]]  # the largest one that Ray has


class Turns:
    """The trials of a plan that are not done: which this driver may run, and which others do."""

    def __init__(
        self,
        plan: Plan,
        progress: SweepProgress,
        interruption: Interruption,
        patience_seconds: float,
    ):
        self._interruption = interruption
        self._patience_seconds = patience_seconds
        self._results = plan.results
        self._mount = Mount(plan.results / plan.sweep.name)
        self._room = retries.WaitForRoom(plan.results, interruption.may_go_on)
        self.lacks_room = False  # a trial got none in time, and there was none since
        self._waited_for: set[str] = set()  # trials whose record the disk had no room for
        self._progress = progress
        self._open = {t.config.fingerprint: t for t in plan.trials if t.state != "done"}
        self._ours: set[str] = set()  # queued here, and not skipped
        self._not_seen: set[str] = set()  # of those that `next` gave last
        self._num_in_vain = 0  # in a row, that none of those was seen
        self._blind: set[str] = set()  # machines that do not see the results
        self._given: set[str] = set()  # what `next` gave last
        self._told: dict[str, deaths.Told] = {}  # what Ray says of a process that died
        self._is_first = retries.is_first_start()

    @property
    def is_over(self) -> bool:
        """Whether every trial has come to an end that no retry can better."""
        return not self._open

    @property
    def ours(self) -> list[str]:
        """The trials that ran here, by their fingerprints."""
        return sorted(self._ours)

    def next(self, machine: Machine) -> list[PlannedTrial]:
        """Queue and return the trials that may run now; empty when none is left.

        While only trials of other processes are left, it waits and says for whom, until it runs out
        of patience or is asked to stop. Trials that failed before the first call are tried again
        whatever the cause, except in a job that Slurm requeued. Raises ValueError when, several
        times in a row, all trials that it gave came to machines that do not see their folders, and
        when the results' disk was unmounted, as `settle` does.
        """
        is_in_vain = self._not_seen and self._not_seen == self._given
        self._num_in_vain = self._num_in_vain + 1 if is_in_vain else 0
        if self._num_in_vain == _MAX_IN_VAIN:
            why = describe_blind(self._results, self._blind)
            raise ValueError(f"no trial is left that can run: {why}")
        self._not_seen.clear()
        deadline = time.monotonic() + self._patience_seconds
        while self._interruption.may_go_on():
            self._mount.check()
            is_last = time.monotonic() > deadline  # told here: a wait for room does not count
            claim.clear_dead(self._folder(name) / CLAIM_FILE for name in self._open)
            taken = [trial for trial in list(self._open.values()) if self._take(trial, machine)]
            self._is_first = False
            if taken or self.is_over or is_last:
                self._given = {trial.config.fingerprint for trial in taken}
                return taken
            self._progress.wait(self._others())
            time.sleep(_POLL_SECONDS)
        return []

    def skip(self, fingerprint: str, not_seen_on: str | None = None) -> None:
        """Leave a trial to the process that turned out to have it.

        Or to a machine other than `not_seen_on`, which found no folder of it; that is said.
        """
        self._ours.discard(fingerprint)
        if not_seen_on is None or not (self._folder(fingerprint) / EVENTS_FILE).exists():
            return  # it was deleted
        self._not_seen.add(fingerprint)
        if not_seen_on not in self._blind:
            self._blind.add(not_seen_on)
            self._progress.say(describe_blind(self._results, self._blind))

    def release(self) -> None:
        """Take back the trials queued but not begun: to lose Ray is no failure of theirs."""
        for fingerprint in list(self._ours):
            if registry.read(self._folder(fingerprint)).status is Status.QUEUED:
                self._ours.discard(fingerprint)

    def pause(self) -> None:
        """Take back the trials that were stopped for want of room, which is no failure of theirs.

        Where the disk does not take as much as that, they stay as their processes left them.
        """
        with contextlib.suppress(OSError):
            self.settle("stopped, since the disk stays full", Status.QUEUED)
        self._progress.pause()
        self._ours -= self._open.keys()

    def bury(self, fingerprint: str, told: str) -> Record:
        """Record what Ray has `told` of a trial whose process died; return the trial's record.

        The claim of a process on a lost machine outlives it for a while: then that is recorded
        when the claim is free.
        """
        self._told[fingerprint] = deaths.Told(told, time.time())
        deaths.wait_for_death([self._folder(fingerprint)])
        self._bury(fingerprint)
        record = registry.read(self._folder(fingerprint))
        is_full = Failure.DISK_FULL in (failure_of(record), of_text(told))
        if is_full and not takes(self._results, self._open[fingerprint].disk_bytes):
            self.lacks_room = True  # also if the next one finds some: all are being stopped
        return record

    def settle(self, why: str, status: Status = Status.CANCELLED) -> None:
        """Record why the trials queued here that no process runs were not brought to an end.

        `status` is where they stand then, CANCELLED or QUEUED. Trials that wait for their retry
        are among them: what takes a job away may end its nodes before it tells the driver.
        """
        self._mount.check()
        fields = provenance.job() if status is Status.QUEUED else {}
        left = sorted(self._ours & self._open.keys())
        deaths.wait_for_death([self._folder(fingerprint) for fingerprint in left])
        for fingerprint in left:
            folder = self._folder(fingerprint)
            try:
                with registry.claimed(folder) as record:
                    if record is not None and _goes_on(record):
                        registry.leave(folder, status, why, **fields)
            except OSError as error:
                if is_disk_full(error):  # which will hold for all
                    raise
                self._say_unwritten(fingerprint, error)

    def _take(self, trial: PlannedTrial, machine: Machine) -> bool:
        """Queue a trial if no process runs it and it may run; drop it if it never will."""
        fingerprint = trial.config.fingerprint
        folder = self._folder(fingerprint)
        if registry.running_elsewhere(folder):
            return False
        if self.lacks_room and not self._finds_room_again(trial):
            del self._open[fingerprint]  # the next run takes it up
            return False
        if fingerprint in self._ours or has_hung(folder):
            self._bury(fingerprint)
        record = registry.read(folder)
        failure = None if self._is_first else failure_of(record)
        asked = (trial.config.runtime, trial.disk_bytes, self._room, machine)
        is_given_up = failure is not None and not retries.can_retry(record, *asked)
        if record.status is Status.EVALUATED or is_given_up:
            del self._open[fingerprint]
            self._progress.settle(fingerprint, record)
            return False
        if self._queue(trial, record.status, {"retry": failure} if failure else {}):
            self._progress.queue(fingerprint, failure)
            return True
        return False

    def _queue(self, trial: PlannedTrial, seen: Status | None, fields: dict[str, Any]) -> bool:
        """Record that a trial is in the scheduler's hands; return False if it moved meanwhile."""
        fingerprint = trial.config.fingerprint
        folder = self._folder(fingerprint)
        try:
            with registry.claimed(folder) as record:
                if record is None or record.status is not seen:
                    return False
                registry.queue(folder, trial.config.to_dict(), **fields, **provenance.job())
        except OSError as error:
            if registry.is_refused_by_another(folder, error):
                why = f"which another user began: {one_line(error)}"
                self._progress.say(f"left out: {trial.name}, {why}")
            elif self._is_first:
                raise
            elif is_disk_full(error) and self._finds_room(trial):
                return False  # it is looked at again, and its failure recorded before
            else:
                self._say_unwritten(fingerprint, error)
            del self._open[fingerprint]  # the others go on
            return False
        except KeyboardInterrupt:
            self._ours.add(fingerprint)  # it may have come right behind the writing
            raise
        self._ours.add(fingerprint)
        return True

    def _finds_room(self, trial: PlannedTrial) -> bool:
        """Wait for room, once for a trial, whose folder may lie on a disk of its own."""
        if trial.config.fingerprint in self._waited_for:
            return False
        self._waited_for.add(trial.config.fingerprint)
        return self._room.ends_well(trial.disk_bytes, trial.config.runtime.disk_wait_seconds)

    def _finds_room_again(self, trial: PlannedTrial) -> bool:
        seconds = trial.config.runtime.disk_wait_seconds
        self.lacks_room = not self._room.ends_well(trial.disk_bytes, seconds)
        return not self.lacks_room

    def _bury(self, fingerprint: str) -> None:
        """Record the death of a trial that is not evaluated, once no process holds it."""
        folder = self._folder(fingerprint)
        if registry.read(folder).status is Status.EVALUATED:
            return
        try:
            if deaths.record_death(folder, self._told.get(fingerprint)):
                self._told.pop(fingerprint, None)
        except OSError as error:
            self._say_unwritten(fingerprint, error)

    def _say_unwritten(self, fingerprint: str, error: OSError) -> None:
        """Say that a trial's folder cannot be written any more, which is no end of the sweep's."""
        why = describe_unwritten(error)
        self._progress.say(f"{why}: what became of {fingerprint} could not be recorded")

    def _others(self) -> Counter[str]:
        """Return how many of the open trials each other process has."""
        holders = [claim.holder(self._folder(name) / CLAIM_FILE) for name in self._open]
        return Counter(f"pid {claim.describe(h)}" for h in holders if h)

    def _folder(self, fingerprint: str) -> Path:
        return registry.trial_folder(self._results, fingerprint)


def _goes_on(record: Record) -> bool:
    """Whether a trial that nobody runs has not ended, or only until it is resumed.

    Of one whose folder was deleted there is nothing to tell.
    """
    failure = failure_of(record)
    if failure is not None:
        return POLICIES[failure].remedy is Remedy.RESUME and has_retry(record)
    return record.status not in (None, *registry.ENDS, Status.CANCELLED)
