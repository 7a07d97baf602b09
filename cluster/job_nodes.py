"""What each node of a job offers to Ray: an address, CPUs, and GPUs by type."""

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

from cluster import addresses, slurm


def offered_by_nodes(details: str, chosen: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return what each node offers to Ray, by name, this node first.

    `details` is the output of `scontrol --details show job`; `chosen` has the job's options.
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
    """Return the GPUs that a step must ask for to get all that the job has on its node.

    An exclusive job has more than it asked for, and Ray does not start if its step has fewer.
    """
    return asked if not number or asked.endswith(f":{number}") else f"gpu:{number}"


def resources(gpus: Mapping[str, int], gres: str, gpu_type: str) -> dict[str, float]:
    """Return a node's GPUs as Ray's resources: {"H100": 4, "accelerator_type:H100": 1}.

    GPUs without a type, or of the type that the profile asked for in `gres`, get the profile's
    `gpu_type` as their name; any others get Slurm's name in capitals.
    """
    asked = slurm.gpu_type(gres)
    found: dict[str, float] = {}
    for slurm_name, number in gpus.items():
        is_asked = slurm_name in ("", asked) and bool(gpu_type)
        name = gpu_type if is_asked else slurm_name.upper()
        if name:
            found |= {name: found.get(name, 0) + number, f"accelerator_type:{name}": 1}
    return found
