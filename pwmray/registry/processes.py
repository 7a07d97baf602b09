"""How a process is told from every other one, and whether it has ended."""

import functools
import os
import socket
from typing import Any

from pwmray import system


def this_process() -> dict[str, Any]:
    """Return what tells this process from every other, as plain data: where, whose, since when.

    `machine` names the boot of the machine and the processes that can be seen from here; a process
    elsewhere has another one. `started` tells two processes of one `pid` apart, None where the
    system does not say.
    """
    pid = os.getpid()
    state = system.look_up(pid)
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "user": os.geteuid(),
        "machine": machine(),
        "started": state.started if state else None,
    }


@functools.cache
def machine() -> str:
    """Return the `machine` of all processes that can be seen from here."""
    return system.name_boot() or socket.gethostname()


def is_gone(machine_of: str, pid: int, started: str | None) -> bool:
    """Tell whether a process has certainly ended; nobody knows that of another machine's."""
    return machine_of == machine() and not is_alive(pid, started)


def is_alive(pid: int, started: str | None) -> bool:
    """Tell whether a process of this machine runs: `pid` may be another one's by now."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    state = system.look_up(pid)
    # A zombie answers signals but owns nothing.
    return state is None or (not state.is_zombie and state.started == started)
