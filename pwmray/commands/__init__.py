"""What all commands share: one-line errors and exit codes, options, progress."""

import argparse
import contextlib
import functools
import gc
import importlib.util
import io
import math
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NoReturn, TextIO, TypeAlias

from pwmray.durations import format_duration
from pwmray.wording import as_typed, one_line

TRIALS_FAILED = 1  # exit code: some trials failed, or none got further in a whole job
FAILED = 2  # exit code for an error that the user can put right
INTERRUPTED = 130  # as a shell reports Ctrl-C
ENDS_AT_ONCE = threading.Event()  # set where Python's own end would wait for what does not end
_UNSAID = threading.Event()  # set where a full disk did not take a line on stdout of `say`
SAID_IN_HANDLERS: list[str] = []  # lines that came between what a display draws
_RESULTS = Path("results")
_PIPE_CLOSED = 141  # as a shell reports that the reader of a pipe has left
_SECONDS_PER_LINE = 5.0

Progress = Callable[[str, int, int], None]  # the activity, steps done, steps in all (0: unknown)
Subcommands: TypeAlias = argparse._SubParsersAction  # argparse has no public name for it


def run_command(function: Callable[[], int | None]) -> int:
    """Run a command and return its exit code.

    ValueError and OSError, whose messages are for people, become one line `error: ...` on stderr
    and exit code 2; PWMRAY_TRACEBACK=1 raises them instead. KeyboardInterrupt becomes 130, or the
    `exit_code` of a subclass. It does not return where ENDS_AT_ONCE is set.
    """
    code = _run(function)
    if ENDS_AT_ONCE.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _run(function: Callable[[], int | None]) -> int:
    """Return the exit code of `run_command`."""
    _UNSAID.clear()
    _open_closed_streams()
    _write_any_name()
    _have_a_home()
    _freeze_imports()
    try:
        code = function() or 0
        if not _UNSAID.is_set():  # else its work is done, and counts
            sys.stdout.flush()
        return code
    except (BrokenPipeError, _NobodyReadsError):
        # Python flushes stdout once more on its way out and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except (ValueError, OSError) as error:
        if os.environ.get("PWMRAY_TRACEBACK") == "1":
            raise
        say(f"error: {one_line(error)}", sys.stderr)
        return FAILED
    except KeyboardInterrupt as stop:
        say(str(stop) or "interrupted", sys.stderr)
        return getattr(stop, "exit_code", INTERRUPTED)
    finally:
        _drop_unwritten()


def _drop_unwritten() -> None:
    """Drop what a full disk did not take of the output: Python would try again, and fail so."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@functools.cache  # gc.get_freeze_count() would tell, too, but walks all frozen objects
def _freeze_imports() -> None:
    """Keep what was imported out of garbage collection; once, because later objects do not stay."""
    gc.freeze()


def _open_closed_streams() -> None:
    """Open the standard streams that the command was started without, on os.devnull.

    Opened in this order they get the numbers 0 to 2, which child processes inherit as theirs.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode)  # noqa: SIM115
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def _write_any_name() -> None:
    """Escape characters that stdout's encoding lacks: no command is to fail because of a name."""
    # In the C locale Python lets undecodable bytes through, but no other characters.
    is_strict = sys.stdout.errors in ("strict", "surrogateescape")
    if isinstance(sys.stdout, io.TextIOWrapper) and is_strict:
        sys.stdout.reconfigure(errors="backslashreplace")


def _have_a_home() -> None:
    """Give a user whom the system does not know the home folder `/`, as Docker does.

    Some containers have such users. Ray Tune and W&B fail without a home, but write nothing there.
    """
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = "/"


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line, and go on with the work if a full disk cannot take it.

    If the reader of a pipe has left, the work ends as after Ctrl-C: Ray Tune would take an ordinary
    error for a trial's.
    """
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError as error:
        raise _NobodyReadsError from error
    except OSError:  # there is no other place to say so
        if stream is None:
            _UNSAID.set()


def say_in_handler(text: str) -> None:
    """Print a line on stderr from a signal handler, which may have interrupted a print."""
    SAID_IN_HANDLERS.append(text)
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())


class _NobodyReadsError(KeyboardInterrupt):
    """Ends work whose output goes into a pipe that its reader has closed."""


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose errors become the one line that `run_command` prints.

    Options cannot be abbreviated, because cluster/submit.py looks for some by their full names.
    """

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        """Raise ValueError instead of printing the usage and exiting."""
        raise ValueError(f"{message} (see {self.prog} --help)")

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Refuse an empty value of an option, which would be taken for the default."""
        if action.option_strings and "" in arg_strings and action.type in (None, Path):
            raise argparse.ArgumentError(action, "it is empty")
        return super()._get_values(action, arg_strings)


def add_results_option(parser: argparse.ArgumentParser) -> None:
    """Add `--results`, which every command about trials takes."""
    told = f"results folder; default: {_RESULTS}"
    parser.add_argument("--results", type=Path, default=_RESULTS, metavar="DIR", help=told)


def give_results(results: Path) -> list[str]:
    """Return `--results` as a command to type needs it: nothing for the default folder."""
    return [] if results.resolve() == _RESULTS.resolve() else ["--results", str(results)]


def how_to_make_room(results: Path) -> str:
    """Return what a person whom a full disk holds up can do about it."""
    command = as_typed(shlex.join(["pwmray", "prune", "--keep", "none", *give_results(results)]))
    return f"`{command}` says what may be freed"


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
    """Raise ValueError for a file or folder given twice, also under different names."""
    seen = set()
    for path in paths:
        if path.resolve() in seen:
            raise ValueError(f"{path} is given twice")
        seen.add(path.resolve())


def is_screen(stream: IO[str]) -> bool:
    """Tell whether a stream is a terminal that can write its lines anew.

    One that others type on is not: this process is in its background.
    """
    if not stream.isatty() or os.environ.get("TERM") in ("dumb", "unknown"):
        return False
    try:
        return os.tcgetpgrp(stream.fileno()) == os.getpgrp()
    except OSError:  # it is not the terminal that this process was started from
        return True


@contextlib.contextmanager
def show_progress(title: str) -> Iterator[Progress]:
    """Yield a function that shows on stderr how far some work has come, and the time left.

    A terminal shows a bar; elsewhere there is a line when the activity changes and every 5 s.
    """
    # rich may be missing: some GPU machines have torch, numpy and pyarrow alone.
    if is_screen(sys.stderr) and importlib.util.find_spec("rich"):
        with _bar(title) as show:
            yield show
    else:
        yield _Lines(title)


@contextlib.contextmanager
def _bar(title: str) -> Iterator[Progress]:
    from rich import progress
    from rich.table import Column

    from pwmray.commands.display import Display

    columns = (
        progress.TextColumn("{task.description}", table_column=Column()),  # may take several lines
        progress.BarColumn(bar_width=20),
        progress.TaskProgressColumn(),
        progress.TimeRemainingColumn(),
    )
    # By default the pace is that of the last 30 s, in which a step may not have come to its end.
    bar = progress.Progress(*columns, speed_estimate_period=math.inf)
    row = bar.add_task(title, total=None)
    is_shared = sys.stdout.isatty()  # what is printed into a file stays there
    show_bar = bar.get_renderable
    with Display(sys.stderr, show_bar, transient=True, redirect_stdout=is_shared):

        def show(what: str, done: int, total: int) -> None:
            description = f"{title}: {what}"
            if description != bar.tasks[0].description:  # an activity has a pace of its own
                bar.reset(row, description=description, completed=done)
            bar.update(row, completed=done, total=total or None)

        yield show


class _Lines:
    """Progress for a log file: few lines, each whole."""

    def __init__(self, title: str):
        self._title = title
        self._what = ""
        self._first = 0  # steps that were done as the activity began
        self._started = self._said = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what:
            self._what, self._started, self._first = what, now, done
        elif now - self._said < _SECONDS_PER_LINE:
            return
        self._said = now
        say(f"{self._title}: {what}{self._amount(done, total, now)}", sys.stderr)

    def _amount(self, done: int, total: int, now: float) -> str:
        if not total:
            return ""
        here = done - self._first
        left = (now - self._started) * (total - done) / here if here else 0.0
        return f", {done}/{total}" + (f", {format_duration(left)} left" if left else "")
