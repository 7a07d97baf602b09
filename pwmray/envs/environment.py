"""One MT30 task as a gymnasium environment, with the semantics of TD-MPC2's environment.

An action lasts two control steps, whose rewards are summed; an episode has 500 actions and never
terminates early. The observation joins dm_control's dictionary in insertion order. gymnasium's
dictionary spaces would sort the keys, which permutes the observation of 12 of the 30 tasks.
"""

import copy
import functools
import importlib
import warnings
from typing import Any

import gymnasium
import numpy as np

from pwmray.envs.opengl import explained
from pwmray.tasks import ACTION_REPEAT, EPISODE_STEPS, Task, find_task

with explained(importing=True):  # loads what MUJOCO_GL names
    from dm_control import suite
from dm_control.rl import control
from dm_control.suite.wrappers import action_scale

with warnings.catch_warnings():  # dm_control.composer has all deprecations shown, its own too
    from shimmy.dm_control_compatibility import DmControlCompatibilityV0

RENDER_SIZE = {"width": 384, "height": 384, "camera_id": 0}

# Episodes of these domains change their model (a target, a damping): no environment shares it.
MODEL_CHANGING_DOMAINS = ("reacher", "finger", "fish")


class TaskEnv(gymnasium.Env):
    """An MT30 task: observations [obs_dim] float32, actions [action_dim] float32 in [-1, 1].

    The reward of a step is the float32 sum of two control steps' rewards, each in [0, 1].
    `terminated` is never set, `truncated` on step 500. `reset(seed=s)` starts the episode that
    numpy's RandomState(s) draws, whatever ran before; `reset()` continues that stream. Actions
    are not clipped here: MuJoCo clamps them for the motors, but rewards on controls see them whole.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (gymnasium's own declaration)

    def __init__(self, task: str, render_mode: str | None = None):
        sizes = find_task(task)
        scaled = action_scale.Wrapper(copy_of_compiled(task), minimum=-1.0, maximum=1.0)
        self._env = DmControlCompatibilityV0(scaled, render_mode, RENDER_SIZE)
        self._env.np_random = np.random.RandomState()  # copies would share one stream's start
        self._num_steps = EPISODE_STEPS  # so that step() asks for the first reset
        self.render_mode = render_mode
        # shimmy writes milliseconds per frame here.
        fps = round(1 / (ACTION_REPEAT * self._env.dt))
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": fps}
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (sizes.obs_dim,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (sizes.action_dim,), np.float32)

    @property
    def physics(self) -> Any:
        """Return dm_control's physics, for pictures and tests."""
        return self._env.physics

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Start an episode and return its observation [obs_dim] and an empty info."""
        super().reset(seed=seed)
        self._num_steps = 0
        observation, _ = self._env.reset(seed=seed)
        return _flatten(observation), {}

    def step(self, action: np.ndarray):
        """Apply `action` [action_dim] for two control steps; raise ResetNeeded after step 500."""
        if self._num_steps >= EPISODE_STEPS:
            raise gymnasium.error.ResetNeeded("the episode is over: call reset() before step()")
        self._num_steps += 1
        reward, observation = 0.0, None
        for _ in range(ACTION_REPEAT):
            observation, inner_reward, *_ = self._env.step(action)
            reward += inner_reward
        truncated = self._num_steps == EPISODE_STEPS
        return _flatten(observation), float(np.float32(reward)), False, truncated, {}

    def render(self) -> np.ndarray | None:
        """Return the picture [384, 384, 3] uint8 with render_mode "rgb_array", else None.

        Raises OSError, which says what to install, where OpenGL does not work.
        """
        with explained():
            return self._env.render()

    def close(self) -> None:
        """Free the simulation."""
        self._env.close()


def load(task: Task) -> control.Environment:
    """Build the dm_control environment of a task, with a random state of its own."""
    if (task.domain, task.dm_task) in suite.ALL_TASKS:
        return suite.load(task.domain, task.dm_task)
    module = importlib.import_module(f"pwmray.envs.tasks.{task.domain}")
    return getattr(module, task.dm_task)()


def copy_of_compiled(task: str) -> control.Environment:
    """Return a new environment of a task without compiling its model again (80-140 ms)."""
    original = _compiled(task)
    shares_model = find_task(task).domain not in MODEL_CHANGING_DOMAINS
    physics = original.physics.copy(share_model=shares_model)
    return copy.deepcopy(original, {id(original.physics): physics})


@functools.cache
def _compiled(task: str) -> control.Environment:
    """Return the environment of a task from which all others are copied; it is never run."""
    return load(find_task(task))


def _flatten(observation: Any) -> np.ndarray:
    """Join dm_control's dictionary in its own order, as float32."""
    return np.concatenate([np.ravel(part) for part in observation.values()], dtype=np.float32)
