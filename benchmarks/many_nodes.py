"""Measure how many trials a second the driver hands out to many nodes, and its memory.

    python benchmarks/many_nodes.py [--nodes 100] [--trials 2000] [--seconds 2]

Runs the real driver (pwmray.driver.launch: plan, events, Tune, retries, tables) on a Ray of that
many nodes on this machine. Each node is a raylet of its own that offers one CPU, so Ray's control
plane and the driver see and use all of them. But they share this machine's cores, and run without
the agents that serve the dashboard, which would need too much memory. A trial claims its folder,
writes its events and evaluations as real ones do, sleeps for some seconds and does nothing else.
Each node keeps one process for all its trials.
"""

import argparse
import datetime
import math
import os
import resource
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from no_trial import SECONDS, NoTrainable
from noop import prepare, read_records

from pwmray.commands import CommandParser, run_command
from pwmray.driver import launch
from pwmray.plan import Plan
from pwmray.registry import Status
from pwmray.sweep_options import count
from pwmray.system import quieten_dm_control
from pwmray.tracking.recording import Mode

_STORE_BYTES = 80_000_000  # of a node's object store, in which nothing is put
_AGENT = "--dashboard_agent_command"
# For the machine is slow with so many: a node is dead to Ray after 25 s without a word, a process
# that has not begun after 60 s is killed. And nobody is there to take Ray's own measurements.
_PATIENCE = {
    "RAY_health_check_period_ms": "30000",
    "RAY_health_check_timeout_ms": "60000",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_enable_metrics_collection": "false",
}
# Tells its raylet of ports at which nobody listens, and sleeps.
_IDLE_AGENT = """#!/bin/sh
for option; do
    case $option in
        --node-id=*) node=${option#*=} ;;
        --session-dir=*) folder=${option#*=} ;;
    esac
done
for name in metrics_agent metrics_export dashboard_agent_listen; do
    printf 1024 > "$folder/.$$"
    mv "$folder/.$$" "$folder/${name}_port_$node"
done
exec sleep infinity
"""
_START_SECONDS = 600.0
_MOST_SECONDS = 3600


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what was measured; return the exit status."""
    return run_command(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> None:
    parser = CommandParser(description="Time the driver over many simulated nodes.")
    parser.add_argument("--nodes", type=count, default=100, metavar="N")
    parser.add_argument("--trials", type=count, default=2000, metavar="N")
    parser.add_argument("--seconds", type=_seconds, default=2.0, metavar="S", help="of a trial")
    options = parser.parse_args(arguments)
    if "RAY_AUTH_TOKEN" not in os.environ:  # read when Ray is imported, so begin again
        ours = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **ours})
    measure(options)


def measure(options: argparse.Namespace) -> None:
    """Start the nodes, run the sweep on them, print what it took."""
    # A short path, for Ray's sockets.
    with tempfile.TemporaryDirectory(prefix="mn") as made:
        quieten_dm_control()
        os.environ |= {"RAY_TMPDIR": made, "RAY_USAGE_STATS_ENABLED": "0"}
        os.environ |= {SECONDS: str(options.seconds), **_PATIENCE}
        data = Path(made) / "data"
        plan = prepare(options.trials, Path(made) / "results", data)
        started = time.monotonic()
        agent = Path(made) / "agent.sh"
        agent.write_text(_IDLE_AGENT)
        with _nodes(options.nodes, agent) as address:
            print(f"{options.nodes} nodes after {time.monotonic() - started:.0f} s", flush=True)
            started, cpu_seconds = time.monotonic(), time.process_time()
            command = "python benchmarks/many_nodes.py"
            code = launch.run(plan, data, address, command, Mode.OFF, trainable=NoTrainable)
        assert code == 0
        _report(plan, time.monotonic() - started, time.process_time() - cpu_seconds)


def _seconds(text: str) -> float:
    """Read how long a trial sleeps."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r}; valid: seconds from 0 to {_MOST_SECONDS}")
    return seconds


@contextmanager
def _nodes(number: int, agent: Path) -> Iterator[str]:
    """Yield the address of a Ray of a head that runs no trial and so many nodes."""
    from ray._private import services
    from ray.cluster_utils import Cluster

    start = services.start_ray_process

    def start_without_agents(command: list[str], *arguments: Any, **options: Any) -> Any:
        idle = [_with_agent(part, agent) for part in command]
        return start(idle, *arguments, **options)

    services.start_ray_process = start_without_agents
    common = {"object_store_memory": _STORE_BYTES}
    head = {"num_cpus": 0, "include_dashboard": False, **common}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(number):
            cluster.add_node(wait=False, num_cpus=1, **common)
        cluster.wait_for_nodes(timeout=_START_SECONDS)
        assert cluster.address is not None
        yield cluster.address
    finally:
        cluster.shutdown()


def _with_agent(part: str, agent: Path) -> str:
    """Have a raylet start the idle agent in place of its own, with the same options."""
    name, _, command = part.partition("=")
    options = command[command.index("--node-id=") :] if name == _AGENT else ""
    return f"{name}=/bin/sh {agent} {options}" if options else part


def _report(plan: Plan, seconds: float, cpu_seconds: float) -> None:
    records = read_records(plan)
    began = [_seconds_of(record.time_of(Status.RUNNING)) for record in records]
    ended = [_seconds_of(record.time_of(Status.EVALUATED)) for record in records]
    processes = {record.last("pid") for record in records}
    middle = sorted(ended)[len(ended) // 10 :]  # without the start of the nodes' processes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"trials: {len(records)}, in {len(processes)} processes")
    print(f"the driver's whole run: {seconds:.0f} s, {cpu_seconds:.0f} CPU seconds of its own")
    print(f"from the first trial's begin to the last one's end: {max(ended) - min(began):.0f} s")
    print(f"trials a second after the first tenth: {_rate(middle):.1f}")
    print(f"the driver's peak memory: {peak:.0f} MiB")


def _rate(times: list[float]) -> float:
    return (len(times) - 1) / (times[-1] - times[0])


def _seconds_of(time_of: datetime.datetime | None) -> float:
    assert time_of is not None
    return time_of.timestamp()


if __name__ == "__main__":
    sys.exit(main())
