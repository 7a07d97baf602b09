"""One writer at a time: a claim is a file that a process owns, keeps fresh and gives back.

A claim is taken atomically, by a hard link, which also works on a network file system where locks
do not. A process on the owner's machine sees whether the owner lives, whatever a clock says. On
another machine the heartbeat tells, which is the file's time: a claim without a heartbeat for the
lease is anyone's. So is one that was copied with its folder, for nobody keeps the copy fresh.
"""

import contextlib
import errno
import json
import math
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pwmray.files import DRAFTS, outlasting_stale
from pwmray.registry import processes
from pwmray.system import user_name

LEASE_SECONDS = 120.0
_BEATS_PER_LEASE = 6
_LOOKS_PER_LEASE = 40  # 3 s: longer than most network file systems show a changed file as it was
# Without hard links: exFAT; CIFS; some of FUSE; macOS, where one of these has another number.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTSUP)
_BRIEF_SECONDS = 0.005  # between two looks at a brief claim


class Claim:
    """A held claim; use it as a context manager or call `release`."""

    def __init__(self, path: Path, token: str):
        self.path = path
        self._token = token
        self._pid = os.getpid()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_released = False

    def beat(self) -> None:
        """Keep the claim fresh from now on, in a thread."""
        what = (self.path, self._token, self._stop)
        self._thread = threading.Thread(target=_beat, args=what, daemon=True)
        self._thread.start()

    def __del__(self) -> None:
        """Release a claim that an interrupt kept from its caller; not in a forked process."""
        with contextlib.suppress(Exception):  # at the interpreter's end modules may be gone
            if not self._is_released and self._pid == os.getpid():
                self.release()

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @property
    def is_held(self) -> bool:
        """Tell whether the file on disk still names this owner."""
        return _is_of(self.path, self._token)

    def release(self) -> None:
        """Stop the heartbeat and give the claim back; a claim lost to another is left alone."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self.is_held:
            self.path.unlink(missing_ok=True)
        self._is_released = True


def _is_of(path: Path, token: str) -> bool:
    return holder(path).get("token") == token


def _beat(path: Path, token: str, stop: threading.Event) -> None:
    """Keep a claim fresh; without a reference to the Claim, which is to end with its last user."""
    while not stop.wait(LEASE_SECONDS / _BEATS_PER_LEASE):
        with contextlib.suppress(OSError):  # the folder may be gone; is_held then says so
            if _is_of(path, token):
                os.utime(path)


@outlasting_stale
def acquire(path: Path, is_brief: bool = False) -> Claim | None:
    """Take the claim at `path`, or a stale one over; return None while another process holds it.

    A brief claim is for a few writes without a pause: other processes wait until it is released.
    """
    claim = _try(path, is_brief)
    if claim is None:
        return None
    try:
        if _watched.pop(path, None):
            _wait_for_takers()
            if not claim.is_held:
                return None
        if not is_brief:
            claim.beat()
        return claim
    except BaseException:
        claim.release()
        raise


def clear_dead(paths: Iterable[Path]) -> None:
    """Free the claims that `acquire` would take over from other machines, all in one wait.

    `acquire` waits for each: the last of a lost machine's trials would be free minutes later. A
    claim that cannot be freed is left as it is.
    """
    with contextlib.suppress(OSError), contextlib.ExitStack() as held:
        taken = []
        for path in sorted(_watched.keys() & paths):  # all processes in one order: no deadlock
            with contextlib.suppress(OSError):  # who acquires it is told
                if not path.parent.exists() or owner(path) is not None:
                    continue
                claim = _try(path, is_brief=True)
                if claim is not None:
                    taken.append(held.enter_context(claim))
        if taken:
            _wait_for_takers()
        for claim in taken:
            _watched.pop(claim.path, None)


def watch_dead(paths: Iterable[Path], say: Callable[[str], object]) -> None:
    """Free the claims of processes on other machines that seem dead, once that is certain.

    This watches them together for 40 s, after telling `say` whose they are; without any it returns
    at once. It is for a command that calls `acquire` only once, which takes over no claim that was
    not watched before.
    """
    watched = []
    for path in paths:
        with contextlib.suppress(OSError):  # who acquires it is told
            found = holder(path)
            # A claim of a dead process on this machine needs no watching.
            if found and _is_stale(path) and not _is_local(path, found):
                _is_still(path)  # begins to watch it
                watched.append((path, describe(found)))
    if watched:
        seconds = 2 * LEASE_SECONDS / _BEATS_PER_LEASE
        who = ", ".join(sorted({who for _, who in watched}))
        say(f"looking for {seconds:.0f} s whether a process lives that seems dead: pid {who}")
        time.sleep(seconds)
        clear_dead([path for path, _ in watched])


def _try(path: Path, is_brief: bool) -> Claim | None:
    """Take a claim, as `acquire`; another taker may yet move away one that was taken over."""
    path.parent.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex
    draft = path.with_name(f".{path.name}.{token}.tmp")
    claim = Claim(path, token)
    try:
        try:
            _write(draft, {"token": token, "is_brief": is_brief, **processes.this_process()})
            while not _link(draft, path):
                if _clear_stale(path, draft):
                    continue
                found = holder(path)
                if not found.get("is_brief") and path.exists():  # else released between two looks
                    return None
                time.sleep(_BRIEF_SECONDS)
        finally:
            draft.unlink(missing_ok=True)
        return claim
    except FileNotFoundError:
        return None  # the claim's holder clears drafts away, ours too
    except BaseException:  # an interrupt, after which nobody would give it back
        claim.release()
        raise


def owner(path: Path) -> dict[str, Any] | None:
    """Return who holds the claim, as `holder`, or None when it is free, stale or brief."""
    found = holder(path)
    if not found or found.get("is_brief") or _is_stale(path):
        return None
    return found


def find_drafts(folder: Path) -> list[Path]:
    """Return the half-written files of a folder, without those by which a claim is being taken."""
    return [path for path in sorted(folder.glob(DRAFTS)) if not path.name.startswith(".claim.")]


@outlasting_stale
def holder(path: Path) -> dict[str, Any]:
    """Return what the claim's file says of its owner, stale or not; empty without such a file.

    That is `token`, `is_brief`, `inode` and what `processes.this_process` returns.
    """
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def describe(found: Mapping[str, Any]) -> str:
    """Return the owner that `owner` or `holder` found as text for people: 4711 on node1.

    Of another user's process it says whose it is: 4711 of bob on node1.
    """
    user = found.get("user", os.geteuid())  # earlier versions did not say
    whose = "" if user == os.geteuid() else f" of {user_name(user)}"
    return f"{found.get('pid')}{whose} on {found.get('host')}"


def _write(draft: Path, owner: dict[str, Any]) -> None:
    with open(draft, "x") as file:
        # A hard link to the file has the same inode, a copy of it another one.
        file.write(json.dumps({**owner, "inode": os.fstat(file.fileno()).st_ino}))


def _link(draft: Path, path: Path) -> bool:
    try:
        os.link(draft, path)
    except FileExistsError:
        # NFS repeats a request whose answer was lost, and the repetition finds the name: ours. The
        # number of names may be a remembered one, from before the link.
        return draft.stat().st_nlink > 1 or holder(path) == holder(draft) != {}
    except OSError as error:
        if error.errno in _NO_LINKS:
            why = "its file system has no hard links, without which two may take one trial"
            raise OSError(error.errno, why, str(path.parent)) from error
        raise
    return True


def _clear_stale(path: Path, draft: Path) -> bool:
    """Move a stale claim away and return whether it is gone.

    A claim that another taker has made fresh meanwhile is put back.
    """
    os.utime(draft)  # tells the time by the file system's clock, as heartbeats do
    now = draft.stat().st_mtime
    seen = holder(path)
    aside = path.with_name(f".{path.name}.stale.{uuid.uuid4().hex}.tmp")
    try:
        if not _is_stale(path, now):
            return False
        if not _is_local(path, seen) and not _is_still(path):
            return False
        os.rename(path, aside)
    except FileNotFoundError:
        return True
    if holder(aside).get("token") != seen.get("token"):
        try:
            os.link(aside, path)
        except FileExistsError:  # a third process has one there by now
            pass
        except PermissionError:  # Linux gives a file of another user no second name
            os.rename(aside, path)
        aside.unlink(missing_ok=True)
        return False
    aside.unlink()
    return True


def _wait_for_takers() -> None:
    """Wait until every other taker can see the new claim: whoever holds it then keeps it.

    All of them watched the dead claim, and one that still sees it moves the new one away.
    """
    time.sleep(LEASE_SECONDS / _LOOKS_PER_LEASE)


def _is_stale(path: Path, now: float | None = None) -> bool:
    """Tell whether nobody holds the claim: its process is dead, or on another machine silent.

    `now` is the file system's time, if the caller knows it.
    """
    found = holder(path)
    try:
        if _is_local(path, found):
            return not processes.is_alive(found["pid"], found.get("started"))
        if now is None:
            now = time.time() + _file_clock_lead(path.parent)
        # A time far ahead is no sign of life either: it is from before a clock was set back.
        return abs(now - path.lstat().st_mtime) > LEASE_SECONDS
    except FileNotFoundError:
        return True


_leads: dict[int, tuple[float, float]] = {}  # by device: when it was measured, and the lead


def _file_clock_lead(folder: Path) -> float:
    """Return by how many seconds the clock of a folder's file system leads this machine's.

    A file that is written there tells; 0 where none may be. A clock may be set, so the lead is
    measured again after a lease.
    """
    device = folder.stat().st_dev
    measured_at, lead = _leads.get(device, (-math.inf, 0.0))
    if time.monotonic() - measured_at > LEASE_SECONDS:
        with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=folder) as probe:
            lead = os.fstat(probe.fileno()).st_mtime - time.time()
        _leads[device] = (time.monotonic(), lead)
    return lead


_watched: dict[Path, tuple[int, float]] = {}  # the file's time, and since when it is unchanged


def _is_still(path: Path) -> bool:
    """Tell whether this process has watched the claim for two intervals without a heartbeat.

    Its age alone does not tell: when a clock jumps, every claim looks old until its next beat.
    """
    beat = path.lstat().st_mtime_ns
    seen, since = _watched.get(path, (None, 0.0))
    if seen != beat:
        _watched[path] = (beat, time.monotonic())
        return False
    return time.monotonic() - since > 2 * LEASE_SECONDS / _BEATS_PER_LEASE


def _is_local(path: Path, owner: dict[str, Any]) -> bool:
    """Tell whether a process of this machine made the claim, and the file is not a copy of it."""
    is_here = owner.get("machine") == processes.machine()
    return is_here and owner.get("inode") == path.lstat().st_ino
