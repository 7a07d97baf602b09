"""`pwmray data collect` with the policy of a checkpoint, and what it refuses."""

import numpy as np
import pytest
import torch
from dm_control.rl.control import PhysicsError

from pwmray import cli
from pwmray.agent import load_agent
from pwmray.data.behaviours import BEHAVIOURS, POLICY_NOISES
from pwmray.data.store import open_store
from pwmray.envs import vector
from pwmray.envs.vector import make_vector
from pwmray.tasks import EPISODE_STEPS
from tests.made_trials import write_checkpoint


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "trial"
    folder.mkdir()
    return write_checkpoint(folder, ["pendulum-spin"])


def collect(folder, *arguments):
    return cli.main(["data", "collect", *map(str, arguments), "--data", str(folder)])


def test_policy_of_a_checkpoint_acts_beside_the_fixed_behaviours(checkpoint, tmp_path):
    arguments = ["pendulum-spin", "--from", checkpoint.parent, "--episodes", 8]
    assert collect(tmp_path / "data", *arguments) == 0
    (path,) = (tmp_path / "data" / "collected").iterdir()
    store, agent = open_store(path), load_agent(checkpoint, torch.device("cpu"))
    assert store.behaviours == (*BEHAVIOURS, *POLICY_NOISES)
    assert store.recipe["policy"] == agent.digest
    rows = slice(6 * (EPISODE_STEPS + 1), 7 * (EPISODE_STEPS + 1))
    expected = agent.act_for(EPISODE_STEPS)(store.obs[rows][:-1].copy())[:, :1]
    np.testing.assert_allclose(store.action[rows][1:], expected, atol=1e-5)


def test_policy_of_a_checkpoint_computes_alike_in_any_process(checkpoint, tmp_path):
    torch.set_num_threads(2)
    torch.set_flush_denormal(False)
    torch.set_float32_matmul_precision("medium")
    options = ["--from", checkpoint, "--behaviours", "policy", "--episodes", 1, "--seed", 3]
    assert collect(tmp_path / "data", "pendulum-spin", *options) == 0
    assert torch.get_num_threads() == 1
    assert (torch.full((1,), 1e-38) * 0.1).item() == 0  # a denormal number
    assert torch.get_float32_matmul_precision() == "highest"
    (path,) = (tmp_path / "data" / "collected").iterdir()
    assert open_store(path).recipe["seed"] == 3


def test_policy_collects_ten_episodes_a_pass_whatever_evaluations_do(checkpoint, monkeypatch):
    """How many they are decides how the data rounds, which is to be the same tomorrow."""
    agent, passes = load_agent(checkpoint, torch.device("cpu")), []
    act = agent.learner.act
    monkeypatch.setattr(agent.learner, "act", lambda obs: passes.append(len(obs)) or act(obs))
    assert agent.act_for(12)(np.zeros((12, 3), np.float32)).shape[0] == 12
    assert passes == [10, 10]


def test_collecting_steps_the_simulations_on_all_cores(tmp_path, monkeypatch):
    def make(task, num_envs, num_threads):
        threads.append(num_threads)
        return make_vector(task, num_envs, num_threads)

    threads = []
    monkeypatch.setattr(vector, "make_vector", make)
    monkeypatch.setattr("pwmray.commands.collect.num_cores", lambda: 3)
    assert collect(tmp_path, "hopper-stand", "--episodes", "1") == 0
    assert threads == [3]


def test_behaviour_named_twice_has_twice_the_episodes(tmp_path):
    options = ["--behaviours", "bang-bang,constant,bang-bang", "--episodes", 3]
    assert collect(tmp_path, "pendulum-spin", *options) == 0
    (path,) = (tmp_path / "collected").iterdir()
    assert open_store(path).behaviours == ("bang-bang", "constant", "bang-bang")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--behaviours", "policy"], "has policy, and no checkpoint says whose policy that is"),
        (["--behaviours", "plicy"], "unknown data.behaviours ['plicy']; valid: uniform"),
        (["--behaviours", ""], "unknown data.behaviours ['']; valid: uniform"),
        (["--from", "absent.pt"], "No such file or directory: absent.pt"),
        (["--from", "absent.pt", "--behaviours", "uniform"], "its policy acts in none of data.b"),
        (["--rounds", "-1"], "data.num_rounds is -1; it must be at least 0"),
        (["--rounds", "2", "--episodes-per-round", "0"], "data.episodes_per_round is 0; it must"),
        (["--rounds", "2", "--epochs-per-round", "0"], "data.epochs_per_round is 0; it must be"),
        (["--rounds", "two"], "argument --rounds: invalid int value: 'two'"),
        (["--from", "absent.pt", "--episodes", "0"], "data.num_episodes is 0; it must be at least"),
    ],
)
def test_bad_option_is_named(options, message, tmp_path, capsys):
    assert message in refused(tmp_path, capsys, "pendulum-spin", *options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nonsense", "is not a checkpoint of a trial"),
        (b"pwmray-world-model-1 00\n", "holds only a world model, and no policy to act"),
        (b"pwmray-checkpoint-2 00\ncut", "its content is damaged"),
    ],
)
def test_file_that_is_no_agent_is_named(content, message, tmp_path, capsys):
    file = tmp_path / "file.pt"
    file.write_bytes(content)
    line = refused(tmp_path / "data", capsys, "pendulum-spin", "--from", file)
    assert f"{file}" in line
    assert message in line


def test_task_that_the_agent_does_not_know_is_named(checkpoint, tmp_path, capsys):
    tasks = ["pendulum-spin", "pendulum-swingup"]
    line = refused(tmp_path / "data", capsys, *tasks, "--from", checkpoint)
    assert "cannot act in 'pendulum-swingup': it was trained on pendulum-spin" in line


def refused(folder, capsys, *arguments):
    """Run what must be refused, with nothing written; return its one line."""
    assert collect(folder, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert not (folder / "collected").exists()
    return err


def test_simulation_that_fails_is_one_line(checkpoint, tmp_path, monkeypatch, capsys):
    def fail(self, actions):
        raise PhysicsError("pendulum-spin: environment 0 failed in step 1 (BADCTRL)")

    monkeypatch.setattr("pwmray.envs.lockstep.LockstepEnv.step", fail)
    assert collect(tmp_path / "data", "pendulum-spin", "--from", checkpoint) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"the simulation failed under the actions of {checkpoint}: pendulum-spin" in said
    assert list((tmp_path / "data" / "collected").iterdir()) == []
