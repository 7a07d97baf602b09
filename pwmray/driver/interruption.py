"""Requests from outside to stop: SIGUSR1 at each trial's next row, others at once, as Ctrl-C.

SIGTERM is one of these, and SIGHUP, which comes when the terminal is closed.

A scheduler sends SIGUSR1 some minutes before it takes the machines away, at the time limit or for
jobs of higher priority. Trials have until shortly before that to come to their row. By the exit
code whoever started this process then knows that the sweep is to go on.
"""

import contextlib
import errno
import math
import os
import signal
import time
from pathlib import Path
from types import FrameType

from pwmray import STARTED_AT, deaths, slurm_jobs
from pwmray.commands import INTERRUPTED, TRIALS_FAILED, Progress, say, say_in_handler
from pwmray.driver.retries import is_first_start
from pwmray.registry import CURVE_FILE, EVALUATIONS_FILE, Status
from pwmray.wording import one_line

# Exit code after SIGUSR1, and where Slurm ended Ray: what is left is to be gone on with (sysexits'
# EX_TEMPFAIL).
GO_ON = 75
TERMINATED, HUNG_UP = 128 + signal.SIGTERM, 128 + signal.SIGHUP
TIME_LIMIT, PREEMPTED, CANCELLED = "time limit", "preempted", "cancelled by SIGTERM"
CLOSED = "its terminal was closed"
NODE_ENDED = "Slurm ended Ray's node on this machine"
REQUEUED = "requeued by Slurm"  # `scontrol requeue`, or a preemption that does so
_IN_VAIN = (
    "no trial reached its next row in a whole job, nor would one in the next: ask for more "
    "time, or for rows more often (evaluation.every_epochs)"
)
_WHOLE = 0.9  # of a job's time, in which its trials ran
_ROW_SECONDS = 3600.0  # for a row where no end is known, at most
_LEAVING_SECONDS = 60.0  # that the driver takes to leave after the last row, and its job to requeue
_LEAST_SECONDS = 10.0
_ASK_SECONDS = 5.0
_TOLD_SECONDS = 5.0  # that a job may take to tell its driver to end, after Ray's head did
_GOES_ON_VARIABLE = "PWMRAY_GOES_ON"  # a file that is there when this process's job requeues itself
_LIMIT_VARIABLE = "PWMRAY_LIMIT_AT"  # seconds since 1970: from then on it is the time limit


class AskedToStopError(Exception):
    """Work ended early because this process was asked to stop."""


class TerminatedError(KeyboardInterrupt):
    """What SIGTERM and SIGHUP raise: as Ctrl-C it passes through what handles errors."""

    def __init__(self, why: str = CANCELLED):
        super().__init__(why)
        self.exit_code = HUNG_UP if why == CLOSED else TERMINATED


class Interruption:
    """What this process was asked to do, while it is entered.

    It listens from then on; `listen` once more before each thing that sets handlers itself.
    """

    def __init__(self) -> None:
        self.reason: str | None = None  # why it was asked to stop, None while it was not
        self._is_interrupted = False
        self._began_at = math.inf  # the first of its trials
        self._begun: dict[Path, list[int]] = {}  # what there was of each trial

    def __enter__(self) -> "Interruption":
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def begin(self, folder: Path) -> None:
        """A trial begins, or goes on, in its folder."""
        self._began_at = min(self._began_at, time.monotonic())
        self._begun.setdefault(folder, _written(folder))

    def outcome(self) -> tuple[int, str]:
        """Return the exit code, and why, of trials that were asked to stop at their rows.

        A job that was requeued and came to its time limit again, without a row in all that time, is
        not to go on: it would do so as often as Slurm lets it. Raises as `raise_lost`.
        """
        self.raise_lost()
        assert self.reason is not None
        now = time.monotonic()
        # Before them may go what the next job need not do again: data, a pretraining.
        is_whole = now - self._began_at > _WHOLE * (now - STARTED_AT)
        is_new = any(_written(folder) != before for folder, before in self._begun.items())
        if self.reason != TIME_LIMIT or is_first_start() or not is_whole or is_new:
            return GO_ON, self.reason
        say(f"stopped: {_IN_VAIN}")
        return TRIALS_FAILED, _IN_VAIN

    def outcome_of(self, error: Exception) -> tuple[int, str]:
        """Return `outcome` of work that failed since Slurm ended Ray's node here; else raise it.

        The job, which sees the same, or was told more, sends SIGTERM: then it is as after that.
        """
        try:
            self.raise_lost()
            if not deaths.is_ended_here():
                raise error
            say(f"{NODE_ENDED}: {one_line(error)}")
            time.sleep(_TOLD_SECONDS)
        except TerminatedError as stopped:
            return stopped.exit_code, self.why_terminated()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it would cut off what is recorded
        return GO_ON, NODE_ENDED

    def listen(self) -> None:
        """Take the signals, and leave a terminal that was closed without one: in its background.

        Ctrl-C is taken once, unless it is ignored, as in what a script started with `&`; so is
        SIGHUP, which `nohup` ignores.
        """
        _leave_terminal()
        signal.signal(signal.SIGUSR1, self._ask)
        if not self.is_terminated:
            signal.signal(signal.SIGTERM, self._terminate)
        for number, take in ((signal.SIGINT, self._interrupt), (signal.SIGHUP, self._terminate)):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, take)

    def raise_lost(self) -> None:
        """Raise what a signal raised and was lost: Python drops it in a `__del__`."""
        if self._is_interrupted:
            raise KeyboardInterrupt
        if self.is_terminated:
            raise TerminatedError(str(self.reason))

    def may_go_on(self) -> bool:
        """Tell whether it was not asked to stop; for what waits. Raises as `raise_lost`."""
        _leave_terminal()  # as `listen`
        self.raise_lost()
        return self.reason is None

    @property
    def is_terminated(self) -> bool:
        """Whether SIGTERM or SIGHUP came."""
        return self.reason in (CANCELLED, CLOSED)

    @staticmethod
    def find_row_seconds() -> float:
        """Return how long trials have, from now on, to come to their next row."""
        job = slurm_jobs.own_name()
        if job is None:
            return _ROW_SECONDS
        end = slurm_jobs.ends_at(job, _ASK_SECONDS)
        left = 0.0 if end is None else end - time.time() - _LEAVING_SECONDS
        return min(max(left, _LEAST_SECONDS), _ROW_SECONDS)

    def heeded(self, progress: Progress) -> Progress:
        """Return `progress` for work that may stop anywhere: asked to, AskedToStopError ends it."""

        def report(what: str, done: int, total: int) -> None:
            if not self.may_go_on():
                raise AskedToStopError(f"{self.reason}: stopped at {what}")
            progress(what, done, total)

        return report

    def exit_code(self, stopped: BaseException) -> int:
        """Return the exit code of work that AskedToStopError or KeyboardInterrupt ended."""
        if self.is_terminated:
            return HUNG_UP if self.reason == CLOSED else TERMINATED
        return GO_ON if isinstance(stopped, AskedToStopError) else INTERRUPTED

    def why_terminated(self) -> str:
        """Return what ended it: CLOSED, CANCELLED, or REQUEUED where Slurm starts it once more."""
        if self.reason == CLOSED:
            return CLOSED
        goes_on = os.environ.get(_GOES_ON_VARIABLE)
        if goes_on is not None and Path(goes_on).exists():
            return REQUEUED
        return REQUEUED if slurm_jobs.was_requeued(_ASK_SECONDS) else CANCELLED

    @staticmethod
    def left_at(code: int, why: str) -> Status:
        """Return where trials stand that a process left which ended with `code`, and `why`.

        What goes on by itself stays in the queue.
        """
        return Status.QUEUED if code == GO_ON or why == REQUEUED else Status.CANCELLED

    def leave(self) -> None:
        """Give the signals their default meaning back, but a Ctrl-C or SIGHUP that came already."""
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if signal.getsignal(signal.SIGHUP) == self._terminate:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
        if signal.getsignal(signal.SIGINT) == self._interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _ask(self, *_: int | FrameType | None) -> None:
        if self.is_terminated:
            return  # what came before ends more
        limit_at = float(os.environ.get(_LIMIT_VARIABLE, "inf"))
        self.reason = TIME_LIMIT if time.time() >= limit_at else PREEMPTED

    def _interrupt(self, *_: int | FrameType | None) -> None:
        # Another one would cut off what is written on the way out, or Ray's end; SIGTERM still may.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._is_interrupted = True
        say_in_handler(
            f"interrupted: stopping, which takes some seconds; to end at once, kill {os.getpid()}"
        )
        raise KeyboardInterrupt

    def _terminate(self, number: int, _: FrameType | None) -> None:
        # A scheduler tells every process of a job, and the job's script tells its children; of a
        # closed terminal the kernel tells, and the shell.
        for each in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)
        if number == signal.SIGHUP:
            _leave_terminal(is_closing=True)
        self.reason = CLOSED if number == signal.SIGHUP else CANCELLED
        raise TerminatedError(self.reason)


def _leave_terminal(is_closing: bool = False) -> None:
    """Send what is still printed nowhere if it would go to a closed terminal, which is an error.

    One that `is_closing` may be open yet: a shell and `tmux` tell of that before they do it.
    """
    for stream in (1, 2):
        try:
            os.write(stream, b"")
            is_to_leave = is_closing and os.isatty(stream)
        except OSError as error:
            is_to_leave = error.errno != errno.EPIPE  # as of a pipe, the next line tells
        if is_to_leave:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def _written(folder: Path) -> list[int]:
    """Return when a trial's rows were written, in nanoseconds since 1970, as far as there are."""
    times = []
    for name in (CURVE_FILE, EVALUATIONS_FILE):
        with contextlib.suppress(OSError):
            times.append((folder / name).stat().st_mtime_ns)
    return times
