"""Studies of the tiny search, and running their trials as Ray would."""

import dataclasses
import functools
import json
from pathlib import Path

import optuna
import pytest
import torch

from pwmray import registry
from pwmray.config import TrialConfig
from pwmray.envs.vector import make_vector
from pwmray.registry import Status
from pwmray.search.plan import SearchPlan
from pwmray.search.study import FINGERPRINT
from pwmray.search.trials import SearchTrials
from pwmray.trial import Trial
from tests.tiny_search import search

TASK = "pendulum-spin"
THREE = dataclasses.replace(search, space={"policy.num_substeps": [1, 2, 3]})
make_environments = functools.cache(make_vector)


def make_plan(results, number=5, of=search):
    return SearchPlan.make(of, "tiny", [TASK], number, results)


def open_trials(results, data, number=5, of=search, **options):
    plan = make_plan(results, number, of)
    return SearchTrials(plan, TASK, data, {"CPU": 1.0}, "python search.py", **options)


def advance(trials, name, data, until=None):
    """Run the next trial as a trainable does: to its end, until it is stopped, or to an epoch.

    Return its fingerprint, None if there is no next trial.
    """
    config = trials.next(name)
    if config is None:
        return None
    grid = config["grid"]
    trial = Trial(
        TrialConfig.from_dict(json.loads(grid["trial"])),
        Path(grid["folder"]),
        data,
        make_environments,
        torch.device("cpu"),
    )
    row = {"epoch": trial.epoch}
    is_stopped = False
    while not (trial.is_finished or is_stopped or trial.epoch == until):
        row = trial.advance()
        is_stopped = not trial.is_finished and trials.is_stopped(name, row)
    trial.close()
    if until is None:
        trials.end(name, row, is_error=False)
    return grid[FINGERPRINT]


def decide_to_stop(trials, name):
    """Start the next trial and let ASHA decide to stop it at epoch 2; return its folder."""
    folder = Path(trials.next(name)["grid"]["folder"])
    registry.record(folder, Status.RUNNING)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(optuna.Trial, "should_prune", lambda trial: True)
        assert trials.is_stopped(name, {"epoch": 2, "return_mean": 1.0})
    return folder


def evaluate(folder, return_mean=5.0):
    for status in (Status.RUNNING, Status.COMPLETED, Status.EVALUATED):
        registry.record(folder, status, return_mean=return_mean)


def fail(trials, name, **fields):
    """Let the next trial fail, with the `fields` that its process records, or die without any."""
    grid = trials.next(name)["grid"]
    folder = Path(grid["folder"])
    if fields:
        registry.record(folder, Status.FAILED, **fields)
    else:
        trials.die(name, "The actor died unexpectedly")
    trials.end(name, None, is_error=True)
    return grid
