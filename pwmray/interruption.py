"""Requests from outside to stop: SIGUSR1 at each trial's next row, SIGTERM at once, as Ctrl-C.

A scheduler sends SIGUSR1 some minutes before it takes the machines away, at the time limit or for
jobs that go before. Who is to go on with the sweep then sees it by the exit code.
"""

import os
import signal
import time
from types import FrameType

GO_ON = 75  # exit code after SIGUSR1: what is left is to be gone on with (sysexits' EX_TEMPFAIL)
TERMINATED = 128 + signal.SIGTERM
TIME_LIMIT, PREEMPTED, CANCELLED = "time limit", "preempted", "cancelled by SIGTERM"
_LIMIT_VARIABLE = "PWMRAY_LIMIT_AT"  # seconds since 1970: from then on it is the time limit


class Interruption:
    """What this process was asked to do; `listen` before each thing that sets handlers itself."""

    def __init__(self) -> None:
        self.reason: str | None = None  # why it was asked to stop, None while it was not

    def listen(self) -> None:
        """Take both signals; Ray, when it starts, and Tune, for each run, take them too."""
        signal.signal(signal.SIGUSR1, self._ask)
        if self.reason != CANCELLED:
            signal.signal(signal.SIGTERM, self._terminate)

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
        raise KeyboardInterrupt  # which passes through what handles errors
