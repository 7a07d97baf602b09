"""Run a search on Ray: Tune runs the trials, the study proposes them and stops the worse ones."""

import contextlib
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import ray
from optuna.trial import TrialState
from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from pwmray import lost, placement
from pwmray.commands import TRIALS_FAILED, say, show_progress
from pwmray.config import TrialConfig
from pwmray.driver import connect, notify
from pwmray.driver.data_making import make_data
from pwmray.driver.engine import LOST, Engine
from pwmray.driver.interruption import GO_ON, HUNG_UP, TERMINATED, AskedToStopError, Interruption
from pwmray.driver.progress import Lacks
from pwmray.driver.scheduling import InOrder
from pwmray.driver.tune_callbacks import Listening, StopEarly, fit, told_of
from pwmray.registry import CLAIM_FILE, Status, claim, trial_folder
from pwmray.runtime import RuntimeConfig
from pwmray.search import study
from pwmray.search.plan import SearchPlan
from pwmray.search.plan_text import best_lines, caution_lines, other_lines
from pwmray.search.study import FINGERPRINT
from pwmray.search.tables import write_tables
from pwmray.search.trials import STOPPED, SearchTrials
from pwmray.tables import left_to_the_next_run
from pwmray.tracking.protocol import Job
from pwmray.tracking.recording import Mode, recording
from pwmray.trainable import TrialTrainable
from pwmray.wording import as_typed

_LOOK_SECONDS = 1.0


def run(
    plan: SearchPlan,
    data_dir: Path,
    address: str | None,
    command: str,
    mode: Mode,
    patience_seconds: float = 0.0,
) -> int:
    """Search task by task, print the best trials, and return the exit code.

    Failed trials run again where that can help. If another process runs the same search, which may
    be dead on another machine, this one waits for it up to `patience_seconds`.

    The exit code is 0 at the end of the search; 1 if the first trials all died of one bug, if a
    task has no return at all, or if a requeued job got no row of any trial; 75 after SIGUSR1, when
    each trial has its last row in its checkpoint, or if Slurm ended Ray; 130 after Ctrl-C; 143
    after SIGTERM and 129 after SIGHUP (see `Interruption.outcome`).

    Raises ValueError if another process still runs the same search, or the disk has no room.
    """
    notices = notify.from_environment(plan.search.name)
    with notices.telling_of_an_error(), Interruption() as interruption:
        left = sum(plan.count_left(plan.studies()).values())
        plan.check_disk(left)
        code = None
        with recording(mode, Job(str(plan.results), plan.search.name), is_working=left > 0):
            if left:
                begin = functools.partial(
                    SearchTrials,
                    plan,
                    command=command,
                    tell_failure=notices.failure,
                    may_go_on=interruption.may_go_on,
                )
                asked = (data_dir, address, patience_seconds, interruption)
                code = _run_tasks(plan, begin, *asked)
        return _say_the_end(plan, code, command, notices)


def _say_the_end(plan: SearchPlan, code: int | None, command: str, notices: notify.Notices) -> int:
    """Say what came of the search; return the exit code.

    `code` is the exit code of the run, None if nothing was left to run.
    """
    studies = plan.studies()
    with left_to_the_next_run(plan.folder):
        write_tables(plan, studies, command)  # a run that was killed may not have written them
    for task, found in studies.items():
        say("\n".join([f"{task}: {plan.search.name}, the best first", *best_lines(found)]))
    for line in caution_lines(plan, studies):
        say(line)
    ends = [end.state for found in studies.values() for end in study.outcomes(found).values()]
    left = sum(plan.count_left(studies).values())
    if code or left:
        say(f"go on with: {as_typed(command)}")
    if code in (0, TRIALS_FAILED):
        num_failed = ends.count(TrialState.FAIL)
        notices.end(len(ends) - num_failed, num_failed, left - num_failed)
    has_none = any(plan.num_left(found) == plan.num_trials for found in studies.values())
    return code or (TRIALS_FAILED if has_none else 0)


def _run_tasks(
    plan: SearchPlan,
    begin: Callable[..., SearchTrials],
    data_dir: Path,
    address: str | None,
    patience_seconds: float,
    interruption: Interruption,
) -> int:
    """Run the tasks' studies one after the other; return the exit code of what stopped them.

    `begin` makes the trials of a task.
    """
    if address is not None:
        address = connect.answering(address)
    engine, opened = Engine(address), []
    code, why = 0, STOPPED
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(_acquire(plan, patience_seconds, interruption))
            code, why = _work(plan, begin, data_dir, engine, opened, interruption)
        except AskedToStopError as stopped:
            say(str(stopped))
            code = GO_ON
        except KeyboardInterrupt as stopped:
            code = interruption.exit_code(stopped)
            if interruption.is_terminated:
                why = interruption.why_terminated()
        except Exception as error:
            code, why = interruption.outcome_of(error)
        finally:
            try:
                engine.close()
            finally:  # SIGTERM may cut it off
                status = Interruption.left_at(code, why)
                with left_to_the_next_run(plan.folder):
                    for trials in opened:  # now that no worker writes any more
                        trials.settle(why, status)
    if code in (GO_ON, TERMINATED, HUNG_UP) and why != STOPPED:
        say(f"stopped: {why}")
    return code


def _acquire(plan: SearchPlan, patience_seconds: float, interruption: Interruption) -> claim.Claim:
    """Return the claim on the search's folder, once nobody else has it.

    Raises ValueError if another process still has it after `patience_seconds`, AskedToStopError if
    this process is asked to stop before that.
    """
    path = plan.folder / CLAIM_FILE
    deadline = time.monotonic() + patience_seconds
    claim.watch_dead([path], say)
    held, holder = _try_to_acquire(path)
    who = f"another process runs {plan.search.name} in {plan.folder}: pid "
    if held is None and patience_seconds:
        say(f"{who}{holder}; waiting up to {patience_seconds:.0f} s")
    while held is None and interruption.may_go_on() and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
        held, holder = _try_to_acquire(path)
    if held is None:
        if not interruption.may_go_on():
            raise AskedToStopError(f"{interruption.reason}: stopped before it began")
        raise ValueError(f"{who}{holder}; wait for it, or stop it, and run this again")
    return held


def _try_to_acquire(path: Path) -> tuple[claim.Claim | None, str]:
    """Return the claim, or None and who has it."""
    while (held := claim.acquire(path)) is None:
        found = claim.holder(path)
        if found or path.exists():  # else it was given back between the two looks
            return None, claim.describe(found)
    return held, ""


def _set_right(plan: SearchPlan, studies: Mapping[str, optuna.Study]) -> list[str]:
    """Record how trials ended whose Slurm job is gone, which decides whether they run again."""
    left = [trial for found in studies.values() for trial in study.unfinished(found)]
    names = {trial.user_attrs[FINGERPRINT] for trial in left if FINGERPRINT in trial.user_attrs}
    # Left to the trials' own processes, each would find another's claim and not begin.
    claim.watch_dead((trial_folder(plan.results, name) / CLAIM_FILE for name in names), say)
    return lost.set_right(plan.results, names)


def _work(
    plan: SearchPlan,
    begin: Callable[..., SearchTrials],
    data_dir: Path,
    engine: Engine,
    opened: list[SearchTrials],
    interruption: Interruption,
) -> tuple[int, str]:
    """Make the data and run the studies; return the exit code, and why the run stopped.

    The trials of each are added to `opened`, for the caller to settle.
    """
    journal = plan.read_journal()
    left = {task: number for task, number in plan.count_left(journal.by_task).items() if number}
    for line in [*other_lines(plan, journal), *_set_right(plan, journal.by_task)]:
        say(line)
    configs = {task: plan.config(task, {}) for task in left}
    with show_progress("data") as progress:
        wanted = [(task, config.data) for task, config in configs.items()]
        paths = make_data(wanted, data_dir, interruption.heeded(progress))
    num_later = sum(left.values())
    for task, config in configs.items():
        num_later -= left[task]
        begin_task = functools.partial(begin, task, paths[task, config.data], num_later=num_later)
        trials = _search_task(begin_task, config, engine, opened, interruption)
        if interruption.reason is not None:
            return interruption.outcome()
        if trials.obstacle is not None:
            raise ValueError(trials.obstacle)
        if trials.bug is not None:
            say(f"stopped: the first trials all died of {trials.bug}")
            return TRIALS_FAILED, STOPPED
    return 0, STOPPED


def _search_task(
    begin: Callable[..., SearchTrials],
    config: TrialConfig,
    engine: Engine,
    opened: list[SearchTrials],
    interruption: Interruption,
) -> SearchTrials:
    """Run a task's study to its end or an interruption; if Ray dies, go on with another one.

    `begin` makes the study's trials, of which `config` is the default one, from the resources that
    Ray has `offered`.
    """
    engine.start([config])
    while True:
        trials = begin(offered=ray.cluster_resources())
        opened.append(trials)
        is_again, is_lost = True, False
        while is_again:
            is_lost = _search(trials, engine.make_place(), interruption)
            is_again = not is_lost and trials.wait_for_held(interruption.may_go_on)
        if not is_lost or interruption.reason is not None:
            return trials
        engine.leave_lost()
        trials.settle(LOST, Status.QUEUED)  # for the next round
        engine.start([config])
        trials.wait_for_held(interruption.may_go_on)  # or they would be another's


def _search(trials: SearchTrials, scratch: Path, interruption: Interruption) -> bool:
    """Run a task's study on this Ray; return whether Ray's node on this machine died meanwhile."""
    stopper = StopEarly()
    asked = tune.TuneConfig(
        search_alg=_StudySearcher(trials, interruption, stopper),
        scheduler=_StudyScheduler(trials, interruption),
        num_samples=-1,  # until the searcher says that it has finished
        reuse_actors=True,
        trial_dirname_creator=lambda trial: trial.config["grid"][FINGERPRINT],
    )
    fit(TrialTrainable, asked, scratch, [Listening(interruption)], stopper)
    return stopper.is_ray_lost


def _count_places(runtime: RuntimeConfig) -> int:
    """Return how many trials Ray has room for at this moment, at least one."""
    offered = ray.cluster_resources()
    asked = placement.bundle(runtime, 1, offered, offered)
    return max(1, placement.count_places(asked, connect.machines()))


class _StudySearcher(Searcher):
    """Tune's view of a study: what to run next, and what became of it."""

    def __init__(self, trials: SearchTrials, interruption: Interruption, stopper: StopEarly):
        super().__init__()  # with a metric Tune refuses the report of a trial that runs elsewhere
        self._trials, self._interruption, self._stopper = trials, interruption, stopper

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial, but not before there is room for it: later proposals know more."""
        if self._trials.num_live >= _count_places(self._trials.default.runtime):
            return None
        chosen = self._trials.next(trial_id)
        return Searcher.FINISHED if chosen is None and self._trials.is_over else chosen

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        is_stopped = self._interruption.reason is not None or self._stopper.is_ray_lost
        if not is_stopped:  # otherwise it is settled
            self._trials.end(trial_id, result, error)


class _StudyScheduler(InOrder):
    """Stop the trials that the study's ASHA stops."""

    def __init__(self, trials: SearchTrials, interruption: Interruption):
        super().__init__(interruption)
        self._trials = trials
        self._lacks = Lacks(say)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self._trials.die(trial.trial_id, told_of(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "return_mean" in result:
            grid = trial.config["grid"]
            self._lacks.look_into(Path(grid["folder"]), grid["title"])
        is_stopped = self._trials.is_stopped(trial.trial_id, result)
        return TrialScheduler.STOP if is_stopped else TrialScheduler.CONTINUE
