"""Several environments of one task, stepped together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pwmray.tasks import find_task

if TYPE_CHECKING:
    from pwmray.envs.lockstep import LockstepEnv


def make_vector(task: str, num_envs: int, num_threads: int = 1) -> LockstepEnv:
    """Make `num_envs` environments of `task` that step in lockstep.

    Observations are [num_envs, obs_dim] float32, actions [num_envs, action_dim] float32, rewards
    [num_envs] (float32 values). `reset(seed=[...])` gives each environment its own seed, and an
    episode depends on its seed and actions alone. Every episode is truncated on step 500, all at
    once; nothing resets by itself, so a step after that fails.

    With `num_threads` above 1, simulations of several substeps (walker, fish, hopper, ball in cup)
    share them; results are the same to the last bit with any number.

    Raises ValueError for an unknown task, no environment or no thread.
    """
    find_task(task)
    for name, number in (("num_envs", num_envs), ("num_threads", num_threads)):
        if number < 1:
            raise ValueError(f"{name} must be 1 or more, got {number}")
    from pwmray.envs.lockstep import LockstepEnv  # imports dm_control

    return LockstepEnv(task, num_envs, num_threads)


@contextlib.contextmanager
def failures_in_one_line(who: str) -> Iterator[None]:
    """Raise ValueError, with a message for people, if a simulation diverges while `who` acts."""
    try:
        yield
    except RuntimeError as error:
        from dm_control.rl.control import PhysicsError  # loaded by what raised it, if it is one

        if not isinstance(error, PhysicsError):
            raise
        raise ValueError(f"the simulation failed under {who}: {error}") from error
