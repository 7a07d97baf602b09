"""What is recorded of a trial whose process died before it could do so itself."""

import contextlib
import math
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pwmray import failures, registry, system
from pwmray.failures import KILLED_FOR_MEMORY, Failure
from pwmray.files import ask_anew
from pwmray.registry import Record, Status
from pwmray.watchdog import take_stacks

_DYING_SECONDS = 2.0  # that a process may take to be gone after Ray has said so
_OF_NODES = (Failure.PROCESS_DIED, Failure.NODE_LOST)
_WORD_SECONDS = 1.0  # that word of a node's end may come later than its trials' deaths
_BURST_SECONDS = 10.0  # in which those of one node die
_LOOK_SECONDS = 5.0
_KILL_SECONDS = 60.0  # between a kill and what is told of it, by the clocks of two machines
_TOLD_CHARACTERS = 4000  # of what Ray says of a dead process
# A node's name after what this says is a file that is there when Slurm told the node to end.
_ENDED_NODES = "PWMRAY_ENDED_NODES"
_awaited_at: dict[str, float] = {}  # by node, when such word was last waited for
# With this behind, one that says when the kernel last killed there for want of memory: time_ns.
OF_MEMORY = ".memory"
_ANY_NODE = "*"
_UNSTARTED = "error raised in its creation task"  # Ray's words where a trainable cannot be loaded


def wait_for_death(folders: Sequence[Path]) -> None:
    """Wait a little for the processes of trials that Ray no longer runs to be gone."""
    deadline = time.monotonic() + _DYING_SECONDS
    while any(map(registry.running_elsewhere, folders)) and time.monotonic() < deadline:
        time.sleep(_DYING_SECONDS / 100)


class Kills:
    """When the kernel last killed for want of memory in this process's control group.

    A Ray that it starts is in that group: in the limits of a container or of a user's session, or
    on a machine whose memory is used up. `counter` is what `system.find_kill_counter` found.
    """

    def __init__(self, counter: Path):
        self._counter, self._num = counter, system.count_kills(counter)
        self._seen_at = -math.inf

    def watch(self) -> None:
        """Look from now on, in a thread: a death may be told long after another's kill."""
        threading.Thread(target=self._watch, daemon=True).start()

    def look(self) -> bool:
        """Return whether there was one since the last look, and take note of the time."""
        now = system.count_kills(self._counter)
        if is_new := now > self._num:
            self._num, self._seen_at = now, time.time()
        return is_new

    def is_near(self, told_at: float) -> bool:
        """Tell whether one was seen about a time, in seconds since 1970."""
        self.look()
        return abs(told_at - self._seen_at) < _KILL_SECONDS

    def _watch(self) -> None:
        never = threading.Event()
        while not never.wait(_LOOK_SECONDS):
            self.look()


_kills: Kills | None = None  # of this process's group, once it heeds them


def heed_kills() -> None:
    """From now on know when the kernel kills for want of memory among this process's own."""
    global _kills
    if _kills is None and (counter := system.find_kill_counter()):
        _kills = Kills(counter)
        _kills.watch()


class Told(NamedTuple):
    """What Ray says of a process that died, and when it did: in seconds, as time.time."""

    text: str
    time: float


def record_death(folder: Path, told: Told | None) -> bool:
    """Record a trial as failed that Ray no longer runs although it neither ended nor failed.

    `told` is what Ray says of it, if it says anything: Tune has been seen to end a run with a trial
    unfinished after the process of another was killed. Returns False, and records nothing, while a
    process holds the trial, as its claim may for minutes more. Raises OSError on a full disk.
    """
    seen = registry.read(folder)
    if told is not None and seen.status in registry.IN_HANDS:
        _wait_for_word(_node_of(seen))
    with registry.claimed(folder) as record:
        if record is None:
            return False
        # Another: it came to its end, or somebody deleted its record, or cut it, meanwhile.
        if record.status in registry.IN_HANDS:
            death = _death(told and told.text, take_stacks(folder))
            node = _node_of(record)
            if death["failure"] in _OF_NODES and was_told_to_end(node):
                death |= {"reason": "Slurm ended it: preempted", "failure": Failure.PREEMPTED}
            elif _is_of_a_kill(death["failure"], told, node):
                death |= {"reason": KILLED_FOR_MEMORY, "failure": Failure.OUT_OF_MEMORY}
            registry.record(folder, Status.FAILED, **death)
    return True


def _wait_for_word(node: str | None) -> None:
    """Wait briefly, once for all trials of a node of this job, for word that Slurm ended it."""
    now = time.monotonic()
    if node is None or _ENDED_NODES not in os.environ:
        return
    if now - _awaited_at.get(node, -math.inf) < _BURST_SECONDS:
        return
    _awaited_at[node] = now
    while not was_told_to_end(node) and time.monotonic() < now + _WORD_SECONDS:
        time.sleep(_WORD_SECONDS / 20)


def was_told_to_end(node: str | None) -> bool:
    """Whether Slurm ended this node of the job, which itself is told at the same time or later.

    That is how a preemption with a grace period begins.
    """
    return bool(_words_of(node, ""))


def _is_of_a_kill(failure: Failure, told: Told | None, node: str | None) -> bool:
    """Whether a process died when the kernel killed for want of memory on its node."""
    if failure is not Failure.PROCESS_DIED or told is None:
        return False
    for word in _words_of(node, OF_MEMORY):
        with contextlib.suppress(OSError, ValueError):  # half written
            if abs(told.time - int(word.read_text()) / 1e9) < _KILL_SECONDS:
                return True
    return _kills is not None and _kills.is_near(told.time)


def _words_of(node: str | None, kind: str) -> list[Path]:
    """Return the files of a kind that were left as word of a node of this job, or of any."""
    start = os.environ.get(_ENDED_NODES)
    if start is None or node is None:
        return []
    if node != _ANY_NODE:
        ask_anew(Path(start).parent)  # the node itself leaves it
        return [path for path in [Path(start + node + kind)] if path.exists()]
    every = Path(start).parent.glob(f"{Path(start).name}*")
    return [path for path in every if (path.suffix == OF_MEMORY) == bool(kind)]


def _node_of(record: Record) -> str | None:
    """Return where a trial ran. Of one that had not begun it is not known: there may be others."""
    has_begun = record.status is not Status.QUEUED
    return record.last("slurm_node") if has_begun else _ANY_NODE


def is_ended_here() -> bool:
    """Whether Slurm ended Ray's node on this machine; waits a little for word of that."""
    node = os.environ.get("SLURMD_NODENAME")
    _wait_for_word(node)
    return was_told_to_end(node)


def _death(told: str | None, stacks: str) -> dict[str, Any]:
    if stacks:
        limit = stacks.partition("\n")[0].removeprefix("Timeout (").removesuffix(")!")
        return {
            "reason": f"it hung: no sign of life for {limit}",
            "failure": Failure.HANG,
            "traceback": stacks[-_TOLD_CHARACTERS:],  # the main thread comes last
        }
    if told is None:
        return {"reason": "Ray ended without it", "failure": Failure.PROCESS_DIED}
    failure = failures.of_text(told)
    if failure is None and _UNSTARTED in told:  # nor would it the next time
        reason, failure = f"its process did not start: {told.splitlines()[-1]}", Failure.CODE
    elif failure in (None, Failure.PROCESS_DIED):
        reason, failure = "its process died", Failure.PROCESS_DIED
    else:
        reason = f"its process died: {failure}"
    return {"reason": reason, "failure": failure, "traceback": told[-_TOLD_CHARACTERS:]}
