"""Several environments of one task, stepped together."""

import gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from pwmray.envs import check_defined
from pwmray.envs.fast import find_formulas
from pwmray.tasks import find_task


def make_vector(task: str, num_envs: int) -> VectorEnv:
    """Make `num_envs` environments of `task` that step in lockstep.

    Observations are [num_envs, obs_dim] float32, actions [num_envs, action_dim] float32, rewards
    [num_envs] (float32 values). `reset(seed=[...])` gives each environment its own seed, and an
    episode depends on its seed and actions alone. Every episode is truncated on step 500, all at
    once; nothing resets by itself, so a step after that fails.

    Raises ValueError for an unknown or undefined task and for fewer than one environment.
    """
    check_defined(task)
    if num_envs < 1:
        raise ValueError(f"num_envs must be 1 or more, got {num_envs}")

    if find_formulas(find_task(task)):
        from pwmray.envs.lockstep import LockstepEnv  # imports dm_control

        return LockstepEnv(task, num_envs)

    def build() -> gymnasium.Env:
        from pwmray.envs.environment import TaskEnv  # imports dm_control

        return TaskEnv(task)

    return SyncVectorEnv([build] * num_envs, autoreset_mode=AutoresetMode.DISABLED)
