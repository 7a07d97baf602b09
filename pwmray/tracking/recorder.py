"""The recorder: a process beside a driver that keeps W&B up to date; no other one loads wandb.

It reads a Job from stdin, looks at the folders that the job names, and writes or sends the runs
that are behind. It does so once, or, if the job says so, again and again until stdin closes, which
also happens when the driver is killed. Training never waits for it. What it does not get done, the
next driver or `pwmray wandb sync` makes from the same files. Its last line on stdout is a Report;
lines of progress come before, if it looks only once.

Why a process of its own: in each worker W&B would cost a service process and seconds a trial, and
in the driver its hooks, threads and retries would stand between Ray and the user. The recorder
writes a trial in some 30 ms (benchmarks/tracking.md).
"""

import contextlib
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pwmray.registry import claim
from pwmray.tracking import runs as tracked_runs
from pwmray.tracking import wandb_state
from pwmray.tracking.protocol import Job, Report
from pwmray.tracking.runs import Run, RunReader
from pwmray.tracking.wandb_state import ServiceDied, is_behind, read_state, stamps_of, write_state
from pwmray.wording import one_line

_LOOK_SECONDS = 1.0  # at least, between two looks
_LOOK_SHARE = 0.05  # at most, of the time, that looking takes; waiting for a server does not count
_RETRY_SECONDS = 300.0  # until a server that did not answer is tried again
_MAX_LATE = 2  # after so many runs in a row that were too slow the server is at fault, not the run
_NICE = 10  # the trials come first


@dataclass
class _Sending:
    """A run that is open on the server; we hold its claim until it is closed."""

    stream: Any
    claim: contextlib.ExitStack
    run: Run  # as it was last sent
    rows: dict[int, str]  # digests of the rows that the server has, by epoch


class Recorder:
    """Brings the runs of a job's folders up to date, at each `look`."""

    def __init__(self, job: Job, writer: Any, report: Report | None = None):
        self._job, self._writer = job, writer
        self._reader = RunReader(Path(job.results), job.sweep)
        self._retry_at = 0.0 if job.is_online else float("inf")  # nothing is sent before
        self._given_up = ""  # why not
        self._has_said = False
        self._refused: set[Path] = set()  # folders whose runs the server does not take
        self._written: set[Path] = set()
        self._sent: set[Path] = set()
        self._late: dict[Path, float] = {}  # retry then: too slow, or wandb's service died
        self._late_in_a_row: set[Path] = set()
        self._lasting: dict[Path, str] = {}  # problems that stay until the files change
        self._sending: dict[Path, _Sending] = {}
        self.waited_seconds = 0.0  # for the server
        self.report = report or Report()

    def look(self) -> None:
        """Bring every folder's run up to date with its files."""
        self.report.running = self.report.elsewhere = self.report.failed = 0
        self._try_late_ones_again()
        problems = []
        folders = [folder for folder in self._job.folders() if self._is_to_see(folder)]
        for number, folder in enumerate(folders, start=1):
            try:
                self._see(folder)
            except Exception as error:  # wandb raises anything; the next folder may do better
                self.report.failed += 1
                problems.append(f"{folder.name}: {one_line(error)}")
            if not self._job.is_watching:
                print(json.dumps({"done": number, "of": len(folders)}), flush=True)
        problems += [f"{folder.name}: {said}" for folder, said in self._lasting.items()]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        self.report.problem = "; ".join(filter(None, [self._given_up, *problems[:1]])) + more

    def close(self) -> None:
        """Close the runs that are not finished; a later recorder goes on with them."""
        for sending in self._sending.values():
            with contextlib.suppress(Exception):
                sending.stream.leave()
        self._let_go()

    def _is_to_see(self, folder: Path) -> bool:
        if is_behind(folder):
            return True
        if not self._may_send() or folder in self._lasting:
            return False
        state = read_state(folder)
        if not state:
            return False
        if state.get("sent") != [state.get("digest"), *self._server_place()]:
            return True  # the server lacks the run as it was last written
        if "other_rows_from" in state:
            self._lasting[folder] = _other_rows(state["other_rows_from"])
        return False

    def _see(self, folder: Path) -> None:
        stamps = stamps_of(folder)
        is_running = tracked_runs.is_running(folder)
        self.report.running += is_running
        if is_running and not (self._may_send() and self._job.is_watching):
            return
        with contextlib.ExitStack() as ours:
            if folder not in self._sending:  # else we hold its claim already
                held = claim.acquire(folder / wandb_state.FOLDER / wandb_state.CLAIM_FILE)
                if held is None:
                    self.report.elsewhere += not is_running  # a running one is counted above
                    return
                ours.enter_context(held)
            run = self._reader.read(folder)
            if run is None:
                return
            if is_running:
                self._send(folder, run, ours)
            else:
                self._keep(folder, run, stamps, ours)

    def _send(self, folder: Path, run: Run, ours: contextlib.ExitStack) -> None:
        """Send the rows that a running trial has so far."""
        sending = self._open(folder, run, ours)
        if sending is not None:
            self._note(sending, run)
            try:
                sending.stream.send(run)
            except ConnectionError as error:
                self._put_off(folder, error)

    def _keep(
        self, folder: Path, run: Run, stamps: dict[str, Any], ours: contextlib.ExitStack
    ) -> None:
        """Write the run of a trial that no process is running, and send it if that is asked for."""
        state = read_state(folder) | {"group": run.group, "name": run.name}
        steps: list[Callable[[], None]] = [
            lambda: self._write_offline(folder, run, stamps, state),
            lambda: self._send_all(folder, run, state, ours),
        ]
        if folder in self._sending:  # to be closed first: W&B opens a run only once
            steps.reverse()
        errors = []
        for step in steps:
            try:
                step()
            except Exception as error:  # of whatever kind; the other step may succeed
                errors.append(error)
                if isinstance(error, ConnectionError):
                    self._begin_anew()
            write_state(folder, state)
        if errors:
            raise OSError("; ".join(one_line(error) for error in errors)) from errors[0]

    def _write_offline(
        self, folder: Path, run: Run, stamps: dict[str, Any], state: dict[str, Any]
    ) -> None:
        if state.get("digest") != run.digest:
            made = self._writer.write_offline(run, folder / wandb_state.FOLDER)
            state |= {"offline": made.name, "digest": run.digest}
            self._written.add(folder)
            self.report.written = len(self._written)
        state["stamps"] = stamps

    def _send_all(
        self, folder: Path, run: Run, state: dict[str, Any], ours: contextlib.ExitStack
    ) -> None:
        """Send all of a run, unless that was done before, and note in `state` what was sent."""
        sent = [run.digest, *self._server_place()]
        if state.get("sent") == sent and folder not in self._sending:
            return
        sending = self._open(folder, run, ours)
        if sending is None:
            return
        self._note(sending, run)
        del self._sending[folder]
        ours.push(sending.claim)
        try:
            self._wait_for(lambda: sending.stream.finish(run))
        except (TimeoutError, ConnectionError) as error:
            self._put_off(folder, error)
            return
        self._late_in_a_row.clear()
        wandb_state.write_rows(folder, sending.rows, self._server_place())
        state |= {"url": sending.stream.url, "sent": sent}
        state.pop("other_rows_from", None)
        wanted = run.row_digests
        other = [s for s in wanted | sending.rows if wanted.get(s) != sending.rows.get(s)]
        if other:  # W&B never replaces a row
            state["other_rows_from"] = f"{run.axis} {min(other)}"
            self._lasting[folder] = _other_rows(state["other_rows_from"])
        else:
            self._lasting.pop(folder, None)
            self._sent.add(folder)
            self.report.sent = len(self._sent)

    def _open(self, folder: Path, run: Run, ours: contextlib.ExitStack) -> _Sending | None:
        """Return the run's open stream, None if the server takes no runs now, or not this one."""
        is_left_out = folder in self._refused or folder in self._late
        if folder not in self._sending and self._may_send() and not is_left_out:
            rows = wandb_state.read_rows(folder, self._server_place())
            # A recorder that watches must not wait for long.
            num_left = 0 if self._job.is_watching else len(run.row_digests.keys() - rows.keys())
            try:
                stream = self._wait_for(lambda: self._writer.open_stream(run, num_left))
            except ServiceDied as error:  # it is restarted at once
                self._put_off(folder, error)
                return None
            except (ConnectionError, PermissionError) as error:
                self._give_up(error)
                return None
            except Exception as error:
                self._refused.add(folder)
                self._lasting[folder] = one_line(error)
                if not self._sending:
                    self._writer.reset()
                return None
            self._given_up = ""
            self._sending[folder] = _Sending(stream, ours.pop_all(), run, rows)
        return self._sending.get(folder)

    def _note(self, sending: _Sending, run: Run) -> None:
        """Note which rows the server will have after this run is sent."""
        sending.run = run
        for step, digest in run.row_digests.items():
            if step >= sending.stream.next_step or step not in sending.rows:
                sending.rows[step] = digest

    def _put_off(self, folder: Path, error: TimeoutError | ConnectionError) -> None:
        """Leave a run for a later try; if others before it failed in the same way, leave all."""
        self._late[folder] = time.monotonic() + _RETRY_SECONDS
        self._lasting[folder] = one_line(error)
        self._late_in_a_row.add(folder)
        if len(self._late_in_a_row) < _MAX_LATE:
            self._begin_anew()  # wandb may still be sending it
            return
        self._late_in_a_row.clear()
        said = "the server took too long" if isinstance(error, TimeoutError) else one_line(error)
        self._give_up(ConnectionError(f"{said} over {_MAX_LATE} runs in a row"))

    def _try_late_ones_again(self) -> None:
        for folder in [f for f, again in self._late.items() if time.monotonic() >= again]:
            del self._late[folder], self._lasting[folder]

    def _give_up(self, error: Exception) -> None:
        """Send nothing for a while if there is no network, and nothing any more without a key."""
        self._given_up = f"nothing is sent: {one_line(error)}"
        self._retry_at = float("inf")
        if self._job.is_watching and isinstance(error, ConnectionError):
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            if not self._has_said:
                again = f"tried again every {_RETRY_SECONDS / 60:.0f} minutes"
                print(json.dumps({"said": f"{self._given_up}; {again}"}), flush=True)
            self._has_said = True
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._let_go()
        self._wait_for(self._writer.reset)

    def _let_go(self) -> None:
        """Note what the server has of the open runs, and release their claims."""
        for folder, sending in self._sending.items():
            with contextlib.suppress(OSError), sending.claim:
                known = {"group": sending.run.group, "name": sending.run.name}
                wandb_state.write_rows(folder, sending.rows, self._server_place())
                write_state(folder, read_state(folder) | known)
        self._sending.clear()

    def _wait_for(self, answer: Callable[[], Any]) -> Any:
        since = time.monotonic()
        try:
            return answer()
        finally:
            self.waited_seconds += time.monotonic() - since

    def _may_send(self) -> bool:
        return time.monotonic() >= self._retry_at

    def _server_place(self) -> list[str | None]:
        """Return project, entity and server; None for a default of ours or of W&B."""
        return [self._job.project, self._job.entity or self._writer.entity, self._writer.server]


def main() -> None:
    """Do the job that stdin gives, and report on stdout."""
    os.nice(_NICE)
    with open(0, "rb", buffering=0) as pipe:
        job = Job(**json.loads(pipe.readline()))
        scratch = Path(tempfile.mkdtemp(prefix="pwmray-wandb-"))
        known = (job, pipe, scratch, report := Report())
        threading.Thread(target=_end_after_driver, args=known, daemon=True).start()
        try:
            if not job.is_watching or _wait_for_work(job, pipe):
                _record(*known)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    print(json.dumps(asdict(report)), flush=True)


def _record(job: Job, pipe: Any, scratch: Path, report: Report) -> None:
    from pwmray.tracking.wandb_writer import Writer

    with Writer(scratch, job.project, job.entity) as writer:
        recorder = Recorder(job, writer, report)
        is_over = not job.is_watching
        while not is_over:
            started = time.monotonic() - recorder.waited_seconds
            recorder.look()
            taken = time.monotonic() - recorder.waited_seconds - started
            is_over = _is_closed(pipe, max(_LOOK_SECONDS, taken / _LOOK_SHARE - taken))
        recorder.look()
        if job.is_watching and recorder.report.failed:
            recorder.look()  # wandb does not say which of the open runs failed: try all again
        recorder.close()


def _end_after_driver(job: Job, pipe: Any, scratch: Path, report: Report) -> None:
    """Kill this process `grace_seconds` after stdin closes: W&B may wait for a server for hours."""
    _is_closed(pipe, None)
    time.sleep(job.grace_seconds)
    shutil.rmtree(scratch, ignore_errors=True)
    report.problem = f"not done after {job.grace_seconds:.0f} s"
    print(json.dumps(asdict(report)))
    sys.stdout.flush()
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # with the service that wandb started
    os._exit(1)


def _wait_for_work(job: Job, pipe: Any) -> bool:
    """Wait until a folder is behind; return False if the driver leaves before."""
    is_over = False
    while not any(is_behind(folder) for folder in job.folders()):
        if is_over:
            return False
        is_over = _is_closed(pipe, _LOOK_SECONDS)
    return True


def _is_closed(pipe: Any, seconds: float | None) -> bool:
    """Wait some seconds, None for ever; return True at once when the other end closes."""
    return bool(select.select([pipe], [], [], seconds)[0])


def _other_rows(since: str) -> str:
    return f"W&B has other rows from {since} on, and keeps them; give another --project"


if __name__ == "__main__":
    main()
