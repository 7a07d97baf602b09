"""One Ray node: a step of a job runs this on each of the job's machines.

    python cluster/raynode.py head|worker IP PORT JSON

PORT is that of the head, whose IP a worker finds in the JSON as "head". Beside it there are
scratch, cpus, gpus, resources, and of the head has_dashboard and dashboard, its port. Ray stays in
the foreground, so that it ends with the step even where Slurm does not follow processes that leave
their session.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

# Ends a node in good order. srun passes it on, but kills its step outright when it gets SIGTERM.
END_SIGNAL = signal.SIGUSR2
_STORE_BYTES = 200_000_000  # trials pass next to nothing through Ray's object store


def command(role: str, ip: str, port: str, node: Mapping[str, Any], folder: str) -> list[str]:
    """Return the command of a Ray node whose sockets and logs lie in `folder`.

    Every port is a free one: another user's Ray may run on this machine with the default ports.
    """
    agent, client = free_ports(ip, 2)
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
        options += ["--head", f"--port={port}", f"--ray-client-server-port={client}"]
        options += [f"--include-dashboard={str(node['has_dashboard']).lower()}"]
        # Not on loopback, for one reaches it through the login node; who has no token sees nothing.
        options += [f"--dashboard-host={ip}", f"--dashboard-port={node['dashboard']}"]
    else:
        options += [f"--address={node['head']}:{port}"]
    return [sys.executable, "-m", "ray.scripts.scripts", "start", *options]


def free_ports(ip: str, number: int) -> list[int]:
    """Return ports that nobody listens on at this address, all different."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind((ip, 0))
        return [each.getsockname()[1] for each in sockets]


def main(arguments: Sequence[str]) -> int:
    """Run the node until it ends or is told to; delete its folder; return Ray's exit code."""
    role, ip, port, text = arguments
    node = json.loads(text)
    scratch = os.path.expandvars(node["scratch"])
    os.makedirs(scratch, exist_ok=True)
    # Of its own for every start, and for nobody else's eyes: Ray opens its folder to all, but not
    # the one around it.
    private = tempfile.mkdtemp(prefix=f"r{os.environ['SLURM_JOB_ID']}.", dir=scratch)
    try:
        ray = subprocess.Popen(command(role, ip, port, node, f"{private}/t"))

        def end(number: int, _: Any) -> None:
            ray.terminate()
            if number == signal.SIGTERM:  # the whole job is cancelled: SIGKILL may come first
                shutil.rmtree(private, ignore_errors=True)

        signal.signal(END_SIGNAL, end)
        signal.signal(signal.SIGTERM, end)
        return ray.wait()
    finally:
        shutil.rmtree(private, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
