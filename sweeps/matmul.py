"""Precision: does what is learned depend on the precision of matrix products?

Question  Are returns under TF32 and bfloat16 products those of float32 products?
Varies    learner.matmul, variant, task, seed
Holds     world model learned jointly with the policy, from scratch; epochs
Compares  the precisions, by variant and task
"""

from pwmray.sweep import Sweep
from search_spaces import BASELINE, DEV3, FULL_FLOW, SCALES, TRAIN_SEEDS

sweep = Sweep(
    name="matmul",
    vary={
        "learner.matmul": ["float32", "tf32", "bfloat16"],
        "variant": [BASELINE, FULL_FLOW],
        "task": DEV3,
        "seed": (*TRAIN_SEEDS, 789, 1011),
    },
    hold={"epochs": 15_000},
    compare="learner.matmul",
    within=["variant", "task"],
    scales=SCALES,
    at_scale={
        "laptop": {
            "learner.matmul": ["float32", "bfloat16"],  # no CPU has TF32
            "epochs": 250,
            "task": ["pendulum-spin", "cartpole-swingup", "reacher-easy"],
        }
    },
)

if __name__ == "__main__":
    sweep.main()
