"""The turns of a driver that starts now, and trials that stand where it is to find them."""

from pwmray import plan, registry
from pwmray.driver.interruption import Interruption
from pwmray.driver.notify import Notices
from pwmray.driver.progress import SweepProgress
from pwmray.driver.turns import Turns
from pwmray.registry import Status
from tests.tiny import sweep


def no_machine():
    return {}


def folder_of(results, trial):
    return registry.trial_folder(results, trial.config.fingerprint)


def stand_at(results, trial, *statuses, **fields):
    for status in (Status.PENDING, Status.QUEUED, *statuses):
        registry.record(folder_of(results, trial), status, **fields)


def driver(results, num_trials, interruption=None, patience_seconds=float("inf")):
    """Return the turns of a driver that starts now, and its trials."""
    made = plan.make(sweep, "tiny", sweep.trials("tiny")[:num_trials], results)
    progress = SweepProgress(made, Notices("tiny", None))
    progress.__enter__()
    return Turns(made, progress, interruption or Interruption(), patience_seconds), made.trials
