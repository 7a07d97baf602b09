"""What a trial asks of Ray: CPUs, its part of a GPU, and the type of that GPU.

Trials' processes and drivers with nothing to run import this, so it imports little.
"""

import functools
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pwmray.runtime import RuntimeConfig

if TYPE_CHECKING:
    from ray import tune

_ROUNDING = 1e-9  # of a share such as 1 / 3
_ACCELERATOR, _TRACE = "accelerator_type:", 0.001  # a node's resource, and how to ask for it


def resources(config: dict[str, Any]) -> "tune.PlacementGroupFactory":
    """Return what a trainable with that config asks of Ray, as one bundle."""
    return _request_of(tuple(config["grid"]["bundle"].items()))


@functools.cache
def _request_of(bundle: tuple[tuple[str, float], ...]) -> "tune.PlacementGroupFactory":
    """Return one object for all trials that ask for the same: Tune compares them over and over."""
    from ray import tune

    return tune.PlacementGroupFactory([dict(bundle)])


def request(runtime: RuntimeConfig, share: int, machine: Mapping[str, float]) -> dict[str, float]:
    """Return the CPUs and the part of a GPU that a trial is given on `machine`.

    `machine` is the largest one that Ray has. With twice the share half as many trials run beside
    it, which leaves it twice the memory; the threads that it computes with stay the same, for
    they decide how numbers round.
    """
    num_cpus = float(max(runtime.num_cpus, 1))
    if machine.get("GPU", 0):
        return {"CPU": num_cpus, "GPU": min(1.0, runtime.gpu_fraction * share)}
    return {"CPU": max(num_cpus, min(num_cpus * share, machine.get("CPU", 1)))}


def bundle(
    runtime: RuntimeConfig, share: int, machine: Mapping[str, float], offered: Mapping[str, float]
) -> dict[str, float]:
    """Return what a trial asks of Ray: `request`, on a GPU of its type where Ray offers that.

    `offered` is all that Ray has.
    """
    asked = request(runtime, share, machine)
    gpu_type = _gpu_request(runtime.gpu_type, offered)
    if gpu_type is None:
        return asked
    # Without "GPU" they are GPUs that Ray places by, and that no program can use.
    fraction = asked.get("GPU", runtime.gpu_fraction)
    # Ray's own names are one a node, to be asked for in traces.
    return {**asked, gpu_type: _TRACE if gpu_type.startswith(_ACCELERATOR) else fraction}


def count_places(asked: Mapping[str, float], machines: Iterable[Mapping[str, float]]) -> int:
    """Return how many trials that each ask for `asked` run side by side on Ray's machines.

    A trial lies on one machine, and a part of a GPU on one GPU: at 0.6 of one, two GPUs have two
    places, not three.
    """
    return sum(
        min(_count_of(name, amount, machine.get(name, 0.0)) for name, amount in asked.items())
        for machine in machines
    )


def _count_of(name: str, amount: float, there: float) -> int:
    if name == "GPU" and amount < 1:
        return int(there) * int(1 / amount + _ROUNDING)
    return int(there / amount + _ROUNDING)


def _gpu_request(gpu_type: str, offered: Mapping[str, float]) -> str | None:
    """Return the resource by which Ray's cluster offers a type of GPU, None where it does not.

    That is the type's own name where nodes were started with such a resource, one for each GPU,
    else the name that Ray gives to a node of which it knows the GPUs.
    """
    known = (gpu_type, f"{_ACCELERATOR}{gpu_type}")
    return next((name for name in known if gpu_type and offered.get(name, 0)), None)


def describe_missing_gpus(gpu_types: Collection[str], offered: Mapping[str, float]) -> str:
    """Return one line about the types of GPU that the cluster does not offer, empty without any."""
    missing = [name for name in gpu_types if name and _gpu_request(name, offered) is None]
    if not missing or not offered.get("GPU", 0):
        return ""
    found = [n.removeprefix(_ACCELERATOR) for n in offered if n.startswith(_ACCELERATOR)]
    return (
        f"no {' or '.join(missing)} in this cluster (it has {', '.join(found) or 'GPUs unnamed'}): "
        "trials that ask for one take any GPU"
    )
