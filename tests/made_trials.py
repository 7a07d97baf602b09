"""A trial without Ray, and the steps from asking for it to its end."""

import functools

import torch

from pwmray import registry, results
from pwmray.config import TrialConfig
from pwmray.envs.vector import make_vector
from pwmray.registry import Status
from pwmray.trial import Trial
from tests.tiny import SETTINGS

CPU = torch.device("cpu")
make_environments = functools.cache(make_vector)


def make_config(variant="fullflow", **settings):
    required = {"task": "pendulum-spin", "seed": 42, "epochs": 6, "variant": variant}
    return TrialConfig.from_flat({**SETTINGS, **required, **settings})


def ask_for(config, folder):
    registry.record(folder, Status.PENDING, config=config.to_dict())
    registry.record(folder, Status.QUEUED)


def open_trial(config, folder, data):
    return Trial(config, folder, data, make_environments, CPU)


def run_to_the_end(trial):
    while not trial.is_finished:
        trial.advance()
    trial.close()


def curve_of(folder):
    return results.read_table(folder / "curve.arrow").drop_columns(["seconds"])
