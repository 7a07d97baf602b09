"""The 30 tasks of MT30 as plain data: names, dimensions, time steps and floors.

Order, names and dimensions are those of TD-MPC2's multi-task dataset (the index is the task id in
the dataset and in the task embedding). The two floors are mean returns over 40 episodes under
mujoco 3.17: of doing nothing and of uniform random actions.
"""

from typing import NamedTuple

from pwmray.wording import unknown

MAX_OBS_DIM = 24  # observations of every task are zero-padded to this in a model's input
MAX_ACTION_DIM = 6
EPISODE_STEPS = 500  # environment steps an episode, each of two physics control steps
ACTION_REPEAT = 2
# Task sets that world models are published for, and their sizes: both begin with the tasks of
# MT30, in its order; mt80 goes on with 50 of Meta-World.
TASK_SETS = {"mt30": 30, "mt80": 80}


class Simulation(NamedTuple):
    """How MuJoCo advances a domain; an environment step is ACTION_REPEAT control steps."""

    integrator: str
    control_step: float  # seconds
    num_substeps: int  # of MuJoCo in a control step


SIMULATIONS = {
    "acrobot": Simulation("RK4", 0.01, 1),
    "ball_in_cup": Simulation("Euler", 0.02, 10),
    "cartpole": Simulation("RK4", 0.01, 1),
    "cheetah": Simulation("Euler", 0.01, 1),
    "finger": Simulation("Euler", 0.02, 2),
    "fish": Simulation("Euler", 0.04, 10),
    "hopper": Simulation("Euler", 0.02, 4),
    "pendulum": Simulation("Euler", 0.02, 1),
    "reacher": Simulation("Euler", 0.02, 1),
    "walker": Simulation("Euler", 0.025, 10),
}


class Task(NamedTuple):
    """One task: its place in MT30, its dm_control names, its sizes and its floors."""

    index: int
    name: str
    domain: str  # dm_control's domain
    dm_task: str  # dm_control's task; for the 11 added tasks TD-MPC2's name of it
    obs_dim: int
    action_dim: int
    zero_return: float  # mean return of doing nothing, [0, 1000]
    random_return: float  # mean return of uniform random actions, [0, 1000]

    @property
    def winding_angles(self) -> tuple[int, ...]:
        """Return the observation entries that are a joint's angle counted over whole turns.

        The arms of reacher turn around a shoulder without limits and observe its raw angle. The
        trunks of cheetah and hopper are observed so, too, but only somersaults turn them; the
        other domains observe sine and cosine of what can turn.
        """
        return (0,) if self.domain == "reacher" else ()

    @property
    def floor(self) -> float:
        """Return the better of doing nothing and acting at random, [0, 1000]."""
        return max(self.zero_return, self.random_return)


# fmt: off
_ROWS = (
    Task(0, "walker-stand", "walker", "stand", 24, 6, 119.8, 133.7),
    Task(1, "walker-walk", "walker", "walk", 24, 6, 20.6, 39.8),
    Task(2, "walker-run", "walker", "run", 24, 6, 20.1, 24.5),
    Task(3, "cheetah-run", "cheetah", "run", 17, 6, 0.1, 7.6),
    Task(4, "reacher-easy", "reacher", "easy", 6, 2, 25.0, 45.1),
    Task(5, "reacher-hard", "reacher", "hard", 6, 2, 0.0, 5.3),
    Task(6, "acrobot-swingup", "acrobot", "swingup", 6, 1, 4.4, 4.5),
    Task(7, "pendulum-swingup", "pendulum", "swingup", 3, 1, 0.0, 0.0),
    Task(8, "cartpole-balance", "cartpole", "balance", 5, 1, 748.6, 318.4),
    Task(9, "cartpole-balance-sparse", "cartpole", "balance_sparse", 5, 1, 353.2, 40.0),
    Task(10, "cartpole-swingup", "cartpole", "swingup", 5, 1, 0.0, 42.0),
    Task(11, "cartpole-swingup-sparse", "cartpole", "swingup_sparse", 5, 1, 0.0, 0.0),
    Task(12, "cup-catch", "ball_in_cup", "catch", 8, 2, 123.8, 53.4),
    Task(13, "finger-spin", "finger", "spin", 9, 2, 0.0, 0.6),
    Task(14, "finger-turn-easy", "finger", "turn_easy", 12, 2, 200.0, 256.4),
    Task(15, "finger-turn-hard", "finger", "turn_hard", 12, 2, 50.0, 92.7),
    Task(16, "fish-swim", "fish", "swim", 24, 5, 76.3, 72.1),
    Task(17, "hopper-stand", "hopper", "stand", 15, 4, 2.0, 2.2),
    Task(18, "hopper-hop", "hopper", "hop", 15, 4, 0.1, 0.1),
    Task(19, "walker-walk-backwards", "walker", "walk_backwards", 24, 6, 20.7, 39.3),
    Task(20, "walker-run-backwards", "walker", "run_backwards", 24, 6, 20.1, 24.5),
    Task(21, "cheetah-run-backwards", "cheetah", "run_backwards", 17, 6, 0.1, 29.4),
    Task(22, "cheetah-run-front", "cheetah", "run_front", 17, 6, 6.5, 7.1),
    Task(23, "cheetah-run-back", "cheetah", "run_back", 17, 6, 6.3, 6.9),
    Task(24, "cheetah-jump", "cheetah", "jump", 17, 6, 180.0, 169.8),
    Task(25, "hopper-hop-backwards", "hopper", "hop_backwards", 15, 4, 0.2, 0.2),
    Task(26, "reacher-three-easy", "reacher", "three_easy", 8, 3, 25.0, 11.7),
    Task(27, "reacher-three-hard", "reacher", "three_hard", 8, 3, 0.0, 1.5),
    Task(28, "cup-spin", "ball_in_cup", "spin", 8, 2, 12.7, 163.2),
    Task(29, "pendulum-spin", "pendulum", "spin", 3, 1, 103.0, 120.9),
)
# fmt: on

TASKS: dict[str, Task] = {task.name: task for task in _ROWS}


def find_task(name: str) -> Task:
    """Return the task called `name`; raise ValueError with the valid names if there is none."""
    if name in TASKS:
        return TASKS[name]
    raise ValueError(unknown("task", name, TASKS))
