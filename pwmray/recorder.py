"""The process beside a driver that keeps W&B up to date, the only one that ever loads wandb.

It is given a job (a line of JSON on stdin), looks at the folders that the job names, and writes or
sends what is behind: at once where the job says so, else again and again until stdin closes, which
it also does when the driver is killed. Training never waits for it, and what it does not come to
is made from the same files by the next driver or by `pwmray wandb sync`. Its last line on stdout
is a Report; progress of the only look comes before.

Why beside the driver: in each worker W&B costs a service process and seconds a trial; in the
driver its hooks, threads and retries would stand between Ray and the user. One process writes a
trial in some 30 ms (benchmarks/tracking.md).
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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pwmray import claim, tracked_runs, wandb_state
from pwmray.tracked_runs import Run, RunReader
from pwmray.wandb_state import is_behind, read_state, write_state

_LOOK_SECONDS = 1.0  # between two looks, at least
_LOOK_SHARE = 0.05  # of the time, at most, that goes into looking
_NICE = 10  # the trials come first


@dataclass
class Job:
    """What to record: the trials of a sweep or of all, the pretrainings named, or everything."""

    results: str
    sweep: str | None = None
    pretrained: tuple[str, ...] = ()  # fingerprints; then no trials
    is_online: bool = False
    project: str | None = None  # in place of ours
    entity: str | None = None
    is_watching: bool = False
    grace_seconds: float = 120.0  # that it may go on when its driver has left

    def folders(self) -> list[Path]:
        """Return the folders as they are known now: a search's grow."""
        results_dir = Path(self.results)
        if self.pretrained:
            place = results_dir / tracked_runs.pretraining_folder.PRETRAINED_FOLDER
            return [place / fingerprint for fingerprint in self.pretrained]
        if self.sweep is not None:
            return tracked_runs.trial_folders(results_dir, self.sweep)
        return tracked_runs.all_folders(results_dir)


@dataclass
class Report:
    """What a recorder did and what it left."""

    written: int = 0  # runs kept offline that are new or have grown
    sent: int = 0  # runs of which the server now has all
    # Of the last look:
    running: int = 0  # left alone, for a process is at work there
    failed: int = 0  # of those that were to be written
    problem: str = ""  # in a line


class Recorder:
    """Keeps the runs of a job's folders."""

    def __init__(self, job: Job, writer: Any):
        self._job, self._writer = job, writer
        self._reader = RunReader(Path(job.results), job.sweep)
        self._is_online = job.is_online
        self._given_up = ""  # why nothing is sent any more
        self._streams: dict[Path, Any] = {}
        self._claims = contextlib.ExitStack()  # on the folders of streams
        self.report = Report()

    def look(self, say: bool = False) -> None:
        """Bring every folder's run up to what is there."""
        self.report.running = self.report.failed = 0
        self.report.problem = ""
        folders = [folder for folder in self._job.folders() if self._is_to_see(folder)]
        for number, folder in enumerate(folders, start=1):
            try:
                self._see(folder)
            except Exception as error:  # wandb raises what it likes; the next folder may do better
                self.report.failed += 1
                self.report.problem = self.report.problem or _in_a_line(folder.name, error)
            if say:
                print(json.dumps({"done": number, "of": len(folders)}), flush=True)
        self.report.problem = self._given_up or self.report.problem

    def close(self) -> None:
        """Leave the runs that are still sent; who goes on with the trial goes on with them."""
        for stream in self._streams.values():
            with contextlib.suppress(Exception):
                stream.leave()
        self._claims.close()

    def _is_to_see(self, folder: Path) -> bool:
        if is_behind(folder):
            return True
        state = read_state(folder)
        return self._is_online and bool(state) and not self._is_sent(state)

    def _see(self, folder: Path) -> None:
        is_running = tracked_runs.is_running(folder)
        self.report.running += is_running
        if is_running and not (self._is_online and self._job.is_watching):
            return
        with contextlib.ExitStack() as ours:
            if folder not in self._streams:  # then it is ours already
                held = claim.acquire(folder / wandb_state.FOLDER / wandb_state.CLAIM_FILE)
                if held is None:
                    return
                ours.enter_context(held)
            run = self._reader.read(folder)
            if run is None:
                return
            if is_running:
                self._send(folder, run)
            else:
                self._keep(folder, run)
            if folder in self._streams:
                self._claims.enter_context(ours.pop_all())

    def _send(self, folder: Path, run: Run) -> None:
        """Send what a running trial has by now."""
        stream = self._stream(folder, run)
        if stream is not None:
            stream.send(run)

    def _keep(self, folder: Path, run: Run) -> None:
        """Write the run of a trial that nobody works at, and send it where that is asked for."""
        state = read_state(folder)
        try:
            # First, for W&B has a run of one name open once.
            state |= self._send_all(folder, run, state.get("sent"))
        finally:
            if state.get("digest") != run.digest:
                made = self._writer.write_offline(run, folder / wandb_state.FOLDER)
                state |= {"group": run.group, "name": run.name, "offline": made.name}
                state["digest"] = run.digest
                self.report.written += 1
            write_state(folder, state)

    def _send_all(self, folder: Path, run: Run, before: Any) -> dict[str, Any]:
        """Send all of a run unless that was done; return what there is to know of it then."""
        sent = [run.digest, *self._server_place()]
        stream = None if before == sent else self._stream(folder, run)
        if stream is None:
            return {}
        del self._streams[folder]
        stream.finish(run)
        self.report.sent += 1
        return {"url": stream.url, "sent": sent}

    def _stream(self, folder: Path, run: Run) -> Any:
        """Return the open run on the server, None where the server is not to be reached."""
        if folder not in self._streams and self._is_online:
            try:
                self._streams[folder] = self._writer.open_stream(run)
            except Exception as error:  # no key, no network, no such entity: for all runs alike
                self._is_online = False
                self._given_up = _in_a_line("nothing is sent", error)
        return self._streams.get(folder)

    def _is_sent(self, state: dict[str, Any]) -> bool:
        """Tell whether the server has the run as it was last written."""
        return state.get("sent") == [state.get("digest"), *self._server_place()]

    def _server_place(self) -> list[str | None]:
        return [self._job.project, self._job.entity]


def main() -> None:
    """Do the job that stdin gives, and report on stdout."""
    os.nice(_NICE)
    with open(0, "rb", buffering=0) as pipe:
        job = Job(**json.loads(pipe.readline()))
        scratch = Path(tempfile.mkdtemp(prefix="pwmray-wandb-"))
        leash = threading.Thread(target=_end_after_driver, args=(job, pipe, scratch), daemon=True)
        leash.start()
        try:
            is_needed = not job.is_watching or _wait_for_work(job, pipe)
            report = _record(job, pipe, scratch) if is_needed else Report()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    print(json.dumps(asdict(report)), flush=True)


def _record(job: Job, pipe: Any, scratch: Path) -> Report:
    from pwmray.wandb_writer import Writer

    with Writer(scratch, job.project, job.entity) as writer:
        recorder = Recorder(job, writer)
        is_over = not job.is_watching
        while not is_over:
            started = time.monotonic()
            recorder.look()
            taken = time.monotonic() - started
            is_over = _is_closed(pipe, max(_LOOK_SECONDS, taken / _LOOK_SHARE - taken))
        recorder.look(say=not job.is_watching)
        recorder.close()
        return recorder.report


def _end_after_driver(job: Job, pipe: Any, scratch: Path) -> None:
    """End this process some time after stdin was closed: W&B may wait for a server for hours."""
    _is_closed(pipe, None)
    time.sleep(job.grace_seconds)
    shutil.rmtree(scratch, ignore_errors=True)
    print(json.dumps(asdict(Report(problem=f"not done after {job.grace_seconds:.0f} s"))))
    sys.stdout.flush()
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # with the service that wandb started
    os._exit(1)


def _wait_for_work(job: Job, pipe: Any) -> bool:
    """Wait until a folder is behind; return False where none is when the driver leaves."""
    is_over = False
    while not any(is_behind(folder) for folder in job.folders()):
        if is_over:
            return False
        is_over = _is_closed(pipe, _LOOK_SECONDS)
    return True


def _is_closed(pipe: Any, seconds: float | None) -> bool:
    """Wait so long, or for ever; return at once, with True, when the other end closes."""
    return bool(select.select([pipe], [], [], seconds)[0])


def _in_a_line(what: str, error: Exception) -> str:
    return f"{what}: {' '.join((str(error) or type(error).__name__).split())}"


if __name__ == "__main__":
    main()
