"""The Ray of a job: a step on each of its nodes, started, restarted and ended.

It has free ports, folders and a token of its own, so that it neither disturbs nor joins another
Ray.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cluster import addresses, raynode
from cluster.slurm import SlurmError
from pwmray.commands import say
from pwmray.files import replacing

HEAD_SECONDS = 90.0  # at most, until Ray's head listens
RESTART_SECONDS = 10.0  # between two starts of a worker, and between two tries of the head
SOUND_SECONDS = 600.0  # a worker that ran longer starts a new row: jobs last for days
END_SECONDS = 10.0  # until a process that does not end is killed
LOOK_SECONDS = 0.2
_HEAD_TRIES = 3  # another process may take the free port first
_WORKER_STARTS = 4  # in a row, until a node is given up
# For every process of this Ray. By default it waits 30 s at its end for trials that are gone, its
# memory monitor ends a whole sweep for one trial, and it starts a process for each core, which Tune
# cannot use.
_SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "PYTHONUNBUFFERED": "1",
}
_OTHERS = ("RAY_ADDRESS", "RAY_TMPDIR", "RAY_NAMESPACE", "RAY_AUTH_TOKEN")  # lead to another Ray


class JobRay:
    """A job's Ray, whose head is on the first of `nodes`, the job's own.

    `nodes` has what each offers, see job_nodes; `told` returns the signal that the job got, if any.
    """

    def __init__(
        self,
        nodes: Mapping[str, dict[str, Any]],
        log: Path,
        environment: Mapping[str, str],
        told: Callable[[], int | None],
    ):
        self.head, *self._workers = nodes
        self.log = log
        self._nodes, self._environment, self._told = nodes, environment, told
        self._port = 0  # of the head
        self._steps: dict[str, subprocess.Popen] = {}  # by node
        self._starts: dict[str, int] = {}  # in a row, of workers
        self._started_at: dict[str, float] = {}
        self._failed_at: dict[str, float] = {}
        self._given_up: set[str] = set()

    @property
    def address(self) -> str:
        """Return host:port of Ray's head."""
        return addresses.with_port(self._nodes[self.head]["ip"], self._port)

    @property
    def dashboard(self) -> str:
        """Return host:port of Ray's dashboard."""
        head = self._nodes[self.head]
        return addresses.with_port(head["ip"], head["dashboard"])

    @property
    def has_ended(self) -> bool:
        """Whether its head has."""
        return self._steps[self.head].poll() is not None

    def start(self) -> None:
        """Start Ray on all nodes; return when its head listens."""
        self._start_head()
        for name in self._workers:
            self._start_worker(name)

    def restart_workers(self) -> None:
        """Restart each worker that has ended, after a pause: its node may be back by then."""
        for name in self._workers:
            has_ended = self._steps[name].poll() is not None
            if has_ended and name not in self._given_up and self._told() is None:
                self._restart_ended(name)

    def end(self) -> None:
        """End every node's Ray."""
        for step in self._steps.values():
            step.send_signal(raynode.END_SIGNAL)
        for step in self._steps.values():
            wait_or_kill(step)

    def _start_head(self) -> None:
        head = self._nodes[self.head]
        for number in range(_HEAD_TRIES):
            if number:  # a Slurm that has just restarted gives steps no GPUs yet
                self._pause(RESTART_SECONDS)
            if self._told() == signal.SIGTERM:
                break
            self._port, head["dashboard"] = raynode.free_ports(head["ip"], 2)
            self._start_step(self.head, "head", head)
            if self._listens(head["ip"]):
                report(f"ray listens at {self.address} on {self.head}")
                return
            self.end()  # a head that lives but does not listen would keep the resources
        raise SlurmError(f"Ray's head did not start on {self.head}: see {self.log}")

    def _pause(self, seconds: float) -> None:
        """Wait for some seconds, or until a signal comes."""
        until = time.monotonic() + seconds
        while self._told() is None and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)

    def _listens(self, ip: str) -> bool:
        deadline = time.monotonic() + HEAD_SECONDS
        while not self.has_ended and time.monotonic() < deadline:
            if self._told() == signal.SIGTERM:
                return False
            if raynode.listens(ip, self._port, seconds=1.0):
                return True
            time.sleep(LOOK_SECONDS)
        return False

    def _start_worker(self, name: str) -> None:
        self._starts[name] = self._starts.get(name, 0) + 1
        self._started_at[name] = time.monotonic()
        head = {"head": self._nodes[self.head]["ip"], "head_node": self.head}
        self._start_step(name, "worker", {**self._nodes[name], **head})

    def _restart_ended(self, name: str) -> None:
        failed_at = self._failed_at.setdefault(name, time.monotonic())
        if failed_at - self._started_at[name] > SOUND_SECONDS:
            self._starts[name] = 0
        if self._starts[name] >= _WORKER_STARTS:
            self._given_up.add(name)
            report(
                f"ray on {name} ended {_WORKER_STARTS} times: going on without it; see {self.log}"
            )
        elif time.monotonic() - failed_at >= RESTART_SECONDS:
            del self._failed_at[name]
            report(f"ray on {name} ended with {self._steps[name].returncode}: starting it again")
            self._start_worker(name)

    def _start_step(self, name: str, role: str, node: Mapping[str, Any]) -> None:
        command = [
            # The job itself may have been given nothing of the submission's environment.
            "srun", "--export=ALL", "--nodes=1", "--ntasks=1", "--exact", f"--nodelist={name}",
            f"--cpus-per-task={node['cpus']}", f"--job-name=ray-{name}",
            *([f"--gres={node['gres']}"] if node["gres"] else []),
            sys.executable, str(Path(raynode.__file__).resolve()),
            role, node["ip"], str(self._port), json.dumps(node),
        ]  # fmt: skip
        with open(self.log, "a") as log:
            self._steps[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment
            )


def wait_or_kill(process: subprocess.Popen) -> None:
    """Wait until a process that was told to end has done so; kill it if that takes long."""
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def make_environment(token: Path, secret: str) -> dict[str, str]:
    """Return the environment for Ray and the driver; write the secret into the token's file."""
    # Replaced, so that it is never missing: an earlier life may look at it.
    with replacing(token, is_ours_alone=True) as draft:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w") as file:
            file.write(secret)
    ours = {key: value for key, value in os.environ.items() if key not in _OTHERS}
    return {**ours, **_SETTINGS, "RAY_AUTH_TOKEN_PATH": str(token)}


def report(text: str) -> None:
    """Say something in the job's log, with the time before it."""
    say(raynode.stamped(text))
