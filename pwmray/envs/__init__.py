"""MT30's tasks as gymnasium environments, `mt30/<task>-v0`.

Importing this package registers them and is cheap: dm_control is imported when the first
environment is built. dm_control picks its renderer on that import from the environment variable
MUJOCO_GL, which belongs to the program that runs, so nothing here sets it.
"""

import gymnasium

from pwmray.tasks import TASKS, find_task


def make(task: str, render_mode: str | None = None) -> gymnasium.Env:
    """Make the environment of one task; see pwmray.envs.environment for what it does.

    Raises ValueError for a name that MT30 does not have.
    """
    find_task(task)
    # The passive checker looks at every step; the tests run the whole checker instead.
    return gymnasium.make(env_id(task), render_mode=render_mode, disable_env_checker=True)


def env_id(task: str) -> str:
    """Return the name under which gymnasium knows the task."""
    return f"mt30/{task}-v0"


for _task in TASKS:
    gymnasium.register(
        env_id(_task), entry_point="pwmray.envs.environment:TaskEnv", kwargs={"task": _task}
    )
