"""Run a plan on Ray: Tune schedules, the trials' own folders remember.

Tune's experiment folder is scratch and is deleted at the end: what is done, failed or to be
resumed is read from the trials' events each time.
"""

import contextlib
import logging
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pwmray import lost, registry, system, tables
from pwmray import plan as planning
from pwmray.commands import INTERRUPTED, TRIALS_FAILED, give_results, say, show_progress
from pwmray.driver import connect, notify, retries
from pwmray.driver.engine import Engine
from pwmray.driver.interruption import GO_ON, HUNG_UP, TERMINATED, AskedToStopError, Interruption
from pwmray.driver.notify import Notices
from pwmray.driver.progress import SweepProgress
from pwmray.driver.turns import Turns
from pwmray.hold import clear_leftovers
from pwmray.levels import title_trial
from pwmray.plan import Plan, PlannedTrial
from pwmray.plan_text import describe_notes
from pwmray.registry import Status
from pwmray.registry.sweep_folders import SWEEP_FILE
from pwmray.tracking.protocol import Job
from pwmray.tracking.recording import Mode, recording
from pwmray.wording import as_typed, number_of

if TYPE_CHECKING:
    from pwmray.trainable import TrialTrainable

log = logging.getLogger(__name__)


def run(
    plan: Plan,
    data_dir: Path,
    address: str | None,
    command: str,
    mode: Mode,
    patience_seconds: float = float("inf"),
    trainable: "type[TrialTrainable] | None" = None,
) -> int:
    """Make the data, run every trial of the plan that is not done, write the tables.

    Failed trials run again where that can help. When nothing else is left to do, it waits up to
    `patience_seconds` for trials that other processes run, and takes them over if those die. Tune
    runs `trainable` in place of TrialTrainable.
    Returns the exit code: 0 when all trials are evaluated or run in other processes, 1 when some
    are not, 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, 75 where the sweep is to go on.
    That is after SIGUSR1 (see `Interruption.outcome`), with each trial's last row in its checkpoint
    and half-made data to be made anew, and where Slurm ended Ray, from the checkpoints that trials
    have by then.
    """
    asked = _Asked(data_dir, address, command, mode, patience_seconds, trainable)
    notices = notify.from_environment(plan.sweep.name)
    with notices.telling_of_an_error(), Interruption() as interruption:
        return _run(plan, asked, notices, interruption)


class _Asked(NamedTuple):
    """The arguments of `run`, beside the plan."""

    data_dir: Path
    address: str | None
    command: str
    mode: Mode
    patience_seconds: float
    trainable: "type[TrialTrainable] | None"


class _Following(NamedTuple):
    """What follows the trials while Tune runs them, in the order in which TuneWatch takes it."""

    turns: Turns
    progress: SweepProgress
    joined: tables.Tables
    deaths: retries.FirstDeaths
    interruption: Interruption


def _run(plan: Plan, asked: _Asked, notices: Notices, interruption: Interruption) -> int:
    started = time.perf_counter()
    # Of trials whose Slurm job is gone, record how they ended: it decides what helps.
    righted = lost.set_right(plan.results, [t.config.fingerprint for t in plan.to_run])
    for line in [*righted, *describe_notes(plan)]:
        say(line)
    planning.check_disk(plan)
    address = None if asked.address is None else connect.answering(asked.address)
    try:
        data_paths, data_seconds = _make_data(plan, asked.data_dir, interruption)
    except (AskedToStopError, KeyboardInterrupt) as stopped:
        go_on = f"go on with: {as_typed(asked.command)}"
        say("\n".join([*filter(None, [str(stopped)]), go_on]))
        return interruption.exit_code(stopped)
    folder = tables.open_sweep(plan, asked.command)
    progress = SweepProgress(plan, notices)
    turns = Turns(plan, progress, interruption, asked.patience_seconds)
    deaths = retries.FirstDeaths(is_over="done" in plan.counts())
    following = _Following(turns, progress, tables.Tables(folder), deaths, interruption)
    end = _End()
    job = Job(str(plan.results), plan.sweep.name)
    with recording(asked.mode, job, is_working=not turns.is_over):
        try:
            if not turns.is_over:
                engine = _Engine(plan, data_paths, address, interruption, asked.trainable)
                with contextlib.closing(engine):  # SIGTERM may cut it off, but not what is known
                    end = _work(engine, following)
        finally:
            _write_the_end(plan, folder, asked.command, following, end, started, data_seconds)
    return _say_the_end(plan, folder, end, asked.command, notices)


class _End(NamedTuple):
    """How the run on Ray ended, where not every trial did."""

    code: int = 0  # of the process, where it was told to stop
    why: str = "the sweep stopped before it was done"
    bug: str | None = None  # that all of the first trials died of


def _make_data(
    plan: Plan, data_dir: Path, interruption: Interruption
) -> tuple[dict[str, Path], float]:
    """Return the data file of each trial that may run here, collecting what is missing."""
    if not plan.unfinished:
        return {}, 0.0
    from pwmray.data.sources import describe_source
    from pwmray.driver.data_making import make_data

    configs = [trial.config for trial in plan.unfinished]
    started = time.perf_counter()
    for source in dict.fromkeys(describe_source(config.data, data_dir) for config in configs):
        say(f"data: {source}")
    with show_progress("data") as progress:
        wanted = [(c.task, c.data) for c in configs]
        paths = make_data(wanted, data_dir, interruption.heeded(progress))
    by_trial = {c.fingerprint: paths[c.task, c.data] for c in configs}
    return by_trial, time.perf_counter() - started


def _work(engine: "_Engine", following: _Following) -> _End:
    """Run trials in rounds, each all that may run then, until none is left."""
    turns, deaths, interruption = following.turns, following.deaths, following.interruption
    try:
        with following.progress:
            while to_run := turns.next(engine.machine):
                engine.run(to_run, following)
                if deaths.bug is not None:
                    why = f"stopped, since the first trials all died of {deaths.bug}"
                    return _End(why=why, bug=deaths.bug)
        if interruption.reason is not None:
            return _End(*interruption.outcome())
        return _End()
    except KeyboardInterrupt as stopped:
        if not interruption.is_terminated:
            return _End(code=INTERRUPTED)
        code = interruption.exit_code(stopped)
        return _settled(turns, _End(code=code, why=interruption.why_terminated()))
    except Exception as error:
        return _settled(turns, _End(*interruption.outcome_of(error)))


def _settled(turns: Turns, end: _End) -> _End:
    """Settle before Ray is left: where that dies, too, there may be no time to do so after it."""
    turns.settle(end.why, Interruption.left_at(end.code, end.why))
    return end


class _Engine(Engine):
    """Ray and Tune, for a plan's trials."""

    def __init__(
        self,
        plan: Plan,
        data_paths: dict[str, Path],
        address: str | None,
        interruption: Interruption,
        trainable: "type[TrialTrainable] | None",
    ):
        super().__init__(address)
        self._plan = plan
        self._configs = [trial.config for trial in plan.unfinished]
        self._interruption = interruption
        self._data_paths = data_paths
        self._trainable = trainable

    def machine(self) -> dict[str, float]:
        """Return the CPUs and GPUs of the largest machine that Ray has."""
        self.start(self._configs)
        return connect.largest_machine()

    def run(self, trials: Sequence[PlannedTrial], following: _Following) -> None:
        """Run the trials to whatever end they come to."""
        tell = following.progress.say
        self.start(self._configs, tell)
        import ray
        from ray import tune

        from pwmray.driver.scheduling import InOrder
        from pwmray.driver.tune_callbacks import Listening, StopEarly, TuneWatch, fit, is_to_stop
        from pwmray.trainable import TrialTrainable, grid_of

        offered, machine = ray.cluster_resources(), connect.largest_machine()
        sweep, spaces = self._plan.sweep, []
        for trial in trials:
            config, folder = trial.config, _folder(self._plan, trial)
            title = title_trial(sweep.name, config, sweep.axes, trial.name, trial.levels)
            data_path = self._data_paths[config.fingerprint]
            spaces.append(grid_of(config, folder, data_path, sweep.name, title, machine, offered))
        stopper = StopEarly(lambda: is_to_stop(following.deaths, following.turns))
        waiting = spaces[::-1]
        # Handed out one by one: of a grid search Tune would copy all values for each trial.
        space = {"grid": tune.sample_from(lambda _: waiting.pop())}
        scheduler = InOrder(self._interruption, tell)
        asked = tune.TuneConfig(num_samples=len(spaces), reuse_actors=True, scheduler=scheduler)
        watches = [Listening(self._interruption), TuneWatch(self._plan, *following)]
        fit(self._trainable or TrialTrainable, asked, self.make_place(), watches, stopper, space)
        if self._interruption.reason is not None:
            return
        if stopper.is_ray_lost:
            self.leave_lost(tell)
            following.turns.release()
        elif following.turns.lacks_room:
            following.turns.pause()


def _write_the_end(
    plan: Plan,
    folder: Path,
    command: str,
    following: _Following,
    end: _End,
    started: float,
    data_seconds: float,
) -> None:
    """Write what remains to be written of a run; on a full disk the next run does it."""
    turns, joined = following.turns, following.joined
    with tables.left_to_the_next_run(_shown(folder)):
        turns.settle(end.why, Interruption.left_at(end.code, end.why))
        if not (folder / SWEEP_FILE).exists():  # deleted meanwhile
            tables.open_sweep(plan, command)
        joined.write()
        for line in joined.newly_left_out():
            say(line)
        for trial in plan.trials:
            clear_leftovers(_folder(plan, trial))
        seconds = time.perf_counter() - started  # the clock may have been set meanwhile
        tables.log_run(
            folder, started=time.time() - seconds, seconds=seconds, cores=system.num_cores(),
            data_seconds=data_seconds, trials=turns.ours,
        )  # fmt: skip


def _say_the_end(plan: Plan, folder: Path, end: _End, command: str, notices: Notices) -> int:
    records = [(t, registry.read(_folder(plan, t))) for t in plan.trials if t.state != "done"]
    statuses = [record.status for _, record in records]
    num_done = len(plan.trials) - len(records) + statuses.count(Status.EVALUATED)
    failed = [(trial, record) for trial, record in records if record.status is Status.FAILED]
    open_ones = [t for t, r in records if r.status not in registry.ENDS]
    left = [t for t in open_ones if not registry.running_elsewhere(_folder(plan, t))]
    num_all, num_open = len(plan.trials) + len(plan.unreadable), len(left) + len(plan.unreadable)
    say(f"{num_done} of {num_all} trials done; tables in {_shown(folder)}")
    for trial, record in failed:
        say(f"failed: {trial.name}: {record.last('reason')}")
        say(f"        its record is {_shown(_folder(plan, trial))}")
    which = shlex.join([plan.sweep.name, *give_results(_shown(plan.results))])
    if failed:
        say(f"see why: {as_typed(f'pwmray failures {which}')}")
    if len(left) < len(open_ones):
        say(f"still running in other processes: {number_of(len(open_ones) - len(left), 'trial')}")
    if end.code in (GO_ON, TERMINATED, HUNG_UP):
        say(f"stopped: {end.why}")
    if end.bug is not None:
        say(f"stopped: the first trials all died of {end.bug}; not done: {len(left)} more")
    if num_done:
        say(f"see who wins: {as_typed(f'python analysis/summarize.py {which} --plot')}")
    if end.code or num_done + len(failed) < num_all:
        say(f"go on with: {as_typed(command)}")
    # Otherwise the sweep is to go on, or the driver that ends last sends the notice.
    if plan.to_run and end.code in (0, TRIALS_FAILED) and len(left) == len(open_ones):
        notices.end(num_done, len(failed), num_open)
    return end.code or (TRIALS_FAILED if failed or num_open else 0)


def _folder(plan: Plan, trial: PlannedTrial) -> Path:
    return registry.trial_folder(plan.results, trial.config.fingerprint)


def _shown(path: Path) -> Path:
    """Return the path as a person would type it from here."""
    with contextlib.suppress(ValueError):
        return path.relative_to(Path.cwd())
    return path
