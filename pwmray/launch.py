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
from typing import Any, NamedTuple

from pwmray import connect, registry, retries, tables
from pwmray import plan as planning
from pwmray.commands import INTERRUPTED, show_progress
from pwmray.config import TrialConfig
from pwmray.failures import is_disk_full, share_of
from pwmray.plan import Plan, PlannedTrial
from pwmray.progress import SweepProgress
from pwmray.registry import Status

TRIALS_FAILED = 1  # exit code: the sweep ended, some trials failed
_DYING_SECONDS = 10.0  # that the workers of a killed driver may take to notice

log = logging.getLogger(__name__)


def run(plan: Plan, data_dir: Path, address: str | None, command: str) -> int:
    """Make the data, run every trial of the plan that is not done, write the tables.

    Failed trials run again where that can help. Returns 0 when all are evaluated, 1 when some are
    not, 130 after Ctrl-C.
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
    end = _End()
    try:
        if plan.to_run:
            end = _fit(plan, data_paths, address, progress, joined)
    finally:
        _write_the_end(plan, folder, joined, end, started, data_seconds)
    return _say_the_end(plan, folder, end, command)


class _End(NamedTuple):
    """How the run on Ray ended, where not every trial did."""

    is_interrupted: bool = False
    bug: str | None = None  # that all of the first trials died of


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
    if not plan.to_run:
        return {}, 0.0
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
        if trial.state == "done":
            continue
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
) -> _End:
    """Run the trials on Ray, and again those that failed and have retries left."""
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
            return _End(bug=_run_rounds(plan, data_paths, progress, joined, scratch))
    except KeyboardInterrupt:
        return _End(is_interrupted=True)
    finally:
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def _run_rounds(
    plan: Plan,
    data_paths: dict[str, Path],
    progress: SweepProgress,
    joined: tables.Tables,
    scratch: Path,
) -> str | None:
    """Run the trials, and then the failed that may be tried again, until none is left.

    Returns the bug that all of the first trials died of, or None.
    """
    import ray

    from pwmray.watch import StopOnCommonBug, TuneWatch

    deaths = retries.FirstDeaths()
    watch, stopper = TuneWatch(plan, progress, joined, deaths), StopOnCommonBug(deaths)
    offered, machine = ray.cluster_resources(), connect.largest_machine()
    to_run = plan.to_run
    while to_run:
        spaces = [_trainable_config(plan, t, data_paths, offered, machine) for t in to_run]
        place = Path(tempfile.mkdtemp(dir=scratch))  # Tune mixes up two runs in one
        _tune(spaces, place, watch, stopper)
        if deaths.bug is not None:
            return deaths.bug
        retries.bury_lost(to_run, plan.results)
        to_run = retries.queue_again(to_run, plan.results, machine)
        for trial in to_run:
            failure = registry.read(_folder(plan, trial)).last("retry")
            progress.retry(trial.config.fingerprint, failure)
    return None


def _tune(spaces: list[dict[str, Any]], scratch: Path, watch: Any, stopper: Any) -> None:
    from ray import tune

    from pwmray.trainable import TrialTrainable

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
            callbacks=[watch],
            stop=stopper,
            verbose=0,
        ),
    )
    tuner.fit()


def _trainable_config(
    plan: Plan,
    trial: PlannedTrial,
    data_paths: dict[str, Path],
    offered: Mapping[str, float],
    machine: Mapping[str, float],
) -> dict[str, Any]:
    config = trial.config
    share = share_of(registry.read(_folder(plan, trial)))
    return {
        "trial": config.to_dict(),
        "fingerprint": config.fingerprint,
        "name": trial.name,
        "folder": str(_folder(plan, trial)),
        "data": str(data_paths[config.fingerprint]),
        "use_gpu": offered.get("GPU", 0) > 0,
        "gpu_resource": connect.gpu_request(config.runtime.gpu_type, offered),
        "resources": retries.resources(config.runtime, share, machine),
    }


def trial_resources(config: dict[str, Any]) -> Any:
    """Return what a trainable with that config asks of Ray, as one bundle."""
    from ray import tune

    grid = config["grid"]
    runtime = TrialConfig.from_dict(grid["trial"]).runtime
    usual = {"CPU": runtime.num_cpus, "GPU": runtime.gpu_fraction}
    bundle: dict[str, float] = dict(grid.get("resources", usual))  # a retry may have more
    gpu_fraction = bundle.pop("GPU", 0.0)
    if grid["use_gpu"]:
        bundle |= connect.gpu_bundle(gpu_fraction, grid["gpu_resource"])
    return tune.PlacementGroupFactory([bundle])


def _write_the_end(
    plan: Plan,
    folder: Path,
    joined: tables.Tables,
    end: _End,
    started: float,
    data_seconds: float,
) -> None:
    """Write what remains to be written of a run; on a full disk the next run does it."""
    try:
        _settle(plan, end)
        joined.write()
        tables.log_run(
            folder, started=started, seconds=time.time() - started, cores=os.cpu_count(),
            data_seconds=data_seconds, trials=[t.config.fingerprint for t in plan.to_run],
        )  # fmt: skip
    except OSError as error:
        if not is_disk_full(error):
            raise
        print(f"disk full: the tables in {_shown(folder)} are behind; the next run writes them")


def _settle(plan: Plan, end: _End) -> None:
    """Record what became of the trials that were handed over and never came to an end."""
    why = "the sweep stopped before it was done"
    if end.bug is not None:
        why = f"not run, for the first trials all died of {end.bug}"
    for trial in plan.to_run:
        folder = _folder(plan, trial)
        status = registry.read(folder).status
        if status in (Status.EVALUATED, Status.FAILED) or registry.running_elsewhere(folder):
            continue
        registry.record(folder, Status.CANCELLED, reason=why)


def _say_the_end(plan: Plan, folder: Path, end: _End, command: str) -> int:
    records = [(t, registry.read(_folder(plan, t))) for t in plan.trials if t.state != "done"]
    statuses = [record.status for _, record in records]
    num_done = len(plan.trials) - len(records) + statuses.count(Status.EVALUATED)
    failed = [(trial, record) for trial, record in records if record.status is Status.FAILED]
    open_ones = [t for t, r in records if r.status not in (Status.EVALUATED, Status.FAILED)]
    left = [t for t in open_ones if not registry.running_elsewhere(_folder(plan, t))]
    print(f"{num_done} of {len(plan.trials)} trials done; tables in {_shown(folder)}")
    for trial, record in failed:
        print(f"failed: {trial.name}: {record.last('reason')}")
        print(f"        its record is {_shown(_folder(plan, trial))}")
    here = plan.results == Path("results").resolve()
    results = "" if here else f" --results {_shown(plan.results)}"
    if failed:
        print(f"see why: pwmray failures {plan.sweep.name}{results}")
    if end.bug is not None:
        print(f"stopped: the first trials all died of {end.bug}; {len(left)} more were not run")
    if num_done:
        print(f"see who wins: python analysis/summarize.py {plan.sweep.name}{results} --plot")
    if end.is_interrupted or num_done + len(failed) < len(plan.trials):
        print(f"go on with: {command}")
    if end.is_interrupted:
        return INTERRUPTED
    return TRIALS_FAILED if failed or left else 0


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
