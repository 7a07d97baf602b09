"""What Linux and macOS tell or offer each in its own way."""

import contextlib
import logging
import os
import pwd
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")  # Linux has it
_GROUPS = Path("/sys/fs/cgroup")
_ANSWER_SECONDS = 10.0

# What MUJOCO_GL is to name where pictures are wanted, and what that takes: macOS has no EGL.
RENDERER, NEEDED_TO_DRAW = (
    ("glfw", "macOS: a user who is logged in at its screen")
    if sys.platform == "darwin"
    else ("egl", "Debian: apt install libegl1 libopengl0 libgl1-mesa-dri")
)


def quieten_dm_control(renderer: str = "disable") -> None:
    """Keep dm_control from looking for a screen, and from a warning for every compiled model.

    Call this before it is imported, which is when it picks the renderer that MUJOCO_GL names. Where
    the environment names one, that stays.
    """
    os.environ.setdefault("MUJOCO_GL", renderer)
    logging.getLogger("absl").setLevel(logging.ERROR)


class ProcessState(NamedTuple):
    """What the system tells of a process."""

    is_zombie: bool
    started: str  # when, to tell it from an earlier or later one of the same number


def user_name(number: int) -> str:
    """Return the name of a user, or the number where this machine does not know one."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # in a container
        return str(number)


def num_cores() -> int:
    """Return how many cores this process may use; the machine's where none are set apart for it.

    Control groups may leave it all cores, and the time of a few.
    """
    cores_of = getattr(os, "sched_getaffinity", None)  # Linux
    cores = len(cores_of(0)) if cores_of else os.cpu_count() or 1
    return max(1, int(min([cores, *_times_of_cores()])))


def _times_of_cores() -> Iterator[float]:
    """Yield of how many cores it has the time, for each control group (version 2) that limits it.

    A container's limit is its outermost group's; systemd limits a user, or a service, deeper down.
    """
    for path in [path for controllers, path in _control_groups() if not controllers]:
        for group in (_GROUPS / path, *(_GROUPS / path).parents):
            with contextlib.suppress(OSError, ValueError):  # no such limit, or "max"
                quota, period = (group / "cpu.max").read_text().split()
                yield int(quota) / int(period)


def find_kill_counter() -> Path | None:
    """Return the file in which the kernel counts kills in this process's control group, if any.

    In version 1 of control groups, memory has a tree of its own.
    """
    groups = _control_groups()
    for controllers, path in groups:
        if "memory" in controllers:
            return _GROUPS / "memory" / path / "memory.oom_control"
    for controllers, path in groups:
        if not controllers:
            return _GROUPS / path / "memory.events"
    return None


def count_kills(counter: Path) -> int:
    """Return how many processes the kernel killed for want of memory, by its `counter`."""
    try:
        found = re.search(r"^oom_kill (\d+)$", counter.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _control_groups() -> list[tuple[list[str], str]]:
    """Return the control groups of this process: whose they are, of none in version 2, and where.

    None where there are no such groups.
    """
    try:
        lines = (_PROC / "self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return []
    fields = [line.split(":", 2) for line in lines]
    return [([*filter(None, of.split(","))], path.lstrip("/")) for _, of, path in fields]


def name_boot() -> str | None:
    """Name this boot of this machine and the processes seen from here; None where nothing does."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink(_PROC / 'self/ns/pid')}"
    except OSError:  # not Linux
        return _ask("sysctl", "-n", "kern.bootsessionuuid") or None


def look_up(pid: int) -> ProcessState | None:
    """Return the state of a process; None where nothing tells it."""
    try:
        fields = (_PROC / f"{pid}/stat").read_text().rpartition(")")[2].split()
        return ProcessState(fields[0] == "Z", fields[19])  # in ticks since the boot
    except OSError:
        if (_PROC / "self/stat").exists():  # which hides others' processes, or has none of these
            return None
    # What follows a "=" within an option is a heading for BSD's ps, a comma and all.
    state, _, started = _ask("ps", "-o", "stat=", "-o", "lstart=", "-p", str(pid)).partition(" ")
    return ProcessState(state.startswith("Z"), started.strip()) if started else None


def _ask(*command: str) -> str:
    """Return what a command says, in the same words wherever it is asked; "" where it fails."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"  # where macOS has sysctl
    told = {**os.environ, "LC_ALL": "C", "TZ": "UTC0", "PATH": path}
    try:
        done = subprocess.run(
            command, env=told, capture_output=True, text=True, check=True, timeout=_ANSWER_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
