"""One writer at a time: a claim is a file that a process owns, keeps fresh and gives back.

Taken atomically by a hard link, so that it also holds on a network file system where locks do
not. On its own machine a claim lasts as long as the process, whatever a clock says. Elsewhere its
heartbeat tells, the file's time: without one for the lease, the claim is anyone's. The same goes
for a claim that was copied along with a folder: no process of the original beats there.
"""

import contextlib
import errno
import functools
import json
import math
import os
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pwmray import system
from pwmray.files import DRAFTS, outlasting_stale

LEASE_SECONDS = 120.0
_BEATS_PER_LEASE = 6
_LOOKS_PER_LEASE = 40  # three seconds: longer than a network file system shows what was before
# exFAT; CIFS; some of FUSE; what macOS says of either, where it is another number.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTSUP)
_BRIEF_SECONDS = 0.005  # between two looks at a claim that will be given back at once


class Claim:
    """A held claim; use it as a context manager or call `release`."""

    def __init__(self, path: Path, token: str):
        self.path = path
        self._token = token
        self._pid = os.getpid()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_released = False

    def beat(self, lease_seconds: float) -> None:
        """Keep the claim fresh from now on."""
        interval = lease_seconds / _BEATS_PER_LEASE
        what = (self.path, self._token, self._stop, interval)
        self._thread = threading.Thread(target=_beat, args=what, daemon=True)
        self._thread.start()

    def __del__(self) -> None:
        """Give back what an interrupt kept from whoever asked for it; not in a forked process."""
        with contextlib.suppress(Exception):  # what it takes may be gone at the interpreter's end
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


def _beat(path: Path, token: str, stop: threading.Event, interval: float) -> None:
    """Keep a claim fresh; without the claim itself, which is to end with its last user."""
    while not stop.wait(interval):
        with contextlib.suppress(OSError):  # the folder may be gone; is_held then says so
            if _is_of(path, token):
                os.utime(path)


@outlasting_stale
def acquire(
    path: Path, lease_seconds: float = LEASE_SECONDS, is_brief: bool = False
) -> Claim | None:
    """Take the claim at `path`, taking a stale one over; return None while another holds it.

    A brief claim is for a few writes without a pause: who meets one waits until it is given back.
    """
    claim = _try(path, lease_seconds, is_brief)
    if claim is None:
        return None
    try:
        if _watched.pop(path, None):
            _wait_for_takers(lease_seconds)
            if not claim.is_held:
                return None
        if not is_brief:
            claim.beat(lease_seconds)
        return claim
    except BaseException:
        claim.release()
        raise


def clear_dead(paths: Iterable[Path], lease_seconds: float = LEASE_SECONDS) -> None:
    """Free the claims that `acquire` would take over from other machines, all in one wait.

    Each costs it that wait: of a lost machine's trials the last would be free minutes later. What
    cannot be freed is left as it is. In one order, for while some are held others are waited for.
    """
    with contextlib.suppress(OSError), contextlib.ExitStack() as held:
        taken = []
        for path in sorted(_watched.keys() & paths):
            with contextlib.suppress(OSError):  # who acquires it is told
                if not path.parent.exists() or owner(path, lease_seconds) is not None:
                    continue
                claim = _try(path, lease_seconds, is_brief=True)
                if claim is not None:
                    taken.append(held.enter_context(claim))
        if taken:
            _wait_for_takers(lease_seconds)
        for claim in taken:
            _watched.pop(claim.path, None)


def watch_dead(
    paths: Iterable[Path], say: Callable[[str], object], lease_seconds: float = LEASE_SECONDS
) -> None:
    """Free the claims of processes of other machines that seem dead, once that is sure.

    They are watched together for 40 s, before which `say` is told of whom; without any there is
    no wait. For a process that has nothing else to do: `acquire` called once takes none over.
    """
    watched = []
    for path in paths:
        with contextlib.suppress(OSError):  # who acquires it is told
            found = holder(path)
            # Of a dead process of this machine whoever acquires it is sure at once.
            if found and _is_stale(path, lease_seconds) and not _is_local(path, found):
                _is_still(path, lease_seconds)  # from now on
                watched.append((path, describe(found)))
    if watched:
        seconds = 2 * lease_seconds / _BEATS_PER_LEASE
        who = ", ".join(sorted({who for _, who in watched}))
        say(f"looking for {seconds:.0f} s whether a process lives that seems dead: pid {who}")
        time.sleep(seconds)
        clear_dead([path for path, _ in watched], lease_seconds)


def _try(path: Path, lease_seconds: float, is_brief: bool) -> Claim | None:
    """Take a claim, as `acquire`; what was taken over may yet be moved away by another taker."""
    path.parent.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex
    draft = path.with_name(f".{path.name}.{token}.tmp")
    claim = Claim(path, token)
    try:
        try:
            _write(draft, {"token": token, "is_brief": is_brief, **this_process()})
            while not _link(draft, path):
                if _clear_stale(path, lease_seconds, draft):
                    continue
                found = holder(path)
                if not found.get("is_brief") and path.exists():  # else given back between two looks
                    return None
                time.sleep(_BRIEF_SECONDS)
        finally:
            draft.unlink(missing_ok=True)
        return claim
    except FileNotFoundError:
        return None  # who holds the claim clears drafts away, ours too
    except BaseException:  # an interrupt, after which nobody would give it back
        claim.release()
        raise


def owner(path: Path, lease_seconds: float = LEASE_SECONDS) -> dict[str, Any] | None:
    """Return who holds the claim (host, pid), or None when it is free, stale or brief."""
    found = holder(path)
    if not found or found.get("is_brief") or _is_stale(path, lease_seconds):
        return None
    return found


def find_drafts(folder: Path) -> list[Path]:
    """Return the files of a folder that are half written, but for what claims are taken with."""
    return [path for path in sorted(folder.glob(DRAFTS)) if not path.name.startswith(".claim.")]


@outlasting_stale
def holder(path: Path) -> dict[str, Any]:
    """Return whom the claim's file names, stale or not; empty without a readable file."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def describe(found: Mapping[str, Any]) -> str:
    """Return who holds a claim, by what `owner` or `holder` found, for people: 4711 on node1."""
    return f"{found.get('pid')} on {found.get('host')}"


def is_gone(machine: str, pid: int, started: str | None) -> bool:
    """Tell whether a process (see this_process) ended; of another machine's nobody knows here."""
    return machine == _machine() and not _is_alive(pid, started)


def _write(draft: Path, owner: dict[str, Any]) -> None:
    with open(draft, "x") as file:
        # A copy of the file has another inode, a link to it the same.
        file.write(json.dumps({**owner, "inode": os.fstat(file.fileno()).st_ino}))


def _link(draft: Path, path: Path) -> bool:
    try:
        os.link(draft, path)
    except FileExistsError:
        # NFS repeats a request whose answer was lost, and is then told that the name exists: ours.
        # The number of names may be one that was remembered from before.
        return draft.stat().st_nlink > 1 or holder(path) == holder(draft) != {}
    except OSError as error:
        if error.errno in _NO_LINKS:
            why = "its file system has no hard links, without which two may take one trial"
            raise OSError(error.errno, why, str(path.parent)) from error
        raise
    return True


def _clear_stale(path: Path, lease_seconds: float, draft: Path) -> bool:
    """Move a stale claim away; put it back if another taker was faster and it is fresh again."""
    os.utime(draft)  # by the file system's clock, as the heartbeats are
    now = draft.stat().st_mtime
    seen = holder(path)
    aside = path.with_name(f".{path.name}.stale.{uuid.uuid4().hex}.tmp")
    try:
        if not _is_stale(path, lease_seconds, now):
            return False
        if not _is_local(path, seen) and not _is_still(path, lease_seconds):
            return False
        os.rename(path, aside)
    except FileNotFoundError:
        return True
    if holder(aside).get("token") != seen.get("token"):
        try:
            os.link(aside, path)
        except FileExistsError:  # a third one's by now
            pass
        except PermissionError:  # Linux gives a file of another user no second name
            os.rename(aside, path)
        aside.unlink(missing_ok=True)
        return False
    aside.unlink()
    return True


def _wait_for_takers(lease_seconds: float) -> None:
    """Wait until every taker can see what was taken over: then who holds it keeps it.

    They watched the dead one together, and one that sees it still moves away what is there by now.
    """
    time.sleep(lease_seconds / _LOOKS_PER_LEASE)


def _is_stale(path: Path, lease_seconds: float, now: float | None = None) -> bool:
    """Tell whether nobody holds the claim, by its process where that would be on this machine.

    Else by its last heartbeat: `now` is the file system's time, if it is known.
    """
    found = holder(path)
    try:
        if _is_local(path, found):
            return not _is_alive(found["pid"], found.get("started"))
        if now is None:
            now = time.time() + _file_clock_lead(path.parent)
        # A time far ahead is no life either: it was written before a clock was put back.
        return abs(now - path.lstat().st_mtime) > lease_seconds
    except FileNotFoundError:
        return True


_leads: dict[int, tuple[float, float]] = {}  # by device: when it was looked at, and what it was


def _file_clock_lead(folder: Path) -> float:
    """Return the seconds that the clock of a folder's file system is ahead of this machine's.

    0 where nothing may be written, which is how one learns a file server's time. A clock may be
    put right, so that it is looked at again when a claim could have become stale.
    """
    device = folder.stat().st_dev
    looked_at, lead = _leads.get(device, (-math.inf, 0.0))
    if time.monotonic() - looked_at > LEASE_SECONDS:
        with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=folder) as probe:
            lead = os.fstat(probe.fileno()).st_mtime - time.time()
        _leads[device] = (time.monotonic(), lead)
    return lead


_watched: dict[Path, tuple[int, float]] = {}  # a claim's time, and since when it is seen unchanged


def _is_still(path: Path, lease_seconds: float) -> bool:
    """Tell whether no heartbeat came while this process watched, for two beats at least.

    A clock that jumps makes every claim look old until its next beat.
    """
    beat = path.lstat().st_mtime_ns
    seen, since = _watched.get(path, (None, 0.0))
    if seen != beat:
        _watched[path] = (beat, time.monotonic())
        return False
    return time.monotonic() - since > 2 * lease_seconds / _BEATS_PER_LEASE


def _is_local(path: Path, owner: dict[str, Any]) -> bool:
    """Tell whether the claim was made here: by a process that could be seen, and in this file."""
    return owner.get("machine") == _machine() and owner.get("inode") == path.lstat().st_ino


def this_process() -> dict[str, Any]:
    """Return by what this process is told from every other, here and elsewhere."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "machine": _machine(),
        "started": _started(pid),
    }


@functools.cache
def _machine() -> str:
    """Name this boot of this machine and the processes that can be seen from here."""
    return system.name_boot() or socket.gethostname()


def _is_alive(pid: int, started: str | None) -> bool:
    """Tell whether the process that started then still runs; its number may be another's by now."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    state = system.look_up(pid)
    # A zombie answers signals but owns nothing.
    return state is None or (not state.is_zombie and state.started == started)


def _started(pid: int) -> str | None:
    """Return when a process started; None where nothing tells."""
    state = system.look_up(pid)
    return state.started if state else None
