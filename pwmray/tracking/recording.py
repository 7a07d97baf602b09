"""W&B beside a driver: whether to record, and starting and ending the recorder.

The driver and its workers never load wandb. Unless the mode is `off`, a process of its own
(pwmray.tracking.recorder) makes W&B's runs from what the trials leave in their folders.
"""

import contextlib
import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

from pwmray.commands import give_results, say
from pwmray.tracking.protocol import Job, Report
from pwmray.tracking.wandb_state import is_behind
from pwmray.wording import as_typed, number_of, unknown

_VARIABLE = "WANDB_MODE"  # wandb's own
_ALIASES = {"disabled": "off", "dryrun": "offline", "run": "online"}  # wandb's names of modes
# How long a driver waits at its end for its recorder; what is not done by then is done later.
_WAIT_SECONDS = {False: 10.0, True: 90.0}  # offline and online
_DYING_SECONDS = 10.0  # until a recorder that does not end is killed


class Mode(StrEnum):
    """Where W&B's runs go."""

    ONLINE = "online"  # to the server as they grow, and into the trials' folders
    OFFLINE = "offline"  # into the trials' folders, for `pwmray wandb sync`
    OFF = "off"


MODES = [str(mode) for mode in Mode]


def choose_mode(option: str | None) -> Mode:
    """Return the mode of the option, else of WANDB_MODE, else offline.

    Raises ValueError for an unknown mode in the environment.
    """
    if option is not None:
        return Mode(option)
    given = os.environ.get(_VARIABLE, "")
    name = _ALIASES.get(given, given) or Mode.OFFLINE
    if name not in MODES:
        raise ValueError(unknown(_VARIABLE, given, [*MODES, *_ALIASES]))
    return Mode(name)


@contextlib.contextmanager
def recording(mode: Mode, job: Job, is_working: bool) -> Iterator[None]:
    """Keep W&B's runs up to date while a driver works; at its end say what became of them.

    If the driver has no work (not `is_working`), a recorder is started only if runs are missing, as
    after a kill of all processes.
    """
    if mode is Mode.OFF or not (is_working or any(map(is_behind, job.folders()))):
        yield
        return
    is_online = mode is Mode.ONLINE
    grace = _WAIT_SECONDS[is_online]
    job = dataclasses.replace(job, is_online=is_online, is_watching=True, grace_seconds=grace)
    recorder = RecorderProcess(job)
    try:
        yield
    finally:
        report = recorder.end(grace + _DYING_SECONDS)
        if said := _describe(report, job):
            say(f"W&B: {said}")


@contextlib.contextmanager
def without_wandb() -> Iterator[None]:
    """Keep Ray Tune from importing wandb, which it does to count callbacks by their kinds.

    Tune then takes wandb to be not installed. This saves a run about half a second.
    """
    if "wandb" in sys.modules:
        yield
        return
    sys.modules["wandb"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["wandb"]


class RecorderProcess:
    """A running recorder. Ctrl-C does not reach it; it ends with its driver."""

    def __init__(self, job: Job, progress: Callable[[int, int], None] | None = None):
        # wandb and its service write to stderr.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pwmray.tracking.recorder"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(_package_paths())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died; why is on its stderr
            self._process.stdin.write(json.dumps(dataclasses.asdict(job)) + "\n")
            self._process.stdin.flush()
        self._last: dict[str, Any] = {}
        self._listener = threading.Thread(target=self._listen, args=(progress,), daemon=True)
        self._listener.start()

    def end(self, wait_seconds: float) -> Report:
        """Tell it to finish, and return its report; kill it if that takes longer."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._listener.join(wait_seconds)
        is_late = self._listener.is_alive()
        if not is_late:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_DYING_SECONDS)
        self._stop()
        self._listener.join()
        return Report(problem=f"not done after {wait_seconds:.0f} s") if is_late else self._report()

    def follow(self) -> Report:
        """Wait until a recorder that looks once is done; return its report."""
        try:
            self._listener.join()
            self._process.wait()
        finally:
            self._stop()
        return self._report()

    def _listen(self, progress: Callable[[int, int], None] | None) -> None:
        """Read what it prints until it ends, and pass it on."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                known = json.loads(line)
            except ValueError:
                continue
            if not isinstance(known, dict):  # of what it loads, which may print, too
                continue
            if "said" in known:
                say(f"W&B: {known['said']}")
            elif progress is not None and "of" in known:
                progress(known["done"], known["of"])
            else:
                self._last = known

    def _report(self) -> Report:
        """Return the report that it gave, or one that says that it died."""
        known = self._last
        if "problem" in known:
            return Report(**known)
        self._errors.seek(0)
        told = self._errors.read().strip().splitlines()[-1:]
        code = self._process.returncode
        return Report(problem=f"its recorder died, exit code {code}: {''.join(told)}")

    def _stop(self) -> None:
        """Kill it and the service that wandb started, unless it has ended."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _package_paths() -> list[str]:
    """Return the folder of this package, then the user's own paths, for PYTHONPATH."""
    here = str(Path(__file__).resolve().parents[2])
    return [here, *filter(None, [os.environ.get("PYTHONPATH")])]


def _describe(report: Report, job: Job) -> str:
    """Return a line on what became of the runs, empty if there were none."""
    num_left = sum(map(is_behind, job.folders())) - report.running - report.elsewhere
    kept = number_of(report.written, "run")
    said = [f"{kept} kept in the trials' folders"] if report.written else []
    said += [f"{report.sent} sent"] if report.sent else []
    said += [f"{num_left} not kept yet"] if num_left > 0 else []
    said += [f"{report.elsewhere} written by another process"] if report.elsewhere else []
    said += [report.problem] if report.problem else []
    if not said or (job.is_online and not report.problem):
        return ", ".join(said)
    options = [*filter(None, [job.sweep]), *give_results(Path(job.results))]
    sync = shlex.join(["pwmray", "wandb", "sync", *options])
    return f"{', '.join(said)}; to send what is kept: {as_typed(sync)}"
