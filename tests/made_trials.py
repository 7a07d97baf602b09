"""A trial without Ray, and the steps from asking for it to its end."""

import functools

import torch

from pwmray import registry, results
from pwmray.algorithm import checkpoint
from pwmray.build import build_learner, count_parameters
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


def leave_after_a_row(folder, data, *kind, **settings):
    """Leave a trial whose process went after its first row; return its config."""
    config = make_config(*kind, **settings)
    ask_for(config, folder)
    trial = open_trial(config, folder, data)
    trial.advance()
    trial.close()
    return config


def run_to_the_end(trial):
    while not trial.is_finished:
        trial.advance()
    trial.close()


def curve_of(folder):
    return results.read_table(folder / "curve.arrow").drop_columns(["seconds"])


def write_checkpoint(folder, tasks):
    """Leave the checkpoint of an agent that was not trained, on pendulum-spin and other tasks."""
    config = make_config("baseline")
    about = {"config": config.to_dict(), "tasks": tasks}
    path = folder / "checkpoint.pt"
    checkpoint.save(path, about, build_learner(config), {}, {"epochs_reached": 3})
    return path


def evaluate_by_hand(config, folder, better_by=0.0):
    """Leave a trial evaluated that nobody trained."""
    known = {
        **{f"{part}_parameters": number for part, number in count_parameters(config).items()},
        "data_fingerprint": config.data.fingerprint(config.task),
        "world_model_id": "scratch",
        "epochs_reached": config.epochs,
        "train_seconds": 1.0,
        "evaluation_seconds": 1.0,
    }
    registry.record(folder, Status.PENDING, config=config.to_dict())
    for status in (Status.QUEUED, Status.RUNNING, Status.COMPLETED, Status.EVALUATED):
        registry.record(folder, status, **known)
    row = {"trial": folder.name, "actor": "policy", "episode": 0, "seed": 1, "length": 500}
    value = 100.0 * config.seed + len(config.fingerprint) + better_by
    evaluations = [{**row, "return": value}] * 3
    results.write_rows(folder / "evaluations.arrow", evaluations, results.EVALUATIONS)
