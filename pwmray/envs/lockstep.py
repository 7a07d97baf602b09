"""N environments of one task in lockstep, with the formulas of pwmray.envs.fast.

Their episodes equal those of pwmray.envs.environment bit for bit (float32), and run 2.4 times
(walker) to 20 times (pendulum) as fast: dm_control spends most of its time outside MuJoCo, on named
indexing and on rewards one number at a time.
"""

from typing import Any

import gymnasium
import numpy as np
from dm_control.rl.control import PhysicsError
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from pwmray.envs.fast import find_formulas
from pwmray.envs.simulations import Simulations
from pwmray.tasks import ACTION_REPEAT, EPISODE_STEPS, find_task

_ACTION_LOWER = np.array(-1.0)  # an array, so that float32 actions become float64


class LockstepEnv(VectorEnv):
    """What pwmray.envs.vector.make_vector promises."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012 (gymnasium's own)

    def __init__(self, task: str, num_envs: int, num_threads: int):
        sizes = find_task(task)
        formulas = find_formulas(sizes)
        self.num_envs = num_envs
        self._task = task
        self._simulations = Simulations(
            task, num_envs, formulas.reads, formulas.changes, num_threads
        )
        self._formulas = formulas(self._simulations.model)
        self._control_lower, upper = self._simulations.model.actuator_ctrlrange.T
        self._control_scale = (upper - self._control_lower) / 2
        self._reward = getattr(self._formulas, sizes.dm_task)
        self._randoms = [np.random.RandomState() for _ in range(num_envs)]
        self._num_steps = EPISODE_STEPS  # so that step() asks for the first reset
        box = gymnasium.spaces.Box
        self.single_observation_space = box(-np.inf, np.inf, (sizes.obs_dim,), np.float32)
        self.single_action_space = box(-1.0, 1.0, (sizes.action_dim,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self,
        *,
        seed: int | np.integer | list[int] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict]:
        """Start all episodes and return their observations [N, obs_dim] and an empty info.

        `seed` is a list with one of each environment, or one number, for consecutive seeds from
        there on; without it each environment's random stream goes on. There are no options.
        """
        if options:
            raise ValueError(f"this environment has no reset options, got {options}")
        if isinstance(seed, int | np.integer):
            seed = list(range(int(seed), int(seed) + self.num_envs))
        if seed is not None:
            self._seed(seed)
        self._num_steps = 0
        self._simulations.start(self._randoms)
        return self._observe(), {}

    def step(self, actions: np.ndarray) -> tuple:
        """Apply `actions` [N, action_dim] for two control steps.

        Raises ResetNeeded after step 500 and dm_control's PhysicsError when a simulation diverges.
        """
        if self._num_steps >= EPISODE_STEPS:
            raise gymnasium.error.ResetNeeded("the episodes are over: call reset() before step()")
        self._num_steps += 1
        self._simulations.set_control(self._to_control(actions))
        self._simulations.step()
        self._check_physics()
        inner = self._reward(self._simulations.all_steps)
        reward = inner.reshape(ACTION_REPEAT, self.num_envs).sum(axis=0)
        terminated = np.zeros(self.num_envs, bool)
        truncated = np.full(self.num_envs, self._num_steps == EPISODE_STEPS)
        rounded = reward.astype(np.float32).astype(np.float64)
        return self._observe(), rounded, terminated, truncated, {}

    def close_extras(self, **kwargs: Any) -> None:
        """End the threads; called by `close`."""
        self._simulations.close()

    def _seed(self, seeds: list[int]) -> None:
        if len(seeds) != self.num_envs:
            raise ValueError(f"{self.num_envs} environments need as many seeds, got {len(seeds)}")
        self._randoms = [np.random.RandomState(seed) for seed in seeds]

    def _to_control(self, actions: np.ndarray) -> np.ndarray:
        """Scale actions to the ranges of the motors, unclipped, as action_scale.Wrapper does."""
        actions = np.asarray(actions)
        if actions.shape != self.action_space.shape:
            raise ValueError(f"actions have shape {actions.shape}, not {self.action_space.shape}")
        return self._control_lower + self._control_scale * (actions - _ACTION_LOWER)

    def _observe(self) -> np.ndarray:
        parts = self._formulas.observe(self._simulations.now)
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def _check_physics(self) -> None:
        failed = self._simulations.find_failed()
        if failed is None:
            return
        step, self._num_steps = self._num_steps, EPISODE_STEPS  # only a reset helps
        index, warning = failed
        raise PhysicsError(f"{self._task}: environment {index} failed in step {step} ({warning})")
