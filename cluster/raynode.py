"""One Ray node: a step of a job runs this on each of the job's machines.

    python cluster/raynode.py head|worker IP PORT JSON

PORT is the head's. The JSON has scratch, cpus, gpus and resources. For a worker it also has the
head's IP as "head" and the head's node as "head_node"; for the head, has_dashboard and the port
"dashboard". If it has an interface, from the profile, the node uses its own IP there and ignores
the one given. Ray stays in the foreground, so that it ends with the step even if Slurm does not
track processes that leave their session.

A job that loses its first node loses the process that supervises it. It still runs on, because
Slurm is told to keep a job that loses a node. A minute later the workers' Rays end, and a worker
requeues the job once Slurm has noticed the loss, too.
"""

import contextlib
import json
import os
import random
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
from pwmray import slurm_jobs, system
from pwmray.commands import run_command
from pwmray.deaths import OF_MEMORY, Kills
from pwmray.registry import CLAIM_FILE, claim, processes, trial_folder
from pwmray.registry.sweep_folders import read_sweep

# Ends a node in good order. srun passes it on, but kills its step outright when it gets SIGTERM.
END_SIGNAL = signal.SIGUSR2
_LOST_SECONDS = 900.0  # at most, until Slurm notices a lost node; five minutes are usual
_LOOK_SECONDS = 5.0
_DYING_SECONDS = 2.0  # by which a trial's process may outlive its Ray
_LISTEN_SECONDS = 5.0  # for a head to accept a connection
_KILL_LOOK_SECONDS = 0.25  # sooner than the driver asks why a trial died
# The range of ports that the system gives to a process that asks for any port, IPv6 too.
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST_PORT = 20_000  # services and the workers of another Ray have their ports below
_ENOUGH_PORTS = 1000  # so that two nodes which start at once draw different ones
_DRAWS = 20  # of ports, until one is free
_STORE_BYTES = 200_000_000  # trials pass next to nothing through Ray's object store


def command(role: str, ip: str, port: str, node: Mapping[str, Any], folder: str) -> list[str]:
    """Return the command that starts a Ray node with its sockets and logs in `folder`.

    All its ports are free ones: another user's Ray may have the default ports of this machine.
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
        client = _reserved_port() or other  # Ray binds it last, and dies if it is taken
        options += ["--head", f"--port={port}", f"--ray-client-server-port={client}"]
        options += [f"--include-dashboard={str(node['has_dashboard']).lower()}"]
        # Not on loopback: people reach it through the login node. It asks for the token.
        options += [f"--dashboard-host={ip}", f"--dashboard-port={node['dashboard']}"]
    else:
        options += [f"--address={addresses.with_port(node['head'], port)}"]
    return [_interpreter(folder), "-m", "ray.scripts.scripts", "start", *options]


def _interpreter(folder: str) -> str:
    """Return a path of this interpreter that needs no quoting: Ray pastes it into shell commands.

    If its own path has blanks or the like, this one leads through a link beside `folder`. The link
    is to the whole environment, because Python finds its packages by the path of its start.
    """
    if shlex.quote(sys.executable) == sys.executable:
        return sys.executable
    programs = Path(sys.executable).parent
    link = Path(folder).with_name("e")
    link.symlink_to(programs.parent)
    return str(link / programs.name / Path(sys.executable).name)


def free_ports(ip: str, number: int) -> list[int]:
    """Return different ports on which nothing listens at any address of this machine.

    They are ephemeral ports, for which a firewall between nodes may be open. Raises OSError for an
    `ip` that is not this machine's.
    """
    family, anywhere = (socket.AF_INET6, "::") if ":" in ip else (socket.AF_INET, "")
    with contextlib.ExitStack() as held:
        held.enter_context(socket.socket(family)).bind((ip, 0))
        sockets = [held.enter_context(socket.socket(family)) for _ in range(number)]
        for each in sockets:
            each.bind((anywhere, 0))
        return [each.getsockname()[1] for each in sockets]


def _reserved_port() -> int | None:
    """Return a free port below the ephemeral ones, None if there are too few.

    It is for something that binds it only seconds later, on loopback: in the meantime other parts
    of Ray ask for ephemeral ports.
    """
    first = []
    with contextlib.suppress(OSError):  # it is not there, or hidden in a container
        first = _EPHEMERAL.read_text().split()[:1]
    own = range(_FIRST_PORT, int(first[0]) if first else _FIRST_PORT)
    for port in random.sample(own, _DRAWS) if len(own) >= _ENOUGH_PORTS else ():
        with contextlib.suppress(OSError), socket.socket() as probe:  # it is taken
            probe.bind(("", port))
            return port
    return None


def main(arguments: Sequence[str]) -> int:
    """Run the node until it ends or is told to end; delete its folder; return Ray's exit code."""
    role, ip, port, text = arguments
    node = json.loads(text)
    scratch = _make_scratch(node)
    told_to_end = Path(os.environ["PWMRAY_ENDED_NODES"] + addresses.here())
    killed = told_to_end.with_name(told_to_end.name + OF_MEMORY)
    for word in (told_to_end, killed):
        word.unlink(missing_ok=True)  # of an earlier start
    ray, signals = None, []

    def end(number: int, _: Any) -> None:
        signals.append(number)
        if number == signal.SIGTERM:  # Slurm sends it to all processes, and SIGKILL soon after
            with contextlib.suppress(OSError):  # a full disk
                told_to_end.touch()  # tells the driver why trials die
        if ray is not None:
            ray.terminate()
        if number == signal.SIGTERM:
            shutil.rmtree(private, ignore_errors=True)

    # A new folder for every start, closed to others: Ray opens its own, inside this one, to all.
    private = tempfile.mkdtemp(prefix=f"r{os.environ['SLURM_JOB_ID']}.", dir=scratch)
    try:
        signal.signal(END_SIGNAL, end)
        signal.signal(signal.SIGTERM, end)
        ip = _way_to_head(role, ip, int(port), node)
        ray = subprocess.Popen(command(role, ip, port, node, f"{private}/t"))
        if signals:  # which came before there was a Ray to end
            ray.terminate()
        if counter := system.find_kill_counter():
            threading.Thread(target=tell_of_kills, args=(counter, killed), daemon=True).start()
        code = ray.wait()
        with contextlib.suppress(OSError, ValueError):  # then their claims expire later
            give_back(Path(os.environ["PWMRAY_LOG"]).parent.parent)
        if role == "worker" and END_SIGNAL not in signals:
            _requeue_without_head(node, port)
        return code
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _make_scratch(node: Mapping[str, Any]) -> str:
    """Return the folder for Ray's files, made if it is missing."""
    scratch = os.path.expandvars(node["scratch"])
    if not os.path.isabs(scratch):
        raise ValueError(
            f"scratch is {node['scratch']!r}, which is {scratch!r} here: not an absolute path"
        )
    os.makedirs(scratch, exist_ok=True)
    return scratch


def _way_to_head(role: str, ip: str, port: int, node: Mapping[str, Any]) -> str:
    """Return this node's IP; write to the job's log if this node cannot reach Ray's head.

    Ray is started all the same: it tries for a while, but its own message is one of many lines.
    """
    if role == "worker" and not listens(node["head"], port, _LISTEN_SECONDS):
        _log(
            f"{addresses.here()} does not reach Ray's head on {node['head_node']} at "
            f"{addresses.with_port(node['head'], port)}: if a firewall lets Ray through on another "
            "network, name that one's interface in the profile"
        )
    return addresses.ip_at(node["interface"]) if node.get("interface") else ip


def give_back(sweep_folder: Path) -> None:
    """Release the claims of a sweep's trials whose processes on this machine die with Ray.

    A process on another machine could be sure of their death only minutes later.
    """
    trials = read_sweep(sweep_folder).get("trials", [])
    claims = [trial_folder(sweep_folder.parent, name) / CLAIM_FILE for name in trials]
    held = [p for p in claims if claim.holder(p).get("machine") == processes.machine()]
    deadline = time.monotonic() + _DYING_SECONDS
    is_last = False
    while held and not is_last:
        is_last = time.monotonic() >= deadline  # there is one look, however late it is
        for path in [path for path in held if claim.owner(path) is None]:
            held.remove(path)
            if (taken := claim.acquire(path, is_brief=True)) is not None:
                taken.release()
        time.sleep(_DYING_SECONDS / 20)


def tell_of_kills(counter: Path, word: Path) -> None:
    """Write the file `word` each time the kernel kills a process of this step for lack of memory.

    This never returns. The trials share the step's control group, whose limit Slurm sets
    (ConstrainRAMSpace).
    """
    kills = Kills(counter)
    while True:
        time.sleep(_KILL_LOOK_SECONDS)
        if kills.look():
            with contextlib.suppress(OSError):  # a full disk
                word.write_text(str(time.time_ns()))


def _requeue_without_head(node: Mapping[str, Any], port: str) -> None:
    """Requeue the job if its first node is lost, once Slurm has removed that node from the job."""
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
    """Tell whether a job has lost its first node, None if Slurm may yet notice that."""
    job = slurm.read_fields(slurm.ask_again("scontrol", "--oneliner", "show", "job", name))
    if job.get("JobState") != "RUNNING":  # Slurm is ending it, or it is queued again
        return False
    if node["head_node"] not in slurm.hostnames([job["NodeList"]]):
        return True
    return False if listens(node["head"], int(port), _LISTEN_SECONDS) else None


def _log(text: str) -> None:
    """Write into the job's log: the process that forwards the output of steps may be lost."""
    with open(os.environ["PWMRAY_LOG"], "a") as log:
        log.write(f"{stamped(text)}\n")


def stamped(text: str) -> str:
    """Return a line of the job's log: the time and what is to be said."""
    return f"{time.strftime('%F %T')} {text}"


def listens(ip: str, port: int, seconds: float) -> bool:
    """Tell whether something accepts a connection at an address within some seconds."""
    try:
        socket.create_connection((ip, port), timeout=seconds).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
