"""What people read: errors in a line, names that are not valid, commands to type, numbers."""

import contextlib
import difflib
import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from pwmray.files import named_by_draft
from pwmray.system import user_name

_ROOT = Path(__file__).resolve().parents[1]


def one_line(error: Exception) -> str:
    """Return an error's message in one line, for people."""
    if isinstance(error, UnicodeEncodeError):  # of a name, whose bytes are no text in this locale
        return f"{error.object!a:.200} cannot be written in {error.encoding}; rename it"
    if isinstance(error, OSError) and error.strerror:
        place = f": {named_by_draft(error.filename)}" if error.filename else ""
        return f"{error.strerror}{place}{_whose(error)}"
    return " ".join((str(error) or type(error).__name__).split())


def _whose(error: OSError) -> str:
    """Return whose the file or folder is that is closed to us, if it is another user's."""
    if not (isinstance(error, PermissionError) and isinstance(error.filename, str | bytes)):
        return ""
    path = Path(os.fsdecode(error.filename))
    for part in (path, *path.parents):
        with contextlib.suppress(OSError, ValueError):
            number = part.stat().st_uid
            which = ", which" if part == path else f"; {part}"
            return "" if number == os.geteuid() else f"{which} is {user_name(number)}'s"
    return ""


def first_line(error: Exception | str) -> str:
    """Return the first line of an error's message: those of some libraries have many."""
    return str(error).strip().split("\n")[0] or type(error).__name__


def number_of(number: int, noun: str) -> str:
    """Return a number with what it counts: `1 trial`, `2 trials`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def unknown(what: str, name: object, valid: Iterable[str]) -> str:
    """Return the complaint about a name that is not valid, with the nearest valid one."""
    valid = list(valid)
    return f"unknown {what} {name!r}{nearest(str(name), valid)} valid: {', '.join(valid)}"


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the valid name most like `name`, else ";".

    What is valid is to follow it.
    """
    matches = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ";"


def as_typed(command: str) -> str:
    """Return a command as it is typed here: after ./run where that started this process.

    From another folder ./run finds the project's scripts; without it they have their whole paths.
    """
    run = os.environ.get("PWMRAY_RUN")
    if run:
        return f"{shlex.quote(run)} {command}"
    first, _, rest = command.partition(" ")
    name = rest.partition(" ")[0]
    if first == "python" and not Path(name).exists() and (_ROOT / name).is_file():
        return f"python {shlex.quote(str(_ROOT / name))}{rest.removeprefix(name)}"
    return command
