"""The process that runs a Slurm job: it starts Ray on each node, and the sweep's file as driver.

    python cluster/job.py [options] -- sweeps/phase6_epochs.py [its options]

This Ray has free ports, folders and a token of its own, so that it neither disturbs nor joins
another one. Some minutes before the time limit or a preemption, Slurm sends SIGUSR1. It goes to
the driver, whose trials stop at their next row; then the job requeues itself and later goes on
where it stopped. The same happens when Ray's head is lost, unless no trial got a row in two lives
of the job. After SIGTERM (scancel) nothing is requeued.
"""

import argparse
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster import addresses, raynode, slurm
from cluster.job_nodes import offered_by_nodes
from cluster.slurm import SlurmError
from pwmray import slurm_jobs
from pwmray.commands import TRIALS_FAILED, run_command, say
from pwmray.deaths import OF_MEMORY
from pwmray.driver.interruption import GO_ON, TERMINATED
from pwmray.files import replacing

_HEAD_SECONDS = 90.0  # at most, until Ray's head listens
_HEAD_TRIES = 3  # another process may take the free port first
_WORKER_STARTS = 4  # in a row, until a node is given up
_SOUND_SECONDS = 600.0  # a worker that ran longer starts a new row: jobs last for days
_RESTART_SECONDS = 10.0  # between two starts of a worker, and between two tries of the head
_END_SECONDS = 10.0  # until a step that does not end is killed
_LOOK_SECONDS = 0.2
_EARLY_SECONDS = 90.0  # by which Slurm may send its signal earlier than asked for
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


class Job:
    """A job's Ray and its driver; `run` returns the driver's exit code."""

    def __init__(self, chosen: argparse.Namespace, job_id: str, name: str):
        self._chosen, self._name = chosen, name
        self._log = chosen.jobs / f"{name}.ray.log"
        self._token = chosen.jobs / f".{job_id}.token"
        self._secret = secrets.token_hex(32)  # in that file
        self._record = chosen.jobs / f"{job_id}.json"
        self._goes_on = chosen.jobs / f".{job_id}.goes-on"  # exists if the job requeues itself
        self.in_vain_word = chosen.jobs / f".{job_id}.in-vain"  # exists after a life without a row
        self._ended_nodes = str(chosen.jobs / f".{job_id}.ended.")  # a prefix of node names
        self._nodes: dict[str, dict[str, Any]] = {}  # what each offers Ray, this one first
        self._port = 0  # of Ray's head
        self._steps: dict[str, subprocess.Popen] = {}  # by node
        self._starts: dict[str, int] = {}  # in a row, of workers
        self._started_at: dict[str, float] = {}
        self._failed_at: dict[str, float] = {}
        self._given_up: set[str] = set()
        self._driver: subprocess.Popen | None = None
        self.signal: int | None = None  # the last one received; SIGTERM stays
        self._untold: list[int] = []  # signals that the driver has yet to be sent
        self._was_in_vain = False  # the job's life before this one had no row
        self.is_in_vain = False  # Ray's head was lost before any row, twice in a row
        self.is_superseded = False  # Slurm seems to have lost this node, and runs the job elsewhere

    def run(self) -> int:
        """Start Ray and the driver, and supervise both until the driver ends."""
        signal.signal(signal.SIGUSR1, self._pass_on)
        signal.signal(signal.SIGTERM, self._pass_on)
        self._goes_on.unlink(missing_ok=True)  # of an earlier life that was cut off
        self._was_in_vain = self.in_vain_word.exists()
        self.in_vain_word.unlink(missing_ok=True)
        details = slurm.ask_again("scontrol", "--details", "--oneliner", "show", "job", self._name)
        self._nodes = offered_by_nodes(details, self._chosen)
        limit_at = slurm.read_end(details) - self._chosen.signal_seconds - _EARLY_SECONDS
        self._environment = {
            **_environment(self._token, self._secret),
            "PWMRAY_LOG": str(self._chosen.jobs / f"{self._name}.log"),
            "PWMRAY_LIMIT_AT": str(limit_at),
            "PWMRAY_RAY_SECONDS": str(_HEAD_SECONDS),
            "PWMRAY_ENDED_NODES": self._ended_nodes,
            "PWMRAY_GOES_ON": str(self._goes_on),
            "PWMRAY_COMING_GPUS": " ".join(
                {n for node in self._nodes.values() for n in node["resources"]}
            ),
        }
        try:
            self._start_head()
            for name in self._workers:
                self._start_worker(name)
            self._write_address()
            self._start_driver()
            return self._supervise()
        finally:
            self._end_steps()
            self.is_superseded = self._was_restarted_elsewhere()
            if not self.is_superseded:
                self._clear()

    def _clear(self) -> None:
        """Delete what the job's processes left for each other."""
        ended = [
            Path(self._ended_nodes + n + kind) for n in self._nodes for kind in ("", OF_MEMORY)
        ]
        for path in (self._token, self._record, self._goes_on, *ended):
            path.unlink(missing_ok=True)

    @property
    def _head(self) -> str:
        """Return the node of Ray's head: this one."""
        return next(iter(self._nodes))

    @property
    def _workers(self) -> list[str]:
        return list(self._nodes)[1:]

    @property
    def _address(self) -> str:
        return addresses.with_port(self._nodes[self._head]["ip"], self._port)

    def _start_head(self) -> None:
        """Start Ray's head on this node, and return when it listens."""
        head = self._nodes[self._head]
        for number in range(_HEAD_TRIES):
            if number:  # a Slurm that has just restarted gives steps no GPUs yet
                self._pause(_RESTART_SECONDS)
            if self.signal == signal.SIGTERM:
                break
            self._port, head["dashboard"] = raynode.free_ports(head["ip"], 2)
            self._start_step(self._head, "head", head)
            if self._listens(head["ip"]):
                _say(f"ray listens at {self._address} on {self._head}")
                return
            self._end_steps()  # a head that lives but does not listen would keep the resources
        raise SlurmError(f"Ray's head did not start on {self._head}: see {self._log}")

    def _pause(self, seconds: float) -> None:
        """Wait for some seconds, or until a signal comes."""
        until = time.monotonic() + seconds
        while self.signal is None and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)

    def _start_worker(self, name: str) -> None:
        self._starts[name] = self._starts.get(name, 0) + 1
        self._started_at[name] = time.monotonic()
        head = {"head": self._nodes[self._head]["ip"], "head_node": self._head}
        self._start_step(name, "worker", {**self._nodes[name], **head})

    def _start_step(self, name: str, role: str, node: Mapping[str, Any]) -> None:
        chosen = self._chosen
        command = [
            # The job itself may have been given nothing of the submission's environment.
            "srun", "--export=ALL", "--nodes=1", "--ntasks=1", "--exact", f"--nodelist={name}",
            f"--cpus-per-task={chosen.cpus}", f"--job-name=ray-{name}",
            *([f"--gres={node['gres']}"] if node["gres"] else []),
            sys.executable, str(Path(raynode.__file__).resolve()),
            role, node["ip"], str(self._port), json.dumps(node),
        ]  # fmt: skip
        with open(self._log, "a") as log:
            self._steps[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment
            )

    def _listens(self, ip: str) -> bool:
        step = self._steps[self._head]
        deadline = time.monotonic() + _HEAD_SECONDS
        while step.poll() is None and time.monotonic() < deadline:
            if self.signal == signal.SIGTERM:
                return False
            if raynode.listens(ip, self._port, seconds=1.0):
                return True
            time.sleep(_LOOK_SECONDS)
        return False

    def _write_address(self) -> None:
        """Write where this Ray is, for commands outside the job."""
        where = {"node": self._head, "address": self._address, "token": str(self._token)}
        if self._chosen.dashboard:
            head = self._nodes[self._head]
            where["dashboard"] = addresses.with_port(head["ip"], head["dashboard"])
        with replacing(self._record) as draft:
            draft.write_text(json.dumps(where) + "\n")

    def _start_driver(self) -> None:
        driver, *options = self._chosen.driver
        command = [sys.executable, driver, *options, "--address", self._address]
        _say(f"driver: {' '.join(command)}")
        self._driver = subprocess.Popen(command, env=self._environment)
        self._tell_driver()  # signals that came before it was started

    def _supervise(self) -> int:
        assert self._driver is not None
        head = self._head
        while self._driver.poll() is None:
            time.sleep(_LOOK_SECONDS)
            # Also after SIGUSR1, when the driver would wait for rows of trials that are gone.
            if self.signal != signal.SIGTERM and self._steps[head].poll() is not None:
                _say(f"ray's head on {head} ended: see {self._log}")
                self._record_loss_of_head()
                self._end_driver()
                return GO_ON
            for name in self._workers:
                self._restart_ended(name)
        code = self._driver.returncode
        was_told_to_end = self.signal == signal.SIGTERM
        if code and not was_told_to_end and Path(self._ended_nodes + head).exists():
            _say(f"Slurm ended ray's head on {head}, and the driver with it")
            return GO_ON
        # SIGUSR1 killed a driver that had not set up its handler yet: it is to go on.
        return GO_ON if (self.signal, code) == (signal.SIGUSR1, -signal.SIGUSR1) else code

    def _record_loss_of_head(self) -> None:
        """Leave files that say whether the job will go on, and whether this life was in vain."""
        if self._was_restarted_elsewhere():
            return
        was_ended_by_slurm = Path(self._ended_nodes + self._head).exists()  # then it is not lost
        is_in_vain = not (was_ended_by_slurm or self._has_row())
        self.is_in_vain = is_in_vain and self._was_in_vain
        if self.is_in_vain or slurm_jobs.num_restarts() >= self._chosen.max_requeues:
            return
        with contextlib.suppress(OSError):  # on a full disk, do without
            self._goes_on.touch()
            if is_in_vain:
                self.in_vain_word.touch()

    def _was_restarted_elsewhere(self) -> bool:
        """Tell whether Slurm started the job again while it could not reach this node.

        The job's files then belong to that other run, which wrote its own token and deletes it at
        its end.
        """
        try:
            return self._token.read_text() != self._secret
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def _has_row(self) -> bool:
        """Tell whether any trial or pretraining here has written a row since Ray listens."""
        results = self._chosen.jobs.parent.parent
        try:
            listens_since = self._record.stat().st_mtime
            rows = [*results.glob("trials/*/*.arrow"), *results.glob("pretrained/*/*.arrow")]
            return any(path.stat().st_mtime > listens_since for path in rows)
        except OSError:
            return True  # nobody knows

    def _restart_ended(self, name: str) -> None:
        """Restart a worker that has ended, after a pause: its node may be back by then."""
        if self._steps[name].poll() is None or self.signal is not None or name in self._given_up:
            return
        failed_at = self._failed_at.setdefault(name, time.monotonic())
        if failed_at - self._started_at[name] > _SOUND_SECONDS:
            self._starts[name] = 0
        if self._starts[name] >= _WORKER_STARTS:
            self._given_up.add(name)
            _say(
                f"ray on {name} ended {_WORKER_STARTS} times: going on without it; see {self._log}"
            )
            return
        if time.monotonic() - failed_at < _RESTART_SECONDS:
            return
        del self._failed_at[name]
        _say(f"ray on {name} ended with {self._steps[name].returncode}: starting it again")
        self._start_worker(name)

    def _end_driver(self) -> None:
        assert self._driver is not None
        self._driver.terminate()
        try:
            self._driver.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._driver.kill()
            self._driver.wait()

    def _end_steps(self) -> None:
        for step in self._steps.values():
            step.send_signal(raynode.END_SIGNAL)
        for step in self._steps.values():
            try:
                step.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                step.kill()
                step.wait()

    def _pass_on(self, number: int, _: Any) -> None:
        """Pass a signal on to the driver, but only once: Slurm may have sent it there, too."""
        if self.signal in (number, signal.SIGTERM):
            return
        self.signal = number
        self._untold.append(number)
        with contextlib.suppress(OSError):  # not print, which the signal may have interrupted
            os.write(1, f"{_stamped(f'got {signal.Signals(number).name}')}\n".encode())
        self._tell_driver()

    def _tell_driver(self) -> None:
        while self._driver is not None and self._untold:
            with contextlib.suppress(IndexError):  # a signal handler has just passed it on
                number = self._untold.pop(0)
                if self._driver.poll() is None:
                    self._driver.send_signal(number)


def main() -> int:
    """Run the job; requeue it if there is more to be done. Returns the exit code."""
    chosen = _parser().parse_args()
    job_id = os.environ["SLURM_JOB_ID"]
    name = slurm_jobs.own_name() or job_id
    restarts = slurm_jobs.num_restarts()
    _say(f"job {job_id} on {os.environ['SLURM_JOB_NODELIST']}, restart {restarts}")
    job = Job(chosen, job_id, name)
    code = job.run()
    _say(f"driver ended with {code}")
    if code < 0:  # killed by a signal: report it as a shell does
        code = 128 - code
    if job.signal == signal.SIGTERM:
        return TERMINATED
    if code != GO_ON:
        return code
    if job.is_superseded:
        _say("not requeued: its token is another's or gone, so Slurm runs it elsewhere")
        return GO_ON
    if job.is_in_vain:
        _say("not requeued: Ray's head ended before any trial's row, in two lives of the job")
        return TRIALS_FAILED
    if restarts >= chosen.max_requeues:
        _say(f"not requeued: it was requeued {restarts} times already, the profile's max_requeues")
        return GO_ON
    return _requeue(name, job)


def _requeue(name: str, job: Job) -> int:
    """Put the job back into the queue; Slurm ends its processes here. Return the exit code."""
    try:
        slurm.ask_again("scontrol", "requeue", name)
    except SlurmError as error:
        job.in_vain_word.unlink(missing_ok=True)  # there is no next life
        _say(f"could not requeue: {error}; submit the sweep again to go on")
        return GO_ON
    return 0


def _environment(token: Path, secret: str) -> dict[str, str]:
    """Return the environment for Ray and the driver; write the secret into the token's file."""
    with replacing(token) as draft:  # so that it is never missing: an earlier life may look at it
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w") as file:
            file.write(secret)
    ours = {key: value for key, value in os.environ.items() if key not in _OTHERS}
    return {**ours, **_SETTINGS, "RAY_AUTH_TOKEN_PATH": str(token)}


def _say(text: str) -> None:
    say(_stamped(text))


def _stamped(text: str) -> str:
    return f"{time.strftime('%F %T')} {text}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add("--jobs", type=Path, required=True, help="the folder of the sweep's jobs")
    add("--cpus", type=int, required=True, help="of each node, as in the options that follow")
    add("--gres", default="", help="GPUs in Slurm's own words")
    add("--gpu-type", default="", help="their name in sweeps")
    add("--scratch", default="/tmp", help="a short path on the nodes' own disks")
    add("--interface", default="", help="the nodes' network interface that Ray uses")
    add("--signal-seconds", type=int, default=0, help="from SIGUSR1 to the time limit")
    add("--max-requeues", type=int, default=0)
    add("--dashboard", action="store_true")
    add("--simulated-gpus", action="store_true", help="trials compute on the CPUs")
    add("driver", nargs="+", help="the sweep's file and its options")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
