"""The trials of a search: proposed by its study, told to it, kept in our registry and tables."""

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.trial import FrozenTrial, TrialState

from pwmray import deaths, provenance, registry, tables
from pwmray.commands import say
from pwmray.config import TrialConfig
from pwmray.driver import connect, retries
from pwmray.durations import format_duration
from pwmray.failures import Failure, describe_unwritten, failure_of, is_disk_full
from pwmray.registry import STOPPED_EARLY, Record, Status
from pwmray.room import with_room
from pwmray.search import study
from pwmray.search.plan import SearchPlan
from pwmray.search.study import FINGERPRINT
from pwmray.search.tables import asked, open_tables
from pwmray.trainable import grid_of

# Proposals in a row of what was tried or cannot run.
_FEW_REPEATS = 3  # then another is drawn, where the space has an end
_MOST_REPEATS = 100  # then there is nothing new
STOPPED = "the search stopped before it was done"

T = TypeVar("T")


class SearchTrials:
    """The trials of a task's study, in the study, in our registry and in the tables.

    Failed trials run again where that can help; `bug` is the reason that all of the first ones died
    of, after which there are no more.
    """

    def __init__(
        self,
        plan: SearchPlan,
        task: str,
        data_path: Path,
        offered: Mapping[str, float],
        command: str,
        num_later: int = 0,  # trials of the tasks after this one
        tell_failure: Callable[[str, str], None] = lambda reason, line: None,
    ):
        self._plan, self._task, self._command = plan, task, command
        self._data_path, self._offered = data_path, offered
        self._tell_failure = tell_failure
        self._retried: dict[str, Failure | None] = {}  # what they failed of, by fingerprint
        self._told: dict[str, str] = {}  # what Ray says of those that died, by Tune's names
        self.default = plan.config(task, {})  # with the settings that none was chosen for
        self.study = plan.open_study(task)
        self._space = study.read_space(plan.search.space)
        self._asked = asked(plan, task, self.study)  # by fingerprint, the first first
        self._live: dict[str, tuple[optuna.Trial, TrialConfig]] = {}  # by Tune's names
        self._twins: list[tuple[optuna.Trial, str]] = []  # of those that run, with their names
        self._left = self._take_up()
        ended = {trial.state for trial in study.outcomes(self.study).values()} - {TrialState.FAIL}
        self._deaths = retries.FirstDeaths(is_over=bool(ended))
        self._rng = random.Random(len(self.study.get_trials(deepcopy=False)))
        self._has_nothing_new = False  # until a trial ends
        self._started, self._num_ended, self._num_later = time.monotonic(), 0, num_later
        self._tables = tables.Tables(plan.folder)
        self._pace = tables.Pace()
        self._write_tables()

    def __getstate__(self) -> dict[str, Any]:
        """Leave everything out: Tune pickles its searcher, which is never restored from that."""
        return {}

    @property
    def bug(self) -> str | None:
        """The reason that all of the first trials died of, None as long as there is none."""
        return self._deaths.bug

    @property
    def num_live(self) -> int:
        """How many run, or wait for Ray to start them."""
        return len(self._live)

    @property
    def is_over(self) -> bool:
        """Whether none runs; one that does may yet fail and run again."""
        return not self._live

    def next(self, name: str) -> dict[str, Any] | None:
        """Return the next trial to run as a trainable's config, None where there is none now."""
        if self._has_nothing_new:
            return None
        num_repeats = 0
        while self.bug is None and num_repeats < _MOST_REPEATS:
            trial = self._left.pop(0) if self._left else self._propose(num_repeats)
            if trial is None:
                break
            config = self._config(trial)
            if config is None or self._is_known(trial, config):
                num_repeats += 1
            elif self._queue(config):
                self._live[name] = trial, config
                self._deaths.start(config.fingerprint)
                self._open_tables()
                return {"grid": self._grid(config)}
        self._has_nothing_new = True
        return None

    def is_stopped(self, name: str, result: dict[str, Any]) -> bool:
        """Take a report of a running trial; return whether it is to stop."""
        trial, config = self._live[name]
        if "return_mean" in result:
            self._deaths.survive(result["epoch"])
        if "return_mean" not in result or result["epoch"] >= config.epochs:
            return False  # it has been trained: its evaluation is all that is left
        return study.report(trial, result["epoch"], result["return_mean"])

    def die(self, name: str, told: str) -> None:
        """Take what Ray has `told` of a trial that failed, before its `end`."""
        self._told[name] = told

    def end(self, name: str, result: dict[str, Any] | None, is_error: bool) -> None:
        """Tell the study and the registry what became of a trial."""
        trial, config = self._live.pop(name)
        self._has_nothing_new = False
        folder = self._folder(config)
        if is_error:
            deaths.wait_for_death([folder])
            of_ray = self._told.pop(name, None)
            with _spared(folder):
                self._when_room(lambda: deaths.record_death(folder, of_ray))
        record = registry.read(folder)
        if record.status is Status.EVALUATED:
            self._deaths.finish()
            self.study.tell(trial, record.last("return_mean"))
            said = f"return {record.last('return_mean'):.1f}"
        elif result is not None and "elsewhere" in result:
            self._deaths.leave(config.fingerprint)
            said = result["elsewhere"]  # the next run takes it up
        elif is_error:
            said = self._fail(trial, config, record)
        else:
            self._deaths.finish()
            said = self._stop_early(trial, folder, result["epoch"] if result else 0)
        told = self.study.get_trials(deepcopy=False)[trial.number]
        self._num_ended += told.state.is_finished()  # one that runs again has not ended
        self._tell_twins(told, config.fingerprint)
        number = f"{self._number_of(config)} of {self._plan.num_trials}"
        which = f"{self._plan.search.name} {self._task} {number}"
        progress = self._progress()
        say("; ".join([f"{which}: {said}", *progress]))
        if told.state is TrialState.FAIL:
            self._tell_failure(str(record.last("reason")), "; ".join([which, *progress]))
        if self._pace.is_due:
            self._write_tables()

    def settle(self, why: str = STOPPED, status: Status = Status.CANCELLED) -> None:
        """Record the trials that came to no end, which the next run goes on with.

        `status` is where they stand then, CANCELLED or QUEUED.
        """
        fields = provenance.job() if status is Status.QUEUED else {}
        folders = [self._folder(config) for _, config in self._live.values()]
        deaths.wait_for_death(folders)
        for folder in folders:
            with _spared(folder), registry.claimed(folder) as record:
                if record is not None and record.status in registry.IN_HANDS:
                    registry.record(folder, status, reason=why, **fields)
        self._write_tables()

    def _take_up(self) -> list[optuna.Trial]:
        """Return the trials that earlier runs left, and what failed in them, to be tried again.

        A proposal that was cut off is none: it would run with part of its settings. What fails is
        tried again where a person starts the search; Slurm, which requeues a job, only goes on.
        """
        outcomes = study.outcomes(self.study)
        ended = {name: t for name, t in outcomes.items() if t.state is not TrialState.FAIL}
        left: dict[str, optuna.Trial] = {}  # by fingerprint
        for trial in study.unfinished(self.study):
            if set(trial.params) != set(self._space):
                self.study.tell(trial, state=TrialState.FAIL)
                continue
            config, epoch = self._config(trial), study.stopped_at(trial)
            if config is None:
                continue
            if config.fingerprint in ended:  # its twin
                self._tell_as(trial, ended[config.fingerprint])
            elif epoch is not None:
                self._stop_early(trial, self._folder(config), epoch)
            elif config.fingerprint in left:  # two that ran at once: one will, and tells both
                self._twins.append((trial, config.fingerprint))
            else:
                left[config.fingerprint] = trial
        if retries.is_first_start():
            failed = {name: t for name, t in outcomes.items() if name not in {*ended, *left}}
            for name, trial in failed.items():
                left[name] = study.ask_again(self.study, trial.params, self._space)
        return list(left.values())[: self._plan.num_trials - len(ended)]

    def _propose(self, num_repeats: int) -> optuna.Trial | None:
        """Return a trial with settings that the study proposes, None where it has had enough.

        Where it repeats itself and the space has an end, they are drawn from what is left.
        """
        if len(self._asked) >= self._plan.num_trials:
            return None
        if num_repeats < _FEW_REPEATS or not self._plan.is_finite:
            return self.study.ask(self._space)
        for chosen in self._plan.draw_cells(self._rng):
            if self._plan.config(self._task, chosen).fingerprint not in self._asked:
                return study.ask_again(self.study, chosen, self._space)
        return None

    def _config(self, trial: optuna.Trial) -> TrialConfig | None:
        """Return a proposed trial's config, None for settings that cannot run together."""
        try:
            config = self._plan.config(self._task, trial.params)
        except ValueError as error:
            self.study.tell(trial, state=TrialState.FAIL)
            say(f"{self._plan.search.name} {self._task}: left out, for {error}")
            return None
        trial.set_user_attr(FINGERPRINT, config.fingerprint)
        self._asked.setdefault(config.fingerprint, config)
        return config

    def _stop_early(self, trial: optuna.Trial, folder: Path, epoch: int) -> str:
        """Record that ASHA stopped a trial; return what to say."""
        said = f"stopped early at epoch {epoch}"
        if registry.read(folder).status in registry.IN_HANDS:
            fields = {"reason": f"the search {said}", STOPPED_EARLY: True}
            with _spared(folder):
                self._when_room(lambda: registry.record(folder, Status.CANCELLED, **fields))
            if registry.read(folder).status in registry.IN_HANDS:
                return f"{said}; the next run records it"
        self.study.tell(trial, state=TrialState.PRUNED)
        return said

    def _fail(self, trial: optuna.Trial, config: TrialConfig, record: Record) -> str:
        """Have a failed trial run again, or tell the study that it failed; return what to say.

        The claim of a process on a lost machine outlives it for a while: then nothing is recorded,
        as where its folder cannot be written, and the next run takes the trial up.
        """
        if record.status is not Status.FAILED:
            self._deaths.leave(config.fingerprint)
            is_held = registry.running_elsewhere(self._folder(config))
            why = "its process died and still holds it" if is_held else "its end is not recorded"
            return f"{why}: the next run takes it up"
        reason = record.last("reason")
        asked = (config.runtime, self._plan.trial_bytes, self._plan.results)
        if retries.can_retry(record, *asked, connect.largest_machine):
            self._deaths.leave(config.fingerprint)
            self._left.insert(0, trial)
            self._retried[config.fingerprint] = failure_of(record)
            return f"failed: {reason}; it runs again"
        self._deaths.die(config.fingerprint, record)
        self.study.tell(trial, state=TrialState.FAIL)
        return f"failed: {reason}"

    def _progress(self) -> list[str]:
        """Return the best return so far and, by the pace of this run, the time left, if any is."""
        num_new = max(self._plan.num_trials - len(self._asked), 0)
        num_left = len(self._live) + len(self._left) + num_new + self._num_later
        if not num_left or not self._num_ended:
            return []
        half_way = len(self._live) / 2  # those that run, on average
        pace = (time.monotonic() - self._started) / (self._num_ended + half_way)
        seconds = pace * (num_left - half_way)
        best = [f"best {trial.value:.1f}" for trial in study.best_trials(self.study, 1)]
        return [*best, f"{format_duration(seconds)} left"]

    def _is_known(self, trial: optuna.Trial, config: TrialConfig) -> bool:
        """Tell the study what is known of a trial that was run before, in any sweep."""
        record = registry.read(self._folder(config))
        before = study.outcomes(self.study).get(config.fingerprint)
        if record.status is Status.EVALUATED:
            self.study.tell(trial, record.last("return_mean"))
        elif before is not None and before.state is not TrialState.FAIL:
            self._tell_as(trial, before)
        elif any(config.fingerprint == other.fingerprint for _, other in self._live.values()):
            self._twins.append((trial, config.fingerprint))
        else:
            return False
        self._tell_twins(self.study.get_trials(deepcopy=False)[trial.number], config.fingerprint)
        return True

    def _tell_twins(self, told: FrozenTrial, fingerprint: str) -> None:
        """Tell of a trial's twins, which were proposed while it ran, what it came to."""
        if not told.state.is_finished():
            return
        for twin, name in self._twins:
            if name == fingerprint:
                self._tell_as(twin, told)
        self._twins = [(twin, name) for twin, name in self._twins if name != fingerprint]

    def _tell_as(self, trial: optuna.Trial, before: FrozenTrial) -> None:
        for epoch, value in before.intermediate_values.items():
            trial.report(value, epoch)
        value = before.value if before.state is TrialState.COMPLETE else None
        self.study.tell(trial, value, state=before.state)

    def _queue(self, config: TrialConfig) -> bool:
        """Record that a trial is in Tune's hands; return False if it ended meanwhile elsewhere.

        Or if its folder cannot be written any more: the next run takes it up.
        """
        folder = self._folder(config)
        failure = self._retried.pop(config.fingerprint, None)
        fields = {**({"retry": failure} if failure else {}), **provenance.job()}

        def write() -> bool:
            with registry.claimed(folder) as record:
                if record is None:  # another process runs it, as the trainable will find
                    return True
                if record.status is Status.EVALUATED:
                    return False
                registry.queue(folder, config.to_dict(), **fields)
                return True

        with _spared(folder):
            return self._when_room(write)
        return False

    def _grid(self, config: TrialConfig) -> dict[str, Any]:
        name = self._plan.search.name
        title = f"{name} {self._task} trial {self._number_of(config)}"
        folder, machine = self._folder(config), connect.largest_machine()
        return grid_of(config, folder, self._data_path, name, title, machine, self._offered)

    def _number_of(self, config: TrialConfig) -> int:
        return list(self._asked).index(config.fingerprint) + 1

    def _folder(self, config: TrialConfig) -> Path:
        return registry.trial_folder(self._plan.results, config.fingerprint)

    def _when_room(self, write: Callable[[], T]) -> T:
        seconds = self.default.runtime.disk_wait_seconds
        return with_room(write, self._plan.results, seconds)

    def _open_tables(self) -> None:
        """Have the search's folder name all trials so far."""
        self._when_room(lambda: open_tables(self._plan, self._asked.values(), self._command))

    def _write_tables(self) -> None:
        with self._pace.writing():
            try:
                open_tables(self._plan, self._asked.values(), self._command)
                self._tables.write()
                for line in self._tables.newly_left_out():
                    say(line)
            except OSError as error:  # at the end they are joined again
                say(f"{describe_unwritten(error)}: the tables in {self._plan.folder} are behind")


@contextlib.contextmanager
def _spared(folder: Path) -> Iterator[None]:
    """Say where a trial's folder cannot be written any more, which is no end of the search's.

    A full disk is, and a folder that cannot be made: that holds for all.
    """
    try:
        yield
    except OSError as error:
        if is_disk_full(error) or not folder.is_dir():
            error.filename = error.filename or str(folder)
            raise
        why = describe_unwritten(error)
        say(f"{why}: what became of {folder.name} could not be recorded")
