"""Start Ray on this machine, or join a cluster that answers."""

import contextlib
import importlib.util
import logging
import os
import resource
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pwmray import deaths, placement, system
from pwmray.commands import ENDS_AT_ONCE, say
from pwmray.devices import check_gpu
from pwmray.driver import dashboard
from pwmray.kernels import build
from pwmray.precision import check_on_cpu
from pwmray.wording import as_typed, one_line

if TYPE_CHECKING:
    from pwmray.config import TrialConfig

_COUNTED_BY_RAY = "RAY_USE_MULTIPROCESSING_CPU_COUNT"
_ANSWER_SECONDS = 7.0  # for an address to answer; its port is given half of it
# How long to ask where a Ray is known to be: on a busy machine it listens some time before it
# answers.
_PATIENCE_VARIABLE = "PWMRAY_RAY_SECONDS"
_AGAIN_SECONDS = 1.0
# Ray's names of the types of GPU that nodes on their way to it will offer, and how long to wait.
_COMING_VARIABLE = "PWMRAY_COMING_GPUS"
_COMING_SECONDS = 60.0
# For Ray to end by itself, and then without its processes: a minute after these are gone it would
# end this process, before what remains to be written is.
_LEAVING_SECONDS, _KILLED_SECONDS = 20.0, 5.0
_NO_NODE = "No node info found"  # what Ray says, a minute later, where none of its nodes runs here
_TOO_LATE = "timed out during startup"  # of Ray here: its node did not, or not in 30 s
_REASON_LENGTH = 200
_REASON_START = 60  # of a longer one, in whose end the cause is: it may be a log's last lines
# Where Ray keeps its files, the first that is set: no other where it may not write there, and the
# working directory where that is empty.
_PLACES = ("RAY_TMPDIR", "TMPDIR")
_NUM_THREADS = 450  # that two trials had with their driver and Ray, on two cores
_TEMPORARY_LENGTH = 39  # of the folder below which Ray's sockets lie: their paths end at 107 bytes

# What a sweep needs of Ray, unless the user's environment says otherwise.
_SETTINGS = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # a failure that Tune no longer looks at is in its record
    "RAY_memory_monitor_refresh_ms": "0",  # a kill by Ray's own monitor ends the whole sweep
    "RAY_prestart_worker_first_driver": "0",  # one a core, none of which suits what Tune starts
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the trials write their own
    # Seconds between two records of all trials, 15 kB each and twice. Nothing is read from them.
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",
    "RAY_AIR_NEW_OUTPUT": "0",  # which prints tables of its own
}
# A person's profile may set these for earlier versions; today's Tune makes no use of them, and runs
# nothing where they are set.
_REFUSED_BY_TUNE = ("TUNE_RESULT_DIR", "RAY_AIR_LOCAL_CACHE_DIR")


def connect_for(configs: "Sequence[TrialConfig]", address: str | None) -> None:
    """Start or join Ray for trials; print what they lack there and where the dashboard is.

    Raises ValueError as `connect`, and where a trial could not run on the machines that Ray has.
    """
    import ray

    dashboard, offered = connect(address), ray.cluster_resources()
    runtimes = [config.runtime for config in configs]
    check_resources(max(runtime.num_cpus for runtime in runtimes))
    check_gpus(address, offered)
    check_matmuls({config.learner.matmul for config in configs}, offered)
    gpu_types = sorted({runtime.gpu_type for runtime in runtimes})
    lines = [placement.describe_missing_gpus(gpu_types, offered)]
    if address is None and any(runtime.compile for runtime in runtimes):
        lines.append(describe_missing_compiler(offered))
    for line in filter(None, [*lines, dashboard]):
        say(line)


def connect(address: str | None) -> str | None:
    """Start Ray here, or join the cluster at an address known to answer.

    Returns what to tell of the dashboard, or None without one (ray[default] brings it). Raises
    ValueError where Ray does not start.
    """
    import ray
    from ray._private import ray_constants

    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    empty = [name for name in _PLACES if os.environ.get(name) == ""]
    for name in (*_REFUSED_BY_TUNE, *empty):
        os.environ.pop(name, None)
    # Without "clusters" Ray keeps to loopback; with them each of its processes listens on all of
    # the machine's addresses.
    ray_constants.ENABLE_RAY_CLUSTER = address is not None
    token = None if address else dashboard.close_to_others()
    if address is None:
        deaths.heed_kills()
    has_dashboard = importlib.util.find_spec("aiohttp_cors") is not None
    try:
        with _sigterm_left_alone():
            context = ray.init(
                # "local" never joins a cluster that happens to run here.
                address=address or "local",
                num_cpus=None if address else _num_cpus(),
                include_dashboard=None if address else has_dashboard,
                runtime_env=None if address else _local_runtime_env(),
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except Exception as error:  # of every kind, by what it could not start
        raise ValueError(_describe_failure(error, address)) from error
    for name in ("ray.tune", "ray.air"):  # a trial's failure is in its record, in one line
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if address:
        _await_types(os.environ.get(_COMING_VARIABLE, "").split())
    url = context.dashboard_url
    return dashboard.describe(url, token, sys.stdout.isatty()) if url else None


def _describe_failure(error: Exception, address: str | None) -> str:
    """Return why Ray does not start here, or cannot be joined at `address`, and what helps."""
    said = _shortened(one_line(error))
    if address:
        if _NO_NODE in str(error.__cause__):
            start = as_typed(f"ray start --address={address}")
            said = f"this machine is not one of its nodes; make it one with: {start}"
        return f"cannot join Ray at {address}: {said}"
    by = next(filter(os.environ.get, _PLACES), "TMPDIR")
    folder = os.environ.get(by) or tempfile.gettempdir()
    or_else = "; else this machine is too busy: try again later" if _TOO_LATE in str(error) else ""
    most, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if os.geteuid() and 0 <= most < _NUM_THREADS:  # root has no such limit
        or_else += (
            f"; and you may have {most} processes and threads here (ulimit -u), which is too few"
        )
    return (
        f"Ray does not start. Its files are in {folder} ({by}), which needs room and a path of at "
        f"most {_TEMPORARY_LENGTH} characters, ASCII and without quotes{or_else}: {said}"
    )


def leave(scratch: Path) -> None:
    """Leave Ray, and stop it if it was started here; delete what Tune kept, in `scratch` or not.

    For each folder that Tune was given there it has another in Ray's own, with one a trial, and of
    those Ray deletes none. A Ray that does not answer any more, as when a signal came to all of its
    processes, too, is killed.
    """
    import ray
    from ray._private import worker

    node = worker._global_node
    staged = Path(node.get_session_dir_path(), "artifacts") if node else scratch
    kept = [path for place in scratch.glob("*") for path in staged.glob(f"*/{place.name}")]
    leaving = threading.Thread(target=ray.shutdown, daemon=True)
    leaving.start()
    try:
        leaving.join(_LEAVING_SECONDS)
        if leaving.is_alive() and node:
            node.kill_all_processes(check_alive=False)
            leaving.join(_KILLED_SECONDS)
        if leaving.is_alive():
            ENDS_AT_ONCE.set()
    finally:
        for folder in (scratch, *kept):
            shutil.rmtree(folder, ignore_errors=True)


def answering(address: str) -> str:
    """Return host:port of the Ray cluster at `address` (auto or host:port).

    Raises ValueError if none answers there within about 15 seconds, or PWMRAY_RAY_SECONDS.
    """
    deadline = time.monotonic() + float(os.environ.get(_PATIENCE_VARIABLE, "0"))
    while True:
        left = deadline - time.monotonic()
        try:
            return _health_checked(address, max(left, _ANSWER_SECONDS))
        except (OSError, subprocess.SubprocessError) as error:
            if left <= 0:
                raise ValueError(
                    f"no Ray cluster answers at --address {address} ({type(error).__name__}); "
                    f"start one with `{as_typed('ray start --head')}`, or leave out --address to "
                    "start one here"
                ) from error
            time.sleep(_AGAIN_SECONDS)


def largest_machine() -> dict[str, float]:
    """Return the CPUs and GPUs of the largest machine that Ray has; none once Ray is gone."""
    found = machines()
    return {name: max((m.get(name, 0) for m in found), default=0) for name in ("CPU", "GPU")}


def machines() -> list[dict[str, float]]:
    """Return what each living machine of Ray's cluster has."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def is_connected() -> bool:
    """Tell whether the node of Ray that this process belongs to is alive."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    return any(node["NodeID"] == here and node["Alive"] for node in ray.nodes())


def check_resources(num_cpus: int) -> None:
    """Raise ValueError where no machine has a trial's CPUs, for which it would wait forever.

    Where any machine has a GPU, only those with one count.
    """
    found = machines()
    fitting = [machine for machine in found if machine.get("GPU", 0)] or found
    largest = max(machine.get("CPU", 0) for machine in fitting)
    if num_cpus > largest:
        where = "here" if len(found) == 1 else "on the largest machine that could run it"
        raise ValueError(f"runtime.num_cpus is {num_cpus}, but Ray has {largest:g} CPUs {where}")


def check_gpus(address: str | None, available: Mapping[str, float]) -> None:
    """Raise ValueError for a GPU that Ray found on this machine and torch cannot use.

    On a cluster each trial finds that out for its own machine.
    """
    if address is None and available.get("GPU", 0):
        check_gpu()


def check_matmuls(matmuls: Collection[str], available: Mapping[str, float]) -> None:
    """Raise ValueError for a precision of products that only a GPU has, where Ray has no GPU."""
    if not available.get("GPU", 0):
        for matmul in matmuls:
            check_on_cpu(matmul)


def describe_missing_compiler(available: Mapping[str, float]) -> str:
    """Return a line where this machine has no working compiler for its trials' kernels, else "".

    For CPUs it loads the kernels, which compiles them once before every trial would; for a GPU it
    is Triton, which torch brings along, that needs a C compiler.
    """
    try:
        build.find_c_compiler() if available.get("GPU", 0) else build.load()
    except OSError as error:
        said = one_line(error)[:_REASON_LENGTH]
        return f"{said}; trials run without compiled kernels, which takes longer"
    return ""


def _await_types(names: Collection[str]) -> None:
    """Wait a while until a cluster that grows has GPUs of all these types.

    A trial takes any GPU where there is none of its type.
    """
    import ray

    deadline = time.monotonic() + _COMING_SECONDS
    while not set(names) <= set(ray.cluster_resources()) and time.monotonic() < deadline:
        time.sleep(_AGAIN_SECONDS)


@contextlib.contextmanager
def _sigterm_left_alone() -> Iterator[None]:
    """Keep Ray from replacing the handler of SIGTERM.

    It does so as it starts, for seconds, and would end the process with exit codes of its own.
    """
    from ray._private import utils

    take = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda _: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = take


def _num_cpus() -> int | None:
    """Return how many CPUs of this machine Ray may use; None where the user has it count them.

    It knows a container's share, 0 for half a CPU, but not which cores are set apart for a process,
    as by taskset or Slurm: with all of a node's in place of eight, its trials crowd on those.
    """
    from ray._private import utils

    if os.environ.get(_COUNTED_BY_RAY):
        return None
    logging.getLogger("ray").setLevel(logging.ERROR)  # as Ray's start has it: a share is no news
    return max(1, min(int(utils.get_num_cpus()), system.num_cores()))


def _shortened(reason: str) -> str:
    if len(reason) <= _REASON_LENGTH:
        return reason
    return f"{reason[:_REASON_START]} ... {reason[_REASON_START - _REASON_LENGTH :]}"


def _local_runtime_env() -> dict[str, str] | None:
    """Quote the interpreter's path for Ray, which pastes it into a shell command as it is."""
    quoted = shlex.quote(sys.executable)
    return None if quoted == sys.executable else {"py_executable": quoted}


def _health_checked(address: str, seconds: float) -> str:
    if address == "auto":
        from ray._private.services import canonicalize_bootstrap_address

        found = canonicalize_bootstrap_address("auto")
        if found is None:
            raise ConnectionError("none found on this machine")
        return _health_checked(found, seconds)
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"--address is {address!r}; valid: auto, or host:port")
    # ray.init waits for minutes where nobody listens, so ask first.
    bare = host.removeprefix("[").removesuffix("]")  # of IPv6
    socket.create_connection((bare, int(port)), timeout=_ANSWER_SECONDS / 2).close()
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    subprocess.run(command, check=True, capture_output=True, timeout=seconds)
    return address
