"""Run a plan on Ray: Tune schedules, the trials' own folders remember.

Tune's experiment folder is scratch and is deleted at the end: what is done, failed or to be
resumed is read from the trials' events each time.
"""

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pwmray import connect, registry, tables
from pwmray import plan as planning
from pwmray.commands import INTERRUPTED, show_progress
from pwmray.config import TrialConfig
from pwmray.plan import Plan, PlannedTrial
from pwmray.progress import SweepProgress
from pwmray.registry import Status

TRIALS_FAILED = 1  # exit code: the sweep ended, some trials failed
_DYING_SECONDS = 10.0  # that the workers of a killed driver may take to notice

log = logging.getLogger(__name__)


def run(plan: Plan, data_dir: Path, address: str | None, command: str) -> int:
    """Make the data, run every trial of the plan that is not done, write the tables.

    Returns 0 when all are evaluated, 1 when some failed, 130 after Ctrl-C.
    """
    started = time.time()
    plan = _after_the_dying(plan)
    planning.check_disk(plan)
    _check_writable(plan.results)
    if address is not None:
        address = connect.answering(address)
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


def _after_the_dying(plan: Plan) -> Plan:
    """Look again at trials that other processes run: those of a killed driver end in seconds."""
    deadline = time.monotonic() + _DYING_SECONDS
    while any(t.state == "running" for t in plan.trials) and time.monotonic() < deadline:
        time.sleep(0.5)
        configs = [trial.config for trial in plan.trials]
        plan = planning.make(plan.sweep, plan.scale, configs, plan.results)
    return plan


def _make_data(plan: Plan, data_dir: Path) -> tuple[dict[str, Path], float]:
    """Return the data file of each trial to run, collecting what is missing."""
    from pwmray.data.sources import describe_source
    from pwmray.data_making import make_data

    logging.getLogger("absl").setLevel(logging.ERROR)
    configs = [trial.config for trial in plan.to_run]
    started = time.perf_counter()
    for source in dict.fromkeys(describe_source(config.data, data_dir) for config in configs):
        print(f"data: {source}")
    with show_progress("data") as progress:
        paths = make_data([(c.task, c.data) for c in configs], data_dir, progress)
    by_trial = {c.fingerprint: paths[c.task, c.data] for c in configs}
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
        dashboard = connect.connect(address)
        num_cpus = max(trial.config.runtime.num_cpus for trial in plan.to_run)
        connect.check_resources(num_cpus, ray.cluster_resources())
        matmuls = {trial.config.learner.matmul for trial in plan.to_run}
        connect.check_matmuls(matmuls, ray.cluster_resources())
        gpu_types = sorted({trial.config.runtime.gpu_type for trial in plan.to_run})
        if said := connect.describe_missing_gpus(gpu_types, ray.cluster_resources()):
            print(said)
        if dashboard:
            print(f"Ray dashboard: http://{dashboard}")
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

    offered = ray.cluster_resources()
    spaces = [_trainable_config(plan, t, data_paths, offered) for t in plan.to_run]
    tuner = tune.Tuner(
        tune.with_resources(TrialTrainable, trial_resources),
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
    plan: Plan, trial: PlannedTrial, data_paths: dict[str, Path], offered: Mapping[str, float]
) -> dict[str, Any]:
    config = trial.config
    return {
        "trial": config.to_dict(),
        "fingerprint": config.fingerprint,
        "name": trial.name,
        "folder": str(_folder(plan, trial)),
        "data": str(data_paths[config.fingerprint]),
        "use_gpu": offered.get("GPU", 0) > 0,
        "gpu_resource": connect.gpu_request(config.runtime.gpu_type, offered),
    }


def trial_resources(config: dict[str, Any]) -> Any:
    """Return what a trainable with that config asks of Ray, as one bundle."""
    from ray import tune

    runtime = TrialConfig.from_dict(config["grid"]["trial"]).runtime
    bundle: dict[str, float] = {"CPU": runtime.num_cpus}
    if config["grid"]["use_gpu"]:
        bundle |= connect.gpu_bundle(runtime.gpu_fraction, config["grid"]["gpu_resource"])
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
        print(f"failed: {trial.name}: {record.last('reason')}")
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
    """Raise ValueError unless trials can be written into the results folder; writes nothing."""
    existing = next(path for path in (results, *results.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"cannot write to the results folder {results}: see {existing}")
