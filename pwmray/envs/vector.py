"""Several environments of one task, stepped together."""

from gymnasium.vector import VectorEnv

from pwmray.tasks import find_task


def make_vector(task: str, num_envs: int) -> VectorEnv:
    """Make `num_envs` environments of `task` that step in lockstep.

    Observations are [num_envs, obs_dim] float32, actions [num_envs, action_dim] float32, rewards
    [num_envs] (float32 values). `reset(seed=[...])` gives each environment its own seed, and an
    episode depends on its seed and actions alone. Every episode is truncated on step 500, all at
    once; nothing resets by itself, so a step after that fails.

    Raises ValueError for an unknown task and for fewer than one environment.
    """
    find_task(task)
    if num_envs < 1:
        raise ValueError(f"num_envs must be 1 or more, got {num_envs}")
    from pwmray.envs.lockstep import LockstepEnv  # imports dm_control

    return LockstepEnv(task, num_envs)
