"""A trial's folder in the hands of the process that runs it: claim, watchdog and writes."""

import contextlib
import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pwmray import failures, registry
from pwmray.files import DRAFTS
from pwmray.registry import CLAIM_FILE, Status, claim
from pwmray.room import with_room
from pwmray.runtime import RuntimeConfig
from pwmray.watchdog import STACKS_FILE, Watchdog

_REASON_CHARACTERS = 2000  # of the beginning; an exception's message may be a whole tensor
_TRACEBACK_CHARACTERS = 4000  # of the end, where the cause is

log = logging.getLogger(__name__)
T = TypeVar("T")


class RunningElsewhereError(RuntimeError):
    """Another process has the trial, or brought it to an end since it was queued here.

    Or somebody deleted its folder or cut its record meanwhile: it is to be queued anew.
    """


class FolderGoneError(RunningElsewhereError):
    """Its folder was deleted, or this machine does not see it."""


class Hold:
    """The right to write into a trial's folder, until `close`.

    Raises RunningElsewhereError when another process has it or has ended the trial, or its folder
    was deleted, or its record cut to before it was queued.
    """

    def __init__(self, folder: Path, runtime: RuntimeConfig):
        self._folder, self._disk_wait_seconds = folder, runtime.disk_wait_seconds
        held = self._with_room(lambda: claim.acquire(folder / CLAIM_FILE))
        if held is None:
            raise RunningElsewhereError(f"running in {_holder(folder)}")
        self._claim = held
        try:
            self._check_unended(registry.read_newest(folder))
            for draft in folder.glob(DRAFTS):  # of a process killed while it wrote
                draft.unlink(missing_ok=True)
            path, seconds = folder / STACKS_FILE, runtime.hang_minutes * 60
            self.watchdog = self._with_room(lambda: Watchdog(path, seconds))
        except BaseException:
            held.release()
            raise

    @property
    def is_held(self) -> bool:
        """Tell whether no other process took the trial over."""
        return self._claim.is_held

    def check(self) -> None:
        """Raise RunningElsewhereError if another process took the trial over."""
        if not self.is_held:
            self._check_unended(registry.read(self._folder))
            raise RunningElsewhereError(f"taken over by {_holder(self._folder)}")

    def write(self, write: Callable[[], T]) -> T:
        """Return what `write` returns, once the disk has room; to the watchdog a sign of life.

        Raises RunningElsewhereError, and writes nothing, if another process took the trial over.
        """

        def attempt() -> T:
            self.watchdog.beat()
            self.check()
            return write()

        return self._with_room(attempt)

    def record_failure(self, error: Exception, epochs_reached: int) -> bool:
        """Record FAILED with the reason, its class and its traceback; False without room for it.

        Raises RunningElsewhereError if another process took the trial over: what fails here since
        then says nothing of the trial.
        """
        self.check()
        fields = {
            "failure": failures.of_exception(error),
            "reason": " ".join(f"{type(error).__name__}: {error}".split())[:_REASON_CHARACTERS],
            "epochs_reached": epochs_reached,
        }
        told = "".join(traceback.format_exception(error))[-_TRACEBACK_CHARACTERS:]
        for more in ({"traceback": told}, {}):  # a full disk may still take a short line
            try:
                registry.record(self._folder, Status.FAILED, **fields, **more)
            except OSError as full:
                # The first error is the one to tell; the driver records it when there is room.
                log.warning("trial=%s could not record its failure: %s", self._folder.name, full)
            else:
                return True
        return False

    def close(self) -> None:
        """Give the folder back; another process may go on with it."""
        if self.is_held:  # else the watchdog's file is that of who took it over
            self.watchdog.close()
        self._claim.release()

    def _check_unended(self, record: registry.Record) -> None:
        status = record.status
        if status is None:
            raise FolderGoneError("its folder was deleted")
        if status is Status.PENDING:  # who queued it had written that
            raise RunningElsewhereError("its record was cut")
        if status in registry.ENDS:
            raise RunningElsewhereError(f"{status} in another process")

    def _with_room(self, write: Callable[[], T]) -> T:
        return with_room(write, self._folder, self._disk_wait_seconds)


def _holder(folder: Path) -> str:
    found = registry.running_elsewhere(folder)
    return f"process {claim.describe(found)}" if found else "a process that is gone"


def clear_leftovers(folder: Path) -> None:
    """Delete what a process left that was killed after it brought the trial to its end."""
    if not (folder / CLAIM_FILE).exists() and not any(folder.glob(DRAFTS)):
        return
    # Where that cannot be, the next run may.
    with contextlib.suppress(OSError), registry.claimed(folder) as record:
        if record is not None and record.status is Status.EVALUATED:
            for draft in folder.glob(DRAFTS):
                draft.unlink(missing_ok=True)
