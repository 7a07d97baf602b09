"""MT30's tasks as gymnasium environments, `mt30/<task>-v0`.

Importing this package registers them and is cheap: dm_control is imported when the first
environment is built. dm_control picks its renderer on that import from the environment variable
MUJOCO_GL, which belongs to the program that runs, so nothing here sets it.
"""

import gymnasium

from pwmray.tasks import TASKS, find_task

# The tasks that TD-MPC2 added to dm_control's own and that pwmray.envs.tasks defines so far.
ADDED_TASKS = (
    "cheetah-run-backwards",
    "cheetah-run-front",
    "cheetah-run-back",
    "cheetah-jump",
    "pendulum-spin",
)
_NUM_DM_CONTROL_TASKS = 19  # MT30 lists dm_control's own first
DEFINED_TASKS = tuple(
    name
    for name, task in TASKS.items()
    if task.index < _NUM_DM_CONTROL_TASKS or name in ADDED_TASKS
)


def make(task: str, render_mode: str | None = None) -> gymnasium.Env:
    """Make the environment of one task; see pwmray.envs.environment for what it does.

    Raises ValueError for a name that MT30 does not have and for a task not defined yet.
    """
    check_defined(task)
    # The passive checker looks at every step; the tests run the whole checker instead.
    return gymnasium.make(env_id(task), render_mode=render_mode, disable_env_checker=True)


def env_id(task: str) -> str:
    """Return the name under which gymnasium knows the task."""
    return f"mt30/{task}-v0"


def check_defined(task: str) -> None:
    """Raise ValueError unless `task` is one of MT30's that can be simulated here."""
    find_task(task)
    if task not in DEFINED_TASKS:
        defined = ", ".join(DEFINED_TASKS)
        raise ValueError(f"task {task!r} has no environment here yet; defined: {defined}")


for _task in DEFINED_TASKS:
    gymnasium.register(
        env_id(_task),
        entry_point="pwmray.envs.environment:TaskEnv",
        kwargs={"task": _task},
    )
