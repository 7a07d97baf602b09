"""The trials of a search: proposed by its study, told to it, kept in our registry and tables."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.trial import TrialState

from pwmray import connect, deaths, placement, registry, retries, study, tables
from pwmray.config import TrialConfig
from pwmray.durations import format_duration
from pwmray.failures import Failure, failure_of, share_of
from pwmray.gauges import tags_of
from pwmray.levels import names_of
from pwmray.plan import count_disk_bytes
from pwmray.registry import Record, Status
from pwmray.search_plan import SearchPlan
from pwmray.study import FINGERPRINT

_TABLES_SECONDS = 5.0  # between two writings of the tables


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
    ):
        self._plan, self._task, self._command = plan, task, command
        self._data_path, self._offered = data_path, offered
        self._deaths = retries.FirstDeaths()
        self._retried: dict[str, Failure | None] = {}  # what they failed of, by fingerprint
        self._told: dict[str, str] = {}  # what Ray says of those that died, by Tune's names
        self.default = plan.config(task, {})  # with the settings that none was chosen for
        self.study = plan.open_study(task)
        self._space = study.read_space(plan.search.space)
        self._left = study.unfinished(self.study)
        self._live: dict[str, tuple[optuna.Trial, TrialConfig]] = {}  # by Tune's names
        self._started, self._num_ended, self._num_later = time.monotonic(), 0, num_later
        self._written_at = 0.0
        self._write_tables()

    def __getstate__(self) -> dict[str, Any]:
        """Leave everything out: Tune pickles its searcher, which is never restored from that."""
        return {}

    @property
    def bug(self) -> str | None:
        return self._deaths.bug

    @property
    def is_over(self) -> bool:
        """Whether none runs; one that does may yet fail and run again."""
        return not self._live

    def next(self, name: str) -> dict[str, Any] | None:
        """Return the next trial to run as a trainable's config, None where there is none now."""
        while self.bug is None and (self._left or self._num_tried() < self._plan.num_trials):
            trial = self._left.pop(0) if self._left else self.study.ask(self._space)
            config = self._plan.config(self._task, trial.params)
            trial.set_user_attr(FINGERPRINT, config.fingerprint)
            if self._is_known(trial, config):
                continue
            self._live[name] = trial, config
            self._queue(config)
            return {"grid": self._grid(config, trial)}
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
        folder = self._folder(config)
        if is_error:
            deaths.wait_for_death([folder])
            deaths.record_death(folder, self._told.pop(name, None))
        record = registry.read(folder)
        if record.status is Status.EVALUATED:
            self._deaths.finish()
            self.study.tell(trial, record.last("return_mean"))
            said = f"return {record.last('return_mean'):.1f}"
        elif result is not None and "elsewhere" in result:
            said = result["elsewhere"]  # the next run takes it up
        elif is_error:
            said = self._fail(trial, config, record)
        else:
            self._deaths.finish()
            said = f"stopped early at epoch {result['epoch'] if result else 0}"
            registry.record(folder, Status.CANCELLED, reason=f"the search {said}")
            self.study.tell(trial, state=TrialState.PRUNED)
        told = self.study.get_trials(deepcopy=False)[trial.number].state.is_finished()
        self._num_ended += told  # one that runs again has not ended
        number = f"{trial.number + 1} of {self._plan.num_trials}"
        said = f"{self._plan.search.name} {self._task} {number}: {said}"
        print("; ".join([said, *self._progress()]), flush=True)
        if time.monotonic() - self._written_at >= _TABLES_SECONDS:
            self._write_tables()

    def settle(self) -> None:
        """Record the trials that came to no end, which the next run goes on with."""
        for _, config in self._live.values():
            folder = self._folder(config)
            status = registry.read(folder).status
            if status in (Status.QUEUED, Status.RUNNING, Status.COMPLETED):
                reason = "the search stopped before it was done"
                registry.record(folder, Status.CANCELLED, reason=reason)
        self._write_tables()

    def _fail(self, trial: optuna.Trial, config: TrialConfig, record: Record) -> str:
        """Have a failed trial run again, or tell the study that it failed; return what to say.

        The claim of a process on a lost machine outlives it for a while: then nothing is recorded,
        and the next run takes the trial up.
        """
        if record.status is not Status.FAILED:
            return "its process died and still holds it: the next run takes it up"
        reason = record.last("reason")
        ((checkpoints, rows),) = count_disk_bytes([config])
        failed = _Failed(config, checkpoints + rows)
        machine = connect.largest_machine
        if retries.can_retry(failed, record, self._plan.results, machine):
            self._left.insert(0, trial)
            self._retried[config.fingerprint] = failure_of(record)
            return f"failed: {reason}; it runs again"
        self._deaths.die(record)
        self.study.tell(trial, state=TrialState.FAIL)
        return f"failed: {reason}"

    def _progress(self) -> list[str]:
        """Return the best return so far and, by the pace of this run, the time left, if any is."""
        num_left = self._plan.num_left(self.study) + self._num_later
        if not num_left or not self._num_ended:
            return []
        half_way = len(self._live) / 2  # those that run, on average
        pace = (time.monotonic() - self._started) / (self._num_ended + half_way)
        seconds = pace * (num_left - half_way)
        best = [f"best {trial.value:.1f}" for trial in study.best_trials(self.study, 1)]
        return [*best, f"{format_duration(seconds)} left"]

    def _num_tried(self) -> int:
        return len(self.study.get_trials(deepcopy=False))

    def _is_known(self, trial: optuna.Trial, config: TrialConfig) -> bool:
        """Tell the study what is known of a trial that was run before, in any sweep."""
        folder = self._folder(config)
        record = registry.read(folder)
        before = study.same_before(self.study, config.fingerprint)
        if record.status is Status.EVALUATED:
            self.study.tell(trial, record.last("return_mean"))
        elif before is not None:
            for epoch, value in before.intermediate_values.items():
                trial.report(value, epoch)
            self.study.tell(trial, state=before.state)
        elif any(config.fingerprint == other.fingerprint for _, other in self._live.values()):
            self.study.tell(trial, state=TrialState.FAIL)  # its twin runs now
        else:
            return False
        return True

    def _queue(self, config: TrialConfig) -> None:
        folder = self._folder(config)
        if not registry.running_elsewhere(folder):
            failure = self._retried.pop(config.fingerprint, None)
            registry.queue(folder, config.to_dict(), **({"retry": failure} if failure else {}))

    def _grid(self, config: TrialConfig, trial: optuna.Trial) -> dict[str, Any]:
        folder = self._folder(config)
        share = share_of(registry.read(folder))
        machine = connect.largest_machine() if share > 1 else self._offered
        name = self._plan.search.name
        title = f"{name} {self._task} trial {trial.number + 1}"
        return {
            "trial": json.dumps(config.to_dict()),
            "epochs": config.epochs,
            FINGERPRINT: config.fingerprint,
            "title": title,
            "tags": tags_of(title, name, config),
            "folder": str(folder),
            "data": str(self._data_path),
            "use_gpu": self._offered.get("GPU", 0) > 0,
            "bundle": placement.bundle(config.runtime, share, machine, self._offered),
        }

    def _folder(self, config: TrialConfig) -> Path:
        return registry.trial_folder(self._plan.results, config.fingerprint)

    def _write_tables(self) -> None:
        write_tables(self._plan, self._task, self.study, self._command)
        self._written_at = time.monotonic()


def write_tables(plan: SearchPlan, task: str, tried: optuna.Study, command: str) -> None:
    """Give the search's folder the tables of a sweep, of all trials of a task's study so far."""
    configs = {}
    for trial in tried.get_trials(deepcopy=False):
        if FINGERPRINT in trial.user_attrs:
            config = plan.config(task, trial.params)
            configs[config.fingerprint] = config
    sweep = plan.search.as_sweep(plan.scale)
    names = names_of(list(configs.values()), sweep.axes)
    rows = [_Named(config, name) for config, name in zip(configs.values(), names, strict=True)]
    known = _Tried(sweep, plan.scale, plan.results, rows)
    tables.Tables(tables.open_sweep(known, command)).write()


class _Failed(NamedTuple):
    """What a retry needs to know of a trial."""

    config: TrialConfig
    disk_bytes: int


class _Named(NamedTuple):
    """A trial and its readable name."""

    config: TrialConfig
    name: str


class _Tried(NamedTuple):
    """What the tables need to know of a sweep's plan."""

    sweep: Any
    scale: str
    results: Path
    trials: list[_Named]
