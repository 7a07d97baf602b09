"""Which trial a free process takes up next, and none where the sweep is asked to stop."""

import itertools
from collections.abc import Callable
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from pwmray.commands import say
from pwmray.driver.interruption import Interruption
from pwmray.durations import format_duration

_ENDS = (Trial.TERMINATED, Trial.ERROR)


class InOrder(FIFOScheduler):
    """Run trials in order, but give a free process none that another one is being started for.

    Tune's own order gives it the first trial that waits, and ends the process that is starting for
    that one. Where trials end more often than a process takes to start, of a new node too, none
    would ever come up, and those that are there do all the work.

    Where an `interruption` comes, Tune stops all trials, and leaves those that run the time that it
    says to come to their next row, which is told.
    """

    def __init__(self, interruption: Interruption, tell: Callable[[str], None] = say) -> None:
        super().__init__()
        self._interruption, self._tell = interruption, tell
        self._is_stopping = False
        self._num_ended = 0  # of the first trials: thousands need not be looked at each time

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Return the first trial that waits and has no process yet, None without one.

        Where processes are free, it is one that asks for what one of them has.
        """
        # Tune keeps from schedulers which trial has what (Ray 2.60).
        controller = tune_controller._tune_controller
        _let_go(controller._actor_manager)
        if self._interruption.reason is not None:
            self._stop(controller)
            return None
        started, actor_of = controller._actor_manager.is_actor_started, controller._trial_to_actor
        free = controller._actor_cache
        first = None
        trials = tune_controller.get_trials()
        while self._num_ended < len(trials) and trials[self._num_ended].status in _ENDS:
            self._num_ended += 1
        for trial in itertools.islice(trials, self._num_ended, None):
            if trial.status != Trial.PENDING:
                continue
            actor = actor_of.get(trial)
            if actor is not None and started(actor):
                continue
            if not free.num_cached_objects or free.has_cached_object(trial.placement_group_factory):
                return trial
            first = first or trial
        return first

    def _stop(self, controller: Any) -> None:
        """Have Tune stop all trials: this step of its is the last."""
        if self._is_stopping:
            return
        self._is_stopping = True
        seconds = self._interruption.find_row_seconds()
        # By itself Tune ends a process ten seconds after it has asked it to stop.
        controller._actor_force_cleanup_timeout = seconds
        controller.request_stop_experiment()
        within = format_duration(seconds)
        self._tell(f"{self._interruption.reason}: trials stop at their next rows, within {within}")


def _let_go(actor_manager: Any) -> None:
    """Drop the answers that came: Tune keeps each row's, 4 kB, for as long as its process lives."""
    open_ones = actor_manager._actor_task_events.get_futures()
    for futures in actor_manager._tracked_actors_to_task_futures.values():
        futures &= open_ones
