"""Environments whose rewards and ends are known, for tests of what an evaluation makes of them."""

import numpy as np

from pwmray.tasks import EPISODE_STEPS


class ThreeEpisodes:
    """Rewards 1, 2 and 3 a step; all end at the limit, but the second terminates on step 3."""

    num_envs = 3

    def __init__(self):
        self.actions = []

    def reset(self, *, seed):
        self.seed = seed
        return np.full((3, 2), 7.0, np.float32), {}

    def step(self, actions):
        self.actions.append(actions)
        num_steps = len(self.actions)
        terminated = np.array([False, num_steps == 3, False])
        truncated = np.full(3, num_steps == EPISODE_STEPS)
        obs = np.full((3, 2), num_steps, np.float32)
        return obs, np.array([1.0, 2.0, 3.0]), terminated, truncated, {}
