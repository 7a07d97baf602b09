"""Run a search on Ray: Tune runs the trials, the study proposes them and stops the worse ones."""

import functools
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from optuna.trial import TrialState
from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from pwmray import claim, connect, notify, placement, study
from pwmray.commands import INTERRUPTED, show_progress
from pwmray.data_making import make_data
from pwmray.interruption import CANCELLED, GO_ON, TERMINATED, Interruption
from pwmray.launch import TRIALS_FAILED
from pwmray.recorder import Job
from pwmray.registry import Status
from pwmray.scheduling import InOrder
from pwmray.search_plan import SearchPlan, best_lines, caution_lines
from pwmray.search_trials import STOPPED, SearchTrials, write_tables
from pwmray.study import FINGERPRINT
from pwmray.tracking import Mode, recording, without_wandb
from pwmray.trainable import TrialTrainable
from pwmray.watch import Listening, NamedTasks, told_of


def run(plan: SearchPlan, data_dir: Path, address: str | None, command: str, mode: Mode) -> int:
    """Search task by task; print the best trials.

    Failed trials run again where that can help. Returns 0, 1 where the first trials all died of one
    bug or none of a task's came to a return, 130 after Ctrl-C, 143 after SIGTERM, and after SIGUSR1
    75: then each trial has its last row in its checkpoint.

    Raises ValueError where another process runs the same search, or the disk has no room.
    """
    notices = notify.from_environment(plan.search.name)
    studies = plan.studies()
    num_left = {task: plan.num_left(studies.get(task)) for task in plan.tasks}
    num_left = {task: number for task, number in num_left.items() if number}
    plan.check_disk(sum(num_left.values()))
    with recording(mode, Job(str(plan.results), plan.search.name), bool(num_left)):
        code = _run_tasks(plan, num_left, data_dir, address, command) if num_left else 0
    studies = plan.studies()
    write_tables(plan, studies, command)  # a run that was killed may not have come to it
    for task, found in studies.items():
        print("\n".join([f"{task}: {plan.search.name}, the best first", *best_lines(found)]))
    for line in caution_lines(plan, studies):
        print(line)
    ends = [end.state for found in studies.values() for end in study.outcomes(found).values()]
    left = sum(plan.num_left(studies.get(task)) for task in plan.tasks)
    if code or left:
        print(f"go on with: {command}")
    if num_left and not code:
        num_failed = ends.count(TrialState.FAIL)
        notices.end(len(ends) - num_failed, num_failed, left - num_failed)
    has_none = any(plan.num_left(found) == plan.num_trials for found in studies.values())
    return code or (TRIALS_FAILED if has_none else 0)


def _run_tasks(
    plan: SearchPlan, num_left: dict[str, int], data_dir: Path, address: str | None, command: str
) -> int:
    """Run the tasks' studies one after the other; return the exit code of what stopped them."""
    if address is not None:
        address = connect.answering(address)
    held = _acquire(plan)
    scratch = Path(tempfile.mkdtemp(prefix="pwmray-"))
    opened: list[SearchTrials] = []
    interruption = Interruption()
    interruption.listen()
    code, why = 0, STOPPED
    with held:
        try:
            wanted = [(task, plan.config(task, {}).data) for task in num_left]
            with show_progress("data") as progress:
                paths = make_data(wanted, data_dir, progress)
            if dashboard := connect.connect(address):
                print(dashboard)
            if address is None and (said := _describe_missing_compiler(plan)):
                print(said)
            num_later = sum(num_left.values())
            for task, recipe in wanted:
                interruption.listen()  # Ray, which started, takes the signals too
                offered = ray.cluster_resources()
                num_later -= num_left[task]
                trials = SearchTrials(plan, task, paths[task, recipe], offered, command, num_later)
                opened.append(trials)
                _search(trials, scratch / task, offered, interruption)
                if interruption.reason is not None:
                    code, why = GO_ON, interruption.reason
                    break
                if trials.bug is not None:
                    print(f"stopped: the first trials all died of {trials.bug}")
                    code = TRIALS_FAILED
                    break
        except KeyboardInterrupt:
            code = INTERRUPTED
            if interruption.reason == CANCELLED:
                code, why = TERMINATED, CANCELLED
        finally:
            ray.shutdown()
            # What goes on by itself stays in the queue.
            status = Status.QUEUED if code == GO_ON else Status.CANCELLED
            for trials in opened:  # now that no worker writes any more
                trials.settle(why, status)
            interruption.leave()
            shutil.rmtree(scratch, ignore_errors=True)
    return code


def _acquire(plan: SearchPlan) -> claim.Claim:
    """Return the claim on the search's folder; raise ValueError while another process has it."""
    path = plan.folder / "claim.json"
    held = claim.acquire(path)
    if held is None:
        raise ValueError(
            f"another process runs {plan.search.name} in {plan.folder}: "
            f"pid {claim.describe(claim.holder(path))}; wait for it, or stop it, and run this again"
        )
    return held


def _describe_missing_compiler(plan: SearchPlan) -> str:
    if not plan.config(plan.tasks[0], {}).runtime.compile:
        return ""
    return connect.describe_missing_compiler(ray.cluster_resources())


def _search(
    trials: SearchTrials, scratch: Path, offered: Mapping[str, float], interruption: Interruption
) -> None:
    """Run a task's study to its end, or until an interruption."""
    runtime = trials.default.runtime
    connect.check_resources(runtime.num_cpus)
    connect.check_matmuls({trials.default.learner.matmul}, offered)
    at_once = offered.get("CPU", 1) // runtime.num_cpus
    if offered.get("GPU", 0):
        at_once = min(at_once, int(offered["GPU"] / runtime.gpu_fraction + 1e-9))
    tuner = tune.Tuner(
        tune.with_resources(TrialTrainable, placement.resources),
        tune_config=tune.TuneConfig(
            search_alg=_StudySearcher(trials, interruption),
            scheduler=_StudyScheduler(trials, interruption),
            num_samples=-1,  # until the searcher says that it has finished
            max_concurrent_trials=max(1, int(at_once)),
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.config["grid"][FINGERPRINT],
        ),
        run_config=tune.RunConfig(
            name=scratch.name,
            storage_path=str(scratch.parent),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[Listening(interruption, functools.partial(print, flush=True)), NamedTasks()],
            verbose=0,
        ),
    )
    with without_wandb():
        tuner.fit()


class _StudySearcher(Searcher):
    """Tune's view of a study: what to run next, and what became of it."""

    def __init__(self, trials: SearchTrials, interruption: Interruption):
        super().__init__(metric="return_mean", mode="max")
        self._trials, self._interruption = trials, interruption

    def suggest(self, trial_id: str) -> Any:
        chosen = self._trials.next(trial_id)
        return Searcher.FINISHED if chosen is None and self._trials.is_over else chosen

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if self._interruption.reason is None:  # otherwise it was stopped, and is settled
            self._trials.end(trial_id, result, error)


class _StudyScheduler(InOrder):
    """Stop the trials that the study's ASHA stops."""

    def __init__(self, trials: SearchTrials, interruption: Interruption):
        super().__init__(interruption)
        self._trials = trials

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self._trials.die(trial.trial_id, told_of(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        is_stopped = self._trials.is_stopped(trial.trial_id, result)
        return TrialScheduler.STOP if is_stopped else TrialScheduler.CONTINUE
