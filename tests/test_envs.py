import os
import subprocess
import sys
from ctypes.util import find_library

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

os.environ.setdefault("MUJOCO_GL", "disable")  # before anything imports dm_control

from pwmray import envs
from pwmray.envs.opengl import explained
from pwmray.envs.vector import make_vector
from pwmray.tasks import ACTION_REPEAT, EPISODE_STEPS, SIMULATIONS, TASKS, find_task
from tests.golden import GOLDEN, model_bytes, set_probe

EGL = {"MUJOCO_GL": "egl", "PYTHONWARNINGS": "ignore"}
SEEDED_TASKS = ["reacher-easy", "finger-spin", "fish-swim", "cup-catch", "cheetah-run-backwards"]


def start(task: str, seed: int) -> np.ndarray:
    return envs.make(task).reset(seed=seed)[0]


def roll(env: gymnasium.Env, actions: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    observations, rewards = [env.reset(seed=seed)[0]], []
    for action in actions:
        observation, reward, *_ = env.step(action)
        observations.append(observation)
        rewards.append(reward)
    return np.array(observations), np.array(rewards)


def probe(env, task: str, index: int) -> tuple[np.ndarray, float]:
    """Set one recorded state and return the observation and the reward there."""
    set_probe(env.physics, task, index)
    parts = env.task.get_observation(env.physics).values()
    return np.concatenate([np.ravel(part) for part in parts]), env.task.get_reward(env.physics)


@pytest.mark.parametrize("task", TASKS)
def test_trajectory_equals_the_recorded_one(task):
    observations, rewards = roll(envs.make(task), GOLDEN[f"{task}/actions"], seed=1)
    np.testing.assert_allclose(observations, GOLDEN[f"{task}/obs"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(rewards, GOLDEN[f"{task}/reward"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_observation_and_reward_equal_the_recorded_probes(task):
    from pwmray.envs.environment import load

    env = load(find_task(task))
    env.reset()  # finger-spin changes its damping here
    observations, rewards = zip(*[probe(env, task, index) for index in range(64)], strict=True)
    np.testing.assert_allclose(observations, GOLDEN[f"{task}/probe_obs"], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(rewards, GOLDEN[f"{task}/probe_reward"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("task", [name for name in TASKS if GOLDEN[f"{name}/probe_target"].size])
def test_target_of_an_episode_is_as_large_as_the_recorded_one(task):
    env = envs.make(task).unwrapped
    env.reset(seed=0)
    model, expected = env.physics.named.model, GOLDEN[f"{task}/probe_target"][0, 3]
    sizes = model.site_size if task.startswith("finger") else model.geom_size
    assert sizes["target", 0] == pytest.approx(expected)


def test_observation_keeps_insertion_order_where_sorting_would_change_it():
    env = envs.make("walker-stand")
    observation, _ = env.reset(seed=0)
    height = env.unwrapped.physics.torso_height()
    assert observation[14] == np.float32(height)
    assert observation[0] != np.float32(height)


@pytest.mark.parametrize("task", SEEDED_TASKS)
def test_seeded_episode_equals_dm_controls_own(task):
    from pwmray.envs.environment import load

    env = load(find_task(task))
    env.task._random = np.random.RandomState(7)
    expected = np.concatenate([np.ravel(part) for part in env.reset().observation.values()])
    np.testing.assert_array_equal(start(task, 7), expected.astype(np.float32))


@pytest.mark.parametrize("task", SEEDED_TASKS)
def test_seeded_episode_does_not_depend_on_what_ran_before(task):
    actions = GOLDEN[f"{task}/actions"][:10]
    used = envs.make(task)
    roll(used, -actions, seed=5)
    used.reset()
    observations, rewards = roll(used, actions, seed=3)
    fresh_observations, fresh_rewards = roll(envs.make(task), actions, seed=3)
    np.testing.assert_array_equal(observations, fresh_observations)
    np.testing.assert_array_equal(rewards, fresh_rewards)


def test_environments_without_a_seed_start_differently():
    first, second = (envs.make("cartpole-swingup").reset()[0] for _ in range(2))
    assert not np.array_equal(first, second)


def test_step_after_the_end_or_before_a_reset_is_refused():
    env = envs.make("pendulum-spin").unwrapped
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(1))
    env.reset(seed=0)
    ends = [env.step(np.zeros(1))[2:4] for _ in range(EPISODE_STEPS)]
    assert ends == [(False, False)] * 499 + [(False, True)]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(1))


@pytest.mark.filterwarnings("ignore:.*Box observation space")  # unbounded, as it should be
@pytest.mark.parametrize("task", TASKS)
def test_gymnasiums_checker_finds_no_fault(task):
    check_env(envs.make(task).unwrapped, skip_render_check=True)


def test_pictures_that_cannot_be_drawn_say_what_to_install():
    env = envs.make("pendulum-spin", render_mode="rgb_array")
    env.reset(seed=0)
    with pytest.raises(OSError, match=r"MUJOCO_GL=disable.*MUJOCO_GL=egl.*apt install libegl1"):
        env.render()


@pytest.mark.parametrize(("renderer", "kind"), [("osmesa", OSError), ("disable", KeyError)])
def test_only_a_renderer_that_does_not_load_is_explained(renderer, kind, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", renderer)
    with pytest.raises(kind), explained(importing=True):
        raise KeyError


@pytest.mark.skipif(find_library("EGL") is None, reason="needs libegl1")
def test_pictures_are_drawn_in_anyones_code():
    program = (
        "import gymnasium, pwmray.envs;"
        "env = gymnasium.make('mt30/walker-run-backwards-v0', render_mode='rgb_array');"
        "env.reset(seed=0);"
        "picture = env.render();"
        "assert (picture.shape, picture.dtype) == ((384, 384, 3), 'uint8');"
        "assert picture.std() > 10;"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, **EGL})


@pytest.mark.slow
@pytest.mark.skipif(find_library("EGL") is None, reason="needs libegl1")
def test_every_tasks_pictures_pass_gymnasiums_checker():
    program = (
        "import pwmray.envs;"
        "from pwmray.tasks import TASKS;"
        "from gymnasium.utils.env_checker import check_env;"
        "[check_env(pwmray.envs.make(task, 'rgb_array').unwrapped) for task in TASKS]"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, **EGL})


@pytest.mark.parametrize("domain", sorted({TASKS[name].domain for name in TASKS}))
def test_only_domains_that_change_their_model_have_one_each(domain):
    from pwmray.envs.environment import MODEL_CHANGING_DOMAINS

    task = [name for name in TASKS if TASKS[name].domain == domain][-1]
    env = envs.make(task)
    model = env.unwrapped.physics.model.ptr
    before = model_bytes(model)
    roll(env, GOLDEN[f"{task}/actions"][:3], seed=0)
    assert (model_bytes(model) != before) == (domain in MODEL_CHANGING_DOMAINS)
    is_shared = envs.make(task).unwrapped.physics.model.ptr is model
    assert is_shared == (domain not in MODEL_CHANGING_DOMAINS)


def test_closing_one_environment_leaves_the_others_running():
    first, second = envs.make("cheetah-run"), envs.make("cheetah-run")
    expected = roll(first, GOLDEN["cheetah-run/actions"], 1)[0]
    first.close()
    np.testing.assert_array_equal(roll(second, GOLDEN["cheetah-run/actions"], 1)[0], expected)


def test_dimensions_are_those_of_the_task_table():
    made = [envs.make(name) for name in TASKS]
    sizes = [(*env.observation_space.shape, *env.action_space.shape) for env in made]
    assert sizes == [(TASKS[name].obs_dim, TASKS[name].action_dim) for name in TASKS]


@pytest.mark.parametrize("domain", SIMULATIONS)
def test_time_steps_are_those_of_the_task_table(domain):
    from pwmray.envs.environment import load

    env = load(next(task for task in TASKS.values() if task.domain == domain))
    options, steps = env.physics.model.opt, SIMULATIONS[domain]
    assert mujoco.mjtIntegrator(options.integrator).name == f"mjINT_{steps.integrator.upper()}"
    assert env.control_timestep() == pytest.approx(steps.control_step)
    assert options.timestep * steps.num_substeps == pytest.approx(steps.control_step)


@pytest.mark.parametrize(("task", "per_second"), [("pendulum-spin", 25), ("cheetah-run", 50)])
def test_pictures_have_as_many_a_second_as_steps(task, per_second):
    assert envs.make(task).metadata["render_fps"] == per_second


@pytest.mark.parametrize("task", TASKS)
def test_episode_of_dm_control_lasts_as_long_as_ours(task):
    """One that ended earlier would begin anew within ours, without a word."""
    from pwmray.envs.environment import copy_of_compiled

    assert copy_of_compiled(task)._step_limit == pytest.approx(ACTION_REPEAT * EPISODE_STEPS)


def test_ball_of_cup_spin_starts_outside_the_cup_where_an_episode_draws_less_than_a_tenth():
    env, seeds, outside = envs.make("cup-spin").unwrapped, range(40), []
    for seed in seeds:
        env.reset(seed=seed)
        outside.append(not env.physics.in_target())
    may_be = [np.random.RandomState(seed).uniform() < 0.1 for seed in seeds]
    assert np.flatnonzero(outside).tolist() == [7, 19, 21, 34]
    assert np.flatnonzero(may_be).tolist() == [7, 9, 19, 21, 34]  # 9 fell into it


@pytest.mark.parametrize("task", [task for task in TASKS if TASKS[task].domain == "reacher"])
def test_whole_turns_of_the_shoulder_show_in_the_winding_angles_alone(task):
    env = envs.make(task).unwrapped
    before, _ = env.reset(seed=0)
    env.physics.data.qpos[0] += 2 * np.pi
    env.physics.forward()
    assert not env.physics.model.jnt_limited[0]
    assert env.physics.model.jnt_limited[1:].all()
    after = np.concatenate(list(env.unwrapped._env.task.get_observation(env.physics).values()))
    turned = np.flatnonzero(~np.isclose(after, before, atol=1e-6))
    np.testing.assert_array_equal(turned, find_task(task).winding_angles)


@pytest.mark.parametrize("make", [envs.make, lambda task: make_vector(task, 2)])
def test_unknown_task_names_the_nearest(make):
    with pytest.raises(ValueError, match="unknown task 'chetah-run'; did you mean 'cheetah-run'"):
        make("chetah-run")


def test_import_is_cheap_and_leaves_the_renderer_alone():
    program = (
        "import os, sys, pwmray.envs, pwmray.envs.vector, gymnasium;"
        "assert 'mt30/walker-run-v0' in gymnasium.registry;"
        "assert not {'dm_control', 'mujoco', 'torch', 'ray'} & set(sys.modules);"
        "assert 'MUJOCO_GL' not in os.environ;"
    )
    clean = {key: value for key, value in os.environ.items() if key != "MUJOCO_GL"}
    subprocess.run([sys.executable, "-c", program], check=True, env=clean)


def test_steps_without_a_display_and_without_a_chosen_renderer():
    program = "import pwmray.envs; pwmray.envs.make('pendulum-spin').reset(seed=0)"
    hidden = {"MUJOCO_GL", "DISPLAY"}
    clean = {key: value for key, value in os.environ.items() if key not in hidden}
    subprocess.run([sys.executable, "-c", program], check=True, env=clean)


def test_environments_do_not_have_others_deprecations_shown():
    program = """
import warnings, pwmray.envs.environment
shown = [f for f in warnings.filters if f[0] != "ignore" and f[2] is DeprecationWarning]
assert not [f for f in shown if not f[3]], shown  # for all modules
"""
    asked = {name: os.environ[name] for name in os.environ if name != "PYTHONWARNINGS"}
    subprocess.run([sys.executable, "-c", program], check=True, env=asked)
