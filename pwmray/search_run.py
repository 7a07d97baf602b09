"""Run a search on Ray: Tune runs the trials, the study proposes them and stops the worse ones."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from pwmray import claim, connect, placement
from pwmray.commands import INTERRUPTED, show_progress
from pwmray.data_making import make_data
from pwmray.launch import TRIALS_FAILED
from pwmray.recorder import Job
from pwmray.scheduling import InOrder
from pwmray.search_plan import SearchPlan, best_lines
from pwmray.search_trials import SearchTrials, write_tables
from pwmray.study import FINGERPRINT
from pwmray.tracking import Mode, recording, without_wandb
from pwmray.trainable import TrialTrainable
from pwmray.watch import NamedTasks, told_of


def run(plan: SearchPlan, data_dir: Path, address: str | None, command: str, mode: Mode) -> int:
    """Search task by task; print the best trials.

    Failed trials run again where that can help. Returns 0, 1 where the first trials all died of one
    bug, or 130 after Ctrl-C.

    Raises ValueError where another process runs the same search.
    """
    studies = plan.studies()
    num_left = {task: plan.num_left(studies.get(task)) for task in plan.tasks}
    num_left = {task: number for task, number in num_left.items() if number}
    with recording(mode, Job(str(plan.results), plan.search.name), bool(num_left)):
        code = _run_tasks(plan, num_left, data_dir, address, command) if num_left else 0
    for task, found in plan.studies().items():
        write_tables(plan, task, found, command)  # a run that was killed may not have come to it
        print("\n".join([f"{task}: {plan.search.name}, the best first", *best_lines(found)]))
    if code:
        print(f"go on with: {command}")
    return code


def _run_tasks(
    plan: SearchPlan, num_left: dict[str, int], data_dir: Path, address: str | None, command: str
) -> int:
    if address is not None:
        address = connect.answering(address)
    held = claim.acquire(plan.folder / "claim.json")
    if held is None:
        owner = claim.holder(plan.folder / "claim.json")
        raise ValueError(
            f"another process runs {plan.search.name} in {plan.folder}: pid {owner.get('pid')} on "
            f"{owner.get('host')}; wait for it, or stop it, and run this again"
        )
    scratch = Path(tempfile.mkdtemp(prefix="pwmray-"))
    opened: list[SearchTrials] = []
    with held:
        try:
            wanted = [(task, plan.config(task, {}).data) for task in num_left]
            with show_progress("data") as progress:
                paths = make_data(wanted, data_dir, progress)
            if dashboard := connect.connect(address):
                print(dashboard)
            num_later = sum(num_left.values())
            for task, recipe in wanted:
                offered = ray.cluster_resources()
                num_later -= num_left[task]
                trials = SearchTrials(plan, task, paths[task, recipe], offered, command, num_later)
                opened.append(trials)
                if not _search(trials, scratch / task, offered):
                    return INTERRUPTED
                if trials.bug is not None:
                    print(f"stopped: the first trials all died of {trials.bug}")
                    return TRIALS_FAILED
        finally:
            ray.shutdown()
            for trials in opened:  # now that no worker writes any more
                trials.settle()
            shutil.rmtree(scratch, ignore_errors=True)
    return 0


def _search(trials: SearchTrials, scratch: Path, offered: Mapping[str, float]) -> bool:
    """Run a task's study to its end; return False after Ctrl-C."""
    runtime = trials.default.runtime
    connect.check_resources(runtime.num_cpus)
    connect.check_matmuls({trials.default.learner.matmul}, offered)
    at_once = offered.get("CPU", 1) // runtime.num_cpus
    if offered.get("GPU", 0):
        at_once = min(at_once, int(offered["GPU"] / runtime.gpu_fraction + 1e-9))
    tuner = tune.Tuner(
        tune.with_resources(TrialTrainable, placement.resources),
        tune_config=tune.TuneConfig(
            search_alg=_StudySearcher(trials),
            scheduler=_StudyScheduler(trials),
            num_samples=-1,  # until the searcher says that it has finished
            max_concurrent_trials=max(1, int(at_once)),
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.config["grid"][FINGERPRINT],
        ),
        run_config=tune.RunConfig(
            name=scratch.name,
            storage_path=str(scratch.parent),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[NamedTasks()],
            verbose=0,
        ),
    )
    try:
        with without_wandb():
            tuner.fit()
    except KeyboardInterrupt:
        return False
    return True


class _StudySearcher(Searcher):
    """Tune's view of a study: what to run next, and what became of it."""

    def __init__(self, trials: SearchTrials):
        super().__init__(metric="return_mean", mode="max")
        self._trials = trials

    def suggest(self, trial_id: str) -> Any:
        chosen = self._trials.next(trial_id)
        return Searcher.FINISHED if chosen is None and self._trials.is_over else chosen

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self._trials.end(trial_id, result, error)


class _StudyScheduler(InOrder):
    """Stop the trials that the study's ASHA stops."""

    def __init__(self, trials: SearchTrials):
        super().__init__()
        self._trials = trials

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self._trials.die(trial.trial_id, told_of(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        is_stopped = self._trials.is_stopped(trial.trial_id, result)
        return TrialScheduler.STOP if is_stopped else TrialScheduler.CONTINUE
