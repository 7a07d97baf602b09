"""What all commands share: errors in one line, options, progress."""

import argparse
import contextlib
import functools
import gc
import importlib.util
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeAlias

from pwmray.durations import format_duration
from pwmray.wording import one_line

STARTED_AT = time.monotonic()  # of this process, which loads this before it does anything
TRIALS_FAILED = 1  # exit code: some trials failed, or none came further in a whole job
FAILED = 2  # exit code for something the user can put right
INTERRUPTED = 130  # what a shell reports for Ctrl-C
ENDS_AT_ONCE = threading.Event()  # set where Python's own end would wait for what does not end
_PIPE_CLOSED = 141  # what a shell reports when the reader of a pipe left
_SECONDS_PER_LINE = 5.0

Progress = Callable[[str, int, int], None]  # what is going on, steps done, steps in all
Subcommands: TypeAlias = argparse._SubParsersAction  # which argparse has no public name for


def run_command(function: Callable[[], int | None]) -> int:
    """Run a command and return its exit code.

    ValueError and OSError, which are written for people, become `error: ...` in one line on
    stderr and exit code 2; PWMRAY_TRACEBACK=1 shows where they came from. Ctrl-C becomes 130, a
    subclass of KeyboardInterrupt its own `exit_code`. It does not return where ENDS_AT_ONCE is set.
    """
    code = _run(function)
    if ENDS_AT_ONCE.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _run(function: Callable[[], int | None]) -> int:
    """Return the exit code of `run_command`."""
    _open_closed_streams()
    _write_any_name()
    _have_a_home()
    _freeze_imports()
    try:
        code = function() or 0
        sys.stdout.flush()
        return code
    except (BrokenPipeError, _NobodyReadsError):
        # Python flushes stdout once more on its way out and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except (ValueError, OSError) as error:
        if os.environ.get("PWMRAY_TRACEBACK") == "1":
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt as stop:
        print(str(stop) or "interrupted", file=sys.stderr)
        return getattr(stop, "exit_code", INTERRUPTED)


@functools.cache  # gc.get_freeze_count() would say it, too, but walks all that was frozen
def _freeze_imports() -> None:
    """Keep imports out of garbage collection: once, for later commands make what does not stay."""
    gc.freeze()


def _open_closed_streams() -> None:
    """Open the standard streams that the command was started without, on os.devnull.

    In this order they get the lowest numbers, which are the streams of child processes too.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode)  # noqa: SIM115
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def _write_any_name() -> None:
    """Write what stdout's encoding lacks as escapes: no command is to fail for a name."""
    # In the locale C Python lets through bytes that it could not decode, and nothing more.
    is_strict = sys.stdout.errors in ("strict", "surrogateescape")
    if isinstance(sys.stdout, io.TextIOWrapper) and is_strict:
        sys.stdout.reconfigure(errors="backslashreplace")


def _have_a_home() -> None:
    """Let a user whom the system does not know, as in some containers, have the home of Docker's.

    Ray Tune and W&B end without one, though they leave nothing there.
    """
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = "/"


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line about work that goes on whether or not it can be written.

    On a full disk it comes out once there is room. Where nobody reads any more, the work ends as
    after Ctrl-C: Ray Tune would take an ordinary error to be a trial's.
    """
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError as error:
        raise _NobodyReadsError from error
    except OSError:
        pass  # nor is there another place to say so


def say_in_handler(text: str) -> None:
    """Print a line on stderr from a signal handler, which may have interrupted a print."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())


class _NobodyReadsError(KeyboardInterrupt):
    """Ends work whose output goes into a pipe that was closed at the other end."""


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose complaints are the one line that run_command prints.

    Options cannot be abbreviated: cluster/submit.py looks for some of them by their names.
    """

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        """Raise ValueError in place of printing the usage and exiting."""
        raise ValueError(f"{message} (see {self.prog} --help)")

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Refuse an option with an empty value, which would stand for its default."""
        if action.option_strings and "" in arg_strings and action.type in (None, Path):
            raise argparse.ArgumentError(action, "it is empty")
        return super()._get_values(action, arg_strings)


def add_results_option(parser: argparse.ArgumentParser) -> None:
    """Add `--results`, which every command about trials takes."""
    default = Path("results")
    told = f"results folder; default: {default}"
    parser.add_argument("--results", type=Path, default=default, metavar="DIR", help=told)


def names(text: str) -> list[str]:
    """Split names at commas; raise ArgumentTypeError for one given twice."""
    return distinct([name.strip() for name in text.split(",")])


def distinct(values: list[Any]) -> list[Any]:
    """Return the values of an option's list; raise ArgumentTypeError for one given twice."""
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        raise argparse.ArgumentTypeError(f"{twice[0]!r} is given twice")
    return values


def check_distinct(paths: Iterable[Path]) -> None:
    """Raise ValueError for a file or folder given twice, by whatever names."""
    seen = set()
    for path in paths:
        if path.resolve() in seen:
            raise ValueError(f"{path} is given twice")
        seen.add(path.resolve())


@contextlib.contextmanager
def show_progress(title: str) -> Iterator[Progress]:
    """Yield a function that shows on stderr how far work has come and the time left.

    On a terminal that is a bar; elsewhere a line when the activity changes and every 5 seconds.
    """
    # rich: a GPU machine may have torch, numpy and pyarrow alone.
    if sys.stderr.isatty() and importlib.util.find_spec("rich"):
        with _bar(title) as show:
            yield show
    else:
        yield _Lines(title)


@contextlib.contextmanager
def _bar(title: str) -> Iterator[Progress]:
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        row = bar.add_task(title, total=None)

        def show(what: str, done: int, total: int) -> None:
            bar.update(row, description=f"{title}: {what}", completed=done, total=total or None)

        yield show


class _Lines:
    """Progress for a log file: few lines, each whole."""

    def __init__(self, title: str):
        self._title = title
        self._what = ""
        self._started = self._said = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what:
            self._what, self._started = what, now
        elif now - self._said < _SECONDS_PER_LINE:
            return
        self._said = now
        say(f"{self._title}: {what}{self._amount(done, total, now)}", sys.stderr)

    def _amount(self, done: int, total: int, now: float) -> str:
        if not total:
            return ""
        left = (now - self._started) * (total - done) / done if done else 0.0
        return f", {done}/{total}" + (f", {format_duration(left)} left" if left else "")
