import os
import threading
import time
import weakref

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

os.environ.setdefault("MUJOCO_GL", "disable")  # before anything imports dm_control

from pwmray import envs
from pwmray.envs import fast
from pwmray.envs.fast import find_formulas, tolerance
from pwmray.envs.fast.formulas import Readings
from pwmray.envs.simulations import Simulations
from pwmray.envs.vector import make_vector
from pwmray.tasks import TASKS, find_task
from tests.golden import GOLDEN, model_bytes, set_probe

SEEDED_TASKS = ["reacher-easy", "finger-turn-hard", "fish-swim", "cup-catch", "cheetah-run"]


def make_slow(task: str, num_envs: int) -> SyncVectorEnv:
    """Make what the fast environments must equal: those that step through dm_control."""
    build = [lambda: envs.make(task)] * num_envs
    return SyncVectorEnv(build, autoreset_mode=AutoresetMode.DISABLED)


def draw_actions(task: str, num_steps: int, num_envs: int, hold: int = 5) -> np.ndarray:
    """Draw actions [num_steps, num_envs, action_dim] up to 1.5, held for some steps."""
    shape = (num_steps // hold, num_envs, find_task(task).action_dim)
    drawn = np.random.default_rng(0).uniform(-1.5, 1.5, shape).astype(np.float32)
    return np.repeat(drawn, hold, axis=0)


def roll(vector, actions: np.ndarray, seeds: list[int] | None) -> list[np.ndarray]:
    """Return observations [T + 1, N, o], rewards, terminations and truncations [T, N]."""
    first, _ = vector.reset(seed=seeds)
    steps = [vector.step(action)[:4] for action in actions]
    observations, *others = zip(*steps, strict=True)
    return [np.array((first, *observations)), *map(np.array, others)]


def assert_equal_episodes(task: str, num_steps: int, num_envs: int) -> None:
    actions, seeds = draw_actions(task, num_steps, num_envs), [4, 9, 4][:num_envs]
    expected = roll(make_slow(task, num_envs), actions, seeds)
    for got, wanted in zip(
        roll(make_vector(task, num_envs), actions, seeds), expected, strict=True
    ):
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got, wanted)


def read_probe(physics, task: str, index: int, fields: tuple[str, ...]) -> Readings:
    """Set one recorded state in dm_control's physics and read it as one environment."""
    set_probe(physics, task, index)
    now = Readings()
    for field in ("ctrl", *fields):
        setattr(now, field, getattr(physics.data, field)[None].copy())
    return now


# Equal to dm_control


@pytest.mark.parametrize("task", TASKS)
def test_fast_environments_equal_dm_controls_bit_for_bit(task):
    assert_equal_episodes(task, num_steps=60, num_envs=3)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_whole_fast_episodes_equal_dm_controls_bit_for_bit(task):
    assert_equal_episodes(task, num_steps=500, num_envs=3)


@pytest.mark.parametrize("task", TASKS)
def test_formulas_give_the_recorded_observations_and_rewards_of_all_environments_at_once(task):
    from pwmray.envs.environment import load

    env = load(find_task(task))
    env.reset()  # finger-spin changes its damping here
    formulas = find_formulas(find_task(task))(env.physics.model.ptr)
    probes = [read_probe(env.physics, task, index, formulas.reads) for index in range(64)]
    now = Readings()
    for field in ("ctrl", *formulas.reads):
        setattr(now, field, np.concatenate([getattr(probe, field) for probe in probes]))
    observations = np.concatenate(formulas.observe(now), axis=1)
    rewards = getattr(formulas, find_task(task).dm_task)(now)
    np.testing.assert_allclose(observations, GOLDEN[f"{task}/probe_obs"], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(rewards, GOLDEN[f"{task}/probe_reward"], rtol=0, atol=1e-9)


def test_sparse_cartpole_ends_at_its_range_and_at_its_angle():
    from pwmray.envs.environment import load

    formulas = fast.Cartpole(load(find_task("cartpole-balance-sparse")).physics.model.ptr)
    now = Readings()
    now.qpos = np.array([[-0.2501, 0], [-0.25, 0], [0.25, 0], [0.2501, 0], [0, 0], [0, 0]])
    now.xmat = np.ones((6, 3, 9))
    now.xmat[4:, 2, 8] = 0.995, 0.9949
    np.testing.assert_array_equal(formulas.balance_sparse(now), [0, 1, 1, 0, 1, 0])


@pytest.mark.parametrize("bounds", [(-1.0, 2.0), (1.0, np.inf), (-np.inf, -1.0), (0.0, 0.0)])
def test_tolerance_is_dm_controls(bounds):
    from dm_control.utils import rewards

    x = np.concatenate([np.linspace(-9, 9, 3001), [-1.0, 2.0, 1.0, 0.0, 4.0, -4.0]])
    np.testing.assert_array_equal(tolerance.is_within(x, *bounds), rewards.tolerance(x, bounds))
    np.testing.assert_array_equal(
        tolerance.gaussian(x, *bounds, margin=3), rewards.tolerance(x, bounds, margin=3)
    )
    np.testing.assert_array_equal(
        tolerance.linear(x, *bounds, margin=3, value_at_margin=0.5),
        rewards.tolerance(x, bounds, margin=3, value_at_margin=0.5, sigmoid="linear"),
    )


def test_quadratic_tolerance_is_dm_controls():
    from dm_control.utils import rewards

    x = np.linspace(-3, 3, 3001)
    expected = rewards.tolerance(x, margin=2, value_at_margin=0, sigmoid="quadratic")
    np.testing.assert_array_equal(tolerance.quadratic(x, margin=2), expected)


@pytest.mark.parametrize("task", TASKS)
def test_model_differs_between_episodes_in_the_declared_fields_only(task):
    from pwmray.envs.environment import load

    env = load(find_task(task))
    model = env.physics.model.ptr
    env.reset()
    changes = [getattr(model, field) for field in find_formulas(find_task(task)).changes]
    first, values = model_bytes(model), [view.copy() for view in changes]
    env.reset()
    differs = model_bytes(model) != first
    for view, value in zip(changes, values, strict=True):
        view[:] = value
    assert model_bytes(model) == first
    assert differs == bool(changes)


# Seeds and episodes


@pytest.mark.parametrize("task", SEEDED_TASKS)
def test_vector_equals_single_environments_bit_for_bit(task):
    actions = draw_actions(task, 10, 3)
    observations, rewards, *_ = roll(make_vector(task, 3), actions, [4, 9, 4])
    single_observations, single_rewards, *_ = roll(make_slow(task, 1), actions[:, 1:2], [9])
    np.testing.assert_array_equal(observations[:, 1:2], single_observations)
    np.testing.assert_array_equal(rewards[:, 1:2], single_rewards)


@pytest.mark.parametrize("task", SEEDED_TASKS)
def test_seeded_episodes_do_not_depend_on_what_ran_before(task):
    actions = draw_actions(task, 10, 3)
    used = make_vector(task, 3)
    roll(used, -actions, [5, 6, 7])
    used.reset()
    observations, rewards, *_ = roll(used, actions, [4, 9, 4])
    fresh_observations, fresh_rewards, *_ = roll(make_vector(task, 3), actions, [4, 9, 4])
    np.testing.assert_array_equal(observations, fresh_observations)
    np.testing.assert_array_equal(rewards, fresh_rewards)


def test_spaces_are_those_of_gymnasiums_own_vector():
    ours, theirs = make_vector("reacher-easy", 3), make_slow("reacher-easy", 3)
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.single_action_space == theirs.single_action_space
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space


@pytest.mark.parametrize("make", [make_vector, make_slow])
def test_reset_without_a_seed_continues_each_environments_stream(make):
    from pwmray.envs.environment import load

    vector, single = make("fish-swim", 2), load(find_task("fish-swim"))
    vector.reset(seed=[3, 8])
    single.task._random = np.random.RandomState(8)
    single.reset()
    expected = np.concatenate([np.ravel(part) for part in single.reset().observation.values()])
    np.testing.assert_array_equal(vector.reset()[0][1], expected.astype(np.float32))


@pytest.mark.parametrize("make", [make_vector, make_slow])
def test_one_seed_is_the_first_of_consecutive_ones(make):
    vector = make("pendulum-spin", 3)
    np.testing.assert_array_equal(vector.reset(seed=4)[0], vector.reset(seed=[4, 5, 6])[0])


def test_seed_may_be_a_number_of_numpys():
    vector = make_vector("pendulum-spin", 3)
    expected = vector.reset(seed=4)[0]
    np.testing.assert_array_equal(vector.reset(seed=np.int64(4))[0], expected)


def test_environments_without_a_seed_start_differently():
    starts, _ = make_vector("pendulum-spin", 3).reset()
    assert len(np.unique(starts[:, 0])) == 3


def test_equal_seeds_in_a_vector_give_equal_episodes():
    vector = make_vector("finger-turn-hard", 3)
    starts, _ = vector.reset(seed=[4, 9, 4])
    again, _ = vector.reset(seed=[1, 4, 9])
    np.testing.assert_array_equal(starts[[0, 2, 1]], again[[1, 1, 2]])


def test_returned_arrays_are_not_overwritten_by_later_steps():
    vector = make_vector("cheetah-run", 2)
    first, _ = vector.reset(seed=[0, 1])
    step = vector.step(np.ones((2, 6)))
    kept = [first.copy(), *(part.copy() for part in step[:4])]
    vector.step(-np.ones((2, 6)))
    for array, copy in zip([first, *step[:4]], kept, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_episode_is_truncated_on_step_500_and_then_refuses_a_step():
    vector = make_vector("pendulum-spin", 1)
    vector.reset(seed=[0])
    ends = np.array([vector.step(np.zeros((1, 1)))[2:4] for _ in range(500)])
    assert not ends[:, 0].any()
    assert not ends[:-1, 1].any()
    assert ends[-1, 1]
    with pytest.raises(gymnasium.error.ResetNeeded):
        vector.step(np.zeros((1, 1)))


def test_step_before_the_first_reset_is_refused():
    with pytest.raises(gymnasium.error.ResetNeeded):
        make_vector("pendulum-spin", 1).step(np.zeros((1, 1)))


@pytest.mark.parametrize("task", ["cheetah-run", "cartpole-balance"])
def test_failed_simulation_is_named_and_a_reset_helps(task):
    from dm_control.rl.control import PhysicsError

    vector, actions = make_vector(task, 3), draw_actions(task, 5, 3)
    expected = roll(vector, actions, [4, 9, 4])[0]
    wrong = actions[0].copy()
    wrong[1] = np.nan
    with pytest.raises(PhysicsError, match=rf"{task}: environment 1 failed in step 6 \(.*BADCTRL"):
        vector.step(wrong)
    with pytest.raises(gymnasium.error.ResetNeeded):
        vector.step(actions[0])
    np.testing.assert_array_equal(roll(vector, actions, [4, 9, 4])[0], expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda vector: vector.reset(seed=[1]), "2 environments need as many seeds, got 1"),
        (lambda vector: vector.reset(options={"reset_mask": 1}), "no reset options, got"),
        (lambda vector: vector.step(np.zeros((1, 1))), r"have shape \(1, 1\), not \(2, 1\)"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    vector = make_vector("pendulum-spin", 2)
    vector.reset(seed=[0, 1])
    with pytest.raises(ValueError, match=message):
        call(vector)


def test_fewer_than_one_environment_or_thread_is_refused():
    with pytest.raises(ValueError, match="num_envs must be 1 or more, got 0"):
        make_vector("pendulum-spin", 0)
    with pytest.raises(ValueError, match="num_threads must be 1 or more, got 0"):
        make_vector("pendulum-spin", 1, num_threads=0)


# Threads


@pytest.mark.parametrize("task", ["walker-run", "fish-swim", "hopper-hop", "cup-spin"])
@pytest.mark.parametrize("num_threads", [2, 5])
def test_threads_do_not_change_a_bit(task, num_threads):
    actions, seeds = draw_actions(task, 20, 3), [4, 9, 4]
    expected = roll(make_vector(task, 3), actions, seeds)
    vector = make_vector(task, 3, num_threads)
    for got, wanted in zip(roll(vector, actions, seeds), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_threads_that_change_their_model_have_one_each():
    num_models = {
        task: len({id(group.model) for group in make_vector(task, 3, 3)._simulations._groups})
        for task in ("fish-swim", "walker-run")
    }
    assert num_models == {"fish-swim": 3, "walker-run": 1}


def test_threads_work_where_physics_dominates_and_end_with_the_environments(monkeypatch):
    release = threading.Semaphore.release

    def release_late(idle):  # a thread of the pool says so that it has nothing to do
        time.sleep(0.02)
        release(idle)

    monkeypatch.setattr(threading.Semaphore, "release", release_late)
    before = set(threading.enumerate())
    light, heavy = make_vector("reacher-easy", 4, 2), make_vector("walker-run", 4, 2)
    roll(light, draw_actions("reacher-easy", 5, 4), None)
    assert set(threading.enumerate()) <= before
    roll(heavy, draw_actions("walker-run", 5, 4), None)
    assert len(set(threading.enumerate()) - before) == 1
    heavy.close()
    assert set(threading.enumerate()) <= before


def test_threads_flush_denormals_like_the_one_that_starts_the_episode():
    reads, randoms = ("actuator_force",), [np.random.RandomState(0), np.random.RandomState(0)]
    simulations, denormal = Simulations("walker-run", 2, reads, (), 2), np.full((2, 6), 1e-310)
    simulations.start(randoms)
    simulations.step()
    torch.set_flush_denormal(True)
    simulations.start(randoms)
    simulations.set_control(denormal)
    simulations.step()
    assert simulations.now.actuator_force.tobytes() == bytes(2 * 6 * 8)


def test_process_keeps_no_environments_of_the_tasks_before():
    from pwmray import trainable

    kept = []
    for task in list(TASKS)[:6]:
        made = [trainable._environments(task, number, num_threads=2) for number in (1, 2, 3)]
        assert made[0] is trainable._environments(task, 1, num_threads=2)
        kept.append([weakref.ref(environments) for environments in made])
        del made
    assert [ref() is not None for refs in kept for ref in refs] == [False] * 15 + [True] * 3
