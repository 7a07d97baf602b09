"""Sets of tasks by name."""

from pwmray.tasks import TASKS

MT30 = tuple(TASKS)
DEV3 = ("reacher-easy", "walker-stand", "cheetah-run")
