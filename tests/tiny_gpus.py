"""A real sweep for two types of GPU, small enough for tests: rows of half a second."""

from pwmray.sweep import Sweep
from tests import held, tiny

NUM_ROWS = 3  # of a trial that is held
SETTINGS = {
    **tiny.UNPLANNED,
    "evaluation.every_epochs": 1,
    "evaluation.num_episodes": 1,
    "evaluation.final_episodes": 2,
}

sweep = Sweep(
    name="tiny_gpus",
    vary={
        "variant": ["baseline"],
        "epochs": [5, 8],
        "task": ["pendulum-spin"],
        "seed": [42, 123],
    },
    compare="epochs",
    within=["variant", "task"],
    scales={"tiny": {"instead": {}, "set": SETTINGS}},
    gpus={"epochs": {5: "H100", 8: "H200"}},
)

if __name__ == "__main__":
    held.heed_hold(NUM_ROWS)
    sweep.main()
