"""Why a trial failed, and what is done about it: pure functions over what was left behind.

What is left behind is an exception, an exit code, a state that Slurm's accounting gives, or text:
the last lines of a log, or what Ray says of a process that is gone.
"""

import errno
import re
import signal
import traceback
from dataclasses import dataclass
from enum import StrEnum

from pwmray.registry import Record, Status
from pwmray.wording import one_line


class Failure(StrEnum):
    """A class of causes that one thing helps against."""

    OUT_OF_MEMORY = "out of memory"
    TIME_LIMIT = "time limit"
    PREEMPTED = "preempted"
    NODE_LOST = "node lost"  # or its storage, or its GPU
    HANG = "hang"  # ended by its watchdog
    PROCESS_DIED = "process died"  # without a word: a kill, also the kernel's where nobody sees why
    DISK_FULL = "disk full"
    NON_FINITE = "non-finite"
    CONFIG = "config"  # what a person can put right
    CODE = "code"


class Remedy(StrEnum):
    """What the driver does with a failed trial by itself."""

    RESUME = "resume"
    MORE_MEMORY = "resume with a larger share of the machine"
    WAIT_FOR_ROOM = "resume when the disk has room"
    NEVER = "never"  # it would fail again: a trial computes the same numbers each time


@dataclass(frozen=True)
class Policy:
    """A remedy, and how often it is tried; to resume, how often while a trial comes no further."""

    remedy: Remedy
    retries: int


_F = Failure
POLICIES: dict[Failure, Policy] = {
    _F.OUT_OF_MEMORY: Policy(Remedy.MORE_MEMORY, 2),  # each time twice the share
    _F.TIME_LIMIT: Policy(Remedy.RESUME, 20),
    _F.PREEMPTED: Policy(Remedy.RESUME, 20),
    _F.NODE_LOST: Policy(Remedy.RESUME, 5),
    _F.HANG: Policy(Remedy.RESUME, 2),
    _F.PROCESS_DIED: Policy(Remedy.RESUME, 2),
    _F.DISK_FULL: Policy(Remedy.WAIT_FOR_ROOM, 5),
    _F.NON_FINITE: Policy(Remedy.NEVER, 0),
    _F.CONFIG: Policy(Remedy.NEVER, 0),
    _F.CODE: Policy(Remedy.NEVER, 0),
}

# The first that matches names the class; each line is from a real message.
_TEXTS: tuple[tuple[str, Failure], ...] = (
    (r"preempted|DUE TO PREEMPTION", _F.PREEMPTED),
    (r"DUE TO TIME LIMIT|DUE TO DEADLINE", _F.TIME_LIMIT),
    (r"No space left on device|Disk quota exceeded", _F.DISK_FULL),
    (r"CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED", _F.OUT_OF_MEMORY),
    (r"Triton Error \[CUDA\]: out of memory", _F.OUT_OF_MEMORY),  # a kernel is loaded
    (r"can't allocate memory|Cannot allocate memory|MemoryError", _F.OUT_OF_MEMORY),
    (r"oom[-_]kill|Out Of Memory|node running low on memory", _F.OUT_OF_MEMORY),
    (r"DUE TO NODE FAILURE|node has died|node was terminated|NODE_FAIL", _F.NODE_LOST),
    (r"Stale file handle|Input/output error|uncorrectable ECC error", _F.NODE_LOST),
    (r"Transport endpoint is not connected|transport endpoint shutdown", _F.NODE_LOST),
    (r"actor died unexpectedly|Worker unexpectedly exits|actor is dead", _F.PROCESS_DIED),
)
_FULL = (errno.ENOSPC, errno.EDQUOT)
# NFS; GlusterFS and all of FUSE; Lustre; BeeGFS, whose two macOS does not have.
_STORAGE_GONE = [errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.ENOTCONN, errno.ESHUTDOWN]
_STORAGE_GONE += [getattr(errno, n) for n in ("EREMOTEIO", "ECOMM") if hasattr(errno, n)]
_SLURM: dict[str, Failure] = {
    "OUT_OF_MEMORY": _F.OUT_OF_MEMORY,
    "TIMEOUT": _F.TIME_LIMIT,
    "DEADLINE": _F.TIME_LIMIT,
    "PREEMPTED": _F.PREEMPTED,
    "NODE_FAIL": _F.NODE_LOST,
    "BOOT_FAIL": _F.NODE_LOST,
}
_SIGNALS: dict[int, Failure] = {
    signal.SIGKILL: _F.PROCESS_DIED,
    signal.SIGTERM: _F.PREEMPTED,  # what a scheduler sends first
    signal.SIGXCPU: _F.TIME_LIMIT,
    signal.SIGXFSZ: _F.DISK_FULL,
}
_BAD_INPUT = 2  # the exit code of our commands
# The reason of what died so. Of that memory others have a part, too.
KILLED_FOR_MEMORY = "the kernel ended it: the node's memory, or the job's part of it, was used up"


def is_disk_full(error: BaseException) -> bool:
    """Tell whether a write failed because the disk, or the user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in _FULL


def describe_unwritten(error: OSError) -> str:
    """Return why something could not be written, in one line."""
    return "disk full" if is_disk_full(error) else one_line(error)


def of_exception(error: BaseException) -> Failure:
    """Return the class of what a trial raised."""
    if is_disk_full(error):
        return Failure.DISK_FULL
    if isinstance(error, OSError) and error.errno in _STORAGE_GONE:
        return Failure.NODE_LOST
    if isinstance(error, MemoryError):
        return Failure.OUT_OF_MEMORY
    if isinstance(error, FloatingPointError):
        return Failure.NON_FINITE
    # torch and pyarrow say it in their messages alone.
    told = of_text(str(error)) if isinstance(error, RuntimeError | OSError) else None
    if told is not None:
        return told
    is_bad_value = isinstance(error, ValueError) and not _is_of_torch(error)
    return Failure.CONFIG if is_bad_value or isinstance(error, OSError) else Failure.CODE


def _is_of_torch(error: BaseException) -> bool:
    """Tell whether torch raised it, of what it was called with: settings are checked before."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and frames[-1][0].f_globals.get("__name__", "").split(".")[0] == "torch"


def of_text(text: str) -> Failure | None:
    """Return the class that a log's last lines or Ray's words tell, None where they tell none."""
    return next((f for pattern, f in _TEXTS if re.search(pattern, text)), None)


def of_exit(code: int) -> Failure | None:
    """Return the class of a process's exit code; None for success and for Ctrl-C.

    A signal is -N (Python's subprocess) or 128 + N (a shell).
    """
    number = -code if code < 0 else code - 128 if code > 128 else 0
    if code == 0 or number == signal.SIGINT:
        return None
    if number:
        return _SIGNALS.get(number, Failure.CODE)
    return Failure.CONFIG if code == _BAD_INPUT else Failure.CODE


def of_slurm(state: str, exit_code: str) -> Failure | None:
    """Return the class of a job as `sacct` tells it: State and ExitCode (code:signal).

    None for a job that goes on, ended well, or was cancelled by a person.
    """
    word = state.split()[0].rstrip("+") if state.split() else ""
    if word in _SLURM:
        return _SLURM[word]
    if word != "FAILED":
        return None
    code, _, number = exit_code.partition(":")
    return of_exit(-int(number) if number not in ("", "0") else int(code)) or Failure.CODE


def failure_of(record: Record) -> Failure | None:
    """Return the class of a failed trial's last failure, None for a trial that is not failed."""
    if record.status is not Status.FAILED:
        return None
    told = record.last("failure")
    if told:
        return Failure(told) if told in tuple(Failure) else Failure.CODE  # of another version
    # Records of earlier versions have the reason alone.
    return of_text(str(record.last("reason"))) or Failure.CODE


def has_retry(record: Record) -> bool:
    """Tell whether a failed trial is to be tried again; the record knows its earlier retries.

    To resume those do not count after which it went on from further than ever: on nodes that are
    taken away every few hours a trial of a week would run out of them.
    """
    failure = failure_of(record)
    if failure is None:
        return False
    policy, number, furthest = POLICIES[failure], 0, 0
    for event in record.events:
        number += event.get("retry") == failure
        is_further = event.get("status") == Status.RUNNING and event.get("epoch", 0) > furthest
        if is_further and policy.remedy is Remedy.RESUME:
            number, furthest = 0, event["epoch"]
    return number < policy.retries


def share_of(record: Record) -> int:
    """Return how many times its usual share of the machine a trial is given: 1, 2 or 4."""
    return 2 ** min(
        record.all("failure").count(Failure.OUT_OF_MEMORY), POLICIES[Failure.OUT_OF_MEMORY].retries
    )


def essence(reason: str) -> str:
    """Return a reason without what differs between trials that die of one bug: its numbers."""
    return re.sub(r"\b[0-9a-f]{16}\b|\d+(\.\d+)?(e[+-]?\d+)?", "#", reason)
