"""Named sets of tasks."""

from pwmray.tasks import TASKS

MT30 = tuple(TASKS)
DEV3 = ("reacher-easy", "walker-stand", "cheetah-run")
# The tasks on which each scale pretrains its world models.
PRETRAINING_TASKS = {
    "paper": MT30,
    "laptop": ("pendulum-spin", "cartpole-swingup", "reacher-easy"),
}
