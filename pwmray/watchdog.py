"""End the process of a trial that hangs, and leave behind where it hung."""

import faulthandler
import time
from pathlib import Path

STACKS_FILE = ".stacks.tmp"  # in the trial's folder; with content only after a hang
_SLOWER = 10.0  # times its own longest pause is a hang
_SECONDS_PER_BEAT = 1.0  # at most one is taken: each costs a thread


class Watchdog:
    """End this process if, inside a `with`, no `beat` comes for too long.

    Too long is `least_seconds`, or ten times the longest pause so far. Python's faulthandler
    writes the stacks of all threads to the file and ends the process from a thread that needs no
    lock of the interpreter: code that never comes back from C is ended, too. One a process.
    """

    def __init__(self, path: Path, least_seconds: float):
        self._path = path
        self._least = least_seconds
        self._longest = self._armed_at = 0.0
        self._is_on = False
        # A new file: a process that stood still and lost the trial may yet write into its own.
        path.unlink(missing_ok=True)
        self._file = open(path, "w")  # noqa: SIM115  # written to in the end, by faulthandler

    def __enter__(self) -> "Watchdog":
        self._is_on = True
        self._arm()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_on = False
        faulthandler.cancel_dump_traceback_later()

    def beat(self) -> None:
        """Give a sign of life; outside the `with` nobody waits for one."""
        if not self._is_on:
            return
        pause = time.monotonic() - self._armed_at
        if pause > min(_SECONDS_PER_BEAT, self._least / _SLOWER):
            self._longest = max(self._longest, pause)
            self._arm()

    def close(self) -> None:
        """Leave no file behind, and nothing that would write into it."""
        self._is_on = False
        faulthandler.cancel_dump_traceback_later()
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _arm(self) -> None:
        self._armed_at = time.monotonic()
        limit = max(self._least, _SLOWER * self._longest)
        faulthandler.dump_traceback_later(limit, file=self._file, exit=True)


def take_stacks(folder: Path) -> str:
    """Return what a dead process's watchdog wrote, empty unless it hung, and delete the file."""
    path = folder / STACKS_FILE
    if not path.exists():
        return ""
    stacks = path.read_text(errors="replace")
    path.unlink()
    return stacks


def has_hung(folder: Path) -> bool:
    """Tell whether the last process of a trial ended by its watchdog, and that is not recorded."""
    path = folder / STACKS_FILE
    return path.exists() and path.stat().st_size > 0
