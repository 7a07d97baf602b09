"""The scale that a world model of several tasks gives their observations."""

import tracemalloc

import numpy as np
import pytest

from pwmray.data.store import open_store, write_store
from pwmray.pretraining import run as pretraining
from pwmray.tasks import find_task

TASKS = ("pendulum-spin", "cartpole-swingup")  # 3 and 5 observations


def write_observations(folder, task, obs):
    """A file of one episode with these observations."""
    path = folder / f"{task}-obs.arrow"
    write_store(
        path,
        task,
        obs=obs.astype(np.float32),
        action=np.zeros((len(obs), find_task(task).action_dim), np.float32),
        reward=np.zeros(len(obs), np.float32),
        episode_lengths=[len(obs)],
        behaviours=["uniform"],
        recipe={},
    )
    return open_store(path)


@pytest.mark.parametrize("rows_at_a_time", [7, 2**16])
def test_joint_scale_is_that_of_the_padded_rows_of_all_tasks(tmp_path, monkeypatch, rows_at_a_time):
    monkeypatch.setattr("pwmray.data.store._CHUNK_ROWS", rows_at_a_time)
    rng = np.random.default_rng(0)
    pendulum, cartpole = rng.normal(3.0, 2.0, (200, 3)), rng.normal(-1.0, 0.5, (50, 5))
    pendulum[:, 1], cartpole[:, 1] = 7.0, 2.0  # constant in each task, not over both
    cartpole[:, 4] = 1.0  # constant, and lacking in the pendulum
    pendulum[:, 0] = cartpole[:, 0] = 4.0  # the same everywhere
    stores = [
        write_observations(tmp_path, TASKS[0], pendulum),
        write_observations(tmp_path, TASKS[1], cartpole),
    ]
    mean, std = pretraining._joint_scale(stores, wrap_angles=False)

    padded = np.concatenate([np.pad(pendulum, ((0, 0), (0, 2))), cartpole])
    expected = padded.std(axis=0)
    expected[0] = 1.0
    np.testing.assert_allclose(mean.numpy(), padded.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(std.numpy(), expected, rtol=1e-5)


def test_joint_scale_holds_few_rows_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("pwmray.data.store._CHUNK_ROWS", 1000)
    rows = np.random.default_rng(0).normal(size=(100_000, 3))
    store = write_observations(tmp_path, TASKS[0], rows)
    tracemalloc.start()
    pretraining._joint_scale([store], wrap_angles=False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < store.obs.nbytes / 4
