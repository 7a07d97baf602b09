"""The trials of a search while they run: what becomes of them in its study, registry and tables."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.trial import TrialState

from pwmray import deaths, provenance, registry, tables
from pwmray.commands import how_to_make_room, say
from pwmray.config import TrialConfig
from pwmray.driver import connect, retries
from pwmray.driver.interruption import AskedToStopError
from pwmray.driver.progress import describe_blind
from pwmray.durations import format_duration
from pwmray.failures import Failure, describe_unwritten, failure_of, has_retry, is_disk_full
from pwmray.registry import CLAIM_FILE, STOPPED_EARLY, Record, Status, claim
from pwmray.room import Mount, takes, with_room
from pwmray.search import study
from pwmray.search.plan import SearchPlan
from pwmray.search.proposals import Proposals
from pwmray.search.tables import open_tables
from pwmray.trainable import NOT_SEEN_ON, grid_of
from pwmray.wording import number_of

STOPPED = "the search stopped before it was done"
UNRECORDED = "its end is not recorded: the next run takes it up"
_POLL_SECONDS = 1.0
_HELD_LOOK_SECONDS = 5.0
_HELD_SECONDS = 1.5 * claim.LEASE_SECONDS  # who takes a claim over watches it first

T = TypeVar("T")


class SearchTrials:
    """The trials of a task's study: Tune runs them, and this keeps study, registry and tables.

    Failed trials run again where that can help. There are no more trials once all of the first ones
    died of one `bug`, or once an `obstacle` says why none can run.
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
        may_go_on: Callable[[], bool] = lambda: True,
    ):
        self._plan, self._task, self._command = plan, task, command
        self._data_path, self._offered = data_path, offered
        self._tell_failure = tell_failure
        self._retried: dict[str, Failure | None] = {}  # why they failed, by fingerprint
        self._told: dict[str, deaths.Told] = {}  # what Ray says of those that died, by Tune's names
        self.default = plan.config(task, {})  # the trial with the default settings
        self._may_go_on = may_go_on
        self._proposals = Proposals(plan, task, self._heed)
        self.study = self._proposals.study
        self._mount = Mount(plan.folder)
        self._live: dict[str, tuple[optuna.Trial, TrialConfig]] = {}  # by Tune's names
        # Trials whose process died but still holds their claim, with what Ray says of it.
        self._held: list[tuple[optuna.Trial, TrialConfig, deaths.Told | None]] = []
        self._look_at_held = 0.0  # not before that, while others run
        self._without_room: list[tuple[optuna.Trial, TrialConfig]] = []  # that got none in time
        self._unseen: list[TrialConfig] = []  # those that Ray started where they are not seen
        for trial, config, epoch in self._proposals.stopped:
            folder = self._folder(config)
            if not registry.running_elsewhere(folder):  # else the next run records it
                self._stop_early(trial, folder, epoch)
        ended = {trial.state for trial in study.outcomes(self.study).values()} - {TrialState.FAIL}
        self._deaths = retries.FirstDeaths(is_over=bool(ended))
        self._room = retries.WaitForRoom(plan.results, may_go_on)
        self.obstacle: str | None = None  # a machine that does not see the results, a full disk
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
        """How many trials run, or wait for Ray to start them."""
        return len(self._live)

    @property
    def is_over(self) -> bool:
        """Whether no trial runs; one that does may yet fail and run again."""
        return not self._live

    def next(self, name: str) -> dict[str, Any] | None:
        """Return the next trial to run as a trainable's config, None where there is none now.

        Raises ValueError, as `settle` does, when the results' disk was unmounted.
        """
        self._mount.check()
        if self._held and time.monotonic() >= self._look_at_held:
            self._free_held()
        running = {config.fingerprint for _, config in self._live.values()}
        running |= {config.fingerprint for _, config, _ in self._held}
        is_over = self.bug is not None or self.obstacle is not None
        while not is_over and (proposed := self._proposals.next(running)):
            _, config = proposed
            try:
                is_queued = self._queue(config)
            except KeyboardInterrupt:
                self._live[name] = proposed  # it may have come right behind the writing
                raise
            if is_queued:
                self._live[name] = proposed
                self._deaths.start(config.fingerprint)
                self._open_tables()
                return {"grid": self._grid(config)}
        return None

    def is_stopped(self, name: str, result: dict[str, Any]) -> bool:
        """Take a report of a running trial; return whether it is to stop."""
        trial, config = self._live[name]
        if "return_mean" in result:
            self._deaths.survive(result["epoch"])
            self._look_for_room()
        if "return_mean" not in result or result["epoch"] >= config.epochs:
            return False  # it has been trained: its evaluation is all that is left
        return study.report(trial, result["epoch"], result["return_mean"])

    def die(self, name: str, told: str) -> None:
        """Take what Ray has `told` of a trial that failed, before its `end`."""
        self._told[name] = deaths.Told(told, time.time())

    def end(self, name: str, result: dict[str, Any] | None, is_error: bool) -> None:
        """Tell the study and the registry what became of a trial."""
        trial, config = self._live[name]
        if self._mount.is_gone:
            del self._live[name]  # `next` tells of it
            return
        folder = self._folder(config)
        of_ray = self._told.pop(name, None)
        if is_error:
            deaths.wait_for_death([folder])
            self._bury(folder, of_ray)
        record = registry.read(folder)
        del self._live[name]  # not before: what is cut off there is to be settled
        if record.status is Status.EVALUATED:
            said = self._finish(trial, record)
        elif result is not None and "elsewhere" in result:
            self._deaths.leave(config.fingerprint)
            machine, said = result.get(NOT_SEEN_ON), result["elsewhere"]  # the next run takes it up
            if machine is not None and record.status is not None:  # else it was deleted
                said = self.obstacle = describe_blind(self._plan.results, [machine])
                self._unseen.append(config)
        elif is_error:
            said = self._fail(trial, config, record)
            if record.status in registry.IN_HANDS and (folder / CLAIM_FILE).exists():
                self._held.append((trial, config, of_ray))
        else:
            self._deaths.finish()
            said = self._stop_early(trial, folder, result["epoch"] if result else 0)
        self._take_leave(trial, config, record, said)

    def wait_for_held(self, may_wait: Callable[[], bool]) -> bool:
        """Wait for trials that processes on lost machines hold; return whether any runs again.

        It waits until their claims have expired, or `may_wait` returns False; what is held then is
        left to the next run.
        """
        if not self._held or self.bug is not None or self.obstacle is not None:
            return False
        say(f"waiting until it is sure that no process runs {number_of(len(self._held), 'trial')}")
        deadline = time.monotonic() + _HELD_SECONDS
        while self._held and may_wait() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            self._free_held()
        if self._held:
            number = number_of(len(self._held), "trial")
            say(f"the next run takes up {number}, which processes may still run")
        return bool(self._retried)

    def _free_held(self) -> None:
        """Look at the trials that processes on lost machines hold: those that are free end here."""
        claim.clear_dead(self._folder(config) / CLAIM_FILE for _, config, _ in self._held)
        for held in list(self._held):
            self._look_at(*held)
        self._look_at_held = time.monotonic() + _HELD_LOOK_SECONDS

    def _look_at(
        self, trial: optuna.Trial, config: TrialConfig, of_ray: deaths.Told | None
    ) -> None:
        """Record the death of a trial's process once it is certain, and deal with the trial."""
        folder = self._folder(config)
        if registry.running_elsewhere(folder) or not self._bury(folder, of_ray):
            return
        self._held.remove((trial, config, of_ray))
        record = registry.read(folder)
        if record.status is Status.EVALUATED:  # it lived, out of reach
            said = self._finish(trial, record)
        elif record.status is Status.FAILED:
            said = self._fail(trial, config, record)
        else:
            said = UNRECORDED
        self._take_leave(trial, config, record, said)

    def _finish(self, trial: optuna.Trial, record: Record) -> str:
        self._deaths.finish()
        self.study.tell(trial, record.last("return_mean"))
        return f"return {record.last('return_mean'):.1f}"

    def _take_leave(
        self, trial: optuna.Trial, config: TrialConfig, record: Record, said: str
    ) -> None:
        """Say what became of a trial that no longer runs, and write the tables if they are due."""
        told = self._proposals.leave(trial, config)
        self._num_ended += told.state.is_finished()  # one that runs again has not ended
        number = f"{self._proposals.number_of(config)} of {self._plan.num_trials}"
        which = f"{self._plan.search.name} {self._task} {number}"
        progress = self._progress()
        say("; ".join([f"{which}: {said}", *progress]))
        if told.state is TrialState.FAIL:
            self._tell_failure(str(record.last("reason")), "; ".join([which, *progress]))
        if self._pace.is_due:
            self._write_tables()

    def _bury(self, folder: Path, of_ray: deaths.Told | None) -> bool:
        """Record the death of a trial's process; return False while it may still hold the trial.

        If the trial's folder cannot be written, say so: the next run takes the trial up.
        """
        with _spared(folder):
            return self._when_room(lambda: deaths.record_death(folder, of_ray))
        return True

    def settle(self, why: str = STOPPED, status: Status = Status.CANCELLED) -> None:
        """Record the trials that did not end as CANCELLED or QUEUED: the next run resumes them."""
        self._mount.check()
        fields = provenance.job() if status is Status.QUEUED else {}
        configs = [*(config for _, config in self._live.values()), *self._unseen]
        folders = [self._folder(config) for config in configs]
        deaths.wait_for_death(folders)
        for folder in folders:
            with _spared(folder), registry.claimed(folder) as record:
                if record is not None and record.status in registry.IN_HANDS:
                    registry.leave(folder, status, why, **fields)
        self._write_tables()

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

        The failure may not be recorded yet. The claim of a process on a lost machine outlives it
        for a while, until a look at it records it; where the trial's folder cannot be written,
        the next run takes the trial up.
        """
        if record.status is not Status.FAILED:
            self._deaths.leave(config.fingerprint)
            if (self._folder(config) / CLAIM_FILE).exists():
                return "its process died and still holds it: that is looked at again"
            return UNRECORDED
        reason = record.last("reason")
        asked = (config.runtime, self._plan.trial_bytes, self._room)
        if retries.can_retry(record, *asked, connect.largest_machine):
            self._deaths.leave(config.fingerprint)
            self._proposals.put_back(trial)
            self._retried[config.fingerprint] = failure_of(record)
            return f"failed: {reason}; it runs again"
        if failure_of(record) is Failure.DISK_FULL and has_retry(record):
            # It got no room in time, and each proposal would wait as long in vain.
            self._deaths.leave(config.fingerprint)
            self._without_room.append((trial, config))
            how = how_to_make_room(self._plan.results)
            self.obstacle = f"no trial can run, for the disk stays full: {how}"
            return f"failed: {reason}"
        self._deaths.die(config.fingerprint, record)
        self.study.tell(trial, state=TrialState.FAIL)
        return f"failed: {reason}"

    def _look_for_room(self) -> None:
        """Where a trial wrote a row there may be room again: then those that got none run again."""
        if not self._without_room or self._unseen:  # room shows no machine what it does not see
            return
        if not takes(self._plan.results, self._plan.trial_bytes):
            return
        say("the disk has room again: the search goes on")
        self.obstacle = None
        for trial, config in self._without_room:
            self._proposals.put_back(trial)
            self._retried[config.fingerprint] = Failure.DISK_FULL
        self._without_room.clear()

    def _progress(self) -> list[str]:
        """Return the best return and the time left at this run's pace.

        Return nothing before a trial has ended, or if none is left.
        """
        num_left = len(self._live) + self._proposals.num_left + self._num_later
        if not num_left or not self._num_ended:
            return []
        half_way = len(self._live) / 2  # a trial that runs is half done, on average
        pace = (time.monotonic() - self._started) / (self._num_ended + half_way)
        seconds = pace * (num_left - half_way)
        best = [f"best {trial.value:.1f}" for trial in study.best_trials(self.study, 1)]
        return [*best, f"{format_duration(seconds)} left"]

    def _queue(self, config: TrialConfig) -> bool:
        """Record that Tune has a trial; return False if that trial is not to run.

        It is not if another process has finished it meanwhile, or if its folder cannot be written
        any more; then the next run takes it up.
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
        title = f"{name} {self._task} trial {self._proposals.number_of(config)}"
        folder, machine = self._folder(config), connect.largest_machine()
        return grid_of(config, folder, self._data_path, name, title, machine, self._offered)

    def _folder(self, config: TrialConfig) -> Path:
        return registry.trial_folder(self._plan.results, config.fingerprint)

    def _when_room(self, write: Callable[[], T]) -> T:
        seconds = self.default.runtime.disk_wait_seconds
        return with_room(write, self._plan.results, seconds, self._heed)

    def _heed(self) -> None:
        """Raise AskedToStopError where the search is to stop while it waits for room."""
        if not self._may_go_on():
            raise AskedToStopError("asked to stop while the disk was full")

    def _open_tables(self) -> None:
        """List all trials so far in the search's folder."""
        proposed = self._proposals.asked.values()
        self._when_room(lambda: open_tables(self._plan, proposed, self._command))

    def _write_tables(self) -> None:
        with self._pace.writing():
            try:
                open_tables(self._plan, self._proposals.asked.values(), self._command)
                self._tables.write()
                for line in self._tables.newly_left_out():
                    say(line)
            except OSError as error:  # at the end they are joined again
                say(f"{describe_unwritten(error)}: the tables in {self._plan.folder} are behind")


@contextlib.contextmanager
def _spared(folder: Path) -> Iterator[None]:
    """Say that a trial's folder cannot be written any more, and let the search go on.

    A full disk, and a folder that cannot be made, would stop every trial: these errors are raised.
    """
    try:
        yield
    except OSError as error:
        if is_disk_full(error) or not folder.is_dir():
            error.filename = error.filename or str(folder)
            raise
        why = describe_unwritten(error)
        say(f"{why}: what became of {folder.name} could not be recorded")
