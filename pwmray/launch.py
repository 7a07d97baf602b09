"""Run a plan on Ray: Tune schedules, the trials' own folders remember.

Tune's experiment folder is scratch and is deleted at the end: what is done, failed or to be
resumed is read from the trials' events each time.
"""

import contextlib
import importlib.util
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pwmray import plan as planning
from pwmray import registry, tables
from pwmray.claim import acquire
from pwmray.commands import INTERRUPTED, show_progress
from pwmray.config import TrialConfig
from pwmray.plan import Plan, PlannedTrial
from pwmray.progress import SweepProgress
from pwmray.registry import Status

TRIALS_FAILED = 1  # exit code: the sweep ended, some trials failed
_CONNECT_SECONDS = 8.0  # for a Ray address to answer

log = logging.getLogger(__name__)


def run(plan: Plan, data_dir: Path, address: str | None, command: str) -> int:
    """Make the data, run every trial of the plan that is not done, write the tables.

    Returns 0 when all are evaluated, 1 when some failed, 130 after Ctrl-C.
    """
    started = time.time()
    planning.check_disk(plan)
    _check_writable(plan.results)
    if address is not None:
        address = _answering(address)
    data_paths, data_seconds = _make_data(plan, data_dir)
    folder = tables.open_sweep(plan, command)
    _queue(plan)
    progress = SweepProgress(plan)
    joined = tables.Tables(folder)
    interrupted = False
    try:
        if plan.to_run:
            interrupted = _fit(plan, data_paths, address, progress, joined)
    finally:
        _settle(plan)
        joined.write()
        cores = os.cpu_count()
        tables.log_run(
            folder, started=started, seconds=time.time() - started, cores=cores,
            data_seconds=data_seconds, trials=[t.config.fingerprint for t in plan.to_run],
        )  # fmt: skip
    return _say_the_end(plan, folder, interrupted, command)


def _make_data(plan: Plan, data_dir: Path) -> tuple[dict[str, Path], float]:
    """Return the data file of each trial to run, collecting what is missing."""
    from pwmray.data.collected import ensure_data
    from pwmray.envs.vector import make_vector

    logging.getLogger("absl").setLevel(logging.ERROR)
    configs = [trial.config for trial in plan.to_run]
    started, paths = time.perf_counter(), {}
    with show_progress("data") as progress:
        for config in configs:
            key = config.data.fingerprint(config.task)
            if key not in paths:
                paths[key] = ensure_data(config.task, config.data, data_dir, make_vector, progress)
    by_trial = {c.fingerprint: paths[c.data.fingerprint(c.task)] for c in configs}
    return by_trial, time.perf_counter() - started


def _queue(plan: Plan) -> None:
    """Record that each trial was asked for, and is now in the scheduler's hands."""
    for trial in plan.trials:
        folder = _folder(plan, trial)
        if registry.read(folder).status is None:
            registry.record(folder, Status.PENDING, config=trial.config.to_dict())
        if trial.is_to_run:
            registry.record(folder, Status.QUEUED)


def _fit(
    plan: Plan,
    data_paths: dict[str, Path],
    address: str | None,
    progress: SweepProgress,
    joined: tables.Tables,
) -> bool:
    """Run the trials on Ray; return whether Ctrl-C ended it."""
    import ray

    scratch = Path(tempfile.mkdtemp(prefix="pwmray-"))
    try:
        _connect(address)
        _check_resources(plan.to_run, ray.cluster_resources())
        with progress:
            return _tune(plan, data_paths, progress, joined, scratch)
    finally:
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def _tune(
    plan: Plan,
    data_paths: dict[str, Path],
    progress: SweepProgress,
    joined: tables.Tables,
    scratch: Path,
) -> bool:
    import ray
    from ray import tune

    from pwmray.trainable import TrialTrainable
    from pwmray.watch import TuneWatch

    num_gpus = ray.cluster_resources().get("GPU", 0)
    spaces = [_trainable_config(plan, t, data_paths, num_gpus > 0) for t in plan.to_run]
    tuner = tune.Tuner(
        tune.with_resources(TrialTrainable, _resources),
        param_space={"grid": tune.grid_search(spaces)},
        tune_config=tune.TuneConfig(
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.config["grid"]["fingerprint"],
        ),
        run_config=tune.RunConfig(
            name=scratch.name,
            storage_path=str(scratch),
            # The trials keep their own checkpoints.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[TuneWatch(progress, joined)],
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except KeyboardInterrupt:
        return True
    return False


def _trainable_config(
    plan: Plan, trial: PlannedTrial, data_paths: dict[str, Path], use_gpu: bool
) -> dict[str, Any]:
    config = trial.config
    return {
        "trial": config.to_dict(),
        "fingerprint": config.fingerprint,
        "folder": str(_folder(plan, trial)),
        "data": str(data_paths[config.fingerprint]),
        "use_gpu": use_gpu,
    }


def _resources(config: dict[str, Any]) -> Any:
    from ray import tune

    runtime = TrialConfig.from_dict(config["grid"]["trial"]).runtime
    bundle: dict[str, float] = {"CPU": runtime.num_cpus}
    if config["grid"]["use_gpu"]:
        bundle["GPU"] = runtime.gpu_fraction
    return tune.PlacementGroupFactory([bundle])


def _settle(plan: Plan) -> None:
    """Record what became of the trials that were handed over and never came to an end."""
    for trial in plan.to_run:
        folder = _folder(plan, trial)
        status = registry.read(folder).status
        if status in (Status.EVALUATED, Status.FAILED) or registry.running_elsewhere(folder):
            continue
        registry.record(folder, Status.CANCELLED, reason="the sweep stopped before it was done")


def _say_the_end(plan: Plan, folder: Path, interrupted: bool, command: str) -> int:
    records = [(t, registry.read(_folder(plan, t))) for t in plan.trials]
    statuses = [record.status for _, record in records]
    num_done = statuses.count(Status.EVALUATED)
    failed = [(trial, record) for trial, record in records if record.status is Status.FAILED]
    print(f"{num_done} of {len(plan.trials)} trials done; tables in {_shown(folder)}")
    for trial, record in failed:
        print(f"failed: {trial.config.label}: {record.last('reason')}")
        print(f"        its record is {_shown(_folder(plan, trial))}")
    if num_done:
        results = (
            ""
            if plan.results == Path("results").resolve()
            else f" --results {_shown(plan.results)}"
        )
        print(f"see who wins: python analysis/summarize.py {plan.sweep.name}{results} --plot")
    if interrupted or num_done + len(failed) < len(plan.trials):
        print(f"go on with: {command}")
    if interrupted:
        return INTERRUPTED
    return TRIALS_FAILED if failed else 0


def _folder(plan: Plan, trial: PlannedTrial) -> Path:
    return registry.trial_folder(plan.results, trial.config.fingerprint)


def _shown(path: Path) -> Path:
    """Return the path as a person would type it from here."""
    with contextlib.suppress(ValueError):
        return path.relative_to(Path.cwd())
    return path


def _check_writable(results: Path) -> None:
    """Raise ValueError unless trials can be written into the results folder."""
    probe = results / ".writable"
    try:
        held = acquire(probe)
    except OSError as error:
        raise ValueError(
            f"cannot write to the results folder {results}: {error.strerror}"
        ) from error
    if held is not None:
        held.release()


def _check_resources(to_run: list[PlannedTrial], available: Mapping[str, float]) -> None:
    """Raise ValueError for a trial that would wait for ever."""
    wanted = max(trial.config.runtime.num_cpus for trial in to_run)
    if wanted > available.get("CPU", 0):
        raise ValueError(
            f"runtime.num_cpus is {wanted}, but Ray has {available.get('CPU', 0):g} CPUs here"
        )


def _connect(address: str | None) -> None:
    """Start Ray on this machine, or join the cluster at an address known to answer."""
    import ray

    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")  # its kills end a whole sweep
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # we write our own
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C is ours
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the other one prints tables of its own
    ray.init(
        # "local" never joins a cluster that happens to run here.
        address=address or "local",
        include_dashboard=None if address else _has_dashboard(),
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    for name in ("ray.tune", "ray.air"):  # a trial's failure is in its record, in one line
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _has_dashboard() -> bool:
    """Tell whether the dashboard's packages are here: ray[default] brings them."""
    return importlib.util.find_spec("aiohttp_cors") is not None


def _answering(address: str) -> str:
    """Return the address of a Ray cluster that answers; raise ValueError in 15 s otherwise."""
    try:
        return _health_checked(address)
    except (OSError, subprocess.SubprocessError) as error:
        raise ValueError(
            f"no Ray cluster answers at --address {address} ({type(error).__name__}); "
            "start one with `ray start --head`, or leave --address away to start one here"
        ) from error


def _health_checked(address: str) -> str:
    if address == "auto":
        from ray._private.services import canonicalize_bootstrap_address

        found = canonicalize_bootstrap_address("auto")
        if found is None:
            raise ConnectionError("none found on this machine")
        return _health_checked(found)
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"--address is {address!r}; valid: auto, or host:port")
    socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS / 2).close()
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    subprocess.run(command, check=True, capture_output=True, timeout=_CONNECT_SECONDS)
    return address
