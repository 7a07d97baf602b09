"""A real sweep on a pair of pretrained world models, small enough for tests."""

from pwmray.sweep import PRETRAINED, Sweep
from tests.tiny import SCALES

TASK = "pendulum-spin"
PRETRAIN = {"tasks": (TASK,), "iterations": 2, "batch_size": 8, "check_every": 1}

sweep = Sweep(
    name="tiny_pretrained",
    vary={"variant": ["baseline", "flowwm"], "task": [TASK], "seed": [1]},
    hold={"epochs": 2, "world_model_from": PRETRAINED, "finetune_wm": False},
    compare="variant",
    within=["task"],
    scales={"tiny": {**SCALES["tiny"], "pretrain": PRETRAIN}},
)

if __name__ == "__main__":
    sweep.main()
