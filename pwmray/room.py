"""Wait for room on a disk that is full, in place of losing what was to be written.

Also what a disk can take, and whether it is there at all.
"""

import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pwmray.failures import is_disk_full
from pwmray.files import replacing
from pwmray.system import user_name

_POLL_SECONDS = 5.0
_MOST_PROBED = 2**24  # bytes: more would load a file server, and fill the quota under others

log = logging.getLogger(__name__)
T = TypeVar("T")


def with_room(
    write: Callable[[], T],
    folder: Path,
    limit_seconds: float,
    tell: Callable[[], None] = lambda: None,
) -> T:
    """Return what `write` returns; where the disk is full, `tell`, wait and call it again.

    `write` writes whole or not at all. Raises its OSError after `limit_seconds` without room, and
    what `tell` raises.
    """
    deadline = time.monotonic() + limit_seconds
    is_said = False
    while True:
        try:
            return write()
        except OSError as error:
            left = deadline - time.monotonic()
            if not is_disk_full(error) or left <= 0:
                raise
        if not is_said:
            log.warning("disk full: waiting up to %.0f s for room in %s", left, folder)
            is_said = True
        tell()
        time.sleep(min(_POLL_SECONDS, left))


def free_bytes(folder: Path) -> int:
    """Return how many bytes this user may still write where `folder` is, or will be."""
    return shutil.disk_usage(existing_part(folder)).free


def takes(folder: Path, num_bytes: int) -> bool:
    """Tell whether so many bytes have room in a folder that is there.

    What is free does not tell of a quota, nor of a disk that takes no file more: a file of as many
    bytes, or of the first of very many, is written to see.
    """
    if free_bytes(folder) < num_bytes:
        return False
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(os.urandom(min(num_bytes, _MOST_PROBED)))  # no file system packs these
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return not is_disk_full(error)  # of anything else who writes there will tell
    return True


def check_room(what: str, num_bytes: int, folder: Path, is_tried: bool = True) -> None:
    """Raise ValueError unless so many bytes of `what` fit where `folder` is, or will be.

    What `takes` finds out is found out only if it `is_tried`.
    """
    free, existing = free_bytes(folder), existing_part(folder)
    need = f"no room for {what}: {size_text(num_bytes)} needed, {existing}"
    if num_bytes > free:
        raise ValueError(f"{need} has {size_text(free)} free")
    if is_tried and num_bytes > 0 and not takes(existing, num_bytes):
        raise ValueError(f"{need} takes less: a quota, or its number of files, is used up")


def size_text(num_bytes: float) -> str:
    """Return a size on disk as a person reads it."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def existing_part(folder: Path) -> Path:
    """Return the folder itself, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def check_writable(folder: Path) -> None:
    """Raise ValueError unless results can be written into a folder, or make it; writes nothing."""
    existing = existing_part(folder)
    if not existing.is_dir():
        raise ValueError(f"cannot write results to {folder}: {existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        is_locked = os.statvfs(existing).f_flag & os.ST_RDONLY
        why = "lies on a read-only file system" if is_locked else "is not yours to write to"
        owner = existing.stat().st_uid
        whose = "" if is_locked or owner == os.geteuid() else f", but {user_name(owner)}'s"
        raise ValueError(f"cannot write results to {folder}: {existing} {why}{whose}")


def describe_umask(results: Path) -> list[str]:
    """Return a line if several people share a results folder and this umask shuts others out."""
    umask = os.umask(0o077)
    os.umask(umask)
    try:
        found = results.stat()
    except OSError:  # not there yet
        return []
    is_shared = found.st_mode & stat.S_ISGID and found.st_mode & stat.S_IWGRP
    if not (is_shared and umask & stat.S_IRWXG):
        return []
    return [
        f"note: others of its group share {results}, but umask {umask:03o} shuts them out of what "
        "is made there now; under umask 002 they can go on with it"
    ]


class Mount:
    """The disk on which a folder is, to be told from the empty one that is there when unmounted."""

    def __init__(self, folder: Path):
        self._folder, self._was = folder, existing_part(folder).stat()

    @property
    def is_gone(self) -> bool:
        """Whether it was unmounted: not when somebody deletes the folder, or mounts it anew."""
        try:
            now = existing_part(self._folder).stat()
        except OSError:  # whoever reads or writes there tells what ails it
            return False
        return now.st_dev != self._was.st_dev and now.st_ino != self._was.st_ino

    def check(self) -> None:
        """Raise ValueError if it was unmounted: what begins anew in its place is hidden later."""
        if self.is_gone:
            raise ValueError(
                f"{self._folder} is gone: its disk was unmounted; mount it and run this again"
            )


def link_or_copy(source: Path, target: Path) -> None:
    """Put a file's content at `target` too, by a link that takes no room where links exist."""
    with replacing(target) as draft:
        try:
            os.link(source, draft)
        except OSError as error:
            if is_disk_full(error):
                raise
            shutil.copyfile(source, draft)
