"""What each node of a job is to offer its Ray: an address, CPUs, and GPUs by their types."""

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

from cluster import addresses, slurm


def offered_by_nodes(details: str, chosen: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return what each node is to offer Ray, this one first.

    `details` is what `scontrol --details show job` says of the job, `chosen` are the job's options.
    """
    gpus = {
        name: found
        for nodes, found in slurm.read_job_gpus(details).items()
        for name in slurm.hostnames([nodes])
    }
    here = addresses.here()
    others = [n for n in slurm.hostnames([os.environ["SLURM_JOB_NODELIST"]]) if n != here]
    hosts = [*others, os.environ.get("SLURM_SUBMIT_HOST", "")]
    return {name: _node(name, gpus.get(name, {}), chosen, hosts) for name in (here, *others)}


def _node(
    name: str, gpus: Mapping[str, int], chosen: argparse.Namespace, hosts: Sequence[str]
) -> dict[str, Any]:
    return {
        "ip": _ip(name, chosen.interface, hosts),
        "interface": chosen.interface,
        "cpus": chosen.cpus,
        "gres": _gres(chosen.gres, sum(gpus.values())),
        "gpus": 0 if chosen.simulated_gpus else sum(gpus.values()),
        "resources": resources(gpus, chosen.gres, chosen.gpu_type),
        "scratch": chosen.scratch,
        "has_dashboard": chosen.dashboard,
    }


def _ip(name: str, interface: str, hosts: Sequence[str]) -> str:
    is_here = name == addresses.here()
    if not interface:
        return addresses.ip_of(slurm.node_address(name), hosts if is_here else ())
    # At an interface each node finds its own.
    return addresses.ip_at(interface) if is_here else ""


def _gres(asked: str, number: int) -> str:
    """Return what a step asks for, so that it has all the GPUs of its node that the job has.

    An exclusive job has more than were asked for, and Ray does not start where its step has fewer.
    """
    return asked if not number or asked.endswith(f":{number}") else f"gpu:{number}"


def resources(gpus: Mapping[str, int], gres: str, gpu_type: str) -> dict[str, float]:
    """Return Ray's resources for a node's GPUs: H100, one for each, and Ray's own name of it.

    What Slurm gave without a type, or of the type that the profile asked for, is called as the
    profile calls it; any other by Slurm's name in capitals.
    """
    asked = slurm.gpu_type(gres)
    found: dict[str, float] = {}
    for slurm_name, number in gpus.items():
        is_asked = slurm_name in ("", asked) and bool(gpu_type)
        name = gpu_type if is_asked else slurm_name.upper()
        if name:
            found |= {name: found.get(name, 0) + number, f"accelerator_type:{name}": 1}
    return found
