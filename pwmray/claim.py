"""One writer at a time: a claim is a file that a process owns, keeps fresh and gives back.

Taken atomically by a hard link, so that it also holds on a network file system where locks do
not. It is stale when its process is gone (same host) or its heartbeat is older than the lease.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path

LEASE_SECONDS = 120.0  # a claim without a heartbeat for this long is anyone's
_BEATS_PER_LEASE = 6


class Claim:
    """A held claim; use it as a context manager or call `release`."""

    def __init__(self, path: Path, token: str, lease_seconds: float):
        self.path = path
        self._token = token
        self._stop = threading.Event()
        interval = lease_seconds / _BEATS_PER_LEASE
        self._thread = threading.Thread(target=self._beat, args=(interval,), daemon=True)
        self._thread.start()

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @property
    def is_held(self) -> bool:
        """Tell whether the file on disk still names this owner."""
        return _read(self.path).get("token") == self._token

    def release(self) -> None:
        """Stop the heartbeat and give the claim back; a claim lost to another is left alone."""
        self._stop.set()
        self._thread.join()
        if self.is_held:
            self.path.unlink(missing_ok=True)

    def _beat(self, interval: float) -> None:
        while not self._stop.wait(interval):
            with contextlib.suppress(OSError):  # the folder may be gone; is_held then says so
                if self.is_held:
                    os.utime(self.path)


def acquire(path: Path, lease_seconds: float = LEASE_SECONDS) -> Claim | None:
    """Take the claim at `path`, taking a stale one over; return None while another holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex
    owner = {"token": token, "host": socket.gethostname(), "pid": os.getpid()}
    draft = path.with_name(f".{path.name}.{token}")
    try:
        draft.write_text(json.dumps(owner))
        if not _link(draft, path) and not (
            _clear_stale(path, lease_seconds) and _link(draft, path)
        ):
            return None
        return Claim(path, token, lease_seconds)
    finally:
        draft.unlink(missing_ok=True)


def owner(path: Path, lease_seconds: float = LEASE_SECONDS) -> dict | None:
    """Return who holds the claim (host, pid), or None when it is free or stale."""
    return None if _is_stale(path, lease_seconds) else _read(path)


def _link(draft: Path, path: Path) -> bool:
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    return True


def _clear_stale(path: Path, lease_seconds: float) -> bool:
    """Move a stale claim away; put it back if another taker was faster and it is fresh again."""
    seen = _read(path)
    if not _is_stale(path, lease_seconds):
        return False
    aside = path.with_name(f".{path.name}.stale.{uuid.uuid4().hex}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return True
    if _read(aside).get("token") != seen.get("token"):
        _link(aside, path)
        aside.unlink()
        return False
    aside.unlink()
    return True


def _is_stale(path: Path, lease_seconds: float) -> bool:
    try:
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return True
    holder = _read(path)
    if holder.get("host") == socket.gethostname() and not _is_alive(holder.get("pid", 0)):
        return True
    return age > lease_seconds


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # A zombie answers signals but owns nothing; /proc exists on Linux only.
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
