"""Tune's run, and its callbacks: what happens in the trials, for the display and the tables."""

import contextlib
import importlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.error import TuneError

from pwmray import deaths, placement
from pwmray.commands import how_to_make_room
from pwmray.driver import connect
from pwmray.driver.interruption import AskedToStopError, Interruption
from pwmray.driver.progress import SweepProgress
from pwmray.driver.retries import FirstDeaths
from pwmray.driver.turns import Turns
from pwmray.failures import describe_unwritten, is_disk_full
from pwmray.plan import Plan
from pwmray.room import free_bytes
from pwmray.tables import Pace, Tables
from pwmray.tracking.recording import without_wandb
from pwmray.trainable import NOT_SEEN_ON, PIECE_SECONDS

_RAY_SECONDS = 5.0  # between two looks at whether Ray is there
_DISK_SECONDS = 60.0  # between two looks at the disk's room


class TuneWatch(tune.Callback):
    """Keep the display and the sweep's tables up to date while Tune runs."""

    def __init__(
        self,
        plan: Plan,
        turns: Turns,
        progress: SweepProgress,
        tables: Tables,
        deaths: FirstDeaths,
        interruption: Interruption,
    ):
        self._plan = plan
        self._interruption = interruption
        self._turns = turns
        self._progress = progress
        self._tables = tables
        self._deaths = deaths
        self._pace, self._looked_at = Pace(), 0.0
        self._to_write = {trial.config.fingerprint: trial.disk_bytes for trial in plan.to_run}

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._deaths.start(_fingerprint(trial))
        self._progress.start(_fingerprint(trial))

    def on_trial_result(
        self, iteration: int, trials: list, trial: Any, result: dict, **info: Any
    ) -> None:
        if "return_mean" in result:
            self._deaths.survive(result["epoch"])
            self._progress.report(
                _fingerprint(trial), result["epoch"], result["return_mean"], result[PIECE_SECONDS]
            )
        self._write_tables()
        self._look_at_disk()

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._to_write.pop(_fingerprint(trial), None)
        if is_to_stop(self._deaths, self._turns) or self._interruption.reason is not None:
            return  # it was stopped, not completed
        if "elsewhere" in trial.last_result:
            self._turns.skip(_fingerprint(trial), trial.last_result.get(NOT_SEEN_ON))
            self._deaths.leave(_fingerprint(trial))
        else:
            self._deaths.finish()
        self._progress.finish(_fingerprint(trial), trial.last_result)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        record = self._turns.bury(_fingerprint(trial), told_of(trial))
        self._deaths.die(_fingerprint(trial), record)
        self._progress.fail(_fingerprint(trial), record)

    def _write_tables(self) -> None:
        if not self._pace.is_due:
            return
        with self._pace.writing():
            try:
                self._tables.write_if_alone()
                for line in self._tables.newly_left_out():
                    self._progress.say(line)
            except OSError as error:  # the trials are what counts; at the end they are joined again
                remedy = f"; {how_to_make_room(self._plan.results)}" if is_disk_full(error) else ""
                why = describe_unwritten(error)
                self._progress.say(f"{why}: the sweep's tables are behind{remedy}")

    def _look_at_disk(self) -> None:
        """Warn before the disk is full: others write to it too."""
        if time.monotonic() - self._looked_at < _DISK_SECONDS:
            return
        self._looked_at = time.monotonic()
        free, needed = free_bytes(self._plan.results), sum(self._to_write.values())
        if free < needed:
            self._progress.say(
                f"disk: {free / 1e6:.0f} MB free in {self._plan.results}, but the trials to come "
                f"write up to {needed / 1e6:.0f} MB; {how_to_make_room(self._plan.results)}"
            )


class Listening(tune.Callback):
    """Have an interruption take its signals back, should a library have replaced the handlers."""

    def __init__(self, interruption: Interruption):
        self._interruption = interruption

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._interruption.begin(Path(trial.config["grid"]["folder"]))

    def on_step_begin(self, iteration: int, trials: list, **info: Any) -> None:
        self._interruption.listen()
        self._interruption.raise_lost()


class NamedTasks(tune.Callback):
    """Call the work of each trial by its title in Ray's lists, its dashboard and the process list.

    An actor keeps the name that its first trial gave it, a task is named when it is sent.
    """

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        actor = trial.temporary_state.ray_actor
        vars(actor).pop("train", None)  # as the actor's trial before this one is called
        actor.train = actor.train.options(name=trial.config["grid"]["title"])


class StopEarly(tune.Stopper):
    """Stop a run whose Ray is gone, or that `is_to_stop` for another reason.

    Tune would wait forever for room on a node that is gone.
    """

    def __init__(self, is_to_stop: Callable[[], bool] = lambda: False):
        self._is_to_stop = is_to_stop
        self.is_ray_lost = False
        self._looked_at = time.monotonic()

    def __call__(self, trial_id: str, result: dict) -> bool:
        """Tell whether a single trial is to be stopped: none is."""
        return False

    def stop_all(self) -> bool:
        """Tell whether all are."""
        if time.monotonic() - self._looked_at > _RAY_SECONDS:
            self._looked_at = time.monotonic()
            self.is_ray_lost = self.is_ray_lost or not connect.is_connected()
        return self.is_ray_lost or self._is_to_stop()


def is_to_stop(deaths: FirstDeaths, turns: Turns) -> bool:
    """Whether a sweep's trials are to stop: all first ones died of a bug, or the disk stays full.

    Those that run wait for the same room, or will; those to come would wait for it each in turn.
    """
    return deaths.bug is not None or turns.lacks_room


@contextlib.contextmanager
def signals_left_alone() -> Iterator[None]:
    """Keep Tune from replacing the handlers of SIGUSR1 and Ctrl-C.

    It does so as it begins a run, and one that gets SIGUSR1 before its first step it ends as if all
    were done: nobody would learn of it.
    """
    module: Any = importlib.import_module("ray.tune.tune")
    take = module._setup_signal_catching
    module._setup_signal_catching = threading.Event
    try:
        yield
    finally:
        module._setup_signal_catching = take


@contextlib.contextmanager
def unwrapped(stopper: StopEarly) -> Iterator[None]:
    """Raise our callbacks' own errors, whose tracebacks Tune makes the message of another.

    Where Ray is gone and its folder with it, a file that Tune misses there tells of that.
    """
    try:
        yield
    except TuneError as error:
        cause = error.__context__
        if isinstance(cause, FileNotFoundError) and _is_ray_gone():
            stopper.is_ray_lost = True
            return
        if isinstance(cause, OSError | ValueError | AskedToStopError):
            raise cause from None
        raise


def fit(
    trainable: type[tune.Trainable],
    asked: tune.TuneConfig,
    scratch: Path,
    watches: Sequence[tune.Callback],
    stopper: StopEarly,
    space: dict[str, Any] | None = None,
) -> None:
    """Have Tune run trials as `asked`, with its own files in `scratch`, an empty folder.

    Each trial's config is from `space`, or else what the searcher suggests.
    """
    tuner = tune.Tuner(
        tune.with_resources(trainable, placement.resources),
        param_space=space,
        tune_config=asked,
        run_config=tune.RunConfig(
            name=scratch.name,
            storage_path=str(scratch.parent),
            # The trials keep their own checkpoints.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[*watches, NamedTasks()],
            stop=stopper,
            verbose=0,
        ),
    )
    with without_wandb(), signals_left_alone(), unwrapped(stopper):
        tuner.fit()


def _is_ray_gone() -> bool:
    """Tell whether Ray's node here died, or is ended by Slurm, which deletes its folder first."""
    return deaths.was_told_to_end(os.environ.get("SLURMD_NODENAME")) or not connect.is_connected()


def told_of(trial: Any) -> str:
    """Return what Ray says of a trial's failure."""
    path = trial.error_file
    return Path(path).read_text(errors="replace") if path and Path(path).exists() else ""


def _fingerprint(trial: Any) -> str:
    return trial.config["grid"]["fingerprint"]
