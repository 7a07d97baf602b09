"""One Ray node: a step of a job runs this on each of the job's machines.

    python cluster/raynode.py head|worker IP PORT JSON

PORT is the head's. The JSON has scratch, cpus, gpus and resources; for a worker the head's IP as
"head" and its node as "head_node"; for the head has_dashboard and, as dashboard, its port. With an
interface in it, from the profile, the node finds its own IP there and does not read the one given.
Ray stays in the foreground, so that it ends with the step even where Slurm does not follow
processes that leave their session.

A job that loses its first node loses the process that supervises it, but runs on, as Slurm was told
to let it for the sake of the other nodes. Then a worker, whose Ray ends a minute later, requeues
the job once Slurm has noticed the loss, too.
"""

import contextlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster import addresses, slurm
from cluster.slurm import SlurmError
from pwmray import slurm_jobs
from pwmray.commands import run_command
from pwmray.deaths import OF_MEMORY
from pwmray.registry import CLAIM_FILE, claim, processes, trial_folder
from pwmray.registry.sweep_folders import read_sweep

# Ends a node in good order. srun passes it on, but kills its step outright when it gets SIGTERM.
END_SIGNAL = signal.SIGUSR2
_LOST_SECONDS = 900.0  # that Slurm may take to see it; five minutes are usual
_LOOK_SECONDS = 5.0
_DYING_SECONDS = 2.0  # that a trial's process may outlive its Ray
_LISTEN_SECONDS = 5.0  # that a head may take to let one in
_KILL_LOOK_SECONDS = 0.25  # sooner than the driver asks why a trial died
_CGROUPS = "/sys/fs/cgroup"
# The first and the last port that the system gives to who asks for any, IPv6 too.
_GIVEN_OUT = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST_PORT = 20_000  # services have theirs below, as the workers of another Ray
_ENOUGH_PORTS = 1000  # that those of two nodes which start at once differ
_DRAWS = 20  # until one is not taken
_STORE_BYTES = 200_000_000  # trials pass next to nothing through Ray's object store


def command(role: str, ip: str, port: str, node: Mapping[str, Any], folder: str) -> list[str]:
    """Return the command of a Ray node whose sockets and logs lie in `folder`.

    Every port is a free one: another user's Ray may run on this machine with the default ports.
    """
    taken = (int(port), node.get("dashboard"))  # of the head, which does not listen yet
    agent, other = [free for free in free_ports(ip, 4) if free not in taken][:2]
    options = [
        f"--node-ip-address={ip}",
        f"--num-cpus={node['cpus']}",
        f"--num-gpus={node['gpus']}",
        f"--resources={json.dumps(node['resources'])}",
        f"--object-store-memory={_STORE_BYTES}",
        f"--temp-dir={folder}",
        "--min-worker-port=0",
        "--max-worker-port=0",
        f"--dashboard-agent-listen-port={agent}",
        "--disable-usage-stats",
        "--log-color=false",
        "--block",
    ]
    if role == "head":
        client = _port_of_nobody() or other  # which Ray takes last, and dies where it cannot
        options += ["--head", f"--port={port}", f"--ray-client-server-port={client}"]
        options += [f"--include-dashboard={str(node['has_dashboard']).lower()}"]
        # Not on loopback, for one reaches it through the login node; who has no token sees nothing.
        options += [f"--dashboard-host={ip}", f"--dashboard-port={node['dashboard']}"]
    else:
        options += [f"--address={addresses.with_port(node['head'], port)}"]
    return [_interpreter(folder), "-m", "ray.scripts.scripts", "start", *options]


def _interpreter(folder: str) -> str:
    """Return this interpreter by a path that Ray may paste into shell commands, as it does.

    Where its own has blanks or the like, that leads through a link beside `folder`, to the whole
    environment: Python finds its packages by the path that it was started by.
    """
    if shlex.quote(sys.executable) == sys.executable:
        return sys.executable
    programs = Path(sys.executable).parent
    link = Path(folder).with_name("e")
    link.symlink_to(programs.parent)
    return str(link / programs.name / Path(sys.executable).name)


def free_ports(ip: str, number: int) -> list[int]:
    """Return ports that nobody listens on at any address here, all different.

    They are of those that the system gives out, which a firewall between nodes may be open for.
    Raises OSError for an `ip` that is not this machine's.
    """
    family, anywhere = (socket.AF_INET6, "::") if ":" in ip else (socket.AF_INET, "")
    with contextlib.ExitStack() as held:
        held.enter_context(socket.socket(family)).bind((ip, 0))
        sockets = [held.enter_context(socket.socket(family)) for _ in range(number)]
        for each in sockets:
            each.bind((anywhere, 0))
        return [each.getsockname()[1] for each in sockets]


def _port_of_nobody() -> int | None:
    """Return a port that the system gives to nobody who asks for any, None where it has too few.

    For what listens on loopback, and does so seconds later: much else of Ray asks meanwhile.
    """
    first = _read(_GIVEN_OUT).split()[:1]
    own = range(_FIRST_PORT, int(first[0]) if first else _FIRST_PORT)
    for port in random.sample(own, _DRAWS) if len(own) >= _ENOUGH_PORTS else ():
        with contextlib.suppress(OSError), socket.socket() as probe:  # it is taken
            probe.bind(("", port))
            return port
    return None


def main(arguments: Sequence[str]) -> int:
    """Run the node until it ends or is told to; delete its folder; return Ray's exit code."""
    role, ip, port, text = arguments
    node = json.loads(text)
    scratch = os.path.expandvars(node["scratch"])
    if not os.path.isabs(scratch):
        raise ValueError(
            f"scratch is {node['scratch']!r}, which is {scratch!r} here: not an absolute path"
        )
    os.makedirs(scratch, exist_ok=True)
    # Of its own for every start, and for nobody else's eyes: Ray opens its folder to all, but not
    # the one around it.
    told_to_end = Path(os.environ["PWMRAY_ENDED_NODES"] + os.environ["SLURMD_NODENAME"])
    out_of_memory = told_to_end.with_name(told_to_end.name + OF_MEMORY)
    for word in (told_to_end, out_of_memory):
        word.unlink(missing_ok=True)  # by an earlier start
    ray, signals = None, []

    def end(number: int, _: Any) -> None:
        signals.append(number)
        if number == signal.SIGTERM:  # by Slurm, to all processes: SIGKILL may come first
            with contextlib.suppress(OSError):  # a full disk
                told_to_end.touch()  # for the driver, who sees that trials die
        if ray is not None:
            ray.terminate()
        if number == signal.SIGTERM:
            shutil.rmtree(private, ignore_errors=True)

    private = tempfile.mkdtemp(prefix=f"r{os.environ['SLURM_JOB_ID']}.", dir=scratch)
    try:
        signal.signal(END_SIGNAL, end)
        signal.signal(signal.SIGTERM, end)
        ip = _way_to_head(role, ip, int(port), node)
        ray = subprocess.Popen(command(role, ip, port, node, f"{private}/t"))
        if signals:  # which came before there was a Ray to be ended
            ray.terminate()
        counter = find_kill_counter()
        if counter is not None:
            threading.Thread(
                target=tell_of_kills, args=(counter, out_of_memory), daemon=True
            ).start()
        code = ray.wait()
        with contextlib.suppress(OSError, ValueError):  # then that is told by the heartbeats
            give_back(Path(os.environ["PWMRAY_LOG"]).parent.parent)
        if role == "worker" and END_SIGNAL not in signals:
            _requeue_without_head(node, port)
        return code
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _way_to_head(role: str, ip: str, port: int, node: Mapping[str, Any]) -> str:
    """Return this node's IP, and say in the job's log if the head lets nobody in from here.

    Ray is started all the same, which tries for a while; what it says is one of many lines.
    """
    if role == "worker" and not listens(node["head"], port, _LISTEN_SECONDS):
        _log(
            f"{addresses.here()} does not reach Ray's head on {node['head_node']} at "
            f"{addresses.with_port(node['head'], port)}: if a firewall lets Ray through on another "
            "network, name that one's interface in the profile"
        )
    return addresses.ip_at(node["interface"]) if node.get("interface") else ip


def give_back(sweep_folder: Path) -> None:
    """Give back the trials of a sweep whose processes on this machine died, a moment after Ray.

    From another one that is sure after minutes only.
    """
    trials = read_sweep(sweep_folder).get("trials", [])
    claims = [trial_folder(sweep_folder.parent, name) / CLAIM_FILE for name in trials]
    here = processes.this_process()["machine"]
    held = [path for path in claims if claim.holder(path).get("machine") == here]
    deadline = time.monotonic() + _DYING_SECONDS
    is_last = False
    while held and not is_last:
        is_last = time.monotonic() >= deadline  # one look there is, however late it is by then
        for path in [path for path in held if claim.owner(path) is None]:
            held.remove(path)
            if (taken := claim.acquire(path, is_brief=True)) is not None:
                taken.release()
        time.sleep(_DYING_SECONDS / 20)


def tell_of_kills(counter: Path, word: Path) -> None:
    """Write a word anew each time that the kernel kills in this step for want of memory; for ever.

    The trials share the step's control group, of which Slurm sets the limit (ConstrainRAMSpace).
    """
    num_kills = _count_kills(counter)
    while True:
        time.sleep(_KILL_LOOK_SECONDS)
        if (now := _count_kills(counter)) > num_kills:
            num_kills = now
            with contextlib.suppress(OSError):  # a full disk
                word.write_text(str(time.time_ns()))


def find_kill_counter(groups: Path = Path("/proc/self/cgroup")) -> Path | None:
    """Return the file in which the kernel counts what it kills in this process's control group.

    In version 1 the memory's groups have a tree of their own. None where there are no groups.
    """
    fields = [line.split(":", 2) for line in _read(groups).splitlines()]
    for _, controllers, path in fields:
        if "memory" in controllers.split(","):
            return Path(f"{_CGROUPS}/memory{path}/memory.oom_control")
    for _, controllers, path in fields:
        if not controllers:
            return Path(f"{_CGROUPS}{path}/memory.events")
    return None


def _count_kills(counter: Path) -> int:
    found = re.search(r"^oom_kill (\d+)$", _read(counter), re.MULTILINE)
    return int(found[1]) if found else 0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _requeue_without_head(node: Mapping[str, Any], port: str) -> None:
    """Requeue the job if its first node is lost, once Slurm has taken that out of the job."""
    name = slurm_jobs.own_name() or ""
    deadline = time.monotonic() + _LOST_SECONDS
    try:
        while (is_lost := _has_lost_head(name, node, port)) is None:
            if time.monotonic() >= deadline:
                break
            time.sleep(_LOOK_SECONDS)
        if is_lost is not False:
            _log(f"{node['head_node']}, the job's first node, is lost: it is requeued")
            slurm.ask_again("scontrol", "requeue", name)
    except SlurmError as error:
        _log(f"{node['head_node']} may be lost, but the job was not requeued: {error}")


def _has_lost_head(name: str, node: Mapping[str, Any], port: str) -> bool | None:
    """Tell whether a job has lost its first node, None where Slurm may yet find that out."""
    job = slurm.read_fields(slurm.ask_again("scontrol", "--oneliner", "show", "job", name))
    if job.get("JobState") != "RUNNING":  # Slurm ends it, or it waits already
        return False
    if node["head_node"] not in slurm.hostnames([job["NodeList"]]):
        return True
    return False if listens(node["head"], int(port), _LISTEN_SECONDS) else None


def _log(text: str) -> None:
    """Write into the job's log: who passes on what steps print may be lost."""
    with open(os.environ["PWMRAY_LOG"], "a") as log:
        log.write(f"{time.strftime('%F %T')} {text}\n")


def listens(ip: str, port: int, seconds: float) -> bool:
    """Tell whether somebody lets one in at an address within some seconds."""
    try:
        socket.create_connection((ip, port), timeout=seconds).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
