"""Observations and rewards of many environments at once, in numpy.

Each domain is a file with dm_control's and TD-MPC2's formulas: a subclass of Formulas that has a
method for each task, with the name of the task's `dm_task` in pwmray.tasks. A new task is a method;
a new domain is a file and a line in DOMAINS.
"""

from pwmray.envs.fast import finger
from pwmray.envs.fast.acrobot import Acrobot
from pwmray.envs.fast.ball_in_cup import BallInCup
from pwmray.envs.fast.cartpole import Cartpole
from pwmray.envs.fast.cheetah import Cheetah
from pwmray.envs.fast.fish import Fish
from pwmray.envs.fast.formulas import Formulas
from pwmray.envs.fast.hopper import Hopper
from pwmray.envs.fast.pendulum import Pendulum
from pwmray.envs.fast.reacher import Reacher
from pwmray.envs.fast.walker import Walker
from pwmray.tasks import Task

# A domain has a class for each kind of observation; the first class with the task's method counts.
DOMAINS: dict[str, tuple[type[Formulas], ...]] = {
    "acrobot": (Acrobot,),
    "ball_in_cup": (BallInCup,),
    "cartpole": (Cartpole,),
    "cheetah": (Cheetah,),
    "finger": (finger.Spin, finger.Turn),
    "fish": (Fish,),
    "hopper": (Hopper,),
    "pendulum": (Pendulum,),
    "reacher": (Reacher,),
    "walker": (Walker,),
}


def find_formulas(task: Task) -> type[Formulas]:
    """Return the class whose method `task.dm_task` is the task's reward."""
    return next(found for found in DOMAINS[task.domain] if hasattr(found, task.dm_task))
