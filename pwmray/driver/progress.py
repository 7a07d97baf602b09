"""How a running sweep looks: one live table on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from pwmray.commands import is_screen, say
from pwmray.commands.display import Display
from pwmray.driver.notify import Notices
from pwmray.durations import format_duration
from pwmray.failures import essence
from pwmray.plan import Plan
from pwmray.prices import MEASURED
from pwmray.registry import CURVE_FILE, Record, Status, trial_folder
from pwmray.registry import read as read_record
from pwmray.results import read_table

_SECONDS_PER_LINE = 15.0  # of plain status lines between those about single trials
_UNKNOWN = "time left: not known yet"
_ELSEWHERE_SECONDS = 15.0  # between two looks at how far the trials of other processes are


@dataclass
class _Seen:
    """What is known of one trial while the sweep runs."""

    label: str
    variant: str
    epochs: int
    epochs_a_row: int  # of its curve
    minutes: float  # expected, of all its rows
    status: str  # waiting, running, done, failed, elsewhere
    epoch: int = 0
    best_return: float = float("-inf")  # of the rows that this driver saw

    @property
    def has_return(self) -> bool:
        return self.best_return > float("-inf")

    @property
    def is_over(self) -> bool:
        return self.status in ("done", "failed")

    @property
    def share_done(self) -> float:
        return 1.0 if self.is_over else self.epoch / self.epochs

    def minutes_up_to(self, epoch: int) -> float:
        """Return the expected minutes since the row before an epoch or, if later, the last seen."""
        before = max(self.epoch, (epoch - 1) // self.epochs_a_row * self.epochs_a_row)
        return self.minutes * max(epoch - before, 0) / self.epochs


class _Sums:
    """What a line says of all trials; kept as they change, for they may be thousands."""

    def __init__(self, trials: Iterable[_Seen]):
        self.counts: Counter[str] = Counter()  # by status
        self.best: dict[str, float] = {}  # return of any curve so far, by variant
        self.minutes = self.minutes_done = 0.0  # expected, of all
        self.longest = 0.0  # minutes of a trial's rows
        for trial in trials:
            self.minutes += trial.minutes
            self.longest = max(self.longest, trial.minutes)
            self._count(trial, 1)

    @contextlib.contextmanager
    def changing(self, trial: _Seen) -> Iterator[_Seen]:
        """Keep the sums true over the changes that this context makes to a trial."""
        self._count(trial, -1)
        yield trial
        self._count(trial, 1)
        if trial.has_return and trial.status != "elsewhere":
            best = self.best.get(trial.variant, 0.0)
            self.best[trial.variant] = max(best, trial.best_return)

    def _count(self, trial: _Seen, number: int) -> None:
        self.counts[trial.status] += number
        self.minutes_done += number * trial.minutes * trial.share_done


def _best_before(plan: Plan) -> dict[str, float]:
    """Return by variant the best return of any curve of the trials that are done already."""
    path = plan.results / plan.sweep.name / "curves.arrow"
    variants = {t.config.fingerprint: t.config.variant for t in plan.trials if t.state == "done"}
    best: dict[str, float] = {}
    if not variants or not plan.unfinished or not path.exists():
        return best
    with contextlib.suppress(OSError, ValueError):  # the next writing of the tables mends them
        curves = read_table(path, columns=("trial", "return_mean"))
        for row in curves.group_by("trial").aggregate([("return_mean", "max")]).to_pylist():
            variant, value = variants.get(str(row["trial"])), row["return_mean_max"]
            if variant is not None and isinstance(value, float):
                best[variant] = max(best.get(variant, value), value)
    return best


class Lacks:
    """Say what trials were asked to use and run without, each reason once.

    Reasons that differ in their numbers alone are one.
    """

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self._looked_into: set[Path] = set()
        self._said: set[str] = set()

    def look_into(self, folder: Path, label: str) -> None:
        """Look once into the folder of a trial that has come to a row."""
        if folder in self._looked_into:
            return
        try:
            record = read_record(folder)
        except (OSError, ValueError):  # it is no error of the driver's; its next row may do
            return
        self._looked_into.add(folder)
        for name in ("kernels", "cuda_graph"):
            how = f"{name} {record.last(name)}"
            if "off: " in how and essence(how) not in self._said:
                self._said.add(essence(how))
                self._say(f"{how} (first seen: {label} on {record.last('host')})")


class SweepProgress:
    """Collect reports and show them; a context manager around the run."""

    def __init__(self, plan: Plan, notices: Notices):
        self._notices = notices
        self._name = plan.sweep.name
        self._results = plan.results
        self._look_at = 0.0
        self._trials = {
            trial.config.fingerprint: _Seen(
                trial.name,
                trial.config.variant,
                trial.config.epochs,
                trial.config.evaluation.every_epochs,
                trial.price.minutes_per_epoch * trial.config.epochs,
                {"done": "done", "running": "elsewhere"}.get(trial.state, "waiting"),
                trial.epochs_done,
            )
            for trial in plan.trials
        }
        self._sums = _Sums(self._trials.values())
        self._sums.best = _best_before(plan)
        # How fast trials run, by the pieces of them done in this run: minutes expected of these
        # and seconds needed. The time since its start would count Ray's own start and the half-done
        # rows of others: at its beginning a sweep would look ten times as long as it is.
        self._expected = self._needed = 0.0
        # Of final evaluations, which take as long after few rows as after many.
        self._num_finals, self._final_needed = 0, 0.0
        prices = [trial.price for trial in plan.to_run]
        self._final_expected = sum(p.final_minutes for p in prices) / max(len(prices), 1)
        self._is_measured = all(price.source == MEASURED for price in prices)  # here, if not now
        self._num_places = 0
        self._live: Display | None = None
        self._said_at = 0.0
        self._waits_for = ""
        self._lacks = Lacks(self.say)

    def __enter__(self) -> "SweepProgress":
        if is_screen(sys.stdout):
            self._live = Display(
                sys.stdout,
                self._screen,
                refresh_per_second=2,
                redirect_stderr=sys.stderr.isatty(),  # what goes into a file stays there
            )
            self._live.start()
        else:
            say(self.line())
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __getstate__(self) -> dict[str, Any]:
        """Return all but the display, whose locks cannot be pickled: Tune pickles its callbacks."""
        return self.__dict__ | {"_live": None}

    def start(self, fingerprint: str) -> None:
        """A trial began."""
        with self._sums.changing(self._trials[fingerprint]) as trial:
            trial.status = "running"
        self._num_places = self._sums.counts["running"]

    def report(self, fingerprint: str, epoch: int, return_mean: float, seconds: float) -> None:
        """A running trial wrote a curve row, or its evaluation: a piece that took `seconds`."""
        folder = trial_folder(self._results, fingerprint)
        self._lacks.look_into(folder, self._trials[fingerprint].label)
        with self._sums.changing(self._trials[fingerprint]) as trial:
            if trial.epoch == trial.epochs:  # all its rows were there
                self._num_finals += 1
                self._final_needed += seconds
            else:
                self._expected += trial.minutes_up_to(epoch)
                self._needed += seconds
            trial.epoch = epoch
            trial.best_return = max(trial.best_return, return_mean)
        if self._live is None and time.monotonic() - self._said_at > _SECONDS_PER_LINE:
            self.say(self.line())

    def finish(self, fingerprint: str, result: dict) -> None:
        """A trial ended, or turned out to be another process's."""
        with self._sums.changing(self._trials[fingerprint]) as trial:
            trial.status = "elsewhere" if "elsewhere" in result else "done"
        final = f", final return {result['return_mean']:.1f}" if trial.status == "done" else ""
        self._tell(f"{trial.status} {trial.label}{final}")

    def fail(self, fingerprint: str, record: Record) -> None:
        """A trial failed, as its record says."""
        with self._sums.changing(self._trials[fingerprint]) as trial:
            trial.status = "failed"
        # Where a process that dies still holds it, that is recorded later.
        reason = record.last("reason") if record.status is Status.FAILED else "its process died"
        self._tell(f"failed {trial.label}: {reason}")
        self._notices.failures(self._sums.counts["failed"], str(reason), self.line())

    def queue(self, fingerprint: str, failure: str | None) -> None:
        """A trial is to run, again after a `failure` where there is one."""
        with self._sums.changing(self._trials[fingerprint]) as trial:
            is_new = trial.status == "waiting"
            trial.status = "waiting"
        if failure is not None:
            self._tell(f"again {trial.label}, after {failure}")
        elif not is_new:
            self._tell(f"taken over {trial.label}")

    def pause(self) -> None:
        """The trials that ran here were stopped, to run again."""
        for trial in self._trials.values():
            if trial.status == "running":
                with self._sums.changing(trial):
                    trial.status = "waiting"

    def settle(self, fingerprint: str, record: Record) -> None:
        """A trial has come to its end, here or in another process."""
        with self._sums.changing(self._trials[fingerprint]) as trial:
            before = trial.status
            trial.status = "done" if record.status is Status.EVALUATED else "failed"
        if before != trial.status:
            self._tell(f"{trial.status} {trial.label}, in another process")

    def wait(self, others: Mapping[str, int]) -> None:
        """Show that nothing is left but trials of `others`, so many each."""
        told = ", ".join(f"{who} ({number})" for who, number in others.items())
        text = f"waiting for trials that run elsewhere: {told}"
        if others and text != self._waits_for:
            self._waits_for = text
            self.say(text)

    def say(self, text: str) -> None:
        """Print a line about the whole sweep, above the display where there is one."""
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            say(text)
            self._said_at = time.monotonic()

    def line(self) -> str:
        """Return the whole sweep in one line."""
        self._look_elsewhere()
        sums = self._sums
        best = ", ".join(f"{name} {value:.0f}" for name, value in sums.best.items())
        parts = [f"{sums.counts[s]} {s}" for s in ("done", "running", "failed", "waiting")]
        if sums.counts["elsewhere"]:
            parts.append(f"{sums.counts['elsewhere']} elsewhere")
        return (
            f"{self._name}: {', '.join(parts)} of {len(self._trials)}; "
            f"best return: {best or 'none yet'}; {self._time_left()}"
        )

    def _look_elsewhere(self) -> None:
        """Read now and then how far the trials are that other processes run."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + _ELSEWHERE_SECONDS
        for fingerprint, trial in self._trials.items():
            path = trial_folder(self._results, fingerprint) / CURVE_FILE
            if trial.status != "elsewhere" or not path.exists():
                continue
            with contextlib.suppress(OSError, ValueError):  # it is no error of this driver's
                epochs = read_table(path, columns=("epoch",))["epoch"].to_pylist()
                with self._sums.changing(trial):
                    trial.epoch = max(epochs, default=0)

    def _tell(self, text: str) -> None:
        """Print what happened to a trial, and the whole sweep where no display shows it."""
        self.say(text if self._live is not None else f"{text}; {self.line()}")

    def _screen(self) -> Group:
        table = Table(box=None, pad_edge=False)
        for name, justify in (("running", "left"), ("epoch", "right"), ("best return", "right")):
            # Folded where the window is narrow: names differ at their ends.
            table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
        for trial in self._trials.values():
            if trial.status == "running":
                best = f"{trial.best_return:.1f}" if trial.has_return else "-"
                table.add_row(Text(trial.label), f"{trial.epoch}/{trial.epochs}", best)
        return Group(Text(self.line()), *[table] * bool(table.rows))

    def _time_left(self) -> str:
        pace = self._pace()
        if pace is None:
            return _UNKNOWN
        sums, final = self._sums, self._final_seconds(pace)
        num_open = len(self._trials) - sums.counts["done"] - sums.counts["failed"]
        here = self._num_places if sums.counts["waiting"] else sums.counts["running"]
        num_places = max(here + sums.counts["elsewhere"], 1)
        rows = max(sums.minutes - sums.minutes_done, 0.0)
        seconds = (rows * pace + num_open * final) / num_places
        if num_open and seconds < sums.longest * pace + final:  # towards the end one may decide
            left = (t.minutes * (1 - t.share_done) for t in self._trials.values())
            seconds = max(seconds, max(left) * pace + final)
        if num_open and not seconds:  # no final evaluation has ended yet
            return _UNKNOWN
        return f"{format_duration(seconds)} left"

    def _pace(self) -> float | None:
        """Return the seconds of a minute expected; before a row None, or a minute's if priced."""
        if self._expected:
            return self._needed / self._expected
        return 60.0 if self._is_measured and self._num_places else None

    def _final_seconds(self, pace: float) -> float:
        """Return how long a final evaluation takes, 0 where nothing tells."""
        if self._num_finals:
            return self._final_needed / self._num_finals
        return self._final_expected * pace


def describe_blind(results: Path, machines: Iterable[str]) -> str:
    """Return a line about machines that cannot see the results folder of trials they were given."""
    names = ", ".join(sorted(machines))
    return f"{results} is not visible on {names}, as it must be on all of Ray's machines"
