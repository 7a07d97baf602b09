"""Requests from outside to stop: SIGUSR1 at each trial's next row, SIGTERM at once, as Ctrl-C.

A scheduler sends SIGUSR1 some minutes before it takes the machines away, at the time limit or for
jobs that go before. Trials have until shortly before that to come to their row. Who is to go on
with the sweep then sees it by the exit code.
"""

import os
import signal
import time
from types import FrameType

from pwmray import slurm_jobs
from pwmray.commands import INTERRUPTED, Progress

GO_ON = 75  # exit code after SIGUSR1: what is left is to be gone on with (sysexits' EX_TEMPFAIL)
TERMINATED = 128 + signal.SIGTERM
TIME_LIMIT, PREEMPTED, CANCELLED = "time limit", "preempted", "cancelled by SIGTERM"
_ROW_SECONDS = 3600.0  # for a row where no end is known, at most
_LEAVING_SECONDS = 60.0  # that the driver takes to leave after the last row, and its job to requeue
_LEAST_SECONDS = 10.0
_ASK_SECONDS = 5.0
_LIMIT_VARIABLE = "PWMRAY_LIMIT_AT"  # seconds since 1970: from then on it is the time limit


class AskedToStopError(Exception):
    """What this process was doing ended early, for it was asked to stop."""


class TerminatedError(KeyboardInterrupt):
    """What SIGTERM raises: as Ctrl-C it passes through what handles errors."""

    exit_code = TERMINATED


class Interruption:
    """What this process was asked to do; `listen` before each thing that sets handlers itself."""

    def __init__(self) -> None:
        self.reason: str | None = None  # why it was asked to stop, None while it was not
        self._row_seconds: float | None = None

    def listen(self) -> None:
        """Take both signals; Tune, for each run, takes SIGUSR1 too."""
        signal.signal(signal.SIGUSR1, self._ask)
        if self.reason != CANCELLED:
            signal.signal(signal.SIGTERM, self._terminate)

    @property
    def row_seconds(self) -> float:
        """How long trials have to come to their next row, from when this is first asked on."""
        if self._row_seconds is None:
            self._row_seconds = _find_row_seconds()
        return self._row_seconds

    def heeded(self, progress: Progress) -> Progress:
        """Return `progress` for work that may stop anywhere: asked to, AskedToStopError ends it."""

        def report(what: str, done: int, total: int) -> None:
            if self.reason is not None:
                raise AskedToStopError(f"{self.reason}: stopped at {what}")
            progress(what, done, total)

        return report

    def exit_code(self, stopped: BaseException) -> int:
        """Return the exit code of work that AskedToStopError or KeyboardInterrupt ended."""
        if self.reason == CANCELLED:
            return TERMINATED
        return GO_ON if isinstance(stopped, AskedToStopError) else INTERRUPTED

    def leave(self) -> None:
        """Give both signals their default meaning back."""
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _ask(self, *_: int | FrameType | None) -> None:
        limit_at = float(os.environ.get(_LIMIT_VARIABLE, "inf"))
        self.reason = TIME_LIMIT if time.time() >= limit_at else PREEMPTED

    def _terminate(self, *_: int | FrameType | None) -> None:
        # A scheduler tells every process of a job, and the job's script tells its children.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.reason = CANCELLED
        raise TerminatedError(CANCELLED)


def _find_row_seconds() -> float:
    job = slurm_jobs.own_name()
    if job is None:
        return _ROW_SECONDS
    end = slurm_jobs.ends_at(job, _ASK_SECONDS)
    left = 0.0 if end is None else end - time.time() - _LEAVING_SECONDS
    return min(max(left, _LEAST_SECONDS), _ROW_SECONDS)
