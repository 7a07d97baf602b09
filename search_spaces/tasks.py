"""Sets of tasks by name."""

from pwmray.tasks import TASKS

MT30 = tuple(TASKS)
DEV3 = ("reacher-easy", "walker-stand", "cheetah-run")
# What the world models of a scale are pretrained on.
PRETRAINING_TASKS = {
    "paper": MT30,
    "laptop": ("pendulum-spin", "cartpole-swingup", "reacher-easy"),
}
