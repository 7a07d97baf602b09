"""Write files, and lines of them, whole or not at all, and read such lines."""

import contextlib
import errno
import functools
import glob
import os
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

DRAFTS = ".*.tmp"  # the names of files that are being written
_DEVICES = Path("/dev")  # where /dev/stdout may lead to a file
_STALE_SECONDS = 5.0  # that a network file system may remember a file which is no more
_POLL_SECONDS = 0.1

P = ParamSpec("P")
T = TypeVar("T")


def outlasting_stale(use: Callable[Concatenate[Path, P], T]) -> Callable[Concatenate[Path, P], T]:
    """Have a function that opens the file at a path do so again while its handle is stale.

    Another machine replaced or deleted the file: a network file system remembers the old one for
    a while (GlusterFS a second), and a reader who has it open loses it. An OSError of `use` names
    the path.
    """

    @functools.wraps(use)
    def used(path: Path, *args: P.args, **kwargs: P.kwargs) -> T:
        deadline = time.monotonic() + _STALE_SECONDS
        while True:
            try:
                return use(path, *args, **kwargs)
            except OSError as error:
                if error.errno != errno.ESTALE or time.monotonic() > deadline:
                    is_nameless = error.errno is not None and error.filename is None
                    if is_nameless and str(path) not in str(error):  # as it is in Arrow's errors
                        error.filename = str(path)
                    raise
            time.sleep(_POLL_SECONDS)

    return used


def see_afresh(path: Path) -> None:
    """Have the next look at a file find what other machines wrote until now.

    For who holds its claim: a network file system may else show the file, or its size, of a second
    ago. The answer to a second name for the file tells what it is, and its time stays as it was.
    """
    draft = draft_path(path)
    with contextlib.suppress(OSError):  # not there, or on a file system without links
        try:
            os.link(path, draft)
        finally:  # NFS repeats a request whose answer was lost, and says then that the name exists
            draft.unlink(missing_ok=True)


def ask_anew(path: Path) -> None:
    """Have the next look at a file's size and time, or at which files a folder has, be a fresh one.

    NFS remembers for up to a minute what was there, and what was not, until the one is opened.
    """
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_RDONLY))


def check_no_folder(path: Path) -> None:
    """Raise IsADirectoryError where a folder is where a file is to be."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))


def named_path(text: str) -> Path:
    """Return the absolute path that a person means; `~` of an unknown user stays as it is."""
    return Path(os.path.expanduser(text)).resolve()  # Path's own raises RuntimeError for such a one


def draft_path(path: Path) -> Path:
    """Return a new name beside `path` for what is to take its place."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def named_by_draft(name: str) -> str:
    """Return the name of the file that a draft is to become; that of another file as it is."""
    return re.sub(r"(^|/)\.([^/]+?)\.[0-9a-f]{8,32}\.tmp$", r"\1\2", str(name))


def remove_drafts(path: Path) -> None:
    """Delete what killed processes left that were writing `path`; for who holds its claim."""
    for draft in path.parent.glob(f".{glob.escape(path.name)}.{'?' * 8}.tmp"):
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: Path, is_ours_alone: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on a clean exit it is synced and takes its place.

    A device or a pipe is written into: in the place of /dev/null a file would harm the machine.
    A file stays as open to others as it was, whatever this process's umask, since it may be shared;
    one that `is_ours_alone` gets the permissions of what replaces it.
    Raises IsADirectoryError for a folder, and an OSError that names `path` if it names no file.
    """
    check_no_folder(path)
    if path.exists() and (not path.is_file() or path.parent == _DEVICES):
        with tempfile.TemporaryDirectory(prefix="pwmray-") as folder:
            yield (draft := Path(folder) / path.name)
            with open(draft, "rb") as file, open(path, "wb") as target:
                shutil.copyfileobj(file, target)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_path(path)
    try:
        yield draft
        with open(draft, "rb") as file:
            if not is_ours_alone:
                _keep_open(path, draft)
            os.fsync(file.fileno())
            try:
                os.replace(draft, path)
            except FileNotFoundError:
                # NFS repeats a request whose answer was lost: the draft is in its place by then.
                if not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                    raise
    except OSError as error:  # NFS tells of a quota when a file is synced or closed
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        draft.unlink(missing_ok=True)


def _keep_open(path: Path, draft: Path) -> None:
    """Give what replaces a file its group, and the permissions that group and others had."""
    with contextlib.suppress(OSError):  # there is no such file, or we are not of its group
        before = path.stat()
        os.chown(draft, -1, before.st_gid)
        draft.chmod(stat.S_IMODE(draft.stat().st_mode | before.st_mode & 0o066))


def append_lines(path: Path, lines: str) -> None:
    """Append lines and sync them, or leave the file as it was and raise OSError.

    What a kill left behind the last whole line goes first. For one writer at a time.
    """
    written = lines.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    drop_cut_line(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        before = os.fstat(descriptor).st_size
        try:
            # In one call, for a buffer that could not be written is tried again when it closes.
            if os.write(descriptor, written) < len(written):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(descriptor)
        except OSError as error:
            os.ftruncate(descriptor, before)
            error.filename = str(path)
            raise
    finally:
        with contextlib.suppress(OSError):  # synced or undone by now
            os.close(descriptor)


def drop_cut_line(path: Path) -> None:
    """Cut what a kill left behind the last whole line, so that the next one starts afresh."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
        is_whole = file.read(1) in (b"", b"\n")  # no more: another may be appending
    if not is_whole:
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


@outlasting_stale
def read_lines(
    path: Path, read: Callable[[bytes], T], what: str, broken: list[str] | None = None
) -> list[T]:
    """Read each line of a file that `append_lines` made by `read`; none where there is no file.

    A last line cut by a kill is left out. Why another one is no `what`, "an event" say, is put
    down in `broken`: `read` raised ValueError or TypeError. Who gives none gets a ValueError.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    found = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            found.append(read(line))
        except (ValueError, TypeError) as error:
            said = f"{path} line {number} is not {what}: {error}; correct it or delete it"
            if broken is None:
                raise ValueError(said) from error
            broken.append(said)
    return found
