"""Claims as other processes leave them, for tests."""

import errno
import json
import os
import socket
import subprocess
import time

from pwmray import system
from pwmray.registry import claim, processes


def leave_claim(path, pid, host=None, age=0.0):
    """Write the claim of a process, here or on another `host`, with its last beat `age` s ago."""
    state = system.look_up(pid)
    owner = {"token": "another", "pid": pid, "started": state and state.started}
    here = {"host": socket.gethostname(), "machine": processes.machine()}
    path.touch()
    place = {"host": host, "machine": f"the boot of {host}"} if host else here
    path.write_text(json.dumps({**owner, **place, "inode": path.stat().st_ino}))
    set_age(path, age)


def set_age(path, seconds):
    """Set a file's time, which is a claim's last heartbeat, to some seconds ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def do_not_watch(monkeypatch):
    """Take over stale claims of other machines at the first look, without watching them before."""
    for name in ("_BEATS_PER_LEASE", "_LOOKS_PER_LEASE"):
        monkeypatch.setattr(claim, name, 1e9)


def refuse_claims(monkeypatch, folder=None, number=errno.EACCES):
    """Let no claim be taken in a folder, or in any, as where nothing can be written."""
    acquire = claim.acquire

    def refuse(path, **options):
        if folder in (None, path.parent):
            raise OSError(number, os.strerror(number), str(path))
        return acquire(path, **options)

    monkeypatch.setattr(claim, "acquire", refuse)


def dead_pid():
    """Return the number of a process that has just ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid
