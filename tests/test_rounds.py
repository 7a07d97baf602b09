"""Data collected in rounds: it follows from the recipe alone, and is there whole or not at all."""

import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from pwmray import rounds
from pwmray.commands.data_info import describe_path
from pwmray.data.collect import Episodes, collect
from pwmray.data.collected import ensure_data
from pwmray.data.collector import COLLECTOR
from pwmray.data.recipe import CollectionRecipe
from pwmray.data.store import open_store
from pwmray.envs.vector import make_vector
from pwmray.tasks import find_task

TASK = "pendulum-spin"
TINY = CollectionRecipe(num_episodes=2, num_rounds=2, episodes_per_round=2, epochs_per_round=2)
TINY_OPTIONS = TINY.command_options.split()
# The command line, in a process that kills itself at the fourth step of the rounds.
KILLED = """
import os, signal, sys
from pwmray import cli, rounds
def die(what, done, total):
    if "rounds" in what and done == 4:
        os.kill(os.getpid(), signal.SIGKILL)
collect = rounds.collect
rounds.collect = lambda task, recipe, make, _, **more: collect(task, recipe, make, die, **more)
sys.exit(cli.main(sys.argv[1:]))
"""


def make(folder, recipe=TINY, progress=None):
    return ensure_data(TASK, recipe, folder, make_vector, progress, collect=rounds.collect)


@pytest.fixture(scope="module")
def said():
    return []


@pytest.fixture(scope="module")
def made(tmp_path_factory, said):
    return make(tmp_path_factory.mktemp("data"), progress=lambda *step: said.append(step))


def episodes_of(path):
    """Return an open file's observations and actions by episode."""
    store = open_store(path)
    return store, store.obs.reshape(-1, 501, 3), store.action.reshape(-1, 501, 1)


def test_each_episode_says_what_acted_and_in_which_round(made):
    expected = ("policy@1", "noisy-policy@1", "policy@2", "noisy-policy@2")
    assert open_store(made).behaviours == ("uniform", "held-4", *expected)
    assert open_store(made).recipe["collector"] == COLLECTOR


def test_description_shows_each_round(made):
    shown = "\n".join(describe_path(made, made.parent))
    assert "num_rounds=2, episodes_per_round=2, epochs_per_round=2, collector=version 1" in shown
    assert "noisy-policy@2              1 " in shown


def test_episodes_before_the_rounds_are_those_without_rounds(made):
    without = collect(TASK, CollectionRecipe(num_episodes=2), make_vector)
    _, obs, action = episodes_of(made)
    np.testing.assert_array_equal(obs[:2], without.obs)
    np.testing.assert_array_equal(action[:2], without.action)


def test_rounds_start_anew_and_their_policy_changes(made):
    _, obs, action = episodes_of(made)
    assert len(np.unique(obs[:, 0, 0])) == 6
    assert np.abs(action[:, 1:]).max() <= 1
    assert np.abs(action[2] - action[4])[1:].max() > 0.01


def test_other_settings_of_the_collector_make_other_data(monkeypatch):
    before = TINY.fingerprint(TASK)
    monkeypatch.setitem(COLLECTOR, "learner.discount", 0.9)
    assert TINY.fingerprint(TASK) != before
    assert CollectionRecipe().fingerprint(TASK) == "3f2323aaeacb"


def test_settings_of_the_collector_that_are_defaults_change_with_its_version_alone():
    """Its data is found by COLLECTOR, in which they are not: raise "version" with them."""
    found = COLLECTOR["version"], rounds.collector_config(TASK, TINY).fingerprint
    assert found == (1, "008c4dc7704b3df8")


def test_agent_that_collects_computes_alike_in_any_process():
    torch.set_num_threads(2)
    torch.set_flush_denormal(False)
    torch.set_float32_matmul_precision("medium")
    rounds.Collector(TASK, TINY)
    assert torch.get_num_threads() == 1
    assert (torch.full((1,), 1e-38) * 0.1).item() == 0  # a denormal number
    assert torch.get_float32_matmul_precision() == "highest"


def test_agent_that_collects_sees_all_episodes_at_their_scale_and_learns_at_full_rates(monkeypatch):
    task, rng = find_task("reacher-three-easy"), np.random.default_rng(0)
    (angle, *_), seen = task.winding_angles, []
    obs = rng.normal(1.0, 0.5, (3, 501, task.obs_dim)).astype(np.float32)
    once = obs[..., angle] = rng.uniform(-3.0, 3.0, (3, 501))
    obs[1:, :, angle] += 2 * np.pi * 8  # the same, after eight turns
    reward = np.repeat(np.arange(3, dtype=np.float32)[:, None], 501, axis=1)
    actions = np.zeros((3, 501, task.action_dim), np.float32)
    collector = rounds.Collector(task.name, TINY)

    def see(sample, noise, progress):
        seen.append((sample(256), progress))
        return {"loss": 1.0}

    monkeypatch.setattr(collector._learner, "update", see)
    episodes = Episodes(obs, actions, reward, ("uniform",) * 3)
    collector.train(episodes, rounds._Report(TINY, 1, None))
    model = collector._learner.world_model
    plain = obs.reshape(-1, task.obs_dim).copy()
    plain[:, angle] = once.reshape(-1)
    np.testing.assert_allclose(model.obs_mean[: task.obs_dim], plain.mean(0), atol=1e-3)
    np.testing.assert_allclose(model.obs_std[: task.obs_dim], plain.std(0), atol=1e-3)
    assert [progress for _, progress in seen] == [0.0] * TINY.epochs_per_round
    for batch, _ in seen:
        assert batch.obs_HBO[..., angle].abs().max() <= 3.001
        assert set(batch.r_HB1.unique().tolist()) == {0.0, 1.0, 2.0}


def test_progress_of_the_rounds_is_one_activity_with_one_end(made, said):
    in_rounds = [(done, total) for what, done, total in said if "rounds" in what]
    assert said[0][0] == "collecting"
    assert in_rounds == sorted(in_rounds)
    assert in_rounds[0] == (1, 12)
    assert in_rounds[-1] == (12, 12)


@pytest.mark.parametrize("moment", [1, 4])
def test_interrupted_rounds_leave_nothing_behind(moment, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, progress=interrupt_at(moment))
    assert list((tmp_path / "collected").iterdir()) == []


def interrupt_at(moment):
    def progress(what, done, total):
        if "rounds" in what and done == moment:
            raise KeyboardInterrupt

    return progress


def test_killed_and_started_again_it_is_the_same_file_byte_for_byte(made, tmp_path):
    command = [sys.executable, "-c", KILLED, "data", "collect", TASK, *TINY_OPTIONS]
    assert subprocess.run([*command, "--data", tmp_path]).returncode == -signal.SIGKILL
    assert [path.suffix for path in (tmp_path / "collected").iterdir()] == [".claim"]
    assert make(tmp_path).name == made.name
    assert (tmp_path / "collected" / made.name).read_bytes() == made.read_bytes()
    assert len(list((tmp_path / "collected").iterdir())) == 1


def test_agent_that_diverges_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(COLLECTOR, "learner.model_lr", 1e30)
    monkeypatch.setitem(COLLECTOR, "learner.model_clip", 1e30)
    with pytest.raises(ValueError, match="agent that collects data of pendulum-spin diverged: "):
        make(tmp_path)
    assert list((tmp_path / "collected").iterdir()) == []
