"""Writing and sending W&B's runs through wandb's own interface; only the recorder loads this.

An offline run is a file with the whole run, which is written anew when the curve has grown. It does
not say that it resumes, because `wandb sync` would then continue the numbering of the server's
epochs. Even so `wandb sync` appends all rows of such a file to those that the server has, and must
be kept from a run that is there (wandb_state.write_state).
A run that is sent resumes (`resume="allow"`) after the last epoch that the server has of it.
"""

import contextlib
import datetime
import functools
import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import wandb
import wandb.errors

from pwmray.files import remove_drafts, replacing
from pwmray.tracking.runs import Run
from pwmray.tracking.wandb_file import is_complete
from pwmray.tracking.wandb_state import ServiceDied

_SERVER = "https://api.wandb.ai"  # where wandb sends runs by itself
_INIT_SECONDS = 15.0  # for the server to answer
_FINISH_SECONDS = 30.0  # for the server to take the rest of a run,
_ROW_SECONDS = 0.05  # and for each row of it: half a kilobyte, over a slow line
_SENT = "sent-"  # prefix of the folders in which wandb keeps a run until it is sent
_CLOSE_SECONDS, _POLL_SECONDS = 10.0, 0.005  # for a file to be closed
_NOT_SENT = "error while uploading"
_DELETED = "previously created and deleted"  # W&B never takes a run of that id again
_ADVICE = "Consider increasing the init_timeout"  # of ours, which nobody can
_DEAD = "W&B's service died"
_DIED = ("ConnectionResetError", "BrokenPipeError", "MailboxClosedError", "HandleAbandonedError")
# Variables WANDB_* that a person's shell, notebook or agent may have set for another run.
_NOT_OURS = (
    *("RESUME", "RUN_ID", "NAME", "NOTES", "TAGS", "RUN_GROUP", "JOB_TYPE", "SWEEP_ID", "PROJECT"),
    *("RESUME_FROM", "FORK_FROM", "CONFIG_PATHS", "SWEEP_PARAM_PATH"),
    "SERVICE",  # a service that may have ended, and that Writer.reset must not end
)


class Writer:
    """Writes and sends runs; a context manager. wandb's own files go into `scratch`."""

    def __init__(self, scratch: Path, project: str | None = None, entity: str | None = None):
        self._project, self._entity = project, entity
        self._scratch = scratch
        for name in (*_NOT_OURS, "MODE", "DIR"):
            os.environ.pop(f"WANDB_{name}", None)
        os.environ["WANDB_CACHE_DIR"] = str(self._scratch / "cache")  # its own logs go there
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # offline nothing is to be sent
        self._overheard = _Overheard()

    @property
    def entity(self) -> str | None:
        """The user or team that wandb is set to; None for that of the API key."""
        return self._found.entity if self._found else None

    @property
    def server(self) -> str | None:
        """The address of the server, None for W&B's own."""
        address = self._found.base_url if self._found else None
        return None if address == _SERVER else address

    @functools.cached_property
    def _found(self) -> wandb.Settings | None:
        """The settings that wandb finds in the environment and its files, None if they are bad."""
        with contextlib.suppress(ValueError):  # opening a run reports it
            return wandb.setup().settings
        return None

    def __enter__(self) -> "Writer":
        self._overheard.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.reset()
        self._overheard.__exit__()

    def write_offline(self, run: Run, folder: Path) -> Path:
        """Write the run as one of W&B's offline folders inside `folder`; return its path.

        The caller holds the claim there. Raises OSError, also if W&B did not write all of the run,
        and ServiceDied if wandb's service died.
        """
        began = _time_in_names(run.begun)
        target = folder / f"offline-run-{began}-{run.id}"
        with tempfile.TemporaryDirectory(dir=self._scratch, ignore_cleanup_errors=True) as name:
            scratch = Path(name)
            with _telling_of_death():
                opened = self._open(run, scratch, mode="offline", project=run.project)
                _log(opened, run, 0)
                opened.summary.update(run.summary)
                opened.finish(exit_code=run.exit_code)
            (made,) = scratch.glob("wandb/offline-run-*/*.wandb")
            _check_written(made, len(run.rows))
            remove_drafts(target / made.name)
            with replacing(target / made.name) as draft:
                shutil.copyfile(made, draft)
        return target

    def open_stream(self, run: Run, num_left: int) -> "Stream":
        """Open the run on the server, or resume it; `num_left` rows are still to be sent.

        Two errors concern all runs: PermissionError without a key or for an invalid project name,
        and ConnectionError without a network or an answer. ServiceDied says that wandb's service
        died. ValueError says that the server refuses this run, whose id wandb then takes to be in
        use until `reset`.
        """
        scratch = Path(tempfile.mkdtemp(prefix=_SENT, dir=self._scratch))
        try:
            with _telling_of_death():
                opened = self._open(
                    run,
                    scratch,
                    mode="online",
                    project=self._project or run.project,
                    finish_seconds=_FINISH_SECONDS + _ROW_SECONDS * num_left,
                    entity=self._entity,
                    resume="allow",
                )
        except ConnectionError:
            raise
        except Exception as error:  # wandb raises anything
            if _DELETED in str(error):
                raise ValueError("deleted at W&B: give another --project") from error
            if isinstance(error, wandb.errors.UsageError):
                raise PermissionError(str(error)) from error
            if isinstance(error, wandb.errors.CommError):
                raise ConnectionError(str(error).partition(_ADVICE)[0].strip()) from error
            raise ValueError(str(error)) from error
        return Stream(opened, scratch, self._overheard)

    def reset(self) -> None:
        """Restart wandb's service, which closes all runs."""
        with contextlib.suppress(Exception):  # the service has died; wandb forgets it all the same
            wandb.teardown()
        for scratch in self._scratch.glob(f"{_SENT}*"):
            shutil.rmtree(scratch, ignore_errors=True)

    def _open(
        self, run: Run, scratch: Path, finish_seconds: float = _FINISH_SECONDS, **where: Any
    ) -> Any:
        opened = wandb.init(
            id=run.id,
            group=run.group or None,
            name=run.name,
            tags=run.tags,
            config=run.config,
            dir=str(scratch),
            settings=_settings(finish_seconds),  # new ones: wandb.init writes into them
            reinit="create_new",  # several may be open at once
            **where,
        )
        opened.define_metric(run.axis)
        opened.define_metric("*", step_metric=run.axis)
        return opened


class Stream:
    """A run that is open on the server."""

    def __init__(self, opened: Any, scratch: Path, overheard: "_Overheard"):
        self._opened, self._scratch, self._overheard = opened, scratch, overheard
        self._num_problems = overheard.num_problems
        self.next_step = opened.starting_step  # after the last one that the server has

    @property
    def url(self) -> str:
        """The run's page at W&B."""
        return self._opened.url

    def send(self, run: Run) -> None:
        """Send the rows that the server lacks; raise ServiceDied if wandb's service died."""
        with _telling_of_death():
            self.next_step = _log(self._opened, run, self.next_step)

    def finish(self, run: Run) -> None:
        """Send the rest and wait until the server has all of the run.

        Raises OSError if it does not take all, TimeoutError if it takes too long, and ServiceDied
        if wandb's service died.
        """
        self.send(run)
        try:
            with _telling_of_death():
                self._opened.summary.update(run.summary)
                self._opened.finish(exit_code=run.exit_code)
        except TimeoutError as error:
            seconds = self._opened.settings.finish_timeout
            raise TimeoutError(f"the server did not take all of it in {seconds:.0f} s") from error
        shutil.rmtree(self._scratch, ignore_errors=True)
        if self._overheard.num_problems > self._num_problems:
            raise OSError("the server did not take all of the run")

    def leave(self) -> None:
        """Close the run unfinished, for its trial has not ended."""
        self._opened.finish(exit_code=1)


class _Overheard(io.TextIOBase):
    """Stands in for stderr and counts errors of sending, which wandb only prints.

    wandb does not say which run failed, so all runs that are open then are sent again.
    """

    def __init__(self) -> None:
        self.num_problems = 0
        self._stderr = sys.stderr

    def __enter__(self) -> "_Overheard":
        sys.stderr = self
        return self

    def __exit__(self, *_: object) -> None:
        sys.stderr = self._stderr

    def write(self, text: str) -> int:
        self.num_problems += _NOT_SENT in text
        return self._stderr.write(text)

    def flush(self) -> None:
        self._stderr.flush()


@contextlib.contextmanager
def _telling_of_death() -> Iterator[None]:
    """Raise ServiceDied in place of the several errors by which wandb tells that."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ in _DIED:
            raise ServiceDied(_DEAD) from error
        raise


def _settings(finish_seconds: float) -> wandb.Settings:
    return wandb.Settings(
        console="off",
        silent=True,
        # The Stop button of W&B's page would end this process, and with it all runs.
        stop_fn=lambda: None,
        disable_git=True,
        disable_code=True,
        init_timeout=_INIT_SECONDS,
        finish_timeout=finish_seconds,
        finish_timeout_raises=True,
        # The trial's record says on which machine it ran.
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
    )


def _log(opened: Any, run: Run, next_step: int) -> int:
    """Log the rows from `next_step` on; return the step after the last one."""
    for row in run.rows:
        step = int(row[run.axis])
        if step >= next_step:
            # As in TensorBoard: when the row was made, had the trial never waited.
            made = run.begun + row.get("seconds", 0.0)
            opened.log({**row, "_timestamp": made}, step=step, commit=True)
            next_step = step + 1
    return next_step


def _check_written(path: Path, num_rows: int) -> None:
    """Wait until the file is complete: wandb's service closes it a moment after `finish`."""
    deadline = time.monotonic() + _CLOSE_SECONDS
    while not is_complete(path, num_rows):
        if time.monotonic() > deadline:
            raise OSError(f"W&B did not write all of {path.name}")
        time.sleep(_POLL_SECONDS)


def _time_in_names(seconds: float) -> str:
    """Return a time as in the names of W&B's folders, but in UTC: the same on every machine."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y%m%d_%H%M%S")
