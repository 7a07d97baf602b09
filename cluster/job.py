"""The process that runs a Slurm job: it starts Ray on each node, and the sweep's file as driver.

    python cluster/job.py [options] -- sweeps/phase6_epochs.py [its options]

Some minutes before the time limit or a preemption, Slurm sends SIGUSR1. It goes to the driver,
whose trials stop at their next row; then the job requeues itself and later goes on where it
stopped. The same happens when Ray's head is lost, unless no trial got a row in two lives of the
job. After SIGTERM (scancel) nothing is requeued.
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
from cluster.job_ray import (
    HEAD_SECONDS,
    LOOK_SECONDS,
    JobRay,
    make_environment,
    report,
    wait_or_kill,
)
from cluster.slurm import SlurmError
from pwmray import slurm_jobs
from pwmray.commands import TRIALS_FAILED, run_command
from pwmray.driver.interruption import GO_ON, TERMINATED
from pwmray.files import replacing

_EARLY_SECONDS = 90.0  # by which Slurm may send its signal earlier than asked for


class Job:
    """A job's Ray and its driver; `run` returns the driver's exit code."""

    def __init__(self, chosen: argparse.Namespace, job_id: str, name: str):
        self._chosen, self._name = chosen, name
        self._token = chosen.jobs / f".{job_id}.token"
        self._secret = secrets.token_hex(32)  # in that file
        self._record = chosen.jobs / f"{job_id}.json"
        self._goes_on = chosen.jobs / f".{job_id}.goes-on"  # exists if the job requeues itself
        self.in_vain_word = chosen.jobs / f".{job_id}.in-vain"  # exists after a life without a row
        self._ended_nodes = str(chosen.jobs / f".{job_id}.ended.")  # a prefix of node names
        self._ended_here = Path(self._ended_nodes + addresses.here())
        self.signal: int | None = None  # the last one received; SIGTERM stays
        self._told: int | None = None  # the last one that the driver was sent
        self._driver: subprocess.Popen | None = None
        self._was_in_vain = self.in_vain_word.exists()  # so was the job's life before this one
        self.is_in_vain = False  # Ray's head was lost before any row, twice in a row
        self.is_superseded = False  # Slurm seems to have lost this node, and runs the job elsewhere

    def run(self) -> int:
        """Start Ray and the driver, and supervise both until the driver ends."""
        signal.signal(signal.SIGUSR1, self._hear)
        signal.signal(signal.SIGTERM, self._hear)
        self._goes_on.unlink(missing_ok=True)  # of an earlier life that was cut off
        self.in_vain_word.unlink(missing_ok=True)
        details = slurm.ask_again("scontrol", "--details", "--oneliner", "show", "job", self._name)
        nodes = offered_by_nodes(details, self._chosen)
        limit_at = slurm.read_end(details) - self._chosen.signal_seconds - _EARLY_SECONDS
        environment = {
            **make_environment(self._token, self._secret),
            "PWMRAY_LOG": str(self._chosen.jobs / f"{self._name}.log"),
            "PWMRAY_LIMIT_AT": str(limit_at),
            "PWMRAY_RAY_SECONDS": str(HEAD_SECONDS),
            "PWMRAY_ENDED_NODES": self._ended_nodes,
            "PWMRAY_GOES_ON": str(self._goes_on),
            "PWMRAY_COMING_GPUS": " ".join(
                {n for node in nodes.values() for n in node["resources"]}
            ),
        }
        log = self._chosen.jobs / f"{self._name}.ray.log"
        ray = JobRay(nodes, log, environment, lambda: self.signal)
        try:
            ray.start()
            self._write_address(ray)
            self._driver = self._start_driver(ray.address, environment)
            self._tell(self._driver)  # of a signal that came before
            return self._supervise(ray, self._driver)
        finally:
            ray.end()
            self.is_superseded = self._was_restarted_elsewhere()
            if not self.is_superseded:
                self._clear()

    def _clear(self) -> None:
        """Delete what the job's processes left for each other."""
        ended = self._chosen.jobs.glob(f"{Path(self._ended_nodes).name}*")
        for path in (self._token, self._record, self._goes_on, *ended):
            path.unlink(missing_ok=True)

    def _write_address(self, ray: JobRay) -> None:
        """Write where this Ray is, for commands outside the job."""
        where = {"node": ray.head, "address": ray.address, "token": str(self._token)}
        if self._chosen.dashboard:
            where["dashboard"] = ray.dashboard
        with replacing(self._record) as draft:
            draft.write_text(json.dumps(where) + "\n")

    def _start_driver(self, address: str, environment: Mapping[str, str]) -> subprocess.Popen:
        driver, *options = self._chosen.driver
        command = [sys.executable, driver, *options, "--address", address]
        report(f"driver: {' '.join(command)}")
        return subprocess.Popen(command, env=environment)

    def _supervise(self, ray: JobRay, driver: subprocess.Popen) -> int:
        while driver.poll() is None:
            time.sleep(LOOK_SECONDS)
            # Also after SIGUSR1, when the driver would wait for rows of trials that are gone.
            if self.signal != signal.SIGTERM and ray.has_ended:
                report(f"ray's head on {ray.head} ended: see {ray.log}")
                self._record_loss_of_head()
                driver.terminate()
                wait_or_kill(driver)
                return GO_ON
            ray.restart_workers()
        code = driver.returncode
        was_told_to_end = self.signal == signal.SIGTERM
        if code and not was_told_to_end and self._ended_here.exists():
            report(f"Slurm ended ray's head on {ray.head}, and the driver with it")
            return GO_ON
        # SIGUSR1 killed a driver that had not set up its handler yet: it is to go on.
        return GO_ON if (self.signal, code) == (signal.SIGUSR1, -signal.SIGUSR1) else code

    def _record_loss_of_head(self) -> None:
        """Leave files that say whether the job will go on, and whether this life was in vain."""
        if self._was_restarted_elsewhere():
            return
        # Where Slurm ended the head, that is not lost.
        is_in_vain = not (self._ended_here.exists() or self._has_row())
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

    def _hear(self, number: int, _: Any) -> None:
        """Pass a signal on to the driver, but only once: Slurm may have sent it there, too.

        At once, since Slurm ends Ray at the same time, which would end a driver that does not know.
        """
        if self.signal in (number, signal.SIGTERM):
            return
        self.signal = number
        with contextlib.suppress(OSError):  # not print, which the signal may have interrupted
            os.write(1, f"{raynode.stamped(f'got {signal.Signals(number).name}')}\n".encode())
        if self._driver is not None:
            self._tell(self._driver)

    def _tell(self, driver: subprocess.Popen) -> None:
        if (number := self.signal) not in (None, self._told):
            self._told = number
            driver.send_signal(number)


def main() -> int:
    """Run the job; requeue it if there is more to be done. Returns the exit code."""
    chosen = parser().parse_args()
    job_id = os.environ["SLURM_JOB_ID"]
    name = slurm_jobs.own_name() or job_id
    restarts = slurm_jobs.num_restarts()
    report(f"job {job_id} on {os.environ['SLURM_JOB_NODELIST']}, restart {restarts}")
    job = Job(chosen, job_id, name)
    code = job.run()
    report(f"driver ended with {code}")
    if code < 0:  # killed by a signal: report it as a shell does
        code = 128 - code
    if job.signal == signal.SIGTERM:
        return TERMINATED
    if code != GO_ON:
        return code
    if job.is_superseded:
        report("not requeued: its token is another's or gone, so Slurm runs it elsewhere")
        return GO_ON
    if job.is_in_vain:
        report("not requeued: Ray's head ended before any trial's row, in two lives of the job")
        return TRIALS_FAILED
    if restarts >= chosen.max_requeues:
        report(
            f"not requeued: it was requeued {restarts} times already, the profile's max_requeues"
        )
        return GO_ON
    return _requeue(name, job)


def _requeue(name: str, job: Job) -> int:
    """Put the job back into the queue; Slurm ends its processes here. Return the exit code."""
    report(f"requeueing job {name}, which then goes on by itself")
    try:
        slurm.ask_again("scontrol", "requeue", name)
    except SlurmError as error:
        job.in_vain_word.unlink(missing_ok=True)  # there is no next life
        report(f"could not requeue: {error}; submit the sweep again to go on")
        return GO_ON
    return 0


def parser() -> argparse.ArgumentParser:
    read = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = read.add_argument
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
    return read


if __name__ == "__main__":
    sys.exit(run_command(main))
