"""A sweep's command run here, and trials that stand where a plan is to find them."""

import runpy
from pathlib import Path

import pytest

from pwmray import plan, registry, tables
from pwmray.registry import Status
from tests.made_trials import evaluate_by_hand
from tests.tiny import sweep

_SWEEPS = Path(__file__).parent.parent / "sweeps"
PHASE6 = runpy.run_path(str(_SWEEPS / "phase6_epochs.py"))["sweep"]
REACHED = {  # the events that bring a trial to a status
    Status.QUEUED: "PENDING QUEUED",
    Status.RUNNING: "PENDING QUEUED RUNNING",
    Status.COMPLETED: "PENDING QUEUED RUNNING COMPLETED",
    Status.EVALUATED: "PENDING QUEUED RUNNING COMPLETED EVALUATED",
    Status.FAILED: "PENDING QUEUED RUNNING FAILED",
    Status.CANCELLED: "PENDING QUEUED RUNNING CANCELLED",
}


def run(capsys, *arguments, of=sweep):
    """Run a sweep's command line; return its exit code, its output and its error lines."""
    with pytest.raises(SystemExit) as ended:
        of.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return ended.value.code, out, err.splitlines()


def cell(trial):
    return (trial.variant, trial.epochs, trial.task, trial.seed)


def folder_of(results, trial):
    return registry.trial_folder(results, trial.fingerprint)


def stand_at(results, trial, status, **fields):
    for name in REACHED[status].split():
        registry.record(folder_of(results, trial), Status(name), **fields)
    return folder_of(results, trial)


def make_plan(sweep, folder):
    scale = next(iter(sweep.scales))
    return plan.make(sweep, scale, sweep.trials(scale), folder)


def leave_results(sweep, folder, better_by=0.0):
    """Leave what a run of the sweep leaves, without training: every trial evaluated."""
    planned = make_plan(sweep, folder)
    sweep_folder = tables.open_sweep(planned, "python few.py")
    for trial in planned.trials:
        place = registry.trial_folder(folder, trial.config.fingerprint)
        if registry.read(place).status is not Status.EVALUATED:
            evaluate_by_hand(trial.config, place, better_by)
    tables.Tables(sweep_folder).write()
    return sweep_folder
