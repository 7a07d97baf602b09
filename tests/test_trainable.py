"""A trial as Ray Tune runs it: step by step in a process that is kept, without a Ray."""

import os
import shutil
import socket

import pytest

from pwmray import registry
from pwmray.config import TrialConfig
from pwmray.registry import CLAIM_FILE, CURVE_FILE, Status
from pwmray.results import read_table
from pwmray.trainable import NOT_SEEN_ON, PIECE_SECONDS, TrialTrainable, grid_of
from pwmray.trial import Trial
from tests.claims import leave_claim
from tests.made_trials import ask_for, make_config
from tests.tiny import UNPLANNED

MACHINE = {"CPU": 1.0}
SHORT = {**UNPLANNED, "epochs": 2}  # one row


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The folders of two trials that wait."""
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "ray"))
    configs = [make_config("baseline", seed=seed, **SHORT) for seed in (42, 123)]
    found = [registry.trial_folder(tmp_path, config.fingerprint) for config in configs]
    for config, folder in zip(configs, found, strict=True):
        ask_for(config, folder)
    return found


def told_of(folder, data):
    """Return what Tune tells a process of a trial."""
    config = TrialConfig.from_dict(registry.read(folder).last("config"))
    return {"grid": grid_of(config, folder, data, "tiny", "a title", MACHINE, MACHINE)}


def are_claimed(folders):
    return [(folder / CLAIM_FILE).exists() for folder in folders]


def test_process_runs_a_trial_row_by_row_and_then_another(
    folders, data, short_episodes, monkeypatch
):
    closed, close = [], Trial.close
    monkeypatch.setattr(Trial, "close", lambda trial: closed.append(trial) or close(trial))
    first, second = (told_of(folder, data) for folder in folders)
    trainable = TrialTrainable(first)
    assert are_claimed(folders) == [False, False]  # Tune may yet hand it to another process
    rows = [trainable.train() for _ in range(2)]
    assert are_claimed(folders) == [True, False]
    assert [row["done"] for row in rows] == [False, True]
    assert registry.read(folders[0]).status is Status.EVALUATED
    (curve,) = read_table(folders[0] / CURVE_FILE).to_pylist()
    assert curve == {**curve, **{name: rows[0].get(name) for name in curve}}
    assert all(0 < row[PIECE_SECONDS] <= row["time_this_iter_s"] for row in rows)
    assert trainable.reset(second)
    assert (len(closed), are_claimed(folders)) == (1, [False, False])
    assert trainable.train()["done"] is False
    assert are_claimed(folders) == [False, True]
    trainable.stop()
    assert (len(closed), are_claimed(folders)) == (2, [False, False])


def test_trial_that_another_process_has_is_left_to_it(folders, data):
    leave_claim(folders[0] / CLAIM_FILE, os.getppid())
    row = TrialTrainable(told_of(folders[0], data)).train()
    assert row["done"] and f"process {os.getppid()}" in row["elsewhere"]
    assert row[NOT_SEEN_ON] is None
    assert are_claimed(folders) == [True, False]


def test_machine_that_does_not_see_a_trials_folder_is_named(folders, data):
    told = told_of(folders[0], data)
    shutil.rmtree(folders[0])
    row = TrialTrainable(told).train()
    assert row["done"] and row[NOT_SEEN_ON] == socket.gethostname()
