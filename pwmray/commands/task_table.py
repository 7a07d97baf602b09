"""The table of `pwmray tasks`."""

from collections.abc import Iterator

from pwmray.published_returns import PUBLISHED_RETURNS
from pwmray.tasks import SIMULATIONS, TASKS, Task

_NOTES = (
    "obs, act: dimensions; step: milliseconds of a control step; an environment step is two",
    "returns of doing nothing and of random actions: means of 40 episodes, mujoco 3.17",
    "PWM, TD-MPC2: published; one run of 48M parameters a task, and mean and sd of 10 evaluations",
)


def as_table() -> str:
    """Return the 30 tasks as text: a header, a line a task, and what the columns mean."""
    return "\n".join([*_lines(), "", *_NOTES])


def _lines() -> Iterator[str]:
    yield (
        f"{'index':>5}  {'task':<23} {'obs':>3} {'act':>3}  {'integrator':<10} {'step':>4} "
        f"{'nothing':>8} {'random':>6} {'PWM':>7} {'TD-MPC2':>8} {'sd':>6}"
    )
    yield from map(_line, TASKS.values())


def _line(task: Task) -> str:
    simulation, published = SIMULATIONS[task.domain], PUBLISHED_RETURNS[task.name]
    return (
        f"{task.index:>5}  {task.name:<23} {task.obs_dim:>3} {task.action_dim:>3}  "
        f"{simulation.integrator:<10} {1000 * simulation.control_step:>4g} "
        f"{task.zero_return:>8.1f} {task.random_return:>6.1f} "
        f"{published.pwm:>7.1f} {published.tdmpc2_mean:>8.1f} {published.tdmpc2_sd:>6.1f}"
    )
