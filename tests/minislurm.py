"""A real Slurm of three nodes on this machine: loopback, free ports, no root and no systemd.

Debian builds Slurm so that several slurmd run side by side on one host. Each node has a port and
a 127.x.y.z of its own, so that Ray sees them as different machines, and claims GPUs that are
character devices: enough for Slurm to schedule them and to set CUDA_VISIBLE_DEVICES.
"""

import contextlib
import fcntl
import getpass
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from tests.waiting import wait_for

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")  # states of a job
HOLD_SECONDS = 6  # that a requeued job waits: a second more than munge's tickets live
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "sinfo", "squeue", "scontrol")
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])  # where the daemons are
_REQUIRED_BY = ("CI", "PWMRAY_REQUIRE_SLURM")
# One for each GPU of a node: Slurm refuses plain files, and a device given twice.
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full")
_FREEZER = Path("/sys/fs/cgroup/freezer")  # only it finds the processes that left their session
_PORTS = range(20_000, 32_768)  # given to none who connects: a lost node has its own again
_START_SECONDS = 30.0
_STOP_SECONDS = 40.0  # 12 of a job whose processes wait for KillWait, on a busy machine


@dataclass(frozen=True)
class Node:
    """A node as slurm.conf has it."""

    name: str
    gpu_type: str
    num_gpus: int
    address: str
    port: int
    host: str = "localhost"
    num_cpus: int = 8


class Started:
    """What runs from the beginning of a with statement to its end; nothing of it stays."""

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        """End everything, also of a start that failed."""
        raise NotImplementedError


class MiniSlurm(Started):
    """A running Slurm; use it as a context manager.

    `environment` is what its clients need: SLURM_CONF, and no variable of another Slurm.
    """

    controller = "localhost(127.0.0.1)"

    def __init__(self) -> None:
        # Short, for sockets have names of 107 bytes at most; open, or munged refuses to run there.
        self.folder = Path(tempfile.mkdtemp(prefix="sl"))
        self.folder.chmod(0o755)
        controller, *ports = _free_ports(4)
        # Others may run a Slurm here: what listens on a node's address is told apart by these.
        network = f"127.{1 + secrets.randbelow(250)}.{secrets.randbelow(250)}"
        gpus = (("h100", 2), ("h200", 2), ("h200", 1))
        self.nodes = [
            Node(f"n{i}", *gpu, f"{network}.{10 + i}", port)
            for i, (gpu, port) in enumerate(zip(gpus, ports, strict=True), start=1)
        ]
        self._port = controller
        inherited = re.compile(r"(SLURM|SBATCH|SRUN|SQUEUE|SINFO)_")
        self.environment = {k: v for k, v in os.environ.items() if not inherited.match(k)}
        self.environment |= {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": _PATH}
        self._daemons: dict[str, subprocess.Popen] = {}

    def enter(self, host: str) -> list[str]:
        """Return what comes before a command for it to run on the host of this name."""
        return []

    @property
    def pids(self) -> list[int]:
        """The process ids of the daemons."""
        return [daemon.pid for daemon in self._daemons.values()]

    def run(self, *command: str | Path, **variables: str) -> str:
        """Return what a command prints with this Slurm as its cluster.

        Raises subprocess.CalledProcessError for one that fails.
        """
        environment = {**self.environment, **variables}
        done = subprocess.run(
            [*self.enter("login"), *map(str, command)], env=environment, capture_output=True,
            text=True, timeout=60,
        )  # fmt: skip
        if done.returncode:
            raise subprocess.CalledProcessError(
                done.returncode, command, done.stdout, done.stderr
            )  # fmt: skip
        return done.stdout

    def submit(self, script: str, *options: str) -> int:
        """Submit a batch script by its text; return the job's id."""
        path = self.folder / f"{secrets.token_hex(4)}.sh"
        path.write_text(script)
        folder = f"--chdir={self.folder}"
        return int(self.run("sbatch", "--parsable", folder, *options, path).partition(";")[0])

    def job(self, job_id: int | str) -> dict[str, str]:
        """Return the fields of `scontrol show job`."""
        shown = self.run("scontrol", "--oneliner", "show", "job", str(job_id))
        return dict(re.findall(r"(\S+?)=(\S*)", shown))

    def wait(self, job_id: int | str, *states: str, seconds: float = 60.0) -> dict[str, str]:
        """Wait until a job is in one of `states`, by default ended; return its fields."""
        states = states or ENDED
        wait_for(
            lambda: self.job(job_id)["JobState"] in states, seconds, lambda: f"{job_id}: {states}"
        )
        return self.job(job_id)

    def clear(self) -> None:
        """Cancel all jobs, wait until their processes are gone, and bring every node back."""
        jobs = set(self.run("squeue", "--noheader", "--format=%A").split())
        if jobs:
            self.run("scancel", *sorted(jobs))
        left = ("squeue", "--noheader", "--states=PENDING,RUNNING,COMPLETING", "--format=%A")
        wait_for(lambda: not self.run(*left).split(), _STOP_SECONDS)
        down = ("sinfo", "--noheader", "--Node", "--states=down,drain", "--format=%N")
        for name in sorted(set(self.run(*down).split())):
            self.run("scontrol", "update", f"nodename={name}", "state=RESUME")

    def lose(self, name: str) -> None:
        """Kill all that runs on a node at once, as when its power fails: none sees another end."""
        self._daemons[f"slurmd-{name}"].kill()
        ours = {f"SLURM_CONF={self.environment['SLURM_CONF']}", f"SLURMD_NODENAME={name}"}
        on_it = {pid for pid in _processes() if ours <= _environment(pid)}
        # Those that started a step there have an environment of their own.
        on_it |= {above for pid in on_it for above in _ancestors(pid) if _is_of_a_step(above)}
        # Children first: to a group that is stopped when its last parent outside of it ends, the
        # system sends SIGHUP and SIGCONT, at which srun ends its step on another node.
        children_first = sorted(on_it, key=lambda pid: len(_ancestors(pid)), reverse=True)
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in children_first:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def find_again(self, name: str) -> None:
        """Start a node that was lost."""
        self._spawn(f"slurmd-{name}", "slurmd", "-D", "-N", name)
        states = "--states=idle,allocated,mixed"  # a job may wait for it
        there = ("sinfo", "--noheader", "--Node", states, f"--nodes={name}", "-o", "%N")
        self._await(lambda: bool(self.run(*there)), name)

    def stop(self) -> None:
        """End everything that was started, jobs first, and delete the folder."""
        if "slurmctld" in self._daemons and self._daemons["slurmctld"].poll() is None:
            with contextlib.suppress(subprocess.SubprocessError, TimeoutError):
                self.clear()
        # A slurmd that no longer finds its controller takes a minute to end.
        for group in ("slurmd-", "slurmctld", "munged"):
            ending = [d for name, d in self._daemons.items() if name.startswith(group)]
            for daemon in ending:
                daemon.terminate()
            for daemon in ending:
                _end(daemon)
        self._remove_freezers()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> None:
        munge = self.folder / "munge"
        for name in ("munge", "state", "log", *(f"spool/{node.name}" for node in self.nodes)):
            (self.folder / name).mkdir(parents=True)
        key = munge / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        self._write_configuration()
        paths = {"key": "key", "socket": "sock", "pid": "pid", "log": "log", "seed": "seed"}
        options = [
            f"--{'socket' if name == 'socket' else f'{name}-file'}={munge}/munge.{suffix}"
            for name, suffix in paths.items()
        ]
        self._spawn("munged", "munged", "--foreground", *options)
        self._await(lambda: (munge / "munge.sock").exists(), "munged")
        # In the foreground: otherwise an error in the configuration shows only in the log.
        self._spawn("slurmctld", "slurmctld", "-D")
        self._await(self._listens, "slurmctld")
        for node in self.nodes:
            self._spawn(f"slurmd-{node.name}", "slurmd", "-D", "-N", node.name)
        idle = ("sinfo", "--noheader", "--Node", "--states=idle", "--partition=main", "-o", "%N")
        self._await(lambda: len(self.run(*idle).split()) == len(self.nodes), "idle nodes")

    def _listens(self) -> bool:
        """Tell whether the controller does."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def _spawn(self, name: str, *command: str) -> None:
        host = name.removeprefix("slurmd-") if name.startswith("slurmd-") else "login"
        with open(self.folder / "log" / f"{name}.out", "ab") as log:
            self._daemons[name] = subprocess.Popen(
                [*self.enter(host), *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self.environment, start_new_session=True,
            )  # fmt: skip

    def _await(self, is_there: Callable[[], bool], what: str) -> None:
        def check() -> bool:
            for name, daemon in self._daemons.items():
                if daemon.poll() is not None:
                    told = (self.folder / "log" / f"{name}.out").read_text()[-2000:]
                    raise RuntimeError(f"{name} ended with {daemon.returncode}: {told}")
            return is_there()

        wait_for(check, _START_SECONDS, lambda: what)

    def _write_configuration(self) -> None:
        user = getpass.getuser()
        tracking = "cgroup" if os.geteuid() == 0 and _FREEZER.is_dir() else "linuxproc"
        text = _SLURM_CONF.format(
            folder=self.folder, controller=self.controller, port=self._port, user=user,
            tracking=tracking, ticket_seconds=HOLD_SECONDS - 1,
            first_job=1000 + secrets.randbelow(50_000),
        )  # fmt: skip
        nodes = [
            f"NodeName={n.name} NodeHostname={n.host} NodeAddr={n.address} Port={n.port} "
            f"CPUs={n.num_cpus} RealMemory=4000 Gres=gpu:{n.gpu_type}:{n.num_gpus}\n"
            for n in self.nodes
        ]
        gpus = [
            f"NodeName={n.name} Name=gpu Type={n.gpu_type} File={device}\n"
            for n in self.nodes
            for device in _DEVICES[: n.num_gpus]
        ]
        (self.folder / "slurm.conf").write_text(text + "".join(nodes) + _PARTITIONS)
        (self.folder / "gres.conf").write_text("AutoDetect=off\n" + "".join(gpus))
        (self.folder / "cgroup.conf").write_text(_CGROUP_CONF)

    def _remove_freezers(self) -> None:
        """Remove the empty groups that slurmd leaves; under its own lock, for others use them."""
        if not _FREEZER.is_dir():
            return
        root = os.open(_FREEZER, os.O_RDONLY)
        try:
            fcntl.flock(root, fcntl.LOCK_EX)
            for node in self.nodes:
                for folder, _, _ in os.walk(_FREEZER / f"slurm_{node.name}", topdown=False):
                    with contextlib.suppress(OSError):
                        os.rmdir(folder)
        finally:
            os.close(root)


def start_or_skip() -> Iterator[MiniSlurm]:
    """Yield a running Slurm, the body of a fixture; skip with a warning where it is missing.

    Fails in its place where the environment says that Slurm is required.
    """
    check_installed()
    with MiniSlurm() as slurm:
        yield slurm


def check_installed(*others: str) -> None:
    """Skip, or fail, where one of Slurm's programs or of these others is missing."""
    missing = [name for name in (*_PROGRAMS, *others) if shutil.which(name, path=_PATH) is None]
    if missing:
        told = f"Slurm is not installed here: no {', '.join(missing)}"
        assert not any(map(os.environ.get, _REQUIRED_BY)), f"{told}, and it is required"
        warnings.warn(f"{told}; its tests are skipped", stacklevel=2)
        pytest.skip(told)


def _free_ports(number: int) -> list[int]:
    found: list[int] = []
    with contextlib.ExitStack() as held:  # all at once, so that they differ
        while len(found) < number:
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("", secrets.choice(_PORTS)))
                found.append(probe.getsockname()[1])
    return found


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]


def _environment(pid: int) -> set[str]:
    try:
        return set(Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0"))
    except OSError:
        return set()


def _ancestors(pid: int) -> list[int]:
    """Return a process's parent, the parent of that, and so on; none of one that is gone."""
    found = []
    with contextlib.suppress(OSError):
        while pid > 1:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            found.append(pid)
    return found


def _is_of_a_step(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip() == "slurmstepd"
    return False


def _end(daemon: subprocess.Popen) -> None:
    try:
        daemon.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


# What is not Slurm's default, and why:
# NoCtldInAddrAny   the controller listens on loopback only (with NoInAddrAny no slurmd is found)
# config_overrides  nodes claim more CPUs than there are here
# CR_Core           and no memory: CR_Core_Memory gives a node's whole memory to each job
# SchedulerParameters  jobs start within half a second in place of three
# MinJobAge         `scontrol show job` knows ended jobs, for there is no accounting
# FirstJobId        the freezer's groups are named by node and job, and shared by all Slurms here
_SLURM_CONF = """\
ClusterName=mini
SlurmctldHost={controller}
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/munge.sock,cred_expire={ticket_seconds}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
CommunicationParameters=NoCtldInAddrAny
ProctrackType=proctrack/{tracking}
FirstJobId={first_job}
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/log/jobcomp.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000,sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
MailProg=/bin/true
MpiDefault=none
ReturnToService=2
KillWait=10
MinJobAge=3600
SlurmctldTimeout=30
SlurmdTimeout=30
GresTypes=gpu
"""
_PARTITIONS = """\
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=h100 Nodes=n1 MaxTime=1:00:00 State=UP
PartitionName=h200 Nodes=n2,n3 MaxTime=1:00:00 State=UP
PartitionName=closed Nodes=ALL AllowAccounts=chemistry State=UP
"""
_CGROUP_CONF = "CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\nCgroupAutomount=no\n"
